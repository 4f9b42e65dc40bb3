//! A deterministic simulation of a whole fleet: the real code of three coordinators and of a few agents
//! over the store in memory, with virtual time and a model CA, while nodes crash and stop, messages are lost, and
//! every call fails before its effect, or after it.
//!
//! One seed derives everything, so a seed that fails once fails always. After a phase with faults
//! comes one without, in which everything has to come right. The [`invariant`]s of the design are
//! watched all the while.
//!
//! # How it can be deterministic
//!
//! Each process has a runtime of its own with one thread and paused time. The [`kernel`] says how
//! they are kept in step. What is random in the real code and decides *when* or *in which order*
//! comes from [`chancery_shared::dice`], which each simulation loads; its `select!`s are biased.
//! Keys and nonces are really random: they decide nothing, and the trace leaves them out.
//!
//! # Shown to bite
//!
//! [`Sabotage`] breaks what keeps the invariants. The suite shows that a seed fails then.

pub mod agent;
pub mod ca;
pub mod clock;
pub mod coordinator;
pub mod event;
pub mod invariant;
pub mod kernel;
pub mod link;
pub mod machine;
pub mod process;
mod run;
pub mod store;
pub mod trace;
pub mod weather;
pub mod world;

use std::{
    fmt,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chancery_coordinator::seal::KeyFile;

pub use world::Violation;

/// Something that keeps an invariant, taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The store ignores the fences of batches.
    NoFence,
    /// The intent of an order is acknowledged, but not written.
    NoIntent,
    /// The store ends leases as much earlier as the margin is wide.
    NoMargin,
}

/// How a simulation went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its seed.
    pub seed: u64,
    /// The first violation of an invariant.
    pub violation: Option<Violation>,
    /// Stands for all that happened: two runs with one hash went the same way.
    pub hash: u64,
    /// How many things happened.
    pub steps: u64,
    /// Orders at the CAs.
    pub orders: usize,
    /// How long it was, in its own time.
    pub simulated: Duration,
    /// What happened, the last of it, without mere heartbeats.
    pub trace: Vec<String>,
}

/// Simulates one seed.
pub fn simulate(seed: u64, sabotage: Option<Sabotage>) -> Verdict {
    run::Simulation::new(seed, sabotage, false).run(seed)
}

/// The same, with the whole trace in the verdict.
pub fn simulate_in_full(seed: u64, sabotage: Option<Sabotage>) -> Verdict {
    run::Simulation::new(seed, sabotage, true).run(seed)
}

/// Simulates many seeds on as many threads as there are processors. The verdicts of those that
/// failed, in the order of their seeds, and the sum of all.
pub fn simulate_many(first: u64, count: u64, sabotage: Option<Sabotage>) -> Summary {
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if first + count <= seed {
                        return;
                    }
                    let verdict = simulate(seed, sabotage);
                    summary.lock().expect("no holder panics").add(verdict);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no holder panics");
    summary.failed.sort_by_key(|verdict| verdict.seed);
    summary
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many there were.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<Verdict>,
    /// Orders at the CAs, in all.
    pub orders: usize,
    /// Things that happened, in all.
    pub steps: u64,
    /// Simulated time, in all.
    pub simulated: Duration,
}

impl Summary {
    fn add(&mut self, verdict: Verdict) {
        self.seeds += 1;
        self.orders += verdict.orders;
        self.steps += verdict.steps;
        self.simulated += verdict.simulated;
        if verdict.violation.is_some() {
            self.failed.push(verdict);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(violation) = &self.violation else {
            return write!(f, "seed {}: all invariants hold", self.seed);
        };
        for line in &self.trace[self.trace.len().saturating_sub(SHOWN)..] {
            writeln!(f, "    {line}")?;
        }
        let Violation { invariant, at, why } = violation;
        writeln!(
            f,
            "seed {}: invariant {invariant} does not hold after {:.3} s:",
            self.seed,
            at.as_secs_f64()
        )?;
        writeln!(f, "    {why}")?;
        write!(f, "run it again: cargo xtask sim --seeds 1 --seed {}", self.seed)
    }
}

/// The seal key file that all coordinators of all simulations share.
pub fn key_file() -> KeyFile {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        KeyFile::create(&folder.path().join("seal.key")).expect("a key file can be made");
        folder
    });
    KeyFile::load(&FOLDER.path().join("seal.key")).expect("it was just made")
}

/// Lines of the trace that a verdict shows.
const SHOWN: usize = 60;
