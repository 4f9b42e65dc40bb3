//! Asking for a revocation. The leader sees to it: [`crate::errands`].

use std::time::Duration;

use chancery_proto::v1::{Revocation as WireRevocation, RevokeCertificateRequest};
use chancery_shared::{
    name::CertName,
    number::{Generation, Revision},
    revocation::RevocationReason,
    x509,
};
use tonic::Status;

use super::{super::Api, name, not_found};
use crate::{
    order,
    record::{self, Bundle, CertificateState, EventKind, Order, Revocation, Revoked, Standby, key},
    seal::Context,
    status::revocation,
    store::Batch,
};

impl Api {
    /// Writes down that a bundle is to be revoked, and waits a little until it is.
    pub(super) async fn revoke_certificate(
        &self,
        request: &RevokeCertificateRequest,
        who: &str,
    ) -> Result<WireRevocation, Status> {
        let certificate: CertName = name(&request.name)?;
        let reason = match request.reason.as_str() {
            "" => RevocationReason::default(),
            text => text.parse().map_err(|error: chancery_shared::revocation::UnknownReason| {
                Status::invalid_argument(error.to_string())
            })?,
        };
        let generation = Generation(request.generation);
        self.undisturbed(|| self.ask_to_revoke(&certificate, generation, reason, who)).await
    }

    async fn ask_to_revoke(
        &self,
        name: &CertName,
        generation: Generation,
        reason: RevocationReason,
        who: &str,
    ) -> Result<WireRevocation, Status> {
        let leadership = self.lead().await?;
        let state_key = key::state(name);
        let Some((mut state, state_revision)) = self.get::<CertificateState>(&state_key).await?
        else {
            return Err(not_found("certificate", name));
        };
        let generation = if generation.0 == 0 { state.generation } else { generation };
        let at = key::revocation(name, generation);
        let former = self.get::<Revocation>(&at).await?;
        if let Some((former, _)) = &former
            && former.ended.as_ref().is_none_or(|ended| ended.refused.is_none())
        {
            return self.revoked(name, generation).await;
        }
        let standby = self.revoked_standby(name, generation, reason).await?;
        let bundle = match standby.as_ref().and_then(|(standby, _)| standby.bundle.clone()) {
            Some(bundle) => bundle,
            None => self.bundle(name, generation).await?,
        };
        let is_newest = generation == state.generation && state.issued.is_some();
        let is_shared = reason == RevocationReason::KeyCompromise
            && !is_newest
            && self.has_the_newest_key(name, &state, &bundle).await?;
        let order_key = key::order(name);
        let order = self.get::<Order>(&order_key).await?;
        if is_newest || is_shared {
            if let Some((order, _)) = &order
                && reason == RevocationReason::KeyCompromise
            {
                self.refuse_if_it_has_the_key(order, &bundle)?;
            }
            let (now, generation) = (self.clock.now(), state.generation);
            state.revoked = Some(Revoked { generation, reason, at: now });
            // So that no wait after a failure holds it back.
            state.renewal_requested_at = Some(now);
        }
        let issuer = bundle.issuer.clone();
        let issuer = issuer.or_else(|| state.issued.as_ref().map(|issued| issued.issuer.clone()));
        let issuer = issuer.ok_or_else(|| not_found("issuer of certificate", name))?;
        let revocation = Revocation {
            certificate: name.clone(),
            generation,
            serial: serial_of(&bundle.leaf)?,
            leaf: bundle.leaf,
            issuer,
            reason,
            requested_at: self.clock.now(),
            requested_by: who.to_owned(),
            ended: None,
        };
        let batch = with_standby(leadership.batch(), standby)
            .unchanged(&*at, former.map(|(_, revision)| revision))
            .put(&*at, record::encode(&revocation))
            // One that has begun meanwhile may be another one with the key.
            .unchanged(order_key, order.map(|(_, revision)| revision))
            .unchanged(&*state_key, Some(state_revision))
            .put(state_key, record::encode(&state));
        self.commit(batch).await?;
        let message = format!(
            "{who} asked for the revocation of generation {generation}, serial {}: {reason}",
            revocation.serial
        );
        self.events.record(EventKind::RevocationRequested, name.as_str(), message);
        self.revoked(name, generation).await
    }

