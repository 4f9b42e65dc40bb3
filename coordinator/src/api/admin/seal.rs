//! The data keys.

use std::collections::BTreeMap;

use chancery_proto::v1::{DataKey, RotateSealResponse, SealDetail};
use chancery_shared::wire::to_timestamp;
use tonic::Status;

use super::super::Api;
use crate::{
    mirror::View,
    record::EventKind,
    seal::{self, rotation},
};

impl Api {
    /// Makes a new data key and has everything sealed under it from now on. What was sealed before
    /// is re-sealed by the leader in the background.
    pub(super) async fn rotate_seal(&self, who: &str) -> Result<RotateSealResponse, Status> {
        let leadership = self.lead().await?;
        let now = self.clock.now();
        let added = rotation::add_key(&*self.store, &leadership, &self.sealer, now).await;
        let active = added.map_err(|error| match error {
            seal::Error::Store(error) => self.refused(&error),
            seal::Error::SteppedDown(_) => self.not_leading(),
            error => Status::data_loss(error.to_string()),
        })?;
        let message = format!("{who} made data key {active}, which seals from now on");
        self.events.record(EventKind::SealRotated, "seal", message);
        Ok(RotateSealResponse { active_key: active })
    }

    /// The data keys, and how much is still sealed under each.
    pub(super) fn show_seal(&self) -> Result<SealDetail, Status> {
        let view = self.mirror.read();
        let ring = view.seal.as_ref().map(|ring| &ring.record);
        let ring = ring.ok_or_else(|| Status::unavailable("there is no data key yet"))?;
        let records = sealed_under(&view);
        let keys = ring.keys.iter().map(|key| DataKey {
            id: key.id,
            created_at: Some(to_timestamp(key.created_at)),
            records: records.get(&key.id).copied().unwrap_or_default(),
        });
        Ok(SealDetail {
            active_key: ring.active,
            keys: keys.collect(),
            key_file_fingerprint: ring.key_file_fingerprint.clone(),
        })
    }
}

/// How many records each data key seals. Of bundles the newest of each certificate are seen.
fn sealed_under(view: &View) -> BTreeMap<u32, u32> {
    let bundles = view.bundles.values().map(|bundle| bundle.record.key.data_key);
    let orders = view.orders.values().map(|order| order.record.key.data_key);
    let accounts = view.accounts.values().map(|account| account.record.key.data_key);
    let authority = view.authority.iter().map(|authority| authority.record.key.data_key);
    let bindings = view.issuers.values().filter_map(|issuer| {
        issuer.record.external_account.as_ref().map(|bound| bound.key.data_key)
    });
    let next_keys = view.next_keys.values().map(|next| next.record.key.data_key);
    let standbys = view.standbys.values().filter_map(|standby| standby.record.bundle.as_ref());
    let standbys = standbys.map(|bundle| bundle.key.data_key);
    let of_certificates = bundles.chain(standbys).chain(next_keys).chain(orders);
    let mut records = BTreeMap::new();
    for key in of_certificates.chain(accounts).chain(bindings).chain(authority) {
        *records.entry(key).or_default() += 1;
    }
    records
}
