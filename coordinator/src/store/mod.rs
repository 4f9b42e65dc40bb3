//! The store: what all coordinators agree on.
//!
//! # The contract
//!
//! Keys are texts, values are bytes. All keys share one sequence of commits, numbered
//! by a [`Revision`]; an [`Entry`] carries the revision of the commit that wrote it.
//!
//! * **Reads are linearizable.** [`Store::get`] and [`Store::list`] show every commit
//!   that returned before the call was made. A listing is one consistent snapshot.
//! * **A batch is atomic.** [`Store::commit`] checks the fence and all conditions and
//!   applies all operations in one step, or does nothing. When it returns `Ok`, the batch
//!   is durable. What changes nothing (no operations, or only deletes of keys that are not
//!   there) makes no commit: the answer is the current revision, and no watch tells it.
//! * **The fence is the store's.** A batch with a [`Fence`] is refused with
//!   [`Error::Fenced`] unless that very lease holds leadership at the moment of the
//!   commit. No check by the caller stands in for it.
//! * **Epochs only grow**, over restarts, over loss of the leader key, forever.
//! * **A watch tells each commit once and in order**, whole, from the one after the
//!   given revision. Where the store no longer has them, or has never had that revision, or
//!   the watcher is too slow, it says [`Error::Compacted`]: list again, and watch from
//!   the listing's revision. A watch that ends, with or without an error, has to be
//!   opened again.
//! * **The leader record proves nothing.** It is written in the step that grants a lease and
//!   deleted in the step that gives it up; when a lease expires it may stay until
//!   the next term. Watch it to learn at once that leadership is free.
//! * **A registration lasts as long as its lease.** Its record is there until it is given up, or
//!   until some moment after its TTL in which it was not kept alive; then the record is deleted, in
//!   a commit that watches tell. A later registration of the same key takes the record over, and the
//!   lease of the former one counts no more.
//! * **A batch is small**: [`Batch::MOST_KEYS`] and [`Batch::MOST_BYTES`] are what the strictest
//!   backend takes, and every backend refuses more, so that what works on one works on all.
//! * **A failed call says what it may have done.** Only [`Error::OutcomeUnknown`] leaves
//!   open whether the batch was applied: read again before repeating it. Every other error
//!   means that nothing changed.
//! * **Dropping a future** of a call leaves the outcome unknown in the same sense.
//!
//! Values read from a store are input that somebody else may have written: a newer
//! version, an older one, a bit flip. [`crate::record`] decodes them and never panics.
//!
//! One suite, `conformance`, holds every backend to this.

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chancery_shared::{
    name::NodeName,
    number::{Epoch, Revision},
};
use tokio::sync::mpsc;

mod apply;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod consul;
pub mod embedded;
pub mod etcd;
mod hub;
mod lease;
pub mod memory;
mod packing;
mod registrations;

pub use packing::Packer;

/// Where coordinators keep what they agree on. The module's essay is the contract.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry at `key`, if there is one.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// All entries whose key starts with `prefix`, in order of keys, and the revision
    /// that they show.
    async fn list(&self, prefix: &str) -> Result<Snapshot, Error>;

    /// Hands all entries whose key starts with `prefix` to `each`, in order of keys, and returns the
    /// revision that they show: a listing that nobody has to hold as a whole. After an error, what was
    /// handed over is a part and worth nothing; [`Error::Compacted`] means that the store has
    /// lost the revision of the first part meanwhile: begin again.
    async fn scan(
        &self,
        prefix: &str,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Revision, Error> {
        let Snapshot { revision, entries } = self.list(prefix).await?;
        entries.into_iter().for_each(each);
        Ok(revision)
    }

    /// Applies `batch`, or nothing of it. Returns the revision of the commit; a batch
    /// without operations returns the current one.
    async fn commit(&self, batch: Batch) -> Result<Revision, Error>;

    /// Every commit after revision `after` that touches a key with `prefix`, reduced to
    /// those keys.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// Tries to become the leader. Does not wait: a lease that somebody else holds is
    /// [`Campaign::Lost`]. Winning writes the leader record in the same step.
    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error>;

    /// Extends the lease by its TTL, counted from some moment during the call.
    /// [`Error::Fenced`] if it has expired or was given up.
    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error>;

    /// Gives the lease up, so that somebody else can campaign at once. Giving up a
    /// lease that is gone already is no error.
    async fn resign(&self, fence: &Fence) -> Result<(), Error>;

    /// Writes a record that is deleted unless it is kept alive, in place of what stands
    /// at its key. [`Error::OutcomeUnknown`] leaves a record that goes by itself, after the TTL.
    async fn register(&self, registration: &Registration) -> Result<Registered, Error>;

    /// Extends a registration by its TTL, counted from some moment during the call.
    /// [`Error::Expired`] if it is gone, or was taken over: register again.
    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error>;

    /// Deletes the record of a registration. One that is gone, or was taken over, is no error.
    async fn deregister(&self, registered: &Registered) -> Result<(), Error>;

    /// How the store is, as far as it can be asked. Not for each request: it asks every endpoint.
    async fn health(&self) -> Result<Health, Error>;

    /// What kind of store this is, for operators: `embedded`, `etcd` ...
    fn kind(&self) -> &'static str;
}

