//! Asking for a standby to take the place of what is served. The leader sees to it:
//! [`crate::order`].

use std::time::Duration;

use chancery_proto::v1::SwitchCertificateResponse;
use chancery_shared::{name::CertName, number::Generation};
use tonic::Status;

use super::{super::Api, not_found};
use crate::{
    plan,
    record::{self, CertificateSpec, CertificateState, EventKind, Standby, key},
};

impl Api {
    /// Writes down that the standby is to be served, and waits a little until it is the newest bundle.
    pub(super) async fn switch_certificate(
        &self,
        name: &CertName,
        who: &str,
    ) -> Result<SwitchCertificateResponse, Status> {
        let before = self.undisturbed(|| self.ask_to_switch(name)).await?;
        let message = format!("{who} asked for the standby to be served");
        self.events.record(EventKind::SwitchRequested, name.as_str(), message);
        let mut touched = self.mirror.touched();
        let present = || {
            let view = self.mirror.read();
            view.states.get(name).map(|state| state.record.generation).unwrap_or_default()
        };
        let switched = async {
            while present() <= before {
                // Lagging is as good a reason to look again.
                let _ = touched.recv().await;
            }
        };
        let switched = tokio::time::timeout(PATIENCE, switched).await.is_ok();
        let generation =
            if switched { present() } else { self.mirror.read().next_generation(name, before) };
        Ok(SwitchCertificateResponse { generation: generation.0, switched })
    }

    /// The generation before the switch.
    async fn ask_to_switch(&self, name: &CertName) -> Result<Generation, Status> {
        let leadership = self.lead().await?;
        let (spec_key, state_key) = (key::certificate(name), key::state(name));
        let Some((spec, spec_revision)) = self.get::<CertificateSpec>(&spec_key).await? else {
            return Err(not_found("certificate", name));
        };
        let (state, state_revision) = self.get::<CertificateState>(&state_key).await?.unzip();
        let (standby, standby_revision) = self.get::<Standby>(&key::standby(name)).await?.unzip();
        let now = self.clock.now();
        plan::standby::ready(&spec, standby.as_ref(), now).map_err(|reason| {
            Status::failed_precondition(format!(
                "certificate {name} has no standby that could be served; nothing was changed: {reason}"
            ))
        })?;
        let state = state.unwrap_or_default();
        let before = state.generation;
        let state = CertificateState { switch_requested_at: Some(now), ..state };
        let batch = leadership
            .batch()
            .unchanged(spec_key, Some(spec_revision))
            .unchanged(key::standby(name), standby_revision)
            .unchanged(&*state_key, state_revision)
            .put(state_key, record::encode(&state));
        self.commit(batch).await?;
        Ok(before)
    }
}

/// It needs no CA. Less than clients wait for an answer of ours.
const PATIENCE: Duration = Duration::from_secs(6);
