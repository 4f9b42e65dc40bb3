//! Registrations: records under leases of their own.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

use super::{
    Error, EtcdStore, Registered, Registration,
    commit::transact,
    failure::{Failure, Kind},
    lease::HEDGE,
    pool::Handle,
};

impl EtcdStore {
    pub(super) async fn put_member(
        &self,
        registration: &Registration,
    ) -> Result<Registered, Error> {
        let Registration { key, value, ttl } = registration;
        let lease = self.leases.grant(*ttl).await.map_err(Failure::of_read)?;
        // Put under another lease, a key leaves the one that it was under.
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.keys.record(key), value.to_vec(), Some(options));
        let txn = Txn::new().and_then([put]);
        let call = |handle| transact(&self.pool, handle, txn.clone());
        match self.pool.once(call).await {
            Ok(_) => Ok(Registered { key: key.clone(), lease: format!("{lease:x}") }),
            Err(failure) => {
                self.leases.revoke_later(lease);
                Err(failure.of_write())
            }
        }
    }

    pub(super) async fn extend_member(&self, registered: &Registered) -> Result<(), Error> {
        let expired = || Error::Expired { key: registered.key.clone() };
        let lease = number(registered).ok_or_else(expired)?;
        let full = self.keys.record(&registered.key);
        let call = |handle: Handle| async {
            let extend = self.leases.extend(handle.clone(), lease);
            let ((), record) = tokio::try_join!(extend, self.read_at(handle, &full))?;
            Ok(record)
        };
        let gone = match self.pool.repeat(HEDGE, call).await {
            Ok(record) => record.is_none_or(|kv| kv.lease() != lease),
            Err(failure) if failure.kind == Kind::NoLease => true,
            Err(failure) => return Err(failure.of_read()),
        };
        if gone {
            self.leases.forget(lease);
            return Err(expired());
        }
        Ok(())
    }

    pub(super) async fn delete_member(&self, registered: &Registered) -> Result<(), Error> {
        let Some(lease) = number(registered) else { return Ok(()) };
        let full = self.keys.record(&registered.key);
        let txn = Txn::new()
            .when([Compare::lease(full.as_str(), CompareOp::Equal, lease)])
            .and_then([TxnOp::delete(full, None)]);
        let call = |handle| transact(&self.pool, handle, txn.clone());
        self.pool.repeat(HEDGE, call).await.map_err(Failure::of_write)?;
        self.leases.revoke_later(lease);
        Ok(())
    }
}

fn number(registered: &Registered) -> Option<i64> {
    i64::from_str_radix(&registered.lease, 16).ok()
}
