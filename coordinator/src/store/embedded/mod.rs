//! The embedded store: one crash-safe file, for a fleet with one coordinator.
//!
//! # How it works
//!
//! One thread, the writer ([`writer`]), owns everything that changes: commits, campaigns, and
//! who is told of them. Calls queue up for it. While it waits for one fsync, further
//! batches collect in the queue; it takes them all into the next transaction, each
//! with its own conditions and its own outcome, so that a burst of a thousand
//! reports costs a few fsyncs and not a thousand.
//!
//! Reads go past the writer, each on a snapshot of its own. What they show is durable, since
//! a transaction becomes visible only when it is.
//!
//! An open watch starts in the writer as well, between two transactions: nothing can slip
//! through between a listing and the watch that goes on from it.
//!
//! # When the disk fails
//!
//! After a failed write the database refuses everything until it has been opened
//! again, and only what is in the file then tells whether the failed transaction was
//! applied. So the writer opens it again and compares revisions; [`Error::OutcomeUnknown`]
//! is left for the case that this fails too. The next call tries again: a disk that was full
//! and has room once more needs no restart.
//!
//! # The lease
//!
//! The file has one user, so the lease is kept in memory ([`super::lease`]); only the epoch is
//! stored, in the same transaction as the leader record and before the campaign is
//! answered. A restart frees the lease at once, because the only process that could hold it
//! is gone. Registrations are kept in the same way, and go with the process as well.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use async_trait::async_trait;
use chancery_shared::{clock::SharedClock, number::Revision};
use tokio::sync::{mpsc, oneshot};

use self::{
    file::StoreFile,
    writer::{Command, Reply, Writer},
};
use super::{
    Batch, Campaign, Candidate, Endpoint, Entry, Error, Fence, Health, Registered, Registration,
    Snapshot, Store, Watch, lease::Lease, registrations::Registrations,
};

mod file;
mod writer;

/// The embedded store.
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
    clock: SharedClock,
    lease: Arc<Mutex<Lease>>,
    registrations: Arc<Mutex<Registrations>>,
    /// `None` only while this is being dropped.
    commands: Option<mpsc::Sender<Command>>,
    /// As `commands`.
    writer: Option<thread::JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in the file at `path`, and makes it (mode 0600) if it is not there.
    /// Every page of an existing file is checked. Blocks: call it at start, or off
    /// the async threads.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it open, [`Error::Damaged`] if what is there is
    /// not a whole store, [`Error::Full`], and [`Error::Unavailable`] if the file or its folder
    /// cannot be used.
    pub fn open(path: &Path, clock: SharedClock) -> Result<Arc<Self>, Error> {
        let (file, numbers) = StoreFile::open(path)?;
        let file = Arc::new(file);
        let (lease, registrations) = Default::default();
        let leases =
            writer::Leases { leader: Arc::clone(&lease), members: Arc::clone(&registrations) };
        let mut writer = Writer::new(file.clone(), numbers, clock.clone(), leases);
        writer.forget_former_process()?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| {
                Error::Unavailable(format!("cannot start the store's thread: {error}"))
            })?;
        let (commands, writer) = (Some(commands), Some(thread));
        Ok(Arc::new(Self { file, clock, lease, registrations, commands, writer }))
    }

    fn registrations(&self) -> MutexGuard<'_, Registrations> {
        self.registrations.lock().expect("no holder panics")
    }

    /// Has the writer do something, and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let gone = "the store's writer has stopped; restart the coordinator";
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().expect("taken in drop only");
        if commands.send(command(reply)).await.is_err() {
            return Err(Error::Unavailable(gone.to_owned()));
        }
        answer.await.unwrap_or_else(|_| Err(Error::OutcomeUnknown(gone.to_owned())))
    }

    /// Reads off the async threads, opening the database again if it had to be closed.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&file::View) -> Result<T, redb::Error> + Send + Clone + 'static,
    ) -> Result<T, Error> {
        let expired = self.registrations().expired(self.clock.monotonic());
        if !expired.is_empty() {
            self.ask(Command::Expire).await?;
        }
        loop {
            let (file, read) = (self.file.clone(), read.clone());
            let result = tokio::task::spawn_blocking(move || file.read(read)).await;
            match result {
                Ok(Some(result)) => return result,
                Ok(None) => self.ask(Command::Open).await?,
                Err(error) => return Err(self.file.damaged(&error.to_string())),
            }
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.read(move |view| view.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        let prefix = prefix.to_owned();
        self.read(move |view| view.list(&prefix)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        batch.check_size()?;
        self.ask(|reply| Command::Commit(batch, reply)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.ask(|reply| Command::Watch { prefix: prefix.to_owned(), after, reply }).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.ask(|reply| Command::Campaign(candidate.clone(), reply)).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        // Not through the writer: a slow disk is no reason to lose a lease that nobody else
        // could take.
        let mut lease = self.lease.lock().expect("no holder panics");
        lease.keep_alive(fence, self.clock.monotonic())
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.ask(|reply| Command::Resign(fence.clone(), reply)).await
    }

    async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        self.ask(|reply| Command::Register(registration.clone(), reply)).await
    }

    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        self.registrations().keep_alive(registered, self.clock.monotonic())
    }

    async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        self.ask(|reply| Command::Deregister(registered.clone(), reply)).await
    }

    async fn health(&self) -> Result<Health, Error> {
        let path = self.file.path().to_owned();
        let size = tokio::fs::metadata(&path)
            .await
            .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
        let endpoint = Endpoint {
            address: path.display().to_string(),
            healthy: self.file.database().is_some(),
            message: format!("{} bytes", size.len()),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Health { version, endpoints: vec![endpoint], warnings: Vec::new() })
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }
}

impl Drop for EmbeddedStore {
    /// Waits for what is queued, then closes the file, so that it can be opened again at once.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.file.path().display(), "the store's writer has panicked");
        }
        self.file.close();
    }
}

/// Calls that may wait for the writer before further callers wait for a place.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests;
