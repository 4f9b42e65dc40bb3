//! What all nodes of one simulation share: the store, the CAs, and those who watch over the
//! invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use chancery_coordinator::{
    election::Leadership,
    mirror::Mirror,
    record::{self, CertificateState, key},
    seal::Sealer,
    store::{
        Batch, Campaign, Candidate, Commit, Error, Fence, Operation, Store as _, Watch,
        memory::MemoryStore,
    },
};
use chancery_shared::{
    name::CertName,
    number::{Epoch, Revision},
};
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    Sabotage,
    agent::Site,
    ca::ModelCa,
    clock::TrueClock,
    event::{Committed, Event},
    invariant::{self, Invariant},
    kernel::Kernel,
    key_file,
    link::Door,
    weather::{Shape, Wire},
};

/// Everything but the nodes.
pub struct World {
    /// Time, and what is under way.
    pub kernel: Arc<Kernel>,
    /// The store itself.
    pub store: Arc<MemoryStore>,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Names of the nodes: of the coordinators first, then of the agents.
    pub names: Vec<String>,
    /// How many coordinators there are.
    pub coordinators: usize,
    /// What outlives each agent's process.
    pub sites: Vec<Arc<Site>>,
    /// The certificates that are declared.
    pub certificates: Vec<CertName>,
    /// Where each coordinator answers agents.
    pub doors: Mutex<BTreeMap<usize, Door>>,
    /// The CAs, by host.
    pub cas: Mutex<BTreeMap<String, ModelCa>>,
    /// What can be seen of each coordinator that runs.
    pub seen: Mutex<BTreeMap<usize, Arc<OnceLock<Seen>>>>,
    /// Nodes that stand still.
    paused: Mutex<BTreeSet<usize>>,
    watches: Mutex<Vec<OpenWatch>>,
    /// Whether watches may have something to tell.
    stirred: AtomicBool,
    court: Mutex<Court>,
}

/// What can be seen of a coordinator from outside.
pub struct Seen {
    /// Its mirror.
    pub mirror: Arc<Mirror>,
    /// Its term.
    pub leadership: watch::Receiver<Option<Leadership>>,
    /// Its listener for HTTP-01.
    pub http01: Router,
}

/// A violated invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// When.
    pub at: Duration,
    /// How.
    pub why: String,
}

struct Court {
    invariants: Vec<Box<dyn Invariant>>,
    violation: Option<Violation>,
    sealer: Option<Sealer>,
    newest: Epoch,
    /// Who leads, as the store has it, and until when.
    lease: Option<Lease>,
}

/// A lease as the store has it.
#[derive(Clone, Copy)]
struct Lease {
    node: usize,
    epoch: Epoch,
    ttl: Duration,
    until: Duration,
}

struct OpenWatch {
    node: usize,
    from: Watch,
    to: mpsc::UnboundedSender<(Duration, Result<Commit, Error>)>,
    /// Messages do not overtake each other.
    last: Duration,
}

/// What a node has of a watch.
pub type Stream = mpsc::UnboundedReceiver<(Duration, Result<Commit, Error>)>;

impl World {
    /// An empty world.
    pub fn new(
        kernel: Arc<Kernel>,
        sabotage: Option<Sabotage>,
        sites: Vec<Arc<Site>>,
        shape: &Shape,
        cas: BTreeMap<String, ModelCa>,
    ) -> Arc<Self> {
        let names =
            |kind: &str, count| (1..=count).map(move |number| format!("{kind}-{number}")).collect();
        let coordinators: Vec<String> = names("node", shape.coordinators);
        let agents: Vec<String> = names("agent", shape.agents);
        let certificates: Vec<String> = names("web", shape.certificates);
        let store = MemoryStore::new(Arc::new(TrueClock(kernel.clone())));
        let court = Court {
            invariants: invariant::all(),
            violation: None,
            sealer: None,
            newest: Epoch(0),
            lease: None,
        };
        Arc::new(Self {
            kernel,
            store,
            sabotage,
            names: [coordinators, agents].concat(),
            coordinators: shape.coordinators,
            sites,
            certificates: certificates.iter().map(|name| name.parse().expect("a name")).collect(),
            doors: Mutex::default(),
            cas: Mutex::new(cas),
            seen: Mutex::default(),
            paused: Mutex::default(),
            watches: Mutex::default(),
            stirred: AtomicBool::new(false),
            court: Mutex::new(court),
        })
    }

    /// Notes what a node does or meets.
    pub fn note(&self, node: usize, what: impl FnOnce() -> String) {
        self.kernel.note(|| format!("{}: {}", self.names[node], what()));
    }

    /// Shows the invariants what has happened.
    pub fn tell(&self, event: &Event<'_>) {
        let mut court = self.court();
        let at = self.kernel.now();
        court.judge(at, event);
    }

    /// Whether a node stands still.
    pub fn is_paused(&self, node: usize) -> bool {
        self.paused.lock().expect("no holder panics").contains(&node)
    }

