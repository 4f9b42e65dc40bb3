//! A store in memory, for tests and simulation: deterministic, with nothing in the
//! background, gone with the process.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use chancery_shared::{
    clock::SharedClock,
    number::{Epoch, Revision},
};

use super::{
    Batch, Campaign, Candidate, Entry, Error, Fence, Health, Registered, Registration, Snapshot,
    Store, Watch,
    apply::{Refusal, Rows, apply},
    hub::Hub,
    lease::Lease,
    registrations::Registrations,
};
use crate::record::{self, Leader, key};

/// A store in memory.
pub struct MemoryStore {
    clock: SharedClock,
    state: Mutex<State>,
}

struct State {
    rows: BTreeMap<String, (Revision, Bytes)>,
    revision: Revision,
    epoch: Epoch,
    lease: Lease,
    registrations: Registrations,
    hub: Hub,
}

impl MemoryStore {
    /// An empty store whose leases expire by `clock`.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        let revision = Revision(0);
        let state = State {
            rows: BTreeMap::new(),
            revision,
            epoch: Epoch(0),
            lease: Lease::default(),
            registrations: Registrations::default(),
            hub: Hub::new(revision),
        };
        Arc::new(Self { clock, state: Mutex::new(state) })
    }

    /// The state as it is now: registrations whose time is over are gone.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("no holder panics");
        for key in state.registrations.expired(self.clock.monotonic()) {
            state.registrations.release(&key);
            state.apply(&Batch::unfenced().delete(key)).expect("it has no condition");
        }
        state
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let state = self.state();
        Ok(state.rows.get(key).map(|row| entry(key, row)))
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        let state = self.state();
        let entries = state
            .rows
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, row)| entry(key, row))
            .collect();
        Ok(Snapshot { revision: state.revision, entries })
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        batch.check_size()?;
        let mut state = self.state();
        if let Some(fence) = &batch.fence {
            state.lease.check(fence, self.clock.monotonic())?;
        }
        state.apply(&batch)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.state().hub.watch(prefix, after)
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        let mut state = self.state();
        let now = self.clock.monotonic();
        if !state.lease.is_free(now) {
            return Ok(Campaign::Lost);
        }
        state.epoch = state.epoch.next();
        let leader = Leader::of(candidate, state.epoch, self.clock.now());
        state.apply(&Batch::unfenced().put(key::LEADER, record::encode(&leader)))?;
        let fence = Lease::fence(candidate, state.epoch);
        state.lease.grant(fence.clone(), candidate.ttl, now);
        Ok(Campaign::Won(fence))
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.state().lease.keep_alive(fence, self.clock.monotonic())
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        let mut state = self.state();
        if state.lease.is_last(fence) {
            state.apply(&Batch::unfenced().delete(key::LEADER))?;
            state.lease.release(fence);
        }
        Ok(())
    }

    async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        let mut state = self.state();
        let Registration { key, value, .. } = registration;
        state.apply(&Batch::unfenced().put(key, value.clone()))?;
        Ok(state.registrations.grant(registration, self.clock.monotonic()))
    }

    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        self.state().registrations.keep_alive(registered, self.clock.monotonic())
    }

    async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        let mut state = self.state();
        if state.registrations.is_current(registered) {
            state.apply(&Batch::unfenced().delete(&registered.key))?;
            state.registrations.release(&registered.key);
        }
        Ok(())
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(Health { version: env!("CARGO_PKG_VERSION").to_owned(), ..Health::default() })
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

impl State {
    fn apply(&mut self, batch: &Batch) -> Result<Revision, Error> {
        match apply(&mut self.rows, self.revision, batch) {
            Ok(Some(commit)) => {
                self.revision = commit.revision;
                self.hub.publish(commit);
            }
            Ok(None) => {}
            Err(Refusal::Conflict(key)) => return Err(Error::Conflict { key }),
            Err(Refusal::Rows(never)) => match never {},
        }
        Ok(self.revision)
    }
}

impl Rows for BTreeMap<String, (Revision, Bytes)> {
    type Error = Infallible;

    fn revision_of(&self, key: &str) -> Result<Option<Revision>, Infallible> {
        Ok(self.get(key).map(|(revision, _)| *revision))
    }

    fn put(&mut self, key: &str, revision: Revision, value: &Bytes) -> Result<(), Infallible> {
        self.insert(key.to_owned(), (revision, value.clone()));
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<bool, Infallible> {
        Ok(self.remove(key).is_some())
    }
}

fn entry(key: &str, (revision, value): &(Revision, Bytes)) -> Entry {
    Entry { key: key.to_owned(), value: value.clone(), revision: *revision }
}
