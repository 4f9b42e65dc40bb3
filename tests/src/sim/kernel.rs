//! Virtual time, what is under way between the nodes, and the dice that decide what becomes of it.
//!
//! Time goes in slices ([`SLICE`]). At the beginning of a slice the kernel does all that is due
//! within it at the store, at the CAs and elsewhere, in the order of time; then each node runs
//! through the slice by itself. Whatever a node sends takes a slice at least to arrive, so no
//! node can see something happen before it has happened, and no order of running the nodes
//! shows in the outcome.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    trace::Trace,
    weather::{Fate, Weather, Wire},
};

/// The least time that anything takes from one node to another.
pub const SLICE: Duration = Duration::from_millis(100);

/// What is done at a moment, at a place that is no node.
pub type Effect = Box<dyn FnOnce() + Send>;

/// The kernel of one simulation.
pub struct Kernel {
    now_nanos: AtomicU64,
    /// Whether the kernel, and not a node, is at work.
    at_work: AtomicBool,
    /// A node that never comes to rest.
    spinning: Mutex<Option<usize>>,
    state: Mutex<State>,
}

struct State {
    queue: BTreeMap<(Duration, u64), Effect>,
    sent: u64,
    weather: Weather,
    trace: Trace,
}

/// Where a call comes from: a life of a node, and its own reckoning of the time.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node.
    pub node: usize,
    /// The time at which this life began.
    pub began: Duration,
    /// The same in the time of its runtime.
    pub origin: tokio::time::Instant,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing was done.
    Refused,
    /// It may have been done.
    Unknown,
}

impl Place {
    /// The time, as long as the node runs. To be called on its runtime only.
    pub fn now(&self) -> Duration {
        self.began + self.origin.elapsed()
    }

    /// Waits until `at`; at once if that is over.
    pub async fn until(&self, at: Duration) {
        tokio::time::sleep_until(self.origin + at.saturating_sub(self.began)).await;
    }
}

impl Kernel {
    /// A kernel at time zero.
    pub fn new(weather: Weather) -> Arc<Self> {
        let state = State { queue: BTreeMap::new(), sent: 0, weather, trace: Trace::default() };
        Arc::new(Self {
            now_nanos: AtomicU64::new(0),
            at_work: AtomicBool::new(true),
            spinning: Mutex::default(),
            state: Mutex::new(state),
        })
    }

    /// The time at which the kernel is.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_nanos.load(Ordering::Relaxed))
    }

    /// The kernel's time while it is at work; `None` while a node runs.
    pub fn now_at_work(&self) -> Option<Duration> {
        self.at_work.load(Ordering::Relaxed).then(|| self.now())
    }

    /// Lets a node run.
    pub fn step_back<T>(&self, run: impl FnOnce() -> T) -> T {
        self.at_work.store(false, Ordering::Relaxed);
        let result = run();
        self.at_work.store(true, Ordering::Relaxed);
        result
    }

    /// Notes that a node never comes to rest.
    pub fn spins(&self, node: usize) {
        *self.spinning.lock().expect("no holder panics") = Some(node);
    }

    /// A node that never comes to rest, if there is one.
    pub fn spinning(&self) -> Option<usize> {
        *self.spinning.lock().expect("no holder panics")
    }

    /// Does what is due before `end`, then `after` each of it, and moves the time to `end`.
    pub fn run_until(&self, end: Duration, mut after: impl FnMut()) {
        loop {
            let due = {
                let mut state = self.state();
                match state.queue.first_entry() {
                    Some(entry) if entry.key().0 < end => {
                        let at = entry.key().0;
                        Some((at, entry.remove()))
                    }
                    _ => None,
                }
            };
            let Some((at, effect)) = due else { break };
            self.set(at.max(self.now()));
            effect();
            after();
        }
        self.set(end);
    }

    /// Has something done at `at`.
    pub fn at(&self, at: Duration, effect: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.sent += 1;
        let key = (at, state.sent);
        state.queue.insert(key, Box::new(effect));
    }

    /// Sends a call over `wire`: `effect` is done elsewhere, or not, and answered, or not.
    pub fn call<T, F>(
        self: &Arc<Self>,
        place: &Place,
        wire: Wire,
        effect: F,
    ) -> impl Future<Output = Result<T, Lost>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let began = place.now();
        let passage = self.state().weather.passage(wire, began);
        let (answer, answered) = oneshot::channel();
        let arrives = (began + passage.there).max(self.now());
        let gives_up = began + wire.patience().max(passage.there);
        let kernel = self.clone();
        self.at(arrives, move || {
            let cut = kernel.state().weather.is_cut(wire);
            let fate = if cut { Fate::LostRequest } else { passage.fate };
            let back = kernel.now() + passage.back;
            // Nobody may be there any more to hear it.
            let _ = match fate {
                Fate::Done => answer.send((back, Ok(effect()))),
                Fate::Refused => answer.send((back, Err(Lost::Refused))),
                Fate::LostRequest => answer.send((gives_up, Err(Lost::Unknown))),
                Fate::LostAnswer => {
                    effect();
                    answer.send((gives_up, Err(Lost::Unknown)))
                }
            };
        });
        let place = place.clone();
        async move {
            match answered.await {
                Ok((at, answer)) => {
                    place.until(at).await;
                    answer
                }
                // The simulation is over.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// The weather.
    pub fn with_weather<T>(&self, use_it: impl FnOnce(&mut Weather) -> T) -> T {
        use_it(&mut self.state().weather)
    }

    /// Notes what happens now.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let now = self.now();
        self.state().trace.note(now, what());
    }

    /// What has happened.
    pub fn with_trace<T>(&self, use_it: impl FnOnce(&mut Trace) -> T) -> T {
        use_it(&mut self.state().trace)
    }

    /// Drops what is under way, and with it what it holds on to.
    pub fn clear(&self) {
        let queue = std::mem::take(&mut self.state().queue);
        drop(queue);
    }

    fn set(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).expect("a simulation is no aeon");
        self.now_nanos.store(nanos, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}
