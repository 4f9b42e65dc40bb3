//! Jittered exponential back-off, in one place.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How long to wait between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Wait before the second try, before jitter.
    pub first: Duration,
    /// Longest wait, before jitter.
    pub most: Duration,
    /// What each wait is multiplied with to get the next.
    pub factor: u8,
}

impl Policy {
    /// For connections within the fleet: from a quarter second to half a minute.
    pub const CONNECT: Self =
        Self { first: Duration::from_millis(250), most: Duration::from_secs(30), factor: 2 };

    /// An endless series of waits with full jitter on top (up to twice the wait), so
    /// that thousands of agents that lost one coordinator do not return as one.
    pub fn waits(self) -> Waits {
        Waits { policy: self, series: self.series() }
    }

    fn series(self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.most)
            .with_factor(f32::from(self.factor))
            .with_jitter()
            .without_max_times()
            .build()
    }
}

/// The waits of a [`Policy`], one after the other.
#[derive(Debug)]
pub struct Waits {
    policy: Policy,
    series: ExponentialBackoff,
}

impl Waits {
    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.series.next().unwrap_or(self.policy.most)
    }

    /// Starts again from the first: something has worked.
    pub fn reset(&mut self) {
        self.series = self.policy.series();
    }
}
