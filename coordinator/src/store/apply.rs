//! How a batch is applied, for every store that keeps its rows in this process: one place, so
//! that the in-memory store and the embedded one cannot come to mean different things.

use bytes::Bytes;
use chancery_shared::number::Revision;

use super::{Batch, Change, Commit, Condition, Entry, Operation};

/// The rows of a store, within one step that nobody can look into.
pub(super) trait Rows {
    /// Why a row could not be read or written.
    type Error;

    /// The revision that wrote `key`, if it is there.
    fn revision_of(&self, key: &str) -> Result<Option<Revision>, Self::Error>;

    /// Writes a row.
    fn put(&mut self, key: &str, revision: Revision, value: &Bytes) -> Result<(), Self::Error>;

    /// Deletes a row; whether it was there.
    fn delete(&mut self, key: &str) -> Result<bool, Self::Error>;
}

/// Why a batch was not applied.
#[derive(Debug)]
pub(super) enum Refusal<E> {
    /// The condition on this key does not hold; no row was touched.
    Conflict(String),
    /// A row failed. Some rows may have been written: the whole step has to be undone.
    Rows(E),
}

impl<E> From<E> for Refusal<E> {
    fn from(error: E) -> Self {
        Self::Rows(error)
    }
}

/// Checks the conditions of `batch` and applies its operations as the commit after
/// `current`. `None` if there was nothing to change. The fence is checked by the caller.
pub(super) fn apply<R: Rows>(
    rows: &mut R,
    current: Revision,
    batch: &Batch,
) -> Result<Option<Commit>, Refusal<R::Error>> {
    debug_assert!(keys_differ(&batch.operations), "a key stands twice in {:?}", batch.operations);
    for condition in &batch.conditions {
        let found = rows.revision_of(condition.key())?;
        let holds = match condition {
            Condition::Absent(_) => found.is_none(),
            Condition::Unchanged(_, revision) => found == Some(*revision),
        };
        if !holds {
            return Err(Refusal::Conflict(condition.key().to_owned()));
        }
    }
    let revision = current.next();
    let mut changes = Vec::with_capacity(batch.operations.len());
    for operation in &batch.operations {
        match operation {
            Operation::Put(key, value) => {
                rows.put(key, revision, value)?;
                let entry = Entry { key: key.clone(), value: value.clone(), revision };
                changes.push(Change::Put(entry));
            }
            Operation::Delete(key) => {
                if rows.delete(key)? {
                    changes.push(Change::Delete { key: key.clone() });
                }
            }
        }
    }
    Ok((!changes.is_empty()).then_some(Commit { revision, changes }))
}

fn keys_differ(operations: &[Operation]) -> bool {
    let keys: std::collections::BTreeSet<_> = operations.iter().map(Operation::key).collect();
    keys.len() == operations.len()
}