    /// Notes whether a node stands still.
    pub fn set_paused(&self, node: usize, paused: bool) {
        let mut nodes = self.paused.lock().expect("no holder panics");
        if paused {
            nodes.insert(node);
        } else {
            nodes.remove(&node);
        }
    }

    /// The first violation, if there was one. To spin is one too.
    pub fn violation(&self) -> Option<Violation> {
        if let Some(node) = self.kernel.spinning() {
            let why = format!("{} looks at its clock without end", self.names[node]);
            return Some(Violation { invariant: "progress", at: self.kernel.now(), why });
        }
        self.court().violation.clone()
    }

    /// Whether the store has `node` as the leader at `at`.
    pub fn leads(&self, node: usize, at: Duration) -> bool {
        self.court().lease.is_some_and(|lease| lease.node == node && at < lease.until)
    }

    /// A batch arrives at the store.
    pub fn commit(&self, node: Option<usize>, batch: Batch) -> Result<Revision, Error> {
        let told = batch.clone();
        let result = self.commit_itself(batch);
        let who = node.map_or("operator", |node| &self.names[node]);
        self.kernel.note(|| format!("{who}: commit {}: {}", keys(&told), outcome(&result)));
        if result.is_ok() && !told.operations.is_empty() {
            self.stirred.store(true, Ordering::Relaxed);
            let mut court = self.court();
            court.read_ring(&told);
            let sealer = court.sealer.clone();
            let event = Event::Committed(Committed {
                node,
                fence: told.fence.as_ref().map(|fence| fence.epoch),
                newest: court.newest,
                operations: &told.operations,
                sealer: sealer.as_ref(),
            });
            court.judge(self.kernel.now(), &event);
        }
        result
    }

    fn commit_itself(&self, mut batch: Batch) -> Result<Revision, Error> {
        match self.sabotage {
            Some(Sabotage::NoFence) => batch.fence = None,
            Some(Sabotage::NoIntent) if batch.operations.iter().any(is_intent) => {
                return now(self.store.commit(Batch::unfenced()));
            }
            _ => {}
        }
        now(self.store.commit(batch))
    }

    /// A campaign arrives at the store.
    pub fn campaign(&self, node: usize, candidate: &Candidate) -> Result<Campaign, Error> {
        let mut candidate = candidate.clone();
        if self.sabotage == Some(Sabotage::NoMargin) {
            candidate.ttl = candidate.ttl * 9 / 10;
        }
        let result = now(self.store.campaign(&candidate));
        self.note(node, || match &result {
            Ok(Campaign::Won(fence)) => format!("campaign: WON epoch {}", fence.epoch),
            Ok(Campaign::Lost) => "campaign: lost".to_owned(),
            Err(error) => format!("campaign: {error}"),
        });
        if let Ok(Campaign::Won(fence)) = &result {
            self.stirred.store(true, Ordering::Relaxed);
            let still_leading = self.still_leading(node);
            let mut court = self.court();
            court.newest = court.newest.max(fence.epoch);
            let (epoch, ttl) = (fence.epoch, candidate.ttl);
            court.lease = Some(Lease { node, epoch, ttl, until: self.kernel.now() + ttl });
            let event = Event::Elected { node, epoch: fence.epoch, still_leading };
            court.judge(self.kernel.now(), &event);
        }
        result
    }

    /// Who but `node` would act as the leader now.
    fn still_leading(&self, node: usize) -> Vec<usize> {
        let seen = self.seen.lock().expect("no holder panics");
        let others = seen.iter().filter(|(other, _)| **other != node);
        let acts = |seen: &OnceLock<Seen>| {
            let term = seen.get().and_then(|seen| seen.leadership.borrow().clone());
            term.is_some_and(|term| term.check().is_ok())
        };
        others.filter(|(_, seen)| acts(seen)).map(|(other, _)| *other).collect()
    }

    /// A keep-alive or a resignation arrives at the store.
    pub fn about_lease(&self, node: usize, fence: &Fence, resign: bool) -> Result<(), Error> {
        let result =
            if resign { now(self.store.resign(fence)) } else { now(self.store.keep_alive(fence)) };
        self.stirred.store(true, Ordering::Relaxed);
        let what = if resign { "resign" } else { "keep-alive" };
        self.note(node, || format!("{what}: {}", outcome(&result)));
        if result.is_ok() {
            let mut court = self.court();
            let now = self.kernel.now();
            if let Some(lease) = court.lease.as_mut().filter(|lease| lease.epoch == fence.epoch) {
                lease.until = if resign { now } else { now + lease.ttl };
            }
        }
        result
    }

    /// Something else arrives at the store that watches may tell.
    pub fn stir<T>(&self, what: impl FnOnce(&MemoryStore) -> T) -> T {
        self.stirred.store(true, Ordering::Relaxed);
        what(&self.store)
    }

