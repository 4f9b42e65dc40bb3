//! What happened since this process started, counted. What *is* so, such as expiry dates, is
//! not counted here but read from the read model at each scrape: see [`crate::http`].
//!
//! Names are `chancery_<what>_<unit>`; labels are bounded by what operators declare.

use chancery_shared::name::IssuerName;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The counters. One for the process, shared.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    orders: Family<OrderLabels, Counter>,
    possible_orphans: Family<IssuerLabels, Counter>,
    fenced_writes: Counter,
    refusals: Family<RefusalLabels, Counter>,
    events_dropped: Counter,
    handshakes_failed: Counter,
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
    }
}
