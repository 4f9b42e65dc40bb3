//! The store in etcd, 3.4 or newer.
//!
//! * A **revision** is etcd's own: an entry carries the `mod_revision` of its key, a listing the
//!   revision of its header. They count every commit of the whole cluster, so they have gaps where others
//!   write. A listing comes in pages, all at the revision of the first (`read`).
//! * A **batch** is one transaction. It compares the leader key's `create_revision` and lease with those of
//!   the fence, and every condition; its else-branch reads what tells a lost term from a
//!   conflict. So etcd itself refuses what a former leader sends, however late it arrives.
//! * A **term** is the leader key, made under a lease by a transaction that requires that it is not
//!   there. The same transaction counts the epoch up, in a key that no lease can take away. Should
//!   somebody delete the counter, it starts again at the store's revision: each epoch is less than the
//!   revision of the commit that gave it out, so none comes twice.
//! * A **keep-alive** travels on a stream that stays open, and beside it goes a linearizable read
//!   of the leader key: a member that was cut off from the others may extend a lease that they
//!   have ended, but it cannot serve that read.
//! * A **watch** moves to another member by itself, with the revision that it told last, when its
//!   connection ends, its member loses its leader or is silent (`pool`). It ends
//!   with an error when no member can be watched within the time-out, so that whoever mirrors the
//!   store knows that it has lost it.
//! * **What may have been done** when a call fails is told apart in `failure`.
//!
//! One process stays with one cluster: an answer of another one is refused (`pool`), because its
//! revisions mean something else.

use std::sync::Arc;

use async_trait::async_trait;
use chancery_shared::{clock::SharedClock, number::Revision, retry::Policy};

use super::{
    Batch, Campaign, Candidate, Entry, Error, Fence, Health, Registered, Registration, Snapshot,
    Store, Watch,
};

mod commit;
mod failure;
mod health;
mod keys;
mod lease;
mod members;
mod options;
mod pool;
mod read;
mod term;
mod watch;

use keys::Keys;
use lease::Leases;
pub use options::{ClientCertificate, Options, User};
use pool::Pool;

/// A store in etcd.
pub struct EtcdStore {
    pool: Arc<Pool>,
    keys: Keys,
    leases: Arc<Leases>,
    clock: SharedClock,
}

impl EtcdStore {
    /// Opens the store. Waits while it cannot be reached or has no quorum, and says so in the log;
    /// fails with [`Error::Misconfigured`] at once where waiting is of no use: files that cannot be
    /// read, wrong credentials, missing rights, certificates that no member accepts. Cancel-safe.
    pub async fn open(options: Options, clock: SharedClock) -> Result<Arc<Self>, Error> {
        // All of them, before anybody is asked.
        options.read()?;
        let store = Arc::new(Self::new(options, clock));
        let mut waits = FIRST_CONTACT.waits();
        loop {
            match store.probe().await {
                Ok(()) => return Ok(store),
                Err(Error::Unavailable(reason)) => {
                    let wait = waits.next_wait();
                    tracing::warn!(reason, ?wait, "etcd cannot be reached yet; waiting for it");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn new(options: Options, clock: SharedClock) -> Self {
        let keys = Keys::new(&options.prefix);
        let pool = Arc::new(Pool::new(options));
        Self { leases: Arc::new(Leases::new(pool.clone())), pool, keys, clock }
    }

    /// Whether records can be read, by quorum.
    async fn probe(&self) -> Result<(), Error> {
        self.get(crate::record::key::LEADER).await.map(drop)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.read_entry(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.read_all(prefix).await
    }

    async fn scan(
        &self,
        prefix: &str,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Revision, Error> {
        self.read_in_pages(prefix, each).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        self.apply(batch).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.follow(prefix, after).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.try_to_lead(candidate).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.extend_term(fence).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.end_term(fence).await
    }

    async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        self.put_member(registration).await
    }

    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        self.extend_member(registered).await
    }

    async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        self.delete_member(registered).await
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(self.examine().await)
    }

    fn kind(&self) -> &'static str {
        "etcd"
    }
}

/// Between tries to reach the store for the first time.
const FIRST_CONTACT: Policy = Policy {
    first: std::time::Duration::from_millis(250),
    most: std::time::Duration::from_secs(5),
    factor: 2,
};
