//! The one thread that changes the embedded store.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use chancery_shared::{clock::SharedClock, number::Revision};
use redb::{Database, ReadableTable as _, Table};
use tokio::sync::{mpsc, oneshot};

use super::file::{ENTRIES, EPOCH, NUMBERS, Numbers, REVISION, StoreFile};
use crate::{
    record::{self, Leader, key},
    store::{
        Batch, Campaign, Candidate, Commit, Error, Fence, Registered, Registration, Watch,
        apply::{Refusal, Rows, apply},
        hub::Hub,
        lease::Lease,
        registrations::Registrations,
    },
};

/// Where an answer goes. The caller may be gone.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer can be asked for.
pub(super) enum Command {
    Commit(Batch, Reply<Revision>),
    Campaign(Candidate, Reply<Campaign>),
    Resign(Fence, Reply<()>),
    Register(Registration, Reply<Registered>),
    Deregister(Registered, Reply<()>),
    /// Delete the records of registrations whose time is over.
    Expire(Reply<()>),
    Watch {
        prefix: String,
        after: Revision,
        reply: Reply<Watch>,
    },
    /// Open the database again, if it had to be closed.
    Open(Reply<()>),
}

/// What is leased, and to whom.
pub(super) struct Leases {
    pub(super) leader: Arc<Mutex<Lease>>,
    pub(super) members: Arc<Mutex<Registrations>>,
}

/// The writer's state.
pub(super) struct Writer {
    file: Arc<StoreFile>,
    clock: SharedClock,
    lease: Arc<Mutex<Lease>>,
    registrations: Arc<Mutex<Registrations>>,
    hub: Hub,
    /// What the file holds.
    numbers: Numbers,
    /// A transaction of which it is not known whether the file holds it.
    unsettled: Vec<Commit>,
}

/// A transaction in the making.
struct Step<'t> {
    entries: Table<'t, &'static str, (u64, &'static [u8])>,
    numbers: Numbers,
    commits: Vec<Commit>,
}

/// What a transaction has come to, before it is committed.
struct Prepared<T> {
    value: T,
    numbers: Numbers,
    commits: Vec<Commit>,
}

/// How a transaction failed.
enum Failure<T> {
    /// Before anything could have changed.
    Before(redb::Error),
    /// While it was committed: the file has to tell.
    During(Box<(Prepared<T>, redb::Error)>),
}

impl Writer {
    /// A writer to `file`, which is open and holds `numbers`.
    pub(super) fn new(
        file: Arc<StoreFile>,
        numbers: Numbers,
        clock: SharedClock,
        leases: Leases,
    ) -> Self {
        let hub = Hub::new(numbers.revision);
        let Leases { leader: lease, members: registrations } = leases;
        Self { file, clock, lease, registrations, hub, numbers, unsettled: Vec::new() }
    }

