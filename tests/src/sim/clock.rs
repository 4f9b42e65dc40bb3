//! The clocks of the machines: none of them is quite right.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chancery_shared::clock::{Clock, Monotonic};
use jiff::{SignedDuration, Timestamp};

use super::kernel::{Kernel, Place};

/// The wall time at the beginning of every simulation.
pub fn beginning() -> Timestamp {
    Timestamp::from_second(BEGINNING).expect("a time within reach")
}

/// What is wrong with the clocks of a machine. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Quartz {
    /// How fast monotonic time goes: parts of a million more or less than it should.
    pub drift_ppm: i64,
    /// How far the wall clock is ahead.
    ahead_millis: Arc<AtomicI64>,
}

impl Quartz {
    /// A quartz that goes wrong by so much.
    pub fn new(drift_ppm: i64, ahead_millis: i64) -> Self {
        Self { drift_ppm, ahead_millis: Arc::new(AtomicI64::new(ahead_millis)) }
    }

    /// Somebody sets the wall clock.
    pub fn set_ahead(&self, secs: i64) {
        self.ahead_millis.store(secs * 1000, Ordering::Relaxed);
    }

    fn monotonic(&self, at: Duration) -> Monotonic {
        let nanos = i128::try_from(at.as_nanos()).expect("a simulation is no aeon");
        let shown = nanos + nanos * i128::from(self.drift_ppm) / 1_000_000;
        Monotonic(Duration::from_nanos(u64::try_from(shown).expect("it goes forward")))
    }

    fn wall(&self, at: Duration) -> Timestamp {
        beginning() + at + SignedDuration::from_millis(self.ahead_millis.load(Ordering::Relaxed))
    }
}

/// The clock of one life of a node.
pub struct NodeClock {
    /// The node's own reckoning.
    pub place: Place,
    /// For when somebody else than the node looks at its clock.
    pub kernel: Arc<Kernel>,
    /// What is wrong with it.
    pub quartz: Quartz,
    /// When it was last looked at, and how often since then.
    pub looks: Mutex<(Duration, u64)>,
}

impl NodeClock {
    fn at(&self) -> Duration {
        if let Some(now) = self.kernel.now_at_work() {
            return now;
        }
        let now = self.place.now();
        let mut looks = self.looks.lock().expect("no holder panics");
        *looks = if looks.0 == now { (now, looks.1 + 1) } else { (now, 1) };
        if looks.1 > MOST_LOOKS {
            // Time stands still while a process has something to do, so this would never end.
            drop(looks);
            self.kernel.spins(self.place.node);
            panic!("a process spins");
        }
        now
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        self.quartz.wall(self.at())
    }

    fn monotonic(&self) -> Monotonic {
        self.quartz.monotonic(self.at())
    }
}

/// The true time, for the store and the CAs.
pub struct TrueClock(pub Arc<Kernel>);

impl Clock for TrueClock {
    fn now(&self) -> Timestamp {
        beginning() + self.0.now()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.now())
    }
}

/// Far more looks at a clock than a process has reason for at one and the same moment.
const MOST_LOOKS: u64 = 100_000;
/// 2026-11-22 00:00:00 UTC.
const BEGINNING: i64 = 1_795_305_600;
