//! What a write does, before it is known behind which head: pure.
//!
//! A [`Step`] becomes one transaction. First comes what has to hold, in the order in which a refusal is
//! told: the fence, then the conditions. A condition on a key that is written, too, is
//! part of that write. Then come the writes, and at last the head and the slot of the journal.
//!
//! # More than 64 operations
//!
//! A conditional deletion takes two operations (`delete-cas` does not mind when the key is not there at
//! all), so a large batch of them is too much for one transaction. Then the conditions
//! go ahead, in a read-only transaction of their own. Nothing is lost by that: the write holds only
//! for the very head that was known *before* the conditions were looked at, so if anything
//! was committed since, it is refused and everything begins again.

use std::collections::HashMap;

use chancery_shared::number::Revision;

use super::{
    Keys,
    journal::{Head, Slot, encode_head},
    txn::Op,
};
use crate::store::{Batch, Condition, Operation};

/// What a write does.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// What has to hold, and what it means if it does not.
    pub(super) checks: Vec<(Op, Refusal)>,
    /// What is done to locks, which no journal tells.
    pub(super) locks: Vec<(Op, Refusal)>,
    /// What is done to records, each with the condition on it.
    pub(super) changes: Vec<(Operation, Option<Condition>)>,
}

/// What it means that an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The session does not have the lock.
    Lock,
    /// The condition on this key does not hold.
    Conflict(String),
    /// Somebody else has committed.
    Moved,
    /// Nothing that could be refused.
    Never,
}

impl Step {
    /// The step of a batch. `Err` names a key on which its conditions cannot hold.
    pub(super) fn of_batch(keys: &Keys, batch: &Batch) -> Result<Self, String> {
        let mut conditions: HashMap<&str, &Condition> = HashMap::new();
        for condition in &batch.conditions {
            // No key has revision 0; to Consul it would mean that there is no key.
            let never = matches!(condition, Condition::Unchanged(_, Revision(0)));
            if never || *conditions.entry(condition.key()).or_insert(condition) != condition {
                return Err(condition.key().to_owned());
            }
        }
        let mut step = Self::default();
        if let Some(fence) = &batch.fence {
            step.checks.push(check_lock(&keys.lock(), &fence.lease));
        }
        let mut of_change = |operation: &Operation| match operation {
            // An absent key is not deleted; its condition is a check like others.
            Operation::Delete(key)
                if matches!(conditions.get(&**key), Some(Condition::Absent(_))) =>
            {
                None
            }
            _ => Some((operation.clone(), conditions.remove(operation.key()).cloned())),
        };
        step.changes = batch.operations.iter().filter_map(&mut of_change).collect();
        for condition in &batch.conditions {
            if conditions.remove(condition.key()).is_some() {
                step.checks.push(check(keys, condition));
            }
        }
        Ok(step)
    }

    /// The deletions of keys of which it is not known whether they are there.
    pub(super) fn unsure(&self) -> Vec<&str> {
        let is_unsure = |(operation, condition): &&(Operation, Option<Condition>)| {
            matches!(operation, Operation::Delete(_)) && condition.is_none()
        };
        self.changes.iter().filter(is_unsure).map(|(operation, _)| operation.key()).collect()
    }

    /// Drops deletions of these keys, which are not there.
    pub(super) fn drop_absent(&mut self, absent: &[String]) {
        self.changes.retain(|(operation, _)| {
            matches!(operation, Operation::Put(..))
                || !absent.iter().any(|key| key == operation.key())
        });
    }

    /// The transaction behind `head`, with the commit's id.
    pub(super) fn transaction(&self, keys: &Keys, head: Head, id: &str) -> Transaction {
        let mut ops: Vec<(Op, Refusal)> = self.checks.clone();
        let sequence = head.sequence + 1;
        for (operation, condition) in &self.changes {
            change(keys, operation, condition.as_ref(), sequence, &mut ops);
        }
        ops.extend(self.locks.iter().cloned());
        if !self.changes.is_empty() {
            let op = Op::set_if(&keys.head(), &encode_head(sequence), Some(head.revision));
            ops.push((op.marked(sequence), Refusal::Moved));
            let operations: Vec<Operation> =
                self.changes.iter().map(|(operation, _)| operation.clone()).collect();
            let slot = Slot::after(head, id.to_owned(), &operations);
            let op = Op::set(&keys.slot(sequence), &slot.encode());
            ops.push((op.marked(sequence), Refusal::Never));
        }
        if ops.len() <= MOST_OPS {
            return Transaction { ahead: Vec::new(), ops };
        }
        let is_condition =
            |op: &Op, refusal: &Refusal| matches!(refusal, Refusal::Conflict(_)) && op.is_check();
        let (ahead, ops) = ops.into_iter().partition(|(op, refusal)| is_condition(op, refusal));
        Transaction { ahead, ops }
    }
}

/// What is sent for a step.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Read-only, and sent before the other, if there is any.
    pub(super) ahead: Vec<(Op, Refusal)>,
    /// What has to be one transaction.
    pub(super) ops: Vec<(Op, Refusal)>,
}

/// That a session has a lock.
pub(super) fn check_lock(key: &str, session: &str) -> (Op, Refusal) {
    (Op::check_session(key, session), Refusal::Lock)
}

