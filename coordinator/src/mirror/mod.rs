//! The mirror: a coordinator's own copy of the store, and who is told when it changes.
//!
//! One task lists the store once and then follows its watch. Everything that only reads
//! (agents' streams, HTTP-01, the CLI, metrics) reads here, so that neither ten thousand
//! agents nor a lost store cost the store a single request. What decides a write reads the store
//! itself, and states what it read as a precondition.
//!
//! A change wakes exactly those who asked for it: an agent's stream when something
//! that the agent is entitled to has changed, the scheduler with the names of the certificates, an
//! operator who follows one certificate. Nobody scans on a timer.
//!
//! A store that is away leaves the view as it was, and agents go on being served from it. Afterwards the
//! watch goes on from the revision that the view shows; the whole is listed again only
//! if the store no longer has what came after, and not by all coordinators at the same moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chancery_shared::{
    clock::{Clock as _, Monotonic, SystemClock},
    dice,
    name::{AgentName, CertName},
    number::Revision,
    retry::Policy,
};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::store::{Commit, Error, Store};

mod decide;
mod view;

pub use view::{Table, Versioned, View};

/// A coordinator's own copy of the store.
pub struct Mirror {
    view: RwLock<View>,
    revision: AtomicU64,
    /// Told after each change of `revision`. All who wait are woken in the order in which they came.
    moved: Notify,
    health: watch::Sender<Health>,
    /// Tokio's own time, as that of the waits here.
    time: SystemClock,
    touched: broadcast::Sender<Arc<Touched>>,
    /// Where agents find the coordinators that are there.
    coordinators: watch::Sender<Arc<[String]>>,
    /// Bumped for an agent when what it may have, or whether it may be here, has changed.
    agents: Mutex<BTreeMap<AgentName, watch::Sender<u64>>>,
}

/// Whether the store can be followed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Following,
    /// It cannot; the mirror shows what was last known.
    Lost {
        /// What the store said.
        reason: String,
        /// When it was first said.
        since: Monotonic,
    },
}

/// What a commit touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "any of them may be so, together or alone")]
pub struct Touched {
    /// Certificates whose specification, state, bundle, order or deployments changed.
    pub certificates: BTreeSet<CertName>,
    /// Agents whose record changed, or that are gone.
    pub agents: BTreeSet<AgentName>,
    /// Whether an issuer, an account or a revocation changed.
    pub issuers: bool,
    /// Whether a freeze changed, which may concern any certificate.
    pub freezes: bool,
    /// Whether the data keys changed.
    pub seal: bool,
    /// Whether a coordinator came or went, or another one leads.
    pub members: bool,
    /// Whether the whole view was read again: everything may have changed.
    pub everything: bool,
}