    /// Removes the leader record and the registrations of a process that is gone: it held the
    /// file's lock, which is ours now.
    pub(super) fn forget_former_process(&mut self) -> Result<(), Error> {
        let members = self.file.read(|view| view.list(key::MEMBERS)).transpose()?;
        let members = members.map_or_else(Vec::new, |members| members.entries);
        let batch = Batch::unfenced().delete(key::LEADER);
        let batch = members.into_iter().fold(batch, |batch, member| batch.delete(member.key));
        self.transact(|step| step.apply(&batch))??;
        Ok(())
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Commit(batch, reply) => {
                    let mut group = vec![(batch, reply)];
                    while group.len() < GROUP {
                        match queue.try_recv() {
                            Ok(Command::Commit(batch, reply)) => group.push((batch, reply)),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit(group);
                }
                Command::Campaign(candidate, reply) => answer(reply, self.campaign(&candidate)),
                Command::Resign(fence, reply) => answer(reply, self.resign(&fence)),
                Command::Register(registration, reply) => {
                    answer(reply, self.register(&registration));
                }
                Command::Deregister(registered, reply) => {
                    answer(reply, self.deregister(&registered));
                }
                Command::Expire(reply) => answer(reply, self.expire()),
                Command::Watch { prefix, after, reply } => {
                    let watch = self.open().and_then(|()| self.hub.watch(&prefix, after));
                    answer(reply, watch);
                }
                Command::Open(reply) => answer(reply, self.open()),
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    /// Commits a group of batches in one transaction, each for itself.
    fn commit(&mut self, group: Vec<(Batch, Reply<Revision>)>) {
        let (lease, clock) = (self.lease.clone(), self.clock.clone());
        let outcomes = self.transact(|step| {
            let commit = |(batch, _): &(Batch, _)| {
                if let Some(fence) = &batch.fence
                    && let Err(fenced) = lock(&lease).check(fence, clock.monotonic())
                {
                    return Ok(Err(fenced));
                }
                step.apply(batch)
            };
            group.iter().map(commit).collect::<Result<Vec<_>, redb::Error>>()
        });
        match outcomes {
            Ok(outcomes) => {
                for ((_, reply), outcome) in group.into_iter().zip(outcomes) {
                    answer(reply, outcome);
                }
            }
            Err(error) => {
                for (_, reply) in group {
                    answer(reply, Err(error.clone()));
                }
            }
        }
    }

    fn campaign(&mut self, candidate: &Candidate) -> Result<Campaign, Error> {
        if !lock(&self.lease).is_free(self.clock.monotonic()) {
            return Ok(Campaign::Lost);
        }
        let since = self.clock.now();
        let epoch = self.transact(|step| {
            step.numbers.epoch = step.numbers.epoch.next();
            let epoch = step.numbers.epoch;
            let leader = record::encode(&Leader::of(candidate, epoch, since));
            let written = step.apply(&Batch::unfenced().put(key::LEADER, leader))?;
            Ok(written.map(|_| epoch))
        })??;
        let fence = Lease::fence(candidate, epoch);
        lock(&self.lease).grant(fence.clone(), candidate.ttl, self.clock.monotonic());
        Ok(Campaign::Won(fence))
    }

    fn resign(&mut self, fence: &Fence) -> Result<(), Error> {
        if lock(&self.lease).is_last(fence) {
            self.transact(|step| step.apply(&Batch::unfenced().delete(key::LEADER)))??;
            lock(&self.lease).release(fence);
        }
        Ok(())
    }

    fn register(&mut self, registration: &Registration) -> Result<Registered, Error> {
        let Registration { key, value, .. } = registration;
        self.transact(|step| step.apply(&Batch::unfenced().put(key, value.clone())))??;
        Ok(lock(&self.registrations).grant(registration, self.clock.monotonic()))
    }

    fn deregister(&mut self, registered: &Registered) -> Result<(), Error> {
        if lock(&self.registrations).is_current(registered) {
            self.transact(|step| step.apply(&Batch::unfenced().delete(&registered.key)))??;
            lock(&self.registrations).release(&registered.key);
        }
        Ok(())
    }

    fn expire(&mut self) -> Result<(), Error> {
        let expired = lock(&self.registrations).expired(self.clock.monotonic());
        let batch = expired.iter().fold(Batch::unfenced(), Batch::delete);
        self.transact(|step| step.apply(&batch))??;
        for key in &expired {
            lock(&self.registrations).release(key);
        }
        Ok(())
    }

    /// Opens the database again, if it had to be closed, and settles what was open.
    fn open(&mut self) -> Result<(), Error> {
        if self.file.database().is_some() {
            return Ok(());
        }
        self.numbers = self.file.reopen()?;
        for commit in std::mem::take(&mut self.unsettled) {
            if commit.revision <= self.numbers.revision {
                self.hub.publish(commit);
            }
        }
        Ok(())
    }

    /// Runs `work` in one transaction and makes it durable.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Step<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        self.open()?;
        let failure = {
            let database = self.file.database();
            let Some(database) = database.as_ref() else {
                return Err(Error::Unavailable("the store was closed".to_owned()));
            };
            match prepare_and_commit(database, self.numbers, work) {
                Ok(prepared) => {
                    self.numbers = prepared.numbers;
                    prepared.commits.into_iter().for_each(|commit| self.hub.publish(commit));
                    return Ok(prepared.value);
                }
                Err(failure) => failure,
            }
        };
        self.file.close();
        match failure {
            Failure::Before(error) => {
                let error = self.file.explain(&error);
                self.reopen_after(&error);
                Err(error)
            }
            Failure::During(interrupted) => {
                let (prepared, error) = *interrupted;
                let error = self.file.explain(&error);
                self.unsettled = prepared.commits;
                match self.reopen_after(&error) {
                    true if self.numbers == prepared.numbers => Ok(prepared.value),
                    true => Err(error),
                    false => Err(Error::OutcomeUnknown(error.to_string())),
                }
            }
        }
    }

    /// Opens the database after `error`; whether it could.
    fn reopen_after(&mut self, error: &Error) -> bool {
        tracing::error!(%error, "cannot write the store; opening it again");
        let opened = self.open();
        if let Err(error) = &opened {
            tracing::error!(%error, "cannot open the store again; the next call tries again");
        }
        opened.is_ok()
    }
}

/// Runs `work` in a transaction and commits it, if it has changed anything.
fn prepare_and_commit<T>(
    database: &Database,
    numbers: Numbers,
    work: impl FnOnce(&mut Step<'_>) -> Result<T, redb::Error>,
) -> Result<Prepared<T>, Failure<T>> {
    let before = |error: redb::Error| Failure::Before(error);
    let transaction = database.begin_write().map_err(|error| before(error.into()))?;
    let prepared = (|| {
        let entries = transaction.open_table(ENTRIES)?;
        let mut step = Step { entries, numbers, commits: Vec::new() };
        let value = work(&mut step)?;
        let Step { numbers: new, commits, .. } = step;
        if new != numbers {
            let mut table = transaction.open_table(NUMBERS)?;
            table.insert(REVISION, new.revision.0)?;
            table.insert(EPOCH, new.epoch.0)?;
        }
        Ok(Prepared { value, numbers: new, commits })
    })()
    .map_err(before)?;
    if prepared.numbers == numbers {
        return match transaction.abort() {
            Ok(()) => Ok(prepared),
            Err(error) => Err(before(error.into())),
        };
    }
    match transaction.commit() {
        Ok(()) => Ok(prepared),
        Err(error) => Err(Failure::During(Box::new((prepared, error.into())))),
    }
}

impl Step<'_> {
    /// Applies one batch. The outer error fails the whole transaction, the inner one only this
    /// batch.
    fn apply(&mut self, batch: &Batch) -> Result<Result<Revision, Error>, redb::Error> {
        match apply(self, self.numbers.revision, batch) {
            Ok(commit) => {
                if let Some(commit) = commit {
                    self.numbers.revision = commit.revision;
                    self.commits.push(commit);
                }
                Ok(Ok(self.numbers.revision))
            }
            Err(Refusal::Conflict(key)) => Ok(Err(Error::Conflict { key })),
            Err(Refusal::Rows(error)) => Err(error),
        }
    }
}

impl Rows for Step<'_> {
    type Error = redb::Error;

    fn revision_of(&self, key: &str) -> Result<Option<Revision>, redb::Error> {
        Ok(self.entries.get(key)?.map(|row| Revision(row.value().0)))
    }

    fn put(&mut self, key: &str, revision: Revision, value: &Bytes) -> Result<(), redb::Error> {
        self.entries.insert(key, (revision.0, &value[..]))?;
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<bool, redb::Error> {
        Ok(self.entries.remove(key)?.is_some())
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no holder panics")
}

fn answer<T>(reply: Reply<T>, outcome: Result<T, Error>) {
    // The caller may have stopped waiting: the contract says what that means.
    let _ = reply.send(outcome);
}

/// Batches that share one transaction at most: bounds how long a group can hold up the
/// campaign behind it.
const GROUP: usize = 256;