/// One key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision of the commit that wrote it.
    pub revision: Revision,
}

/// A consistent listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision that the entries show.
    pub revision: Revision,
    /// The entries, in order of keys.
    pub entries: Vec<Entry>,
}

/// A commit, as seen by a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its revision.
    pub revision: Revision,
    /// What it did to the watched keys, in the order of the batch.
    pub changes: Vec<Change>,
}

/// What a commit did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(Entry),
    /// Deleted.
    Delete {
        /// The key.
        key: String,
    },
}

/// An open watch. `None` from [`Watch::next`] means that it is over.
#[derive(Debug)]
pub struct Watch {
    commits: mpsc::Receiver<Result<Commit, Error>>,
}

impl Watch {
    /// Wraps the receiving end of a backend's channel.
    pub fn new(commits: mpsc::Receiver<Result<Commit, Error>>) -> Self {
        Self { commits }
    }

    /// Whether nothing more will be told than what waits already.
    #[cfg(any(test, feature = "testing"))]
    pub fn has_ended(&self) -> bool {
        self.commits.is_closed()
    }

    /// The next commit. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Commit, Error>> {
        self.commits.recv().await
    }
}

/// A set of writes with what has to hold for them.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The lease that has to hold leadership.
    pub fence: Option<Fence>,
    /// What has to hold.
    pub conditions: Vec<Condition>,
    /// What is done. No key stands twice.
    pub operations: Vec<Operation>,
}

/// What has to hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key is not there.
    Absent(String),
    /// The key was last written by the commit with this revision.
    Unchanged(String, Revision),
}

impl Condition {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }
}

/// A write to one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Operation {
    /// Write a value.
    Put(String, Bytes),
    /// Delete the key. One that is not there is no error.
    Delete(String),
}

impl Operation {
    /// The key that it writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

impl Operation {
    /// What it counts towards [`Batch::MOST_BYTES`].
    pub fn size(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

impl Change {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Delete(key) => write!(f, "Delete({key:?})"),
        }
    }
}

impl Batch {
    /// How many different keys a batch may name in its conditions and operations.
    ///
    /// Consul takes 64 operations in a transaction, of which its backend needs some for itself.
    pub const MOST_KEYS: usize = 56;
    /// How many bytes of keys and values the operations of a batch may have.
    ///
    /// Consul takes requests of 512 KiB, with each value in base64, and its backend writes each
    /// value twice.
    pub const MOST_BYTES: usize = 128 * 1024;

    /// Refuses a batch that is larger than every store takes.
    pub(crate) fn check_size(&self) -> Result<(), Error> {
        let conditions = self.conditions.iter().map(Condition::key);
        let operations = self.operations.iter().map(Operation::key);
        let keys = conditions.chain(operations).collect::<BTreeSet<_>>().len();
        let bytes = self.operations.iter().map(Operation::size).sum();
        if keys <= Self::MOST_KEYS && bytes <= Self::MOST_BYTES {
            return Ok(());
        }
        Err(Error::TooLarge { keys, bytes })
    }

