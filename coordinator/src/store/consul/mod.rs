//! The Consul store: what all coordinators agree on in Consul's KV, from Consul 1.8 on.
//!
//! # What lies where
//!
//! Everything begins with the configured prefix, such as `chancery/`:
//!
//! | key | value |
//! |---|---|
//! | `head` | the number of the last commit; its `ModifyIndex` is the store's revision |
//! | `journal/0000` to `journal/1023` | the last commits ([`journal`]) |
//! | `records/…` | the records |
//! | `lock` | leadership: its session is the lease, its value the epoch |
//! | `leases/…` | for each registration the session that keeps it |
//!
//! Consul gives all keys of a transaction the same `ModifyIndex`, that of its entry in the Raft log. So a
//! commit has one [`Revision`], which is that of its keys as well, and conditions are Consul's own
//! (`cas`, `check-index`, `check-not-exists`).
//!
//! # Writing
//!
//! Each commit is one `/v1/txn` ([`step`] says which, [`write`] sends it) that writes the head on the
//! condition that nobody else did. So commits have one order, each can be told exactly once,
//! and a commit whose answer was lost can be asked after.
//!
//! # Reading
//!
//! All reads are `?consistent`. A listing is a transaction of the head and the records, so it is one
//! snapshot. A get of a token without rights looks like an absent key to Consul;
//! that no listing shows an empty store in that case, the head is in it.
//!
//! # The lease
//!
//! A session with a TTL holds the key `lock`; the fence is `check-session` on it, in the same
//! transaction as the write ([`lease`] has more, on the TTL and on why there is no lock-delay).
//!
//! # Watching
//!
//! [`follow`] follows the journal for all who watch. Registrations whose session is gone are
//! deleted by [`members`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chancery_shared::{clock::SharedClock, number::Revision, retry::Policy};
use tokio::{sync::Mutex, task::AbortHandle};

use self::{
    client::Client,
    follow::Follower,
    journal::{Head, decode_head},
    step::{Refusal, Step},
    txn::{Op, Outcome, Row},
    write::NotDone,
};
use super::{
    Batch, Campaign, Candidate, Entry, Error, Fence, Health, Registered, Registration, Snapshot,
    Store, Watch,
};

mod client;
mod follow;
mod health;
mod journal;
mod lease;
mod members;
mod options;
mod session;
mod step;
mod txn;
mod write;

pub use options::{Identity, Options};

/// The shortest time to live that Consul takes for a session, unless its administrator has set
/// `session_ttl_min`.
pub const LEAST_TTL: Duration = Duration::from_secs(10);

/// The Consul store.
pub struct ConsulStore {
    parts: Arc<Parts>,
    background: Vec<AbortHandle>,
}

/// What calls and background tasks share.
struct Parts {
    client: Arc<Client>,
    keys: Keys,
    clock: SharedClock,
    /// The head, as far as this process knows it. Who has it commits; the others wait.
    head: Mutex<Option<Head>>,
    follower: Follower,
}

impl ConsulStore {
    /// Opens the store, and begins one if there is none under the prefix. Waits while Consul cannot be
    /// reached or has no leader, and says so in the log. Reads the files that `options`
    /// names: call it at start. Needs a tokio runtime for as long as the store lives. Cancel-safe.
    ///
    /// # Errors
    /// What waiting does not mend: [`Error::Misconfigured`] if a file cannot be used, a token is
    /// refused or a certificate not accepted, [`Error::Damaged`] if what lies under the prefix is
    /// not a store that this version knows.
    pub async fn open(options: Options, clock: SharedClock) -> Result<Arc<Self>, Error> {
        let keys = Keys::new(&options.prefix);
        let client = Arc::new(Client::new(options)?);
        let mut waits = FIRST_CONTACT.waits();
        let head = loop {
            match write::read_head(&client, &keys).await {
                Ok(head) => break head,
                Err(Error::Unavailable(reason)) => {
                    let wait = waits.next_wait();
                    tracing::warn!(reason, ?wait, "Consul cannot be reached yet; waiting for it");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        };
        let follower = Follower::new(client.clone(), keys.clone(), head);
        let parts = Arc::new(Parts { client, keys, clock, head: Mutex::new(Some(head)), follower });
        let follow = parts.clone();
        let follow = tokio::spawn(async move { follow.follower.run(&*follow.clock).await });
        let reap = parts.clone();
        let reap = tokio::spawn(async move { reap.reap().await });
        let background = vec![follow.abort_handle(), reap.abort_handle()];
        Ok(Arc::new(Self { parts, background }))
    }
}

impl Drop for ConsulStore {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}

#[async_trait]
impl Store for ConsulStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let Parts { client, keys, .. } = &*self.parts;
        match client.txn(&[Op::read(&keys.record(key))]).await?.0 {
            Outcome::Done(rows) => Ok(rows.into_iter().find_map(|row| keys.entry(row))),
            Outcome::Refused(_) => Ok(None),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.parts.list(prefix).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        batch.check_size()?;
        let keys = &self.parts.keys;
        // The head changes nothing about it, so what cannot hold is found here.
        Step::of_batch(keys, &batch).map_err(|key| Error::Conflict { key })?;
        let step = |_| Step::of_batch(keys, &batch).unwrap_or_default();
        match self.parts.write(&step).await {
            Ok(revision) => Ok(revision),
            Err(NotDone::Failed(error)) => Err(error),
            Err(NotDone::Refused(Refusal::Conflict(key))) => Err(Error::Conflict { key }),
            Err(NotDone::Refused(_)) => {
                let epoch = batch.fence.map(|fence| fence.epoch).unwrap_or_default();
                Err(Error::Fenced { epoch })
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.parts.follower.watch(prefix, after).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.parts.campaign(candidate).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.parts.keep_alive(fence).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.parts.resign(fence).await
    }

    async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        self.parts.register(registration).await
    }

    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        self.parts.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        self.parts.deregister(registered).await
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(health::ask(&self.parts.client, &self.parts.keys).await)
    }

    fn kind(&self) -> &'static str {
        "consul"
    }
}

