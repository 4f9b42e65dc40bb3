//! Who watches a store that lives in this process, and the recent commits that a new watch can
//! start from.
//!
//! Nothing here waits: a commit is handed to each watcher's bounded queue, and a watcher
//! whose queue is full is told [`Error::Compacted`] and dropped. One slow reader thus costs the
//! store a bounded amount of memory and the others nothing.

use std::collections::VecDeque;

use chancery_shared::number::Revision;
use tokio::sync::mpsc;

use super::{Change, Commit, Error, Watch};

/// The watchers of one store and its recent commits.
#[derive(Debug)]
pub(super) struct Hub {
    /// The last commit that was published.
    revision: Revision,
    /// The commits after `forgotten`, all of them.
    history: VecDeque<Commit>,
    /// The last commit that is no longer in `history`.
    forgotten: Revision,
    /// Bytes of keys and values in `history`.
    bytes: usize,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    /// The last commit that is in its queue or was not for it.
    told: Revision,
    queue: mpsc::Sender<Result<Commit, Error>>,
}

impl Hub {
    /// Without watchers, for a store whose last commit is `revision`.
    pub(super) fn new(revision: Revision) -> Self {
        Self {
            revision,
            history: VecDeque::new(),
            forgotten: revision,
            bytes: 0,
            watchers: Vec::new(),
        }
    }

    /// Tells `commit` to all who watch one of its keys.
    pub(super) fn publish(&mut self, commit: Commit) {
        debug_assert!(self.revision < commit.revision, "commits are published in order");
        self.revision = commit.revision;
        self.watchers.retain_mut(|watcher| watcher.tell(&commit));
        self.remember(commit);
    }

    /// Opens a watch on `prefix` for the commits after `after`.
    pub(super) fn watch(&mut self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        // A revision that has not been yet comes from another store, or from this
        // one before it was set back to a backup: only a new listing helps.
        if after < self.forgotten || after > self.revision {
            return Err(Error::Compacted { after });
        }
        let missed: Vec<Commit> = self
            .history
            .iter()
            .filter(|commit| commit.revision > after)
            .filter_map(|commit| reduce(commit, prefix))
            .collect();
        // One more place than commits may wait: for the error that ends the watch.
        let (queue, commits) = mpsc::channel(missed.len() + WATCH_QUEUE + 1);
        for commit in missed {
            queue.try_send(Ok(commit)).expect("the queue has room for all missed commits");
        }
        self.watchers.retain(|watcher| !watcher.queue.is_closed());
        self.watchers.push(Watcher { prefix: prefix.to_owned(), told: self.revision, queue });
        Ok(Watch::new(commits))
    }

    /// Starts again behind `revision`, with which what was published so far is not connected:
    /// all watchers are told that they have to list again.
    pub(super) fn reset(&mut self, revision: Revision) {
        for watcher in self.watchers.drain(..) {
            // It may have gone away by itself, so this may fail.
            let _ = watcher.queue.try_send(Err(Error::Compacted { after: watcher.told }));
        }
        *self = Self::new(revision);
    }

    /// Ends all watches with `error`; they can be opened again where they were.
    pub(super) fn end(&mut self, error: &Error) {
        for watcher in self.watchers.drain(..) {
            let _ = watcher.queue.try_send(Err(error.clone()));
        }
    }

    fn remember(&mut self, commit: Commit) {
        self.bytes += size(&commit);
        self.history.push_back(commit);
        while self.history.len() > HISTORY_COMMITS || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.forgotten = oldest.revision;
        }
    }
}

impl Watcher {
    /// Queues what `commit` means for this watcher; whether it goes on watching.
    fn tell(&mut self, commit: &Commit) -> bool {
        let Some(reduced) = reduce(commit, &self.prefix) else {
            self.told = commit.revision;
            return !self.queue.is_closed();
        };
        if self.queue.capacity() > 1 {
            self.told = commit.revision;
            return self.queue.try_send(Ok(reduced)).is_ok();
        }
        // It may have gone away by itself, so this may fail.
        let _ = self.queue.try_send(Err(Error::Compacted { after: self.told }));
        false
    }
}

/// What is left of `commit` under `prefix`.
fn reduce(commit: &Commit, prefix: &str) -> Option<Commit> {
    let is_under = |change: &&Change| change.key().starts_with(prefix);
    let changes: Vec<Change> = commit.changes.iter().filter(is_under).cloned().collect();
    (!changes.is_empty()).then_some(Commit { revision: commit.revision, changes })
}

fn size(commit: &Commit) -> usize {
    let of_change = |change: &Change| match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key } => key.len(),
    };
    commit.changes.iter().map(of_change).sum()
}

/// Commits that a watch can start behind.
pub(super) const HISTORY_COMMITS: usize = 4096;
/// Bytes of keys and values that the history may hold.
const HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// Commits that a watcher may be behind before it is dropped.
pub(super) const WATCH_QUEUE: usize = 1024;
