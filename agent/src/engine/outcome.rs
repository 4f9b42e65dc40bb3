//! What a batch that has ended means for the records and the waits.

use chancery_shared::name::{CertName, ServiceName};
use tokio::task::JoinError;

use super::{Engine, Running, wait_after};
use crate::{
    service::{Failure, Outcome, Ran},
    state::{Active, Phase, ServiceRecord},
};

impl Engine {
    /// A batch has ended.
    pub(super) fn ended(&mut self, ended: Result<(u64, Outcome), JoinError>) {
        let (number, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // A panic there is a bug here; what it was about becomes free again, and
                // the next pass finds what is left to do.
                tracing::error!("a batch ended without a result: {error}");
                return self.batches.clear();
            }
        };
        let Some(running) = self.batches.remove(&number) else { return };
        for (service, certificate) in &outcome.active {
            let generation = running.batch.switches[certificate].to.generation;
            let active = Active { generation, build: running.builds[certificate] };
            self.record(certificate).active.insert(service.clone(), active);
        }
        for (service, ran) in outcome.services {
            self.ran(&service, ran);
        }
        self.failed(&running, outcome.failed);
    }

    fn ran(&mut self, service: &ServiceName, ran: Ran) {
        let now = self.clock.now();
        let monotonic = self.clock.monotonic();
        let record =
            self.state.services.entry(service.clone()).or_insert_with(|| ServiceRecord::new(now));
        record.reloads += ran.reloads;
        record.test_failed = ran.test_failed;
        let healthy = ran.failure.is_none();
        let message = ran.failure.unwrap_or_default();
        if record.healthy != healthy || record.message != message || ran.reloads > 0 {
            record.changed_at = now;
        }
        record.healthy = healthy;
        record.message = message;
        if healthy {
            record.failures = 0;
            self.waits.services.remove(service);
        } else {
            record.failures = record.failures.saturating_add(1);
            let wait = wait_after(self.config.retry, record.failures);
            self.waits.services.insert(service.clone(), monotonic.after(wait));
        }
    }

    fn failed(&mut self, running: &Running, failed: std::collections::BTreeMap<CertName, Failure>) {
        let mut shared_wait = None;
        for (certificate, failure) in failed {
            let of = running.batch.switches[&certificate].to.generation;
            let record = self.record(&certificate);
            if record.delivered > of || record.phase == Phase::Withdrawn {
                // Meanwhile it has a successor, or none at all.
                continue;
            }
            record.failures = record.failures.saturating_add(1);
            let failures = record.failures;
            if matches!(failure.phase, Phase::ProbeFailed | Phase::InstallFailed) {
                // One wait for all, so that they are tried again with one reload.
                let wait =
                    *shared_wait.get_or_insert_with(|| wait_after(self.config.retry, failures));
                let at = self.clock.monotonic().after(wait);
                self.waits.certificates.insert(certificate.clone(), at);
            }
            self.set(&certificate, failure.phase, failure.message);
        }
    }
}
