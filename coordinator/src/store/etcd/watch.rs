//! Watching a prefix, over the loss of connections, members and leaders.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chancery_shared::number::Revision;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Error, EtcdStore, Watch,
    failure::{Failure, Kind},
    keys::{Keys, end_of, number, revision},
    pool::{Handle, Pool},
    read::LARGEST_ANSWER,
};
use crate::store::{Change, Commit, Entry};

impl EtcdStore {
    pub(super) async fn follow(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let compacted = || Error::Compacted { after };
        let source = Source {
            pool: self.pool.clone(),
            prefix: self.keys.record(prefix),
            seen: number(after),
        };
        let open = source.open().await.map_err(Failure::of_read)?;
        // etcd would wait until it gets there. A revision that has not been comes from before the store
        // was set back to a backup. A member that only lags behind the others is no such case.
        if open.shown < source.seen && self.current().await.map_err(Failure::of_read)? < source.seen
        {
            return Err(compacted());
        }
        // One more place than commits may wait: for the error that ends the watch.
        let (queue, commits) = mpsc::channel(WATCH_QUEUE + 1);
        let teller = Teller { keys: self.keys.clone(), queue, told: after };
        tokio::spawn(run(source, open, teller));
        Ok(Watch::new(commits))
    }
}

/// Where commits come from.
struct Source {
    pool: Arc<Pool>,
    prefix: String,
    /// Everything up to this revision was received.
    seen: i64,
}

/// A stream of one member.
struct Open {
    stream: WatchStream,
    /// The revision that the member showed when it opened the stream.
    shown: i64,
    suspicion: watch::Receiver<u64>,
}

/// Why a stream brings no more.
enum End {
    /// Another one may go on.
    Lost(Failure),
    /// What comes next is no longer there.
    Compacted,
    /// Nobody listens any more.
    Done,
}

async fn run(mut source: Source, mut open: Open, mut teller: Teller) {
    loop {
        let reader = teller.queue.clone();
        let end = tokio::select! {
            end = source.read(&mut open, &mut teller) => end,
            () = reader.closed() => return,
        };
        let failure = match end {
            End::Lost(failure) => failure,
            End::Compacted => return teller.compacted(),
            End::Done => return,
        };
        tracing::debug!(reason = failure.reason, "a watch moves on");
        let reopened = tokio::select! {
            reopened = source.reopen() => reopened,
            () = reader.closed() => return,
        };
        open = match reopened {
            Ok(reopened) => reopened,
            Err(failure) => return teller.end(failure.of_read()),
        };
    }
}

impl Source {
    async fn open(&self) -> Result<Open, Failure> {
        self.pool.repeat(HEDGE, |handle| self.open_at(handle)).await
    }

    /// Opens a stream again, for as long as a call may take: members restart, and elect leaders.
    async fn reopen(&self) -> Result<Open, Failure> {
        let deadline = Instant::now() + self.pool.timeout();
        loop {
            match self.open().await {
                Err(failure) if failure.may_be_repeated() && Instant::now() < deadline => {
                    sleep(REOPEN_PAUSE).await;
                }
                decided => return decided,
            }
        }
    }

    async fn open_at(&self, handle: Handle) -> Result<Open, Failure> {
        let suspicion = self.pool.endpoints()[handle.endpoint].suspicion();
        let options = WatchOptions::new()
            .with_range(end_of(&self.prefix))
            .with_start_revision(self.seen.saturating_add(1))
            .with_progress_notify();
        let mut client = handle.client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
        let opened = client.watch(self.prefix.as_str(), Some(options)).await;
        let mut stream = opened.map_err(|error| Failure::of(&error))?;
        let first = stream.message().await.map_err(|error| Failure::of(&error))?;
        let Some(first) = first else {
            return Err(Failure::new(Kind::Busy, "the watch ended as it began"));
        };
        if first.canceled() && first.compact_revision() == 0 {
            return Err(Failure::of_cancelled(first.cancel_reason()));
        }
        let shown = self.pool.check(first.header())?;
        Ok(Open { stream, shown, suspicion })
    }

    /// Hands on what the stream brings, until it ends.
    async fn read(&mut self, open: &mut Open, teller: &mut Teller) -> End {
        loop {
            let message = tokio::select! {
                message = open.stream.message() => message,
                Ok(()) = open.suspicion.changed() => {
                    return End::Lost(Failure::new(Kind::Busy, "the member is silent"));
                }
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return End::Lost(Failure::new(Kind::Busy, "the stream has ended")),
                Err(error) => match Failure::of(&error) {
                    // It would be the same the next time.
                    failure if failure.kind == Kind::TooLarge => return End::Compacted,
                    failure => return End::Lost(failure),
                },
            };
            if response.compact_revision() != 0 {
                return End::Compacted;
            }
            if response.canceled() {
                return End::Lost(Failure::of_cancelled(response.cancel_reason()));
            }
            let shown = match self.pool.check(response.header()) {
                Ok(shown) => shown,
                Err(failure) => return End::Lost(failure),
            };
            if !teller.tell_all(&response, &mut self.seen).await {
                return End::Done;
            }
            // Without events: everything up to here has been told.
            if response.events().is_empty() && !response.created() {
                self.seen = self.seen.max(shown);
            }
        }
    }
}

/// Where commits go.
struct Teller {
    keys: Keys,
    queue: mpsc::Sender<Result<Commit, Error>>,
    told: Revision,
}

impl Teller {
    /// Tells what a response brings, as commits. `false` ends the watch. One response may bring more
    /// than may wait, so a reader gets the time to read; what comes after waits at etcd.
    async fn tell_all(&mut self, response: &WatchResponse, seen: &mut i64) -> bool {
        for commit in commits(&self.keys, response, *seen) {
            *seen = number(commit.revision);
            if commit.changes.is_empty() {
                continue;
            }
            // One for the commit, and one that stays free.
            let Ok(room) = timeout(PATIENCE, self.queue.reserve_many(2)).await else {
                self.compacted();
                return false;
            };
            self.told = commit.revision;
            match room.ok().and_then(|mut room| room.next()) {
                Some(place) => place.send(Ok(commit)),
                None => return false,
            }
        }
        true
    }

    fn compacted(&self) {
        self.end(Error::Compacted { after: self.told });
    }

    fn end(&self, error: Error) {
        // The reader may have gone away by itself.
        let _ = self.queue.try_send(Err(error));
    }
}

/// The events of a response by commit, from the one after `seen`. etcd keeps the events of one
/// revision together, in the order of the transaction.
fn commits(keys: &Keys, response: &WatchResponse, seen: i64) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    for event in response.events() {
        let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > seen) else { continue };
        let at = revision(kv.mod_revision());
        if commits.last().is_none_or(|last| last.revision != at) {
            commits.push(Commit { revision: at, changes: Vec::new() });
        }
        let Some(key) = keys.name(kv.key()) else { continue };
        let change = match event.event_type() {
            EventType::Put => {
                let value = Bytes::copy_from_slice(kv.value());
                Change::Put(Entry { key, value, revision: at })
            }
            EventType::Delete => Change::Delete { key },
        };
        commits.last_mut().expect("it was just pushed").changes.push(change);
    }
    commits
}

/// Commits that a watcher may be behind before it is dropped.
pub(super) const WATCH_QUEUE: usize = 1024;
/// How long a reader may leave its queue full.
const PATIENCE: Duration = Duration::from_secs(1);
const HEDGE: Duration = Duration::from_millis(500);
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
