//! Following the journal: one long poll for the whole process, fanned out to all who watch.
//!
//! The poller waits for the head with a blocking query and reads the slots that it has missed.
//! What this process commits itself is handed over directly ([`Follower::committed`]), so the leader reads
//! nothing back.
//!
//! # When the sequence breaks
//!
//! Every slot has to continue the last commit that was told. If one does not, because the ring
//! has lapped us, or the prefix was wiped or restored, all watchers are told
//! [`Error::Compacted`] and have to list again. A head *older* than what was told may be just an answer
//! that was overtaken, so it counts only once a consistent read that began later confirms it.
//!
//! # When Consul cannot be reached
//!
//! A moment without it ends no watch. When it lasts longer, the watches end with
//! [`Error::Unavailable`], so that what is shown from memory is not taken for fresh; opening one
//! asks Consul, and goes on where it was.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chancery_shared::{
    clock::{Clock, Monotonic},
    number::Revision,
    retry::Policy,
};

use super::{
    Keys,
    client::{Client, Request},
    journal::{Head, Slot, decode_head},
    txn::{Op, Outcome, Row},
};
use crate::store::{Batch, Commit, Error, Watch, hub::Hub};

/// What this process has told of the journal, and to whom.
pub(super) struct Follower {
    client: Arc<Client>,
    keys: Keys,
    told: Mutex<Told>,
}

struct Told {
    /// The last commit that the hub has.
    head: Head,
    hub: Hub,
}

impl Follower {
    /// Follows from behind `head`.
    pub(super) fn new(client: Arc<Client>, keys: Keys, head: Head) -> Self {
        let told = Mutex::new(Told { head, hub: Hub::new(head.revision) });
        Self { client, keys, told }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a watch. Asks Consul where the journal ends, so that it never shows as open while
    /// Consul cannot be reached.
    pub(super) async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.catch_up().await?;
        self.told().hub.watch(prefix, after)
    }

    /// Tells a commit that this process has just made after `before`. If others are missing
    /// in between, the poller tells them, and this one after them.
    pub(super) fn committed(&self, before: Head, commit: Commit) {
        let mut told = self.told();
        if told.head == before {
            told.publish(commit);
        }
    }

    /// Reads the head, and all that was missed.
    pub(super) async fn catch_up(&self) -> Result<(), Error> {
        let before = self.told().head;
        let rows = self.client.rows(&Request::get(self.keys.head_path("?consistent"))).await?.0;
        let Some(head) = head_of(&rows)? else {
            // Nobody has committed since the prefix was wiped; whoever does makes a new head.
            return Ok(());
        };
        if head.revision < before.revision {
            self.told().reset(before, head);
            return Ok(());
        }
        self.follow(head).await
    }

    /// Tells everything up to `head`, which may be older than what was told.
    async fn follow(&self, head: Head) -> Result<(), Error> {
        loop {
            let told = self.told().head;
            if head.revision <= told.revision {
                return Ok(());
            }
            let slots = match missed(told, head) {
                Some(missed) => self.read_slots(missed).await?,
                None => None,
            };
            match slots {
                Some(slots) => self.tell(slots, head)?,
                None => self.told().reset(told, head),
            }
        }
    }

    /// The slots with these numbers; `None` if one is gone.
    async fn read_slots(
        &self,
        numbers: std::ops::Range<u64>,
    ) -> Result<Option<Vec<(String, Slot, Revision)>>, Error> {
        let ops: Vec<Op> =
            numbers.clone().map(|number| Op::read(&self.keys.slot(number))).collect();
        let (Outcome::Done(rows), _) = self.client.txn(&ops).await? else { return Ok(None) };
        let mut slots = Vec::with_capacity(rows.len());
        for (row, number) in rows.into_iter().zip(numbers) {
            let slot = Slot::decode(&row.key, &row.value)?;
            if slot.sequence != number {
                return Ok(None);
            }
            slots.push((row.key, slot, row.revision));
        }
        Ok(Some(slots))
    }

    /// Tells slots on the way to `head`, except those that were told meanwhile.
    fn tell(&self, slots: Vec<(String, Slot, Revision)>, head: Head) -> Result<(), Error> {
        let mut told = self.told();
        for (key, slot, revision) in slots {
            if slot.sequence <= told.head.sequence {
                continue;
            }
            if slot.sequence != told.head.sequence + 1 || slot.previous != told.head.revision {
                let before = told.head;
                told.reset(before, head);
                break;
            }
            told.publish(slot.commit(&key, revision)?);
        }
        Ok(())
    }

