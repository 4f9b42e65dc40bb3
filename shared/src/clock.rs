//! The one place that looks at a clock.
//!
//! Wall time (certificates expire by it) and monotonic time (leases are counted by
//! it) are two different things: the first may jump, the second may not. Everything
//! that needs either takes a [`Clock`], so that tests decide what time it is.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;

/// Source of wall time and of monotonic time.
pub trait Clock: Send + Sync + 'static {
    /// Wall time. May go backwards.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary fixed point. Never goes backwards, and goes on
    /// while the process is stopped.
    fn monotonic(&self) -> Monotonic;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// A point in monotonic time: a duration since an arbitrary fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// This point plus `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }

    /// How long from `earlier` to this point; zero if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The machine's clocks. Monotonic time is tokio's, so that a test that pauses
/// tokio's time pauses this one too.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// The machine's clocks, counting monotonic time from now.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }

    /// The same, shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }
}

/// A clock that stands still until told otherwise.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Monotonic)>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, Monotonic(Duration::ZERO))) }
    }

    /// Moves wall time and monotonic time on by `duration`.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state.lock().unwrap();
        state.0 += duration;
        state.1 = state.1.after(duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap().0
    }

    fn monotonic(&self) -> Monotonic {
        self.state.lock().unwrap().1
    }
}
