//! What agents report of their deployments and services.

use std::{collections::BTreeSet, time::Duration};

use chancery_proto::v1::{
    DeploymentReport, DeploymentState as WireState, ReportRequest, ServiceReport,
};
use chancery_shared::{
    name::{AgentName, CertName},
    number::{Generation, Revision},
    wire::from_timestamp,
};
use jiff::Timestamp;
use tonic::Status;

use super::{Api, authorize::Caller};
use crate::{
    events::printable,
    mirror::View,
    record::{self, Deployment, DeploymentState, EventKind, Service, Services, key},
    store::{Batch, Error},
};

impl Api {
    /// Takes a report: writes what has changed, and events for what has turned.
    pub(super) async fn report(
        &self,
        caller: &Caller,
        request: ReportRequest,
    ) -> Result<(), Status> {
        let report = Report::read(&caller.name, &request)?;
        for _ in 0..TRIES {
            let written_at = self.mirror.revision();
            match self.write_report(caller, &report).await {
                Ok(()) => return Ok(()),
                // A report that came later was taken elsewhere while this one was held up.
                Err(Error::Conflict { key }) if is_reported(&key) => {
                    return Err(Status::aborted(
                        "another report was taken meanwhile; report again",
                    ));
                }
                Err(Error::Conflict { .. }) => {
                    // The mirror is behind. What it lacks is on its way.
                    let next = self.mirror.wait_for(written_at.next());
                    let _ = tokio::time::timeout(CATCH_UP, next).await;
                    self.still_admitted(&caller.identity)?;
                }
                Err(error) => return Err(self.refused(&error)),
            }
        }
        Err(Status::unavailable("the store changes faster than this coordinator follows"))
    }

    async fn write_report(&self, caller: &Caller, report: &Report) -> Result<(), Error> {
        let (batches, turns) = {
            let view = self.mirror.read();
            let changed = report.changed(&view, caller);
            (report.batches(&view, caller, &changed), turns(&view, &caller.name, &changed))
        };
        let mut last = None;
        for batch in batches {
            last = Some(self.store.commit(batch).await?);
        }
        if let Some(revision) = last {
            self.shown(revision).await;
        }
        for (kind, subject, message) in turns {
            self.events.record(kind, subject.as_str(), message);
        }
        Ok(())
    }
}

/// A report whose values make sense in themselves.
struct Report {
    deployments: Vec<Deployment>,
    services: Services,
}

impl Report {
    /// Reads a report, or says all that is wrong with it.
    fn read(agent: &AgentName, request: &ReportRequest) -> Result<Self, Status> {
        let mut problems = Vec::new();
        let mut deployments: Vec<Deployment> = Vec::new();
        let mut named = BTreeSet::new();
        for wire in &request.deployments {
            match deployment(agent, wire) {
                Ok(found) if !named.insert(found.certificate.clone()) => {
                    problems.push(format!("certificate {} is reported twice", found.certificate));
                }
                Ok(deployment) => deployments.push(deployment),
                Err(problem) => problems.push(problem),
            }
        }
        let mut services = Vec::new();
        for wire in request.services.iter().take(MAX_SERVICES) {
            match service(wire) {
                Ok(service) => services.push(service),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(Self { deployments, services: Services { services } })
        } else {
            Err(Status::invalid_argument(problems.join("\n")))
        }
    }

    /// The deployments that differ from what is known, as far as the agent may report them.
    fn changed<'a>(&'a self, view: &View, caller: &Caller) -> Vec<Changed<'a>> {
        let known = |deployment: &Deployment| {
            view.deployment(caller.name.as_str(), deployment.certificate.as_str())
                == Some(deployment)
        };
        let differing = self.deployments.iter().filter(|deployment| !known(deployment));
        differing
            .filter_map(|deployment| {
                let spec = may_report(view, caller, deployment)?;
                let table = view.deployments.get(&caller.name);
                let known = table.and_then(|table| table.get(&deployment.certificate));
                Some(Changed { deployment, spec, known: known.map(|known| known.revision) })
            })
            .collect()
    }

    /// What has changed, in batches that every store takes. Each requires that the agent and the
    /// certificates are still there, so that no report outlives what it is about, and that nothing
    /// was reported since, so that a coordinator that was held up does not bring back the past.
    fn batches(&self, view: &View, caller: &Caller, changed: &[Changed<'_>]) -> Vec<Batch> {
        let Some(agent) = view.agents.get(&caller.name) else { return Vec::new() };
        let begin = || Batch::unfenced().unchanged(key::agent(&caller.name), Some(agent.revision));
        let mut batches: Vec<_> = changed
            .chunks(CHUNK)
            .map(|chunk| chunk.iter().fold(begin(), |batch, changed| changed.put(batch)))
            .collect();
        let known = view.services.get(&caller.name);
        if known.map_or(&Services::default(), |known| &*known.record) != &self.services {
            let (at, services) = (key::services(&caller.name), record::encode(&self.services));
            let batch = begin().unchanged(&*at, known.map(|known| known.revision));
            batches.push(batch.put(at, services));
        }
        batches
    }
}

