//! Terms of leadership: the leader key, under a lease, and the counter of epochs.

use chancery_shared::number::Epoch;
use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};

use super::{
    Campaign, Candidate, Error, EtcdStore, Fence,
    commit::{compare_term, found, is_of_term, read, transact},
    failure::{Failure, Kind},
    keys::Term,
    lease::HEDGE,
};
use crate::record::{self, Leader};

impl EtcdStore {
    pub(super) async fn try_to_lead(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        // Looking first costs the many campaigns against a healthy leader no lease.
        let Some(mut seen) = self.look().await? else { return Ok(Campaign::Lost) };
        let lease = self.leases.grant(candidate.ttl).await.map_err(Failure::of_write)?;
        for _ in 0..TRIES {
            match self.take(candidate, lease, &seen).await {
                Ok(Taken::Won(fence)) => return Ok(Campaign::Won(fence)),
                Ok(Taken::Lost) => {
                    self.leases.revoke_later(lease);
                    return Ok(Campaign::Lost);
                }
                // Somebody led in between, and does so no longer.
                Ok(Taken::Again(again)) => seen = again,
                Err(error) => {
                    // Should the transaction be applied later, it finds no lease.
                    self.leases.revoke_later(lease);
                    return Err(error);
                }
            }
        }
        self.leases.revoke_later(lease);
        Ok(Campaign::Lost)
    }

    /// The counter, if nobody leads.
    async fn look(&self) -> Result<Option<Counter>, Error> {
        let txn = Txn::new().and_then([read(self.keys.leader()), self.read_epoch()]);
        let call = |handle| transact(&self.pool, handle, txn.clone());
        let (at, response) = self.pool.repeat(HEDGE, call).await.map_err(Failure::of_read)?;
        let mut found = found(&response).into_iter();
        let leader = found.next().flatten();
        Ok(leader.is_none().then(|| Counter::of(found.next().flatten().as_ref(), at)))
    }

    /// Makes the leader key and counts the epoch up, if neither has changed since `seen`.
    async fn take(
        &self,
        candidate: &Candidate,
        lease: i64,
        seen: &Counter,
    ) -> Result<Taken, Error> {
        let epoch = Epoch(seen.next);
        let leader = Leader::of(candidate, epoch, self.clock.now());
        let leads = PutOptions::new().with_lease(lease);
        let txn = Txn::new()
            .when([
                Compare::create_revision(self.keys.leader(), CompareOp::Equal, 0),
                Compare::mod_revision(self.keys.epoch(), CompareOp::Equal, seen.written),
            ])
            .and_then([
                TxnOp::put(self.keys.leader(), record::encode(&leader), Some(leads)),
                TxnOp::put(self.keys.epoch(), epoch.0.to_string(), None),
            ])
            .or_else([read(self.keys.leader()), self.read_epoch()]);
        let call = |handle| transact(&self.pool, handle, txn.clone());
        let (at, response) = self.pool.once(call).await.map_err(Failure::of_write)?;
        if response.succeeded() {
            return Ok(Taken::Won(Term { lease, created: at }.fence(epoch)));
        }
        let mut found = found(&response).into_iter();
        Ok(match found.next().flatten() {
            Some(_) => Taken::Lost,
            None => Taken::Again(Counter::of(found.next().flatten().as_ref(), at)),
        })
    }

    fn read_epoch(&self) -> TxnOp {
        TxnOp::get(self.keys.epoch(), None)
    }

    pub(super) async fn extend_term(&self, fence: &Fence) -> Result<(), Error> {
        let term = Term::of(fence)?;
        let call = |handle: super::pool::Handle| async {
            let extend = self.leases.extend(handle.clone(), term.lease);
            let look = self.read_at(handle, self.keys.leader());
            let ((), leader) = tokio::try_join!(extend, look)?;
            Ok(leader)
        };
        match self.pool.repeat(HEDGE, call).await {
            Ok(leader) if is_of_term(leader.as_ref(), term) => Ok(()),
            Ok(_) => {
                self.leases.forget(term.lease);
                Err(Error::Fenced { epoch: fence.epoch })
            }
            Err(failure) if failure.kind == Kind::NoLease => {
                self.leases.forget(term.lease);
                Err(Error::Fenced { epoch: fence.epoch })
            }
            Err(failure) => Err(failure.of_read()),
        }
    }

    pub(super) async fn end_term(&self, fence: &Fence) -> Result<(), Error> {
        let Ok(term) = Term::of(fence) else { return Ok(()) };
        self.leases.forget(term.lease);
        // Done twice, the second time finds another leader key or none.
        let txn = Txn::new()
            .when(compare_term(&self.keys, term))
            .and_then([TxnOp::delete(self.keys.leader(), None)])
            .or_else([read(self.keys.leader())]);
        let call = |handle| transact(&self.pool, handle, txn.clone());
        let (_, response) = self.pool.repeat(HEDGE, call).await.map_err(Failure::of_write)?;
        let found = found(&response);
        let leads =
            found.first().and_then(Option::as_ref).is_some_and(|kv| kv.lease() == term.lease);
        // Not the lease of a term that lasts, which the fence only pretends to be.
        if !leads {
            self.leases.revoke_later(term.lease);
        }
        Ok(())
    }
}

enum Taken {
    Won(Fence),
    Lost,
    Again(Counter),
}

/// The counter of epochs, as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Counter {
    /// Its `mod_revision`; 0 if it is not there.
    written: i64,
    /// The epoch that comes next.
    next: u64,
}

impl Counter {
    /// By the record and the revision of the store when it was read. Without a record that can be
    /// read the next epoch is the store's revision, and greater than every one before, each of
    /// which is less than the revision of the commit that gave it out.
    fn of(record: Option<&KeyValue>, at: i64) -> Self {
        let last = record.and_then(|kv| kv.value_str().ok()?.parse::<u64>().ok());
        let written = record.map_or(0, KeyValue::mod_revision);
        let restart = u64::try_from(at).unwrap_or(0).max(1);
        let next = last.and_then(|last| last.checked_add(1)).unwrap_or(restart);
        Self { written, next }
    }
}

/// Rounds against others who lead for moments only.
const TRIES: usize = 4;