fn check(keys: &Keys, condition: &Condition) -> (Op, Refusal) {
    let key = keys.record(condition.key());
    let op = match condition {
        Condition::Absent(_) => Op::check_absent(&key),
        Condition::Unchanged(_, revision) => Op::check_index(&key, *revision),
    };
    (op, Refusal::Conflict(condition.key().to_owned()))
}

fn change(
    keys: &Keys,
    operation: &Operation,
    condition: Option<&Condition>,
    sequence: u64,
    ops: &mut Vec<(Op, Refusal)>,
) {
    let key = keys.record(operation.key());
    let conflict = Refusal::Conflict(operation.key().to_owned());
    let op = match (operation, condition) {
        (Operation::Put(_, value), None) => (Op::set(&key, value), Refusal::Never),
        (Operation::Put(_, value), Some(Condition::Absent(_))) => {
            (Op::set_if(&key, value, None), conflict)
        }
        (Operation::Put(_, value), Some(Condition::Unchanged(_, revision))) => {
            (Op::set_if(&key, value, Some(*revision)), conflict)
        }
        (Operation::Delete(_), condition) => {
            ops.extend(condition.map(|condition| check(keys, condition)));
            ops.push((Op::delete(&key), Refusal::Never));
            return;
        }
    };
    ops.push((op.0.marked(sequence), op.1));
}

/// What Consul takes in one transaction.
const MOST_OPS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Fence;

    const HEAD: Head = Head { sequence: 4, revision: Revision(40) };

    fn keys() -> Keys {
        Keys::new("p/")
    }

    fn shown(transaction: &[(Op, Refusal)]) -> Vec<String> {
        let show = |(op, refusal): &(Op, Refusal)| {
            let json = serde_json::to_value(op).unwrap();
            let kv = &json["KV"];
            let index = kv["Index"].as_u64().map_or_else(String::new, |index| format!("@{index}"));
            let text = |name: &str| kv[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}{index} {refusal:?}", text("Verb"), text("Key"))
        };
        transaction.iter().map(show).collect()
    }

    #[test]
    fn a_batch_is_one_transaction_with_the_fence_first_and_the_journal_last() {
        let fence = Fence { epoch: chancery_shared::number::Epoch(3), lease: "s".to_owned() };
        let batch = Batch::fenced(fence)
            .put("new", "1")
            .put("free", "1")
            .put("old", "1")
            .delete("gone")
            .delete("former")
            .delete("never")
            .absent("new")
            .unchanged("old", Some(Revision(7)))
            .unchanged("former", Some(Revision(8)))
            .absent("never")
            .absent("other");
        let step = Step::of_batch(&keys(), &batch).unwrap();
        assert_eq!(step.unsure(), ["gone"]);
        let transaction = step.transaction(&keys(), HEAD, "id");
        assert!(transaction.ahead.is_empty());
        assert_eq!(
            shown(&transaction.ops),
            [
                "check-session p/lock Lock",
                "check-not-exists p/records/never Conflict(\"never\")",
                "check-not-exists p/records/other Conflict(\"other\")",
                "cas p/records/new@0 Conflict(\"new\")",
                "set p/records/free Never",
                "cas p/records/old@7 Conflict(\"old\")",
                "delete p/records/gone Never",
                "check-index p/records/former@8 Conflict(\"former\")",
                "delete p/records/former Never",
                "cas p/head@40 Moved",
                "set p/journal/0005 Never",
            ]
        );
    }

    #[test]
    fn what_changes_nothing_touches_no_journal() {
        let batch = Batch::unfenced().delete("gone").unchanged("a", Some(Revision(7)));
        let mut step = Step::of_batch(&keys(), &batch).unwrap();
        step.drop_absent(&["gone".to_owned()]);
        let transaction = step.transaction(&keys(), HEAD, "id");
        assert_eq!(shown(&transaction.ops), ["check-index p/records/a@7 Conflict(\"a\")"]);
    }

    #[test]
    fn conditions_that_cannot_hold_are_a_conflict() {
        let contradiction = Batch::unfenced().absent("a").unchanged("a", Some(Revision(1)));
        assert_eq!(Step::of_batch(&keys(), &contradiction).unwrap_err(), "a");
        let never = Batch::unfenced().put("b", "").unchanged("b", Some(Revision(0)));
        assert_eq!(Step::of_batch(&keys(), &never).unwrap_err(), "b");
        let twice = Batch::unfenced().put("a", "").absent("a").absent("a");
        assert!(Step::of_batch(&keys(), &twice).is_ok());
    }

    #[test]
    fn conditions_go_ahead_when_they_do_not_fit() {
        let name = |n: usize| format!("k{n:02}");
        let batch = (0..Batch::MOST_KEYS).fold(Batch::unfenced(), |batch, n| {
            batch.delete(name(n)).unchanged(name(n), Some(Revision(9)))
        });
        let step = Step::of_batch(&keys(), &batch).unwrap();
        let transaction = step.transaction(&keys(), HEAD, "id");
        assert_eq!(transaction.ahead.len(), Batch::MOST_KEYS);
        assert!(transaction.ahead.iter().all(|(op, _)| op.is_check()));
        assert_eq!(transaction.ops.len(), Batch::MOST_KEYS + 2);
        let puts = (0..Batch::MOST_KEYS).fold(Batch::unfenced(), |batch, n| {
            batch.put(name(n), "").unchanged(name(n), Some(Revision(9)))
        });
        let step = Step::of_batch(&keys(), &puts).unwrap();
        assert!(step.transaction(&keys(), HEAD, "id").ahead.is_empty());
    }
}
