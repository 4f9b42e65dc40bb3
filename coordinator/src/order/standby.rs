//! The standby takes the place of what is served.
//!
//! Done here, where a certificate's orders are made, and not where an operator asks for it: one task works on a
//! certificate at a time, so that nothing is written beside an order that is under way. An operator's
//! wish is written down first ([`CertificateState::switch_requested_at`]) and found by the leader.
//!
//! | written | if we die right then |
//! |---|---|
//! | the wish, or a revocation, or a failure | the successor finds the same reason and switches |
//! | bundle, state and the emptied standby, the live order gone: one transaction | agents hear of it from the store; the next standby is due |
//!
//! An order that was under way is given up with it: it would bring the successor of what is no longer
//! served. Should the CA have it issued already, that is an orphan at the CA, as any other order that
//! was given up. The switch makes a new generation with the content of the standby, as agents never go back
//! to a lower one (invariant 4); the standby's own number is not given again.
//!
//! [`CertificateState::switch_requested_at`]: crate::record::CertificateState::switch_requested_at

use chancery_shared::{failpoint::crash_point, name::CertName, number::Revision};

use super::{Error, Orders, journal::Entry};
use crate::{
    election::Leadership,
    plan::{self, Facts, Turn},
    record::EventKind,
};

impl Orders {
    /// Makes the standby the newest bundle, if that is what is next for a certificate. Returns the
    /// revision that shows it.
    pub(super) async fn switch_if_due(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        live: Option<&Entry>,
    ) -> Result<Option<Revision>, Error> {
        if !self.mirror.read().standbys.contains_key(certificate) {
            return Ok(None);
        }
        let Some(known) = self.known(certificate).await? else { return Ok(None) };
        let now = self.clock.now();
        let facts = Facts { order: live.map(|entry| &entry.order), ..known.facts() };
        let (turn, decision) = plan::turn(&facts, now);
        if turn != Turn::Switch || !decision.is_due(now) {
            return Ok(None);
        }
        crash_point("standby::before-switch");
        let (generation, revision) = self.journal.switch(leadership, &known, live).await?;
        crash_point("standby::switched");
        if let Some(entry) = live {
            self.metrics.order_finished(&entry.order.issuer, "given-up");
        }
        let facts = known.standby.as_ref().and_then(|standby| standby.state.issued.as_ref());
        let issuer = facts.map(|facts| facts.issuer.to_string()).unwrap_or_default();
        let serial = facts.map(|facts| facts.serial.clone()).unwrap_or_default();
        tracing::warn!(%generation, issuer, serial, reason = decision.code, "switched to the standby");
        let message = format!(
            "the standby of {issuer}, serial {serial}, is generation {generation} now: {}",
            decision.message
        );
        self.events.record(EventKind::Switched, certificate.as_str(), message);
        Ok(Some(revision))
    }
}

#[cfg(test)]
mod tests;
