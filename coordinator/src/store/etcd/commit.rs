//! Committing a batch: one transaction.

use chancery_shared::number::Revision;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::{
    Batch, Error, EtcdStore, Fence,
    failure::{Failure, Kind},
    keys::{Keys, Term, number, revision},
    pool::{Handle, Pool},
    read::HEDGE,
};
use crate::store::{Condition, Operation};

impl EtcdStore {
    pub(super) async fn apply(&self, batch: Batch) -> Result<Revision, Error> {
        batch.check_size()?;
        let plan = Plan::of(&self.keys, &batch)?;
        let call = |handle| transact(&self.pool, handle, plan.txn.clone());
        match self.pool.once(call).await {
            Ok((at, response)) if response.succeeded() => Ok(revision(at)),
            Ok((_, response)) => Err(plan.refusal(&batch, &response)),
            Err(failure) if failure.kind == Kind::Full => self.full(&batch, failure).await,
            Err(failure) => Err(failure.of_write()),
        }
    }

    /// etcd applies the write that crosses its quota and says all the same that there is no
    /// room; those that follow are refused before they are applied. Only the record tells which it
    /// was. Puts are refused by now, so nobody has written over it.
    async fn full(&self, batch: &Batch, failure: Failure) -> Result<Revision, Error> {
        let put = batch.operations.iter().find_map(|operation| match operation {
            Operation::Put(key, value) => Some((self.keys.record(key), value)),
            Operation::Delete(_) => None,
        });
        let Some((full, value)) = put else { return Err(failure.of_write()) };
        let found = self.pool.repeat(HEDGE, |handle| self.read_at(handle, &full)).await;
        match found {
            Ok(Some(kv)) if kv.value() == value.as_ref() => {
                Err(Error::OutcomeUnknown(failure.reason))
            }
            Ok(_) => Err(failure.of_write()),
            Err(_) => Err(Error::OutcomeUnknown(failure.reason)),
        }
    }
}

/// Sends a transaction; its answer, with the revision that it shows.
pub(super) async fn transact(
    pool: &Pool,
    handle: Handle,
    txn: Txn,
) -> Result<(i64, TxnResponse), Failure> {
    let mut kv = handle.client.kv_client();
    let response = kv.txn(txn).await.map_err(|error| Failure::of(&error))?;
    Ok((pool.check(response.header())?, response))
}

/// What a transaction's reads have found, in their order.
pub(super) fn found(response: &TxnResponse) -> Vec<Option<KeyValue>> {
    let reads = response.op_responses().into_iter().filter_map(|response| match response {
        TxnOpResponse::Get(mut read) => Some(read.take_kvs().into_iter().next()),
        _ => None,
    });
    reads.collect()
}

/// Whether the leader key is still the one that `term` made.
pub(super) fn compare_term(keys: &Keys, term: Term) -> [Compare; 2] {
    [
        Compare::create_revision(keys.leader(), CompareOp::Equal, term.created),
        Compare::lease(keys.leader(), CompareOp::Equal, term.lease),
    ]
}

/// The same, by a record that was read.
pub(super) fn is_of_term(leader: Option<&KeyValue>, term: Term) -> bool {
    leader.is_some_and(|kv| kv.create_revision() == term.created && kv.lease() == term.lease)
}

pub(super) fn read(key: &str) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// A batch in etcd's words.
struct Plan {
    txn: Txn,
    term: Option<(Fence, Term)>,
}

impl Plan {
    fn of(keys: &Keys, batch: &Batch) -> Result<Self, Error> {
        let term = match &batch.fence {
            Some(fence) => Some((fence.clone(), Term::of(fence)?)),
            None => None,
        };
        let mut compares = Vec::new();
        let mut reads = Vec::new();
        if let Some((_, term)) = &term {
            compares.extend(compare_term(keys, *term));
            reads.push(read(keys.leader()));
        }
        for condition in &batch.conditions {
            let full = keys.record(condition.key());
            reads.push(read(&full));
            compares.push(match condition {
                Condition::Absent(_) => Compare::create_revision(full, CompareOp::Equal, 0),
                Condition::Unchanged(_, revision) => {
                    Compare::mod_revision(full, CompareOp::Equal, number(*revision))
                }
            });
        }
        let operations: Vec<TxnOp> = batch
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::Put(key, value) => TxnOp::put(keys.record(key), value.to_vec(), None),
                Operation::Delete(key) => TxnOp::delete(keys.record(key), None),
            })
            .collect();
        let txn = Txn::new().when(compares).and_then(operations).or_else(reads);
        Ok(Self { txn, term })
    }

    /// Why etcd did not apply the batch: by what it has read in the same step.
    fn refusal(&self, batch: &Batch, response: &TxnResponse) -> Error {
        let mut found = found(response).into_iter();
        if let Some((fence, term)) = &self.term
            && !is_of_term(found.next().flatten().as_ref(), *term)
        {
            return Error::Fenced { epoch: fence.epoch };
        }
        for condition in &batch.conditions {
            let written = found.next().flatten().map(|kv| kv.mod_revision());
            let holds = match condition {
                Condition::Absent(_) => written.is_none(),
                // A revision that is no number of etcd's has never been.
                Condition::Unchanged(_, revision) => written == Some(number(*revision)),
            };
            if !holds {
                return Error::Conflict { key: condition.key().to_owned() };
            }
        }
        Error::Unavailable("etcd refused a batch of which every condition holds".to_owned())
    }
}
