//! The HTTP listener: metrics and health.
//!
//! Plain HTTP without access control, and on the loopback interface unless configured otherwise:
//! `/metrics` names certificates, agents and their states. It holds no secret.
//!
//! * `/metrics` — [`Figures`] as they are at the moment of the scrape, and the counters of
//!   [`Metrics`], in the `OpenMetrics` text format.
//! * `/livez` — 200 as long as the process answers. Nothing else: restarting a coordinator brings no
//!   store back.
//! * `/readyz` — whether a load balancer should send agents here, and why.
//!
//! # Ready
//!
//! A coordinator can serve agents as soon as it has a view of the store, and goes on doing so when the
//! store is away, from what was last known. One that has not followed the store for a while should
//! nevertheless not be chosen if there is another: it has no news. So it is ready while it follows,
//! and for [`GRACE`] after it has lost the store, because an election among the store's own servers
//! must not take all coordinators out of service. Whoever would rather have an old answer than none
//! (when all have lost the store, a balancer that does not fail open has nobody left) asks with
//! `?max_age=never`, or with a time of its own. Whether somebody leads makes no difference to agents.

use std::{fmt, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    status::{Figures, Readiness, Status},
};

/// Serves on `listener` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    status: Arc<Status>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = router(status, metrics);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(status: Arc<Status>, metrics: &Metrics) -> Router {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(Present(status.clone(), metrics.clone())));
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(Shared { status, registry: Arc::new(registry) })
}

#[derive(Clone)]
struct Shared {
    status: Arc<Status>,
    registry: Arc<Registry>,
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &shared.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// How old the mirror may be for a coordinator that is ready.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    max_age: Option<String>,
}

async fn ready(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> (StatusCode, String) {
    let most = match wanted.max_age.as_deref() {
        None => GRACE,
        Some("never") => Duration::MAX,
        Some(text) => match humantime::parse_duration(text) {
            Ok(most) => most,
            Err(error) => {
                let message = format!("max_age={text}: {error}; write \"30s\" or \"never\"\n");
                return (StatusCode::BAD_REQUEST, message);
            }
        },
    };
    let readiness = shared.status.readiness();
    let is_ready = readiness.lost_for.is_none_or(|lost_for| lost_for < most);
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, told(&readiness, is_ready))
}

/// For people, and for programs line by line.
fn told(readiness: &Readiness, is_ready: bool) -> String {
    let word = if is_ready { "ready" } else { "not ready" };
    let Readiness { lost_for, lost, revision, leader } = readiness;
    let store = match (lost_for, lost) {
        (Some(lost_for), Some(why)) => format!(
            "not followed for {} s; serving agents what was last known, revision {revision}\n\
             reason: {}",
            lost_for.as_secs(),
            why.replace(['\r', '\n'], " "),
        ),
        _ => format!("followed, revision {revision}"),
    };
    let leader = match leader {
        Some((node, epoch)) => format!("{node}, epoch {epoch}"),
        None => "unknown".to_owned(),
    };
    format!("{word}\nstore: {store}\nleader: {leader}\n")
}

/// Tells what is so at the moment of the scrape, so that what was deleted is gone.
struct Present(Arc<Status>, Metrics);

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Present")
    }
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauges = Gauges(&mut encoder);
        let figures = self.0.figures();
        gauges.build(&self.0)?;
        gauges.certificates(&figures)?;
        gauges.lease(&figures)?;
        gauges.vacancy(self.1.vacant(self.0.monotonic()))?;
        gauges.fleet(&figures)?;
        let followed = u32::from(figures.store_followed);
        gauges.one("chancery_store_followed", "Whether the store is being followed", &followed)?;
        let help = "How long the store has not been followed; 0 while it is";
        let mut family = gauges.family("chancery_store_mirror_age", help, Some(&Unit::Seconds))?;
        family.encode_gauge(&figures.mirror_age_secs)?;
        let help = "Store revision that this coordinator serves";
        gauges.one("chancery_store_mirror_revision", help, &figures.revision)?;
        let damaged = figures.damaged_records;
        gauges.one("chancery_store_damaged_records", "Records that cannot be read", &damaged)
    }
}