/// A deployment that differs from what is known.
struct Changed<'a> {
    deployment: &'a Deployment,
    /// The revision of the certificate's specification.
    spec: Revision,
    /// The revision of what is known of the deployment.
    known: Option<Revision>,
}

/// Whether it is the key of something that agents report.
fn is_reported(at: &str) -> bool {
    at.starts_with(key::DEPLOYMENTS) || at.starts_with(key::SERVICES)
}

impl Changed<'_> {
    fn put(&self, batch: Batch) -> Batch {
        let Deployment { agent, certificate, .. } = self.deployment;
        let at = key::deployment(agent, certificate);
        batch
            .unchanged(key::certificate(certificate), Some(self.spec))
            .unchanged(&*at, self.known)
            .put(at, record::encode(self.deployment))
    }
}

/// Events for deployments that have turned bad or good.
fn turns(
    view: &View,
    agent: &AgentName,
    changed: &[Changed<'_>],
) -> Vec<(EventKind, CertName, String)> {
    let turn = |now: &Deployment| {
        let before = view.deployment(agent.as_str(), now.certificate.as_str());
        let same = before.is_some_and(|before| {
            before.state == now.state
                && before.delivered == now.delivered
                && before.served == now.served
        });
        let certificate = now.certificate.clone();
        let (generation, state) = (now.delivered, now.state.name());
        if same {
            None
        } else if now.state.is_failure() {
            let message =
                format!("generation {generation} on agent {agent}: {state}: {}", now.message);
            Some((EventKind::DeploymentFailed, certificate, message))
        } else if now.state == DeploymentState::Installed {
            let message = format!("generation {} is installed on agent {agent}", now.installed);
            Some((EventKind::DeploymentInstalled, certificate, message))
        } else {
            None
        }
    };
    changed.iter().filter_map(|changed| turn(changed.deployment)).collect()
}

/// The revision of the certificate's specification, if the agent is entitled to it, or was when it
/// reported before. Others are passed over: a withdrawal may be on its way to the agent.
fn may_report(view: &View, caller: &Caller, deployment: &Deployment) -> Option<Revision> {
    let agent = view.agents.get(&caller.name)?;
    let spec = view.certificates.get(&deployment.certificate);
    let was = view.deployment(caller.name.as_str(), deployment.certificate.as_str()).is_some();
    let spec = spec.filter(|spec| was || agent.record.labels.satisfy(&spec.record.labels));
    if spec.is_none() {
        let (agent, certificate) = (&caller.name, &deployment.certificate);
        tracing::warn!(%agent, %certificate, "passed over a report: the agent is not entitled to it");
    }
    spec.map(|spec| spec.revision)
}

fn deployment(agent: &AgentName, wire: &DeploymentReport) -> Result<Deployment, String> {
    let certificate: CertName = wire.certificate.parse().map_err(|error| format!("{error}"))?;
    let state = state(wire.state)
        .ok_or_else(|| format!("certificate {certificate}: state {} is not known", wire.state))?;
    let highest = wire.installed_generation.max(wire.served_generation);
    if highest > wire.delivered_generation {
        return Err(format!(
            "certificate {certificate}: generation {highest} cannot be in use when the highest \
             delivered is {}",
            wire.delivered_generation
        ));
    }
    Ok(Deployment {
        agent: agent.clone(),
        certificate,
        state,
        delivered: Generation(wire.delivered_generation),
        installed: Generation(wire.installed_generation),
        served: Generation(wire.served_generation),
        message: printable(&wire.message, MAX_MESSAGE),
        changed_at: changed_at(wire.changed_at.as_ref()),
        failures: wire.failures,
    })
}

fn service(wire: &ServiceReport) -> Result<Service, String> {
    Ok(Service {
        name: wire.service.parse().map_err(|error| format!("{error}"))?,
        healthy: wire.healthy,
        message: printable(&wire.message, MAX_SERVICE_MESSAGE),
        changed_at: changed_at(wire.changed_at.as_ref()),
        reloads: wire.reloads,
    })
}

/// When the agent says that it became so, by its clock; 1970 if it does not say. Not corrected:
/// the same report must not look like another one later.
fn changed_at(wire: Option<&prost_types::Timestamp>) -> Timestamp {
    from_timestamp(wire).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn state(wire: i32) -> Option<DeploymentState> {
    Some(match WireState::try_from(wire).ok()? {
        WireState::Unspecified => return None,
        WireState::Delivered => DeploymentState::Delivered,
        WireState::Installed => DeploymentState::Installed,
        WireState::InstallFailed => DeploymentState::InstallFailed,
        WireState::TestFailed => DeploymentState::TestFailed,
        WireState::ReloadFailed => DeploymentState::ReloadFailed,
        WireState::ProbeFailed => DeploymentState::ProbeFailed,
        WireState::Withdrawn => DeploymentState::Withdrawn,
    })
}

const TRIES: usize = 5;
const CATCH_UP: Duration = Duration::from_secs(1);
/// Deployments in one batch, each with a condition: under the 64 operations that the narrowest store
/// takes.
const CHUNK: usize = 25;
const MAX_MESSAGE: usize = 1000;
const MAX_SERVICES: usize = 100;
/// So that all services together fit into one batch.
const MAX_SERVICE_MESSAGE: usize = 400;