impl Mirror {
    /// Reads the whole store, then follows it in the background until `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let view = View::read(&*store, &[""]).await?;
        let coordinators = view.coordinators().into();
        let mirror = Arc::new(Self {
            revision: AtomicU64::new(view.revision.0),
            moved: Notify::new(),
            view: RwLock::new(view),
            coordinators: watch::Sender::new(coordinators),
            health: watch::Sender::new(Health::Following),
            time: SystemClock::new(),
            touched: broadcast::Sender::new(TOUCHED_QUEUE),
            agents: Mutex::default(),
        });
        tokio::spawn({
            let mirror = mirror.clone();
            async move {
                let _ = shutdown.run_until_cancelled(mirror.follow(store)).await;
            }
        });
        Ok(mirror)
    }

    /// The present view. Hold it for moments, never across an `await`.
    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().expect("no writer panics")
    }

    /// The revision that the view shows.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// Resolves once the view shows `revision`: read your own writes. Cancel-safe.
    pub async fn wait_for(&self, revision: Revision) {
        loop {
            // First, so that a change between the look and the wait is heard.
            let moved = self.moved.notified();
            if self.revision() >= revision {
                return;
            }
            moved.await;
        }
    }

    /// Whether the store can be followed.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// How long the store has not been followed; `None` while it is.
    pub fn lost_for(&self) -> Option<Duration> {
        match &*self.health.borrow() {
            Health::Following => None,
            Health::Lost { since, .. } => Some(self.time.monotonic().since(*since)),
        }
    }

    /// What each commit touches, from now on. A receiver that lags has to look at
    /// everything.
    pub fn touched(&self) -> broadcast::Receiver<Arc<Touched>> {
        self.touched.subscribe()
    }

    /// Where agents find the coordinators that are there, in order of their names.
    pub fn coordinators(&self) -> watch::Receiver<Arc<[String]>> {
        self.coordinators.subscribe()
    }

    /// Changes whenever something that `agent` is entitled to, or the agent's own record, has
    /// changed.
    pub fn agent_signal(&self, agent: &AgentName) -> watch::Receiver<u64> {
        let mut agents = self.agents.lock().expect("no holder panics");
        agents.entry(agent.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Follows the store forever, listing again whenever the watch cannot go on.
    async fn follow(&self, store: Arc<dyn Store>) {
        let mut waits = RECONNECT.waits();
        loop {
            let opened = self.time.monotonic();
            let mut error = self.follow_watch(&*store, || waits.reset()).await;
            if self.time.monotonic().since(opened) > STEADY {
                waits.reset();
            }
            if matches!(error, Error::Compacted { .. }) {
                // After an outage this may be so for all coordinators at once.
                tokio::time::sleep(MOST_SPREAD.mul_f64(dice::roll())).await;
                match View::read(&*store, &[""]).await {
                    Ok(view) => {
                        self.replace(view);
                        continue;
                    }
                    Err(failed) => error = failed,
                }
            }
            self.lost(&error);
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    /// Follows the store as long as one watch lasts. Returns why it ended.
    async fn follow_watch(&self, store: &dyn Store, mut works: impl FnMut()) -> Error {
        let mut commits = match store.watch("", self.revision()).await {
            Ok(commits) => commits,
            Err(error) => return error,
        };
        // Now, not with the first commit: a quiet store has none for hours.
        self.health.send_replace(Health::Following);
        loop {
            match commits.next().await {
                Some(Ok(commit)) => {
                    works();
                    self.apply(&commit);
                }
                Some(Err(error)) => return error,
                None => return Error::Unavailable("the watch ended".to_owned()),
            }
        }
    }

    fn lost(&self, error: &Error) {
        tracing::warn!(%error, "cannot follow the store; serving what was last known");
        let now = self.time.monotonic();
        self.health.send_modify(|health| {
            let since = match health {
                Health::Following => now,
                Health::Lost { since, .. } => *since,
            };
            *health = Health::Lost { reason: error.to_string(), since };
        });
    }

    fn replace(&self, view: View) {
        let revision = view.revision;
        *self.view.write().expect("no writer panics") = view;
        self.show_coordinators();
        self.health.send_replace(Health::Following);
        self.show(revision);
        for signal in self.agents.lock().expect("no holder panics").values() {
            signal.send_modify(|count| *count += 1);
        }
        // No receiver is no error.
        let _ = self.touched.send(Arc::new(Touched { everything: true, ..Touched::default() }));
    }

    fn apply(&self, commit: &Commit) {
        let mut touched = Touched::default();
        // Entitlement before and after: who lost a certificate is told as well.
        let affected = {
            let mut view = self.view.write().expect("no writer panics");
            let mut affected = BTreeSet::new();
            let distributed = view::distributed(commit);
            for name in &distributed {
                affected.extend(view.entitled_agents(name));
            }
            view.apply(commit, &mut touched);
            for name in &distributed {
                affected.extend(view.entitled_agents(name));
            }
            affected.extend(touched.agents.iter().cloned());
            affected
        };
        if touched.members {
            self.show_coordinators();
        }
        self.show(commit.revision);
        self.signal(&affected);
        // No receiver is no error.
        let _ = self.touched.send(Arc::new(touched));
    }

    fn show_coordinators(&self) {
        let now: Arc<[String]> = self.read().coordinators().into();
        self.coordinators.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        });
    }

    fn show(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
        self.moved.notify_waiters();
    }

    fn signal(&self, affected: &BTreeSet<AgentName>) {
        let mut agents = self.agents.lock().expect("no holder panics");
        for name in affected {
            if let Some(signal) = agents.get(name) {
                if signal.receiver_count() == 0 {
                    agents.remove(name);
                } else {
                    signal.send_modify(|count| *count += 1);
                }
            }
        }
    }
}

/// Between tries to follow the store. Short even after an outage of hours: what is missed meanwhile
/// is missed by every agent that is connected here.
const RECONNECT: Policy =
    Policy { first: Duration::from_millis(250), most: Duration::from_secs(3), factor: 2 };
/// A watch that lasted longer has worked, though there may have been nothing to tell.
const STEADY: Duration = Duration::from_secs(10);
/// Over how long coordinators spread their listings of the whole store.
const MOST_SPREAD: Duration = Duration::from_secs(1);
/// Commits that a subscriber may lag behind before it has to look at everything.
const TOUCHED_QUEUE: usize = 1024;

#[cfg(test)]
mod tests;