/// Writes gauges, one family after the other.
struct Gauges<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Gauges<'_, '_> {
    fn build(&mut self, status: &Status) -> fmt::Result {
        let about = status.about();
        let labels =
            [("version", about.version), ("node", about.node.as_str()), ("store", about.store)];
        let help = "The running program";
        self.0
            .encode_descriptor("chancery_build", help, None, MetricType::Info)?
            .encode_info(&labels)
    }

    fn certificates(&mut self, figures: &Figures) -> fmt::Result {
        let help = "End of validity of the newest bundle, in seconds since 1970";
        let unit = Unit::Other("timestamp_seconds".to_owned());
        let mut family = self.family("chancery_certificate_not_after", help, Some(&unit))?;
        for certificate in &figures.certificates {
            let labels = [("certificate", certificate.name.as_str())];
            family.encode_family(&labels)?.encode_gauge(&certificate.not_after_secs)?;
        }
        let help = "Generation of the newest bundle";
        let mut family = self.family("chancery_certificate_generation", help, None)?;
        for certificate in &figures.certificates {
            let labels = [("certificate", certificate.name.as_str())];
            family.encode_family(&labels)?.encode_gauge(&certificate.generation)?;
        }
        let counts = [
            ("chancery_certificates", "Declared certificates", figures.declared),
            ("chancery_certificates_due", "Certificates that are due or overdue", figures.due),
            (
                "chancery_certificates_failing",
                "Certificates whose last order failed",
                figures.failing,
            ),
            (
                "chancery_certificates_at_risk",
                "Certificates near their end that could not be renewed",
                figures.at_risk,
            ),
            ("chancery_orders_running", "Orders in the journal", figures.orders_running),
        ];
        counts.into_iter().try_for_each(|(name, help, count)| self.one(name, help, &count))
    }

    fn lease(&mut self, figures: &Figures) -> fmt::Result {
        let help = "Whether this coordinator leads";
        self.one("chancery_lease_held", help, &u32::from(figures.leads))?;
        self.one("chancery_lease_epoch", "Number of the present term", &figures.epoch)?;
        let help = "How long this coordinator's lease has to run";
        let mut family = self.family("chancery_lease_remaining", help, Some(&Unit::Seconds))?;
        family.encode_gauge(&figures.lease_remaining_secs)
    }

    fn vacancy(&mut self, vacant: Duration) -> fmt::Result {
        let help = "Time without a leader record, as far as this coordinator has seen";
        let unit = Some(&Unit::Seconds);
        self.0
            .encode_descriptor("chancery_lease_vacant", help, unit, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&vacant.as_secs_f64(), None)
    }

    fn fleet(&mut self, figures: &Figures) -> fmt::Result {
        let help = "Agents that have a stream open to this coordinator";
        self.one("chancery_agents_connected", help, &figures.connected_here)?;
        let mut family = self.family("chancery_agents", "Agents by state", None)?;
        for (state, count) in &figures.agents {
            family.encode_family(&[("state", state.as_str())])?.encode_gauge(count)?;
        }
        let mut family = self.family("chancery_deployments", "Deployments by state", None)?;
        for (state, count) in &figures.deployments {
            family.encode_family(&[("state", *state)])?.encode_gauge(count)?;
        }
        let help = "Deployments that have failed and how; at most 200 are listed";
        let mut family = self.family("chancery_deployment_failing", help, None)?;
        for failing in &figures.failing_deployments {
            let labels = [
                ("agent", failing.agent.as_str()),
                ("certificate", failing.certificate.as_str()),
                ("state", failing.state.name()),
            ];
            family.encode_family(&labels)?.encode_gauge(&1_u32)?;
        }
        Ok(())
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)
    }

    fn one(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.family(name, help, None)?.encode_gauge(value)
    }
}

/// How long a coordinator that has lost the store is ready nevertheless.
const GRACE: Duration = Duration::from_secs(15);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests;
