//! Orders that end without a certificate, or cannot begin.

use std::time::Duration;

use chancery_shared::{name::CertName, number::Revision};
use jiff::Timestamp;

use super::{Entry, Error, Journal, with};
use crate::{
    election::Leadership,
    events::printable,
    order::{Class, budgets::Change},
    plan,
    record::{self, CertificateState, Failure, LastProblem, key},
    store::Batch,
};

impl Journal {
    /// Ends the order without a certificate.
    pub(in crate::order) async fn failed(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        error: &Error,
        wait: Duration,
        budget: Option<&Change>,
    ) -> Result<Revision, Error> {
        let batch = with(self.ending(leadership, entry).await?, budget);
        let order = &entry.order;
        self.record_failure(batch, &order.certificate, order.standby, error, wait).await
    }

    /// Notes that an order could not even be begun. `None` if the certificate is no longer declared.
    pub async fn could_not_begin(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        is_standby: bool,
        error: &Error,
        wait: Duration,
    ) -> Result<Option<Revision>, Error> {
        let Some((_, spec)) = self.spec(certificate).await? else { return Ok(None) };
        let batch = leadership
            .batch()
            .absent(key::order(certificate))
            .unchanged(key::certificate(certificate), Some(spec));
        self.record_failure(batch, certificate, is_standby, error, wait).await.map(Some)
    }

    async fn record_failure(
        &self,
        batch: Batch,
        certificate: &CertName,
        is_standby: bool,
        error: &Error,
        first_wait: Duration,
    ) -> Result<Revision, Error> {
        if is_standby {
            let (mut standby, revision) = self.standby_or_none(certificate).await?;
            standby.state = self.failed_state(standby.state, error, first_wait);
            let at = key::standby(certificate);
            let batch = batch.unchanged(&at, revision).put(&at, record::encode(&standby));
            return self.commit(batch).await;
        }
        let (state, revision) = self.state(certificate).await?;
        let state = self.failed_state(state, error, first_wait);
        let at = key::state(certificate);
        self.commit(batch.unchanged(&at, revision).put(&at, record::encode(&state))).await
    }

    /// With one failure more.
    fn failed_state(
        &self,
        state: CertificateState,
        error: &Error,
        first_wait: Duration,
    ) -> CertificateState {
        let at = self.clock.now();
        let failures = state.failures.saturating_add(1);
        let least = match error.class() {
            Class::Fail(least) | Class::Repeat(least) => least,
            Class::Stop => Duration::ZERO,
        };
        let most = if error.may_pass() { AN_HOUR } else { Duration::MAX };
        let wait = plan::wait_after(failures, first_wait).min(most).max(least);
        let failure = Failure {
            at,
            message: printable(&error.to_string(), MAX_MESSAGE),
            code: error.code().to_owned(),
            retry_at: at.checked_add(wait).unwrap_or(Timestamp::MAX),
        };
        // A CA that cannot be reached the next time has said nothing else.
        let told = error.problem().map(|problem| LastProblem { at, problem: problem.clone() });
        let last_problem = told.or(state.last_problem);
        let last_failure = Some(failure);
        CertificateState { failures, last_failure, last_problem, ..state }
    }
}

const MAX_MESSAGE: usize = 2000;
/// A CA that could not be reached is tried this often at least, unless it says otherwise.
const AN_HOUR: Duration = Duration::from_hours(1);
