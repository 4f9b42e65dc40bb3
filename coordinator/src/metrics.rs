//! What happened since this process started, counted. What *is* so, such as expiry dates, is
//! not counted here but read from the read model at each scrape: see [`crate::http`].
//!
//! Names are `chancery_<what>_<unit>`; labels are bounded by what operators declare.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chancery_shared::{clock::Monotonic, name::IssuerName, number::Epoch};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::election::{Observation, Observer};

/// The counters. One for the process, shared.
#[derive(Clone, Debug)]
pub struct Metrics {
    orders: Family<OrderLabels, Counter>,
    possible_orphans: Family<IssuerLabels, Counter>,
    fenced_writes: Counter,
    refusals: Family<RefusalLabels, Counter>,
    events_dropped: Counter,
    handshakes_failed: Counter,
    campaigns: Family<CampaignLabels, Counter>,
    keep_alives: Histogram,
    keep_alive_failures: Counter,
    step_downs: Family<StepDownLabels, Counter>,
    leader_changes: Counter,
    passes: Histogram,
    surveys: Histogram,
    leaders: Arc<Mutex<Leaders>>,
}

/// What is known of who leads, for counting.
#[derive(Clone, Copy, Debug, Default)]
struct Leaders {
    newest: Epoch,
    /// Since when there has been no leader, while there is none.
    vacant_since: Option<Monotonic>,
    /// All former vacancies together.
    vacant: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            orders: Family::default(),
            possible_orphans: Family::default(),
            fenced_writes: Counter::default(),
            refusals: Family::default(),
            events_dropped: Counter::default(),
            handshakes_failed: Counter::default(),
            campaigns: Family::default(),
            keep_alives: Histogram::new(KEEP_ALIVE_BUCKETS_SECS),
            keep_alive_failures: Counter::default(),
            step_downs: Family::default(),
            leader_changes: Counter::default(),
            passes: Histogram::new(PASS_BUCKETS_SECS),
            surveys: Histogram::new(PASS_BUCKETS_SECS),
            leaders: Arc::default(),
        }
    }
}

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No identity certificate where one is needed.
    NoIdentity,
    /// The identity certificate is not by the internal CA, or cannot be read.
    ForeignIdentity,
    /// The identity certificate has expired.
    ExpiredIdentity,
    /// The agent was removed.
    RemovedAgent,
    /// A newer identity has taken the place of the one shown.
    SupersededIdentity,
    /// The join token is unknown, expired or used.
    Token,
}