    /// The standby if it is this bundle, as one that is revoked and to be replaced.
    async fn revoked_standby(
        &self,
        name: &CertName,
        generation: Generation,
        reason: RevocationReason,
    ) -> Result<Option<(Standby, Revision)>, Status> {
        let standby = self.get::<Standby>(&key::standby(name)).await?;
        let is_meant = |standby: &Standby| {
            standby.bundle.as_ref().is_some_and(|bundle| bundle.generation == generation)
        };
        Ok(standby.filter(|(standby, _)| is_meant(standby)).map(|(mut standby, revision)| {
            let now = self.clock.now();
            standby.state.revoked = Some(Revoked { generation, reason, at: now });
            standby.state.renewal_requested_at = Some(now);
            (standby, revision)
        }))
    }

    /// A bundle that is kept.
    async fn bundle(&self, name: &CertName, generation: Generation) -> Result<Bundle, Status> {
        if let Some((bundle, _)) = self.get::<Bundle>(&key::bundle(name, generation)).await? {
            return Ok(bundle);
        }
        let kept = self.store.list(&format!("{}{name}/", key::BUNDLES)).await;
        let kept = kept.map_err(|error| self.refused(&error))?;
        let kept: Vec<String> = kept
            .entries
            .iter()
            .filter_map(|entry| entry.key.rsplit('/').next()?.parse::<u64>().ok())
            .map(|generation| generation.to_string())
            .collect();
        Err(Status::not_found(match kept.as_slice() {
            [] => format!("certificate {name} has not been issued"),
            kept => format!(
                "generation {generation} of certificate {name} is not kept; there are {}",
                kept.join(", ")
            ),
        }))
    }

    /// Whether the newest bundle has the key of `bundle`.
    async fn has_the_newest_key(
        &self,
        name: &CertName,
        state: &CertificateState,
        bundle: &Bundle,
    ) -> Result<bool, Status> {
        let newest = self.get::<Bundle>(&key::bundle(name, state.generation)).await?;
        let key_of = |bundle: &Bundle| x509::public_key_of(&bundle.leaf).ok();
        Ok(newest.is_some_and(|(newest, _)| key_of(&newest) == key_of(bundle)))
    }

    /// An order that keeps the key has it already: what it brings would be compromised, too. Whether
    /// it does, its own key tells; the declaration may have changed since it was begun.
    fn refuse_if_it_has_the_key(&self, order: &Order, bundle: &Bundle) -> Result<(), Status> {
        let name = &order.certificate;
        let context = Context::order(name, order.generation);
        let key = self.sealer.open(&context, &order.key);
        let key = key.map_err(|error| Status::data_loss(error.to_string()))?;
        let its = order::public_key(&key).map_err(|error| Status::data_loss(error.to_string()))?;
        let compromised = x509::public_key_of(&bundle.leaf);
        if compromised.map_err(|error| Status::data_loss(error.to_string()))? != its {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "an order for certificate {name} is under way with the key that is to be given up; \
             nothing was changed: try again when it is over"
        )))
    }

    /// What has become of a revocation, once it has ended, or after a while.
    async fn revoked(
        &self,
        name: &CertName,
        generation: Generation,
    ) -> Result<WireRevocation, Status> {
        let mut touched = self.mirror.touched();
        let key = (name.clone(), generation);
        let shown = || {
            let view = self.mirror.read();
            let found = view.revocations.get(&key).map(|found| found.record.clone());
            found.map(|found| revocation(&view, &found))
        };
        let ended = async {
            while shown().is_none_or(|shown| shown.state == "pending") {
                // Lagging is as good a reason to look again.
                let _ = touched.recv().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, ended).await;
        shown().ok_or_else(|| Status::unavailable("it was asked for, but cannot be seen yet"))
    }
}

fn serial_of(leaf: &[u8]) -> Result<String, Status> {
    let facts = x509::Facts::of(leaf).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(facts.serial)
}

fn with_standby(batch: Batch, standby: Option<(Standby, Revision)>) -> Batch {
    let Some((standby, revision)) = standby else { return batch };
    let at = key::standby(&standby.certificate);
    batch.unchanged(&*at, Some(revision)).put(at, record::encode(&standby))
}

/// For a CA that answers. Less than clients wait for an answer of ours.
const PATIENCE: Duration = Duration::from_secs(6);
