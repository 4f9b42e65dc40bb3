//! Where records stand in etcd, and how terms of leadership are named.
//!
//! Under the configured prefix, `records/` holds the records, and `epoch` the last epoch that was
//! given out. The counter stands outside of `records/`, so that no listing or watch shows it, and
//! outside of any lease, so that it outlives every term.

use chancery_shared::number::{Epoch, Revision};

use super::{Error, Fence};
use crate::record::key;

/// The keys of one fleet.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    records: String,
    epoch: String,
    leader: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let records = format!("{prefix}records/");
        let leader = format!("{records}{}", key::LEADER);
        Self { records, epoch: format!("{prefix}epoch"), leader }
    }

    /// Where the record `key` stands; also the beginning of all keys that begin with it.
    pub(super) fn record(&self, key: &str) -> String {
        format!("{}{key}", self.records)
    }

    /// Which record stands at `full`; `None` for a key that cannot be one of ours.
    pub(super) fn name(&self, full: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(full).ok()?.strip_prefix(&self.records)?;
        Some(name.to_owned())
    }

    /// The first key after the folder in which `full` stands.
    pub(super) fn end_of_folder(&self, full: &[u8]) -> Vec<u8> {
        let name = full.strip_prefix(self.records.as_bytes()).unwrap_or_default();
        let folder = name.iter().position(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let mut end = full[..full.len() - name.len() + folder].to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    /// The counter of epochs.
    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The leader record.
    pub(super) fn leader(&self) -> &str {
        &self.leader
    }
}

/// The first key after all that begin with `prefix`, which is not empty.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No byte of a text is 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A term: the lease under which the leader record was made, and the revision that made it. The
/// revision alone would do; the lease is what is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) lease: i64,
    pub(super) created: i64,
}

impl Term {
    pub(super) fn fence(self, epoch: Epoch) -> Fence {
        Fence { epoch, lease: format!("{:x}@{}", self.lease, self.created) }
    }

    /// The term of a fence. One that is not of this store was never granted.
    pub(super) fn of(fence: &Fence) -> Result<Self, Error> {
        let parse = |text: &str| {
            let (lease, created) = text.split_once('@')?;
            let lease = i64::from_str_radix(lease, 16).ok()?;
            Some(Self { lease, created: created.parse().ok()? })
        };
        parse(&fence.lease).ok_or(Error::Fenced { epoch: fence.epoch })
    }
}

/// etcd's number of a revision. One that it cannot count to has not been.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// The revision of etcd's number.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_names_its_term_and_nothing_else_does() {
        let term = Term { lease: 0x7fff_0000_1234, created: 42 };
        let fence = term.fence(Epoch(7));
        assert_eq!(Term::of(&fence).unwrap(), term);
        for lease in ["", "7", "@", "x@1", "1@", "1@x", "node-1"] {
            let fence = Fence { lease: lease.to_owned(), ..fence.clone() };
            assert!(matches!(Term::of(&fence), Err(Error::Fenced { epoch: Epoch(7) })), "{lease}");
        }
    }

    #[test]
    fn keys_go_there_and_back() {
        let keys = Keys::new("/chancery/");
        assert_eq!(keys.record("members/a"), "/chancery/records/members/a");
        assert_eq!(keys.name(b"/chancery/records/members/a").as_deref(), Some("members/a"));
        assert_eq!(keys.leader(), keys.record(key::LEADER));
        for foreign in [&b"/chancery/epoch"[..], b"/chancery/records", b"/chancery/records/\xff"] {
            assert_eq!(keys.name(foreign), None);
        }
    }

    #[test]
    fn a_folder_ends_before_the_next_one_begins() {
        let keys = Keys::new("/chancery/");
        let end = keys.end_of_folder(b"/chancery/records/bundles/www/1");
        assert_eq!(end, b"/chancery/records/bundles0");
        assert_eq!(keys.end_of_folder(b"/chancery/records/leader"), b"/chancery/records0");
    }

    #[test]
    fn a_range_ends_behind_its_prefix() {
        assert_eq!(end_of("a/"), b"a0");
        assert!(end_of("a").as_slice() > "a\u{10ffff}".as_bytes());
    }
}