impl Refusal {
    const fn label(self) -> &'static str {
        match self {
            Self::NoIdentity => "no-identity",
            Self::ForeignIdentity => "foreign-identity",
            Self::ExpiredIdentity => "expired-identity",
            Self::RemovedAgent => "removed-agent",
            Self::SupersededIdentity => "superseded-identity",
            Self::Token => "token",
        }
    }
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.label(), encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OrderLabels {
    issuer: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CampaignLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepDownLabels {
    reason: &'static str,
}

impl Metrics {
    /// An order has ended: `issued`, or the stable code of what went wrong.
    pub fn order_finished(&self, issuer: &IssuerName, outcome: &'static str) {
        self.orders.get_or_create(&OrderLabels { issuer: issuer.to_string(), outcome }).inc();
    }

    /// A CA may have an order that the journal knows nothing of: newOrder was sent and its answer
    /// was not seen.
    pub fn order_possibly_orphaned(&self, issuer: &IssuerName) {
        self.possible_orphans.get_or_create(&IssuerLabels { issuer: issuer.to_string() }).inc();
    }

    /// The store refused a write because the term of leadership was over.
    pub fn write_fenced(&self) {
        self.fenced_writes.inc();
    }

    /// Somebody was refused.
    pub fn refused(&self, reason: Refusal) {
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// An event was not written down.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// A TLS handshake failed or took too long.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// The leader has started what was due, if anything was; it took so long.
    pub(crate) fn passed(&self, took: Duration) {
        self.passes.observe(took.as_secs_f64());
    }

    /// The leader has looked at every certificate; it took so long.
    pub(crate) fn surveyed(&self, took: Duration) {
        self.surveys.observe(took.as_secs_f64());
    }

    /// How long there was no leader record, all times together, as far as this process has seen.
    pub(crate) fn vacant(&self, now: Monotonic) -> Duration {
        let leaders = self.leaders.lock().expect("no holder panics");
        leaders.vacant + leaders.vacant_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// How many events were not written down.
    #[cfg(test)]
    pub(crate) fn events_dropped(&self) -> u64 {
        self.events_dropped.get()
    }

    /// Makes all counters known to `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        // The encoder adds `_total`.
        registry.register("chancery_orders", "Orders that have ended", self.orders.clone());
        registry.register(
            "chancery_orders_possibly_orphaned",
            "Orders that a CA may have and the journal does not know",
            self.possible_orphans.clone(),
        );
        registry.register(
            "chancery_store_fenced_writes",
            "Writes that the store refused because the term of leadership was over",
            self.fenced_writes.clone(),
        );
        registry.register(
            "chancery_refusals",
            "Agents and join tokens that were refused",
            self.refusals.clone(),
        );
        registry.register(
            "chancery_events_dropped",
            "Events that could not be written down",
            self.events_dropped.clone(),
        );
        registry.register(
            "chancery_tls_handshakes_failed",
            "TLS handshakes that failed or took too long",
            self.handshakes_failed.clone(),
        );
        registry.register_with_unit(
            "chancery_scheduler_pass_duration",
            "How long the leader took to start what was due, if anything was",
            Unit::Seconds,
            self.passes.clone(),
        );
        registry.register_with_unit(
            "chancery_scheduler_survey_duration",
            "How long the leader took to look at every certificate, as at the beginning of a term",
            Unit::Seconds,
            self.surveys.clone(),
        );
        self.register_lease(registry);
    }

    fn register_lease(&self, registry: &mut Registry) {
        registry.register(
            "chancery_lease_campaigns",
            "Times that this coordinator asked the store for the lease",
            self.campaigns.clone(),
        );
        registry.register_with_unit(
            "chancery_lease_keep_alive_duration",
            "How long the store took to keep this coordinator's lease alive",
            Unit::Seconds,
            self.keep_alives.clone(),
        );
        registry.register(
            "chancery_lease_keep_alive_failures",
            "Keep-alives that failed or were not answered in time",
            self.keep_alive_failures.clone(),
        );
        registry.register(
            "chancery_lease_step_downs",
            "Terms of this coordinator that have ended",
            self.step_downs.clone(),
        );
        registry.register(
            "chancery_lease_leader_changes",
            "Terms that this coordinator has seen to begin, of any coordinator",
            self.leader_changes.clone(),
        );
    }
}

impl Observer for Metrics {
    fn observe(&self, observation: &Observation) {
        match *observation {
            Observation::Campaigned(outcome) => {
                self.campaigns.get_or_create(&CampaignLabels { outcome: outcome.label() }).inc();
            }
            Observation::KeptAlive { took } => self.keep_alives.observe(took.as_secs_f64()),
            Observation::KeepAliveFailed => {
                self.keep_alive_failures.inc();
            }
            Observation::SteppedDown(reason) => {
                self.step_downs.get_or_create(&StepDownLabels { reason: reason.label() }).inc();
            }
            Observation::Vacant { at } => {
                let mut leaders = self.leaders.lock().expect("no holder panics");
                leaders.vacant_since.get_or_insert(at);
            }
            Observation::Led { epoch, at } => {
                let mut leaders = self.leaders.lock().expect("no holder panics");
                if epoch > leaders.newest {
                    leaders.newest = epoch;
                    self.leader_changes.inc();
                }
                if let Some(since) = leaders.vacant_since.take() {
                    leaders.vacant += at.since(since);
                }
            }
        }
    }
}

/// From what a store nearby takes to what costs the lease.
const KEEP_ALIVE_BUCKETS_SECS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// From a look at one entry of the index to one at a hundred thousand certificates.
const PASS_BUCKETS_SECS: [f64; 8] = [0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
