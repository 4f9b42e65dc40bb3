//! The change journal: how one coordinator tells the others what it has committed.
//!
//! A blocking query on a prefix answers with the whole prefix, however little has changed. So each
//! commit also writes a *slot*, in the same transaction: what it changed, with the values. Slots
//! lie in a ring of [`RING`] keys. The *head* holds the number of the last commit; whoever follows waits
//! for the head alone and then reads the slots with the numbers that it missed.
//!
//! A slot names the revision of the commit before it. Who follows checks that each slot continues
//! the one before, so neither a lapped ring nor a prefix that was wiped, restored or written
//! by hand can pass for an unbroken sequence.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chancery_shared::number::Revision;
use serde::{Deserialize, Serialize};

use crate::store::{Change, Commit, Entry, Error, Operation};

/// How many commits one who follows may be behind before it has to list again. All coordinators
/// of a fleet have to agree on it: another number is another [`VERSION`].
pub(super) const RING: u64 = 1024;
/// The layout of everything under the prefix.
const VERSION: u32 = 1;

/// The last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its number: each is one more than the one before.
    pub(super) sequence: u64,
    /// Its revision: the `ModifyIndex` of the head, and of every key of that commit.
    pub(super) revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct StoredHead {
    version: u32,
    sequence: u64,
}

/// The value of the head after the commit with this number.
pub(super) fn encode_head(sequence: u64) -> Vec<u8> {
    to_json(&StoredHead { version: VERSION, sequence })
}

/// Reads the head, which was written at `revision`.
pub(super) fn decode_head(key: &str, value: &[u8], revision: Revision) -> Result<Head, Error> {
    let stored: StoredHead = from_json(key, value)?;
    check_version(key, stored.version)?;
    Ok(Head { sequence: stored.sequence, revision })
}

/// A commit in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    version: u32,
    /// Its number.
    pub(super) sequence: u64,
    /// Drawn at random for each commit: by it a coordinator that lost the answer finds out whether a
    /// commit is its own.
    pub(super) id: String,
    /// The revision of the commit before.
    pub(super) previous: Revision,
    changes: Vec<StoredChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredChange {
    key: String,
    /// In base64; none if the key was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Slot {
    /// The commit after `head` that does `operations`.
    pub(super) fn after(head: Head, id: String, operations: &[Operation]) -> Self {
        let changes = operations
            .iter()
            .map(|operation| match operation {
                Operation::Put(key, value) => {
                    StoredChange { key: key.clone(), value: Some(BASE64_STANDARD.encode(value)) }
                }
                Operation::Delete(key) => StoredChange { key: key.clone(), value: None },
            })
            .collect();
        let (sequence, previous) = (head.sequence + 1, head.revision);
        Self { version: VERSION, sequence, id, previous, changes }
    }

    /// Its stored form.
    pub(super) fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a slot's stored form.
    pub(super) fn decode(key: &str, value: &[u8]) -> Result<Self, Error> {
        let slot: Self = from_json(key, value)?;
        check_version(key, slot.version)?;
        Ok(slot)
    }

    /// What watches are told of it. `revision` is that at which the slot was written.
    pub(super) fn commit(self, key: &str, revision: Revision) -> Result<Commit, Error> {
        let change = |stored: StoredChange| match stored.value {
            None => Ok(Change::Delete { key: stored.key }),
            Some(value) => {
                let value =
                    BASE64_STANDARD.decode(value).map_err(|error| damaged(key, &error))?.into();
                Ok(Change::Put(Entry { key: stored.key, value, revision }))
            }
        };
        let changes = self.changes.into_iter().map(change).collect::<Result<_, Error>>()?;
        Ok(Commit { revision, changes })
    }
}

/// The name of the slot of the commit with this number.
pub(super) fn slot_name(sequence: u64) -> String {
    format!("{:04}", sequence % RING)
}

fn check_version(key: &str, version: u32) -> Result<(), Error> {
    if version == VERSION {
        return Ok(());
    }
    Err(Error::Damaged(format!(
        "{key} has layout {version}, and this version of Chancery knows layout {VERSION} only; \
         run the same version on all coordinators"
    )))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it has text keys")
}

fn from_json<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| damaged(key, &error))
}

fn damaged(key: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Damaged(format!("{key} in Consul: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;

    #[test]
    fn a_slot_keeps_the_commit() {
        let head = Head { sequence: RING + 4, revision: Revision(90) };
        let operations = [
            Operation::Put("a".to_owned(), vec![0, 255].into()),
            Operation::Delete("b".to_owned()),
        ];
        let slot = Slot::after(head, "id".to_owned(), &operations);
        assert_eq!((slot.sequence, slot.previous), (RING + 5, Revision(90)));
        assert_eq!(slot_name(slot.sequence), "0005");
        let text = slot.encode();
        assert_eq!(
            String::from_utf8(text.clone()).unwrap(),
            r#"{"version":1,"sequence":1029,"id":"id","previous":90,"changes":[{"key":"a","value":"AP8="},{"key":"b"}]}"#
        );
        let read = Slot::decode("slot", &text).unwrap();
        assert_eq!(read, slot);
        let commit = read.commit("slot", Revision(91)).unwrap();
        let entry =
            Entry { key: "a".to_owned(), value: vec![0, 255].into(), revision: Revision(91) };
        assert_eq!(commit.revision, Revision(91));
        assert_eq!(commit.changes, [Change::Put(entry), Change::Delete { key: "b".to_owned() }]);
    }

    #[test]
    fn the_head_is_read_and_what_is_none_names_its_key() {
        let head = decode_head("p/head", &encode_head(7), Revision(3)).unwrap();
        assert_eq!(head, Head { sequence: 7, revision: Revision(3) });
        for bad in ["", "7", "{\"version\":2,\"sequence\":1}", "{\"version\":1}"] {
            let error = decode_head("p/head", bad.as_bytes(), Revision(3)).unwrap_err();
            assert!(error.to_string().contains("p/head"), "{error}");
        }
    }

    /// A commit's transaction has each value twice, once more encoded in the journal.
    #[test]
    fn the_largest_batch_fits_into_a_request() {
        let name = |n: usize| format!("certificates/{n:0200}");
        let share = Batch::MOST_BYTES / Batch::MOST_KEYS - name(0).len();
        let operations: Vec<Operation> = (0..Batch::MOST_KEYS)
            .map(|n| Operation::Put(name(n), vec![0xff; share].into()))
            .collect();
        let head = Head { sequence: u64::MAX - 1, revision: Revision(u64::MAX) };
        let slot = Slot::after(head, "0".repeat(32), &operations);
        let prefix = "p".repeat(256);
        let mut ops: Vec<_> = operations
            .iter()
            .map(|operation| {
                let Operation::Put(key, value) = operation else { unreachable!() };
                super::super::txn::Op::set_if(&format!("{prefix}{key}"), value, Some(head.revision))
                    .marked(u64::MAX)
            })
            .collect();
        ops.push(super::super::txn::Op::set(&prefix, &slot.encode()).marked(u64::MAX));
        let request = serde_json::to_vec(&ops).unwrap().len();
        assert!(request < 500 * 1024, "{request} bytes");
    }
}
