//! Asking for a renewal, and watching one certificate.

use std::sync::Arc;

use chancery_proto::v1::{CertificateDetail, RenewCertificateResponse};
use chancery_shared::name::CertName;
use futures_util::stream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{super::Api, FollowStream, not_found};
use crate::{
    mirror::Touched,
    record::{self, CertificateSpec, CertificateState, EventKind, Order, key},
};

impl Api {
    /// Makes a certificate due now. An order that is under way is what was asked for.
    pub(super) async fn renew_certificate(
        &self,
        name: &CertName,
        who: &str,
    ) -> Result<RenewCertificateResponse, Status> {
        let answer = self.undisturbed(|| self.request_renewal(name)).await?;
        if !answer.already_running {
            let message = format!("{who} asked for a renewal");
            self.events.record(EventKind::RenewalRequested, name.as_str(), message);
        }
        Ok(answer)
    }

    async fn request_renewal(&self, name: &CertName) -> Result<RenewCertificateResponse, Status> {
        let leadership = self.lead().await?;
        let (spec_key, state_key) = (key::certificate(name), key::state(name));
        let Some((_, spec)) = self.get::<CertificateSpec>(&spec_key).await? else {
            return Err(not_found("certificate", name));
        };
        let order = self.get::<Order>(&key::order(name)).await?;
        // One for the standby gives way.
        let standby =
            order.as_ref().filter(|(order, _)| order.standby).map(|(_, revision)| *revision);
        if let Some((order, _)) = order.filter(|(order, _)| !order.standby) {
            let generation = order.generation.0;
            return Ok(RenewCertificateResponse { generation, already_running: true });
        }
        let (mut state, revision) = match self.get::<CertificateState>(&state_key).await? {
            Some((state, revision)) => (state, Some(revision)),
            None => (CertificateState::default(), None),
        };
        state.renewal_requested_at = Some(self.clock.now());
        let batch = leadership
            .batch()
            .unchanged(spec_key, Some(spec))
            .unchanged(key::order(name), standby)
            .unchanged(&*state_key, revision)
            .put(state_key, record::encode(&state));
        self.commit(batch).await?;
        let generation = self.mirror.read().next_generation(name, state.generation).0;
        Ok(RenewCertificateResponse { generation, already_running: false })
    }
}

/// One certificate, now and after each change, until it is deleted or the coordinator stops.
pub(super) fn follow(
    api: &Arc<Api>,
    name: CertName,
    shutdown: CancellationToken,
) -> Result<FollowStream, Status> {
    // Before the first look, so that nothing is missed in between.
    let touched = api.mirror.touched();
    if api.status.certificate(&name).is_none() {
        return Err(not_found("certificate", &name));
    }
    let follower = Follower { api: api.clone(), name, touched, shutdown, sent: None };
    Ok(Box::pin(stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(detail) => Some((Ok(detail), Some(follower))),
            Err(status) => Some((Err(status), None)),
        }
    })))
}

struct Follower {
    api: Arc<Api>,
    name: CertName,
    touched: broadcast::Receiver<Arc<Touched>>,
    shutdown: CancellationToken,
    sent: Option<CertificateDetail>,
}

impl Follower {
    async fn next(&mut self) -> Result<CertificateDetail, Status> {
        loop {
            let detail = self.api.status.certificate(&self.name);
            let detail = detail.ok_or_else(|| not_found("certificate", &self.name))?;
            if self.sent.as_ref() != Some(&detail) {
                self.sent = Some(detail.clone());
                return Ok(detail);
            }
            tokio::select! {
                () = touched(&mut self.touched, &self.name) => {}
                () = self.shutdown.cancelled() => {
                    return Err(Status::unavailable("this coordinator is stopping"));
                }
            }
        }
    }
}

/// Waits until `name` may have changed. Cancel-safe.
async fn touched(commits: &mut broadcast::Receiver<Arc<Touched>>, name: &CertName) {
    loop {
        match commits.recv().await {
            Ok(touched) if touched.everything || touched.certificates.contains(name) => return,
            Ok(_) => {}
            // Missed some: this may have been among them.
            Err(RecvError::Lagged(_)) => return,
            // The mirror is gone, and with it the process.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