    /// A batch that anybody may commit: for records that no leader owns.
    pub fn unfenced() -> Self {
        Self::default()
    }

    /// A batch that only the holder of `fence` may commit.
    pub fn fenced(fence: Fence) -> Self {
        Self { fence: Some(fence), ..Self::default() }
    }

    /// Requires that `key` is not there.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.conditions.push(Condition::Absent(key.into()));
        self
    }

    /// Requires that `key` was last written at `revision`, or is not there for `None`.
    #[must_use]
    pub fn unchanged(mut self, key: impl Into<String>, revision: Option<Revision>) -> Self {
        self.conditions.push(match revision {
            Some(revision) => Condition::Unchanged(key.into(), revision),
            None => Condition::Absent(key.into()),
        });
        self
    }

    /// Writes `value` at `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Put(key.into(), value.into()));
        self
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Delete(key.into()));
        self
    }
}

/// Who wants to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// How long the lease lives without a keep-alive.
    pub ttl: Duration,
}

/// How a campaign ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Campaign {
    /// The candidate leads.
    Won(Fence),
    /// Somebody else does. The leader record ([`crate::record::Leader`]) says who.
    Lost,
}

/// Proof of a term of leadership, checked by the store at each fenced commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The epoch of the term.
    pub epoch: Epoch,
    /// The backend's own name for the lease (etcd's lease ID, Consul's session).
    pub lease: String,
}

/// A record that lives as long as somebody keeps it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its key, under [`crate::record::key::MEMBERS`].
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// How long it lives without a keep-alive. A store may make it longer, never shorter.
    pub ttl: Duration,
}

/// A registration that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its key.
    pub key: String,
    /// The backend's own name for its lease.
    pub lease: String,
}

/// How a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The version of its software.
    pub version: String,
    /// The servers that this coordinator knows of, in the order of its configuration.
    pub endpoints: Vec<Endpoint>,
    /// What an operator has to see to, such as a quota that is nearly used up.
    pub warnings: Vec<String>,
}

/// One server of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address, or the path of a file.
    pub address: String,
    /// Whether it answers and can serve.
    pub healthy: bool,
    /// What is known of it: its role and size, or why it cannot serve.
    pub message: String,
}

/// Why a call failed. See the contract for what it may have done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A condition does not hold.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The key of the condition.
        key: String,
    },
    /// The lease of the batch does not hold leadership (any longer).
    #[error("the term of leadership with epoch {epoch} is over")]
    Fenced {
        /// The epoch of the refused batch.
        epoch: Epoch,
    },
    /// The registration is gone, or somebody else has registered the key since.
    #[error("the registration of {key} has expired")]
    Expired {
        /// Its key.
        key: String,
    },
    /// The batch is larger than every store takes; nothing was changed.
    #[error(
        "a batch of {keys} keys and {bytes} bytes is too large: at most {} keys and {} bytes",
        Batch::MOST_KEYS,
        Batch::MOST_BYTES
    )]
    TooLarge {
        /// Its different keys.
        keys: usize,
        /// Bytes of keys and values that it would write.
        bytes: usize,
    },
    /// The watch starts before the oldest commit that the store still has.
    #[error("the store no longer has the commits after revision {after}")]
    Compacted {
        /// The revision asked for.
        after: Revision,
    },
    /// The store cannot be reached or cannot serve now; nothing was changed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store refuses this coordinator, or a file that is needed to reach it cannot be used: an
    /// operator has to see to it. Nothing was changed.
    #[error("{0}")]
    Misconfigured(String),
    /// The batch may or may not have been applied.
    #[error("it is not known whether the store applied the write: {0}")]
    OutcomeUnknown(String),
    /// The store has no room left.
    #[error("the store is full: {0}")]
    Full(String),
    /// Another process has the embedded store open.
    #[error("{0} is in use by another process: only one coordinator can use an embedded store")]
    InUse(String),
    /// What is stored cannot be read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// Whether the same call may work later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::Compacted { .. })
    }
}