impl Parts {
    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        let Self { client, keys, .. } = self;
        let ops = [Op::read(&keys.head()), Op::read_tree(&keys.record(prefix))];
        for _ in 0..LIST_TRIES {
            let (outcome, _) = client.txn(&ops).await?;
            let Outcome::Done(mut rows) = outcome else {
                // No head: it was wiped, which this mends, or the token may not read, which this says.
                write::read_head(client, keys).await?;
                continue;
            };
            if rows.is_empty() {
                continue;
            }
            let head = rows.remove(0);
            let revision = decode_head(&head.key, &head.value, head.revision)?.revision;
            let mut entries: Vec<Entry> =
                rows.into_iter().filter_map(|row| keys.entry(row)).collect();
            entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            return Ok(Snapshot { revision, entries });
        }
        let head = keys.head();
        Err(Error::Unavailable(format!("somebody deletes {head} in Consul again and again")))
    }

    /// The lock at `key` and the revision of its last change, if it is there.
    async fn lock_at(&self, key: &str) -> Result<Option<Row>, Error> {
        let outcome = self.client.txn(&[Op::read(key)]).await?.0;
        Ok(match outcome {
            Outcome::Done(rows) => rows.into_iter().next(),
            Outcome::Refused(_) => None,
        })
    }

    /// Whether a session has the lock at `key` now.
    async fn holds(&self, key: &str, session: &str) -> Result<bool, Error> {
        let check = [step::check_lock(key, session).0];
        Ok(matches!(self.client.txn(&check).await?.0, Outcome::Done(_)))
    }
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys {
    prefix: String,
    records: String,
}

impl Keys {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), records: format!("{prefix}records/") }
    }

    fn head(&self) -> String {
        format!("{}head", self.prefix)
    }

    /// The path of the head in the HTTP interface, with the beginning of a query.
    fn head_path(&self, query: &str) -> String {
        format!("/v1/kv/{}head{query}", self.prefix)
    }

    fn slot(&self, sequence: u64) -> String {
        format!("{}journal/{}", self.prefix, journal::slot_name(sequence))
    }

    fn lock(&self) -> String {
        format!("{}lock", self.prefix)
    }

    fn record(&self, key: &str) -> String {
        format!("{}{key}", self.records)
    }

    fn leases(&self) -> String {
        format!("{}leases/", self.prefix)
    }

    /// The lock of the registration of `key`.
    fn lease(&self, key: &str) -> String {
        format!("{}leases/{key}", self.prefix)
    }

    /// The record that a row is, if it is one.
    fn entry(&self, row: Row) -> Option<Entry> {
        let key = row.key.strip_prefix(&self.records)?.to_owned();
        Some(Entry { key, value: row.value, revision: row.revision })
    }
}

/// Between tries to open the store.
const FIRST_CONTACT: Policy =
    Policy { first: Duration::from_millis(250), most: Duration::from_secs(5), factor: 2 };
/// A head that is missing is made again; it should not take more than one.
const LIST_TRIES: usize = 3;