    /// Opens a watch for a node.
    pub fn watch(&self, node: usize, prefix: &str, after: Revision) -> Result<Stream, Error> {
        let from = now(self.store.watch(prefix, after))?;
        let (to, stream) = mpsc::unbounded_channel();
        let last = Duration::ZERO;
        self.watches.lock().expect("no holder panics").push(OpenWatch { node, from, to, last });
        self.stirred.store(true, Ordering::Relaxed);
        self.note(node, || format!("watches {prefix:?} after {after}"));
        Ok(stream)
    }

    /// Sends what watches have to tell on its way.
    pub fn pump(&self) {
        if !self.stirred.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut watches = self.watches.lock().expect("no holder panics");
        let at = self.kernel.now();
        watches.retain_mut(|watch| {
            self.kernel.with_weather(|weather| {
                if weather.is_cut(Wire::Store(watch.node)) {
                    // Found again once the wire is mended.
                    self.stirred.store(true, Ordering::Relaxed);
                    return true;
                }
                while let Some(told) = watch.from.next().now_or_never() {
                    let Some(told) = told else { return false };
                    watch.last =
                        watch.last.max(at + weather.passage(Wire::Store(watch.node), at).back);
                    let breaks = at < weather.calm_from
                        && weather.rng.u32(..1000) < weather.store_per_mille / 2;
                    let told = if breaks {
                        Err(Error::Unavailable("the watch broke off".to_owned()))
                    } else {
                        told
                    };
                    if watch.to.send((watch.last, told)).is_err() || breaks {
                        return false;
                    }
                }
                true
            })
        });
    }

    /// Forgets a node that has died: its watches, its listeners.
    pub fn bury(&self, node: usize) {
        self.seen.lock().expect("no holder panics").remove(&node);
        self.doors.lock().expect("no holder panics").remove(&node);
        self.watches.lock().expect("no holder panics").retain(|watch| watch.node != node);
    }

    /// A row of the store as it is.
    pub fn row(&self, key: &str) -> Option<bytes::Bytes> {
        now(self.store.get(key)).expect("it is in memory").map(|entry| entry.value)
    }

    /// An operator asks for a new certificate. As the admin API does, not in the middle of an order.
    pub fn renew(&self, name: &CertName) {
        let entry = now(self.store.get(&key::state(name))).expect("it is in memory");
        let Some(entry) = entry else { return };
        let state: CertificateState =
            record::decode(&entry.key, &entry.value).expect("a coordinator wrote it");
        let requested = super::clock::beginning() + self.kernel.now();
        let state = CertificateState { renewal_requested_at: Some(requested), ..state };
        let batch = Batch::unfenced()
            .absent(key::order(name))
            .unchanged(&entry.key, Some(entry.revision))
            .put(&entry.key, record::encode(&state));
        // An order under way is as good.
        let _ = self.commit(None, batch);
    }

    fn court(&self) -> MutexGuard<'_, Court> {
        self.court.lock().expect("no holder panics")
    }
}

impl Court {
    fn judge(&mut self, at: Duration, event: &Event<'_>) {
        for invariant in &mut self.invariants {
            if let Err(why) = invariant.observe(event) {
                let invariant = invariant.name();
                self.violation.get_or_insert(Violation { invariant, at, why });
            }
        }
    }

    /// Learns the data keys when they are written.
    fn read_ring(&mut self, batch: &Batch) {
        for operation in &batch.operations {
            if let Operation::Put(at, value) = operation
                && at == key::SEAL
            {
                let ring = record::decode(at, value).expect("a coordinator wrote it");
                self.sealer = Some(Sealer::load(&key_file(), &ring).expect("with this key file"));
            }
        }
    }
}

/// What is ready at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing in memory is waited for")
}

fn is_intent(operation: &Operation) -> bool {
    let Operation::Put(at, value) = operation else { return false };
    at.starts_with(key::ORDERS)
        && record::decode::<record::Order>(at, value)
            .is_ok_and(|order| order.stage == record::Stage::Intended && order.resumed == 0)
}

/// A batch for the trace. Hashes of chains are random, so they are not shown.
fn keys(batch: &Batch) -> String {
    let shown = batch.operations.iter().map(|operation| match operation {
        Operation::Put(key, _) if key.starts_with(key::CHAINS) => "put chains/…".to_owned(),
        Operation::Put(key, value) if key.starts_with(key::ORDERS) => {
            let order = record::decode::<record::Order>(key, value);
            format!("put {key} ({})", order.map_or("damaged", |order| order.stage.name()))
        }
        Operation::Put(key, _) => format!("put {key}"),
        Operation::Delete(key) => format!("delete {key}"),
    });
    let fence = batch.fence.as_ref().map_or(String::new(), |fence| format!("e{} ", fence.epoch));
    format!("{fence}{}", shown.collect::<Vec<_>>().join(", "))
}

fn outcome<T>(result: &Result<T, Error>) -> String {
    result.as_ref().err().map_or_else(|| "done".to_owned(), ToString::to_string)
}