    /// Follows until it is dropped.
    pub(super) async fn run(&self, clock: &dyn Clock) {
        let mut index = Index::default();
        let mut waits = POLL.waits();
        let mut failing: Option<Monotonic> = None;
        loop {
            let Err(error) = self.poll(&mut index).await else {
                failing = None;
                waits.reset();
                continue;
            };
            tracing::debug!(%error, "cannot follow the journal in Consul");
            // What it told of may not have been read: the next query must not wait for more.
            index = Index::default();
            let now = clock.monotonic();
            let since = *failing.get_or_insert(now);
            if now.since(since) >= self.client.timeout() {
                self.told().hub.end(&error);
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    async fn poll(&self, index: &mut Index) -> Result<(), Error> {
        let request = Request::blocking(&self.keys.head_path("?"), index.0, WAIT);
        let (rows, new) = self.client.rows(&request).await?;
        let went_back = index.advance(new);
        match head_of(&rows)? {
            _ if went_back => self.catch_up().await,
            Some(head) => self.follow(head).await,
            None => Ok(()),
        }
    }
}

impl Told {
    fn publish(&mut self, commit: Commit) {
        self.head = Head { sequence: self.head.sequence + 1, revision: commit.revision };
        self.hub.publish(commit);
    }

    /// Starts again behind `head`, unless something was told after `before`, which was compared
    /// with it.
    fn reset(&mut self, before: Head, head: Head) {
        if self.head != before {
            return;
        }
        let revision = head.revision;
        tracing::info!(%revision, "the journal in Consul does not continue what is known");
        self.head = head;
        self.hub.reset(revision);
    }
}

fn head_of(rows: &[Row]) -> Result<Option<Head>, Error> {
    rows.first().map(|row| decode_head(&row.key, &row.value, row.revision)).transpose()
}

/// The numbers to read next on the way to `head`; `None` if there is no way.
fn missed(told: Head, head: Head) -> Option<std::ops::Range<u64>> {
    let behind = head.sequence.checked_sub(told.sequence)?;
    let next = told.sequence + 1;
    (1..super::journal::RING)
        .contains(&behind)
        .then(|| next..(head.sequence + 1).min(next + MOST_SLOTS))
}

/// Where a series of blocking queries is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Index(pub(super) u64);

impl Index {
    /// Takes up the index of an answer; whether it went back. Then the state of Consul is
    /// another one, restored or started anew, and the next query must not wait.
    pub(super) fn advance(&mut self, new: u64) -> bool {
        let went_back = new < self.0;
        // With index 0 a query does not wait; an answer without a usable index must not make
        // us ask again and again.
        self.0 = if went_back { 0 } else { new.max(1) };
        went_back
    }
}

/// How long a blocking query waits. So long a coordinator may take to see that a server
/// has gone silent without closing its connections.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// Between polls that fail.
pub(super) const POLL: Policy =
    Policy { first: Duration::from_millis(100), most: Duration::from_secs(5), factor: 2 };
/// Slots to read at once: each may be as large as [`Batch::MOST_BYTES`] and more.
const MOST_SLOTS: u64 = 64;
const _: () = assert!(Batch::MOST_BYTES * 2 * 64 < 64 * 1024 * 1024, "a moderate answer");

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sequence: u64, revision: u64) -> Head {
        Head { sequence, revision: Revision(revision) }
    }

    #[test]
    fn what_was_missed_is_read_in_pieces_and_never_across_a_break() {
        assert_eq!(missed(head(4, 40), head(5, 51)), Some(5..6));
        assert_eq!(missed(head(4, 40), head(500, 900)), Some(5..69));
        assert_eq!(missed(head(4, 40), head(4, 90)), None, "written twice over");
        assert_eq!(missed(head(4, 40), head(2, 90)), None, "begun anew");
        assert_eq!(missed(head(4, 40), head(4 + super::super::journal::RING, 9000)), None);
    }

    #[test]
    fn an_index_that_goes_back_starts_again() {
        let mut index = Index::default();
        assert!(!index.advance(7));
        assert_eq!(index, Index(7));
        assert!(!index.advance(7));
        assert!(index.advance(5));
        assert_eq!(index, Index(0), "the next query does not wait");
        assert!(!index.advance(5));
        assert_eq!(index, Index(5));
        let mut index = Index::default();
        assert!(!index.advance(0));
        assert_eq!(index, Index(1), "never a busy loop");
    }
}
