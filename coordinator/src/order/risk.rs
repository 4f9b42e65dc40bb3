//! A certificate that will expire despite all that was tried, raised so that nobody overlooks it: an
//! event with each failed try, a metric and a line of the status for as long as it is so.

use chancery_shared::name::CertName;

use super::{Error, Orders};
use crate::{plan, record::EventKind};

impl Orders {
    /// Tells once more, after a try that failed, if so little of the certificate's life is left that
    /// nothing can be hoped for any longer from waiting.
    pub(super) fn raise_if_at_risk(&self, certificate: &CertName, error: &Error) {
        let now = self.clock.now();
        let state = self.mirror.read().states.get(certificate).map(|state| state.record.clone());
        let Some(state) = state else { return };
        let Some(issued) = state.issued.as_ref().filter(|issued| plan::urgent_at(issued) <= now)
        else {
            return;
        };
        let (end, failures) = (issued.not_after, state.failures);
        let word = if end <= now { "expired" } else { "expires" };
        tracing::error!(%certificate, not_after = %end, failures, %error, "a certificate is at risk");
        let tries = if failures == 1 { "a try".to_owned() } else { format!("{failures} tries") };
        let message = format!("it {word} at {end}, and {tries} to renew it failed: {error}");
        self.events.record(EventKind::CertificateAtRisk, certificate.as_str(), message);
    }
}
