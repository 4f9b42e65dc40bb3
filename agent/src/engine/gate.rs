//! When to act on what arrives: once for a burst, not once for each of it.
//!
//! Ten certificates that change together should cost a service one reload. So after
//! something has arrived the engine waits until nothing more has come for a moment, or
//! until the coordinator said that all has been sent, and never long.

use std::time::Duration;

use chancery_shared::clock::Monotonic;

/// Closed from the first arrival of a burst until the burst seems to be over.
#[derive(Debug)]
pub(super) struct Gate {
    settle: Duration,
    burst: Option<Burst>,
    /// The coordinator is sending what differs, and will say when that is all.
    syncing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    quiet_at: Monotonic,
    latest: Monotonic,
    synced_at: Monotonic,
}

impl Gate {
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, burst: None, syncing: false }
    }

    /// The stream begins or has told all differences (or has ended).
    pub(super) fn set_syncing(&mut self, syncing: bool) {
        self.syncing = syncing;
    }

    /// Something has arrived.
    pub(super) fn arrived(&mut self, now: Monotonic) {
        let burst = self.burst.get_or_insert(Burst {
            quiet_at: now,
            latest: now.after(self.settle * MOST_SETTLES),
            synced_at: now.after(MOST_SYNCING),
        });
        burst.quiet_at = now.after(self.settle);
    }

    /// When it opens; `None` if it is open.
    pub(super) fn opens_at(&self) -> Option<Monotonic> {
        let burst = self.burst?;
        Some(if self.syncing { burst.synced_at } else { burst.quiet_at.min(burst.latest) })
    }

    /// Whether it is open; ends the burst if that is over.
    pub(super) fn is_open(&mut self, now: Monotonic) -> bool {
        let open = self.opens_at().is_none_or(|at| at <= now);
        if open {
            self.burst = None;
        }
        open
    }
}

/// A burst that does not end is acted on after this many times the quiet time.
const MOST_SETTLES: u32 = 10;
/// A coordinator that never says that it has sent all is not waited for longer.
const MOST_SYNCING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_burst_is_one() {
        let mut gate = Gate::new(Duration::from_millis(100));
        assert!(gate.is_open(at(0)));
        gate.arrived(at(0));
        gate.arrived(at(90));
        assert!(!gate.is_open(at(110)));
        assert_eq!(gate.opens_at(), Some(at(190)));
        assert!(gate.is_open(at(190)));
        assert_eq!(gate.opens_at(), None);
    }

    #[test]
    fn an_endless_burst_is_acted_on_all_the_same() {
        let mut gate = Gate::new(Duration::from_millis(100));
        (0..20).for_each(|i| gate.arrived(at(60 * i)));
        assert!(gate.is_open(at(1000)));
    }

    #[test]
    fn the_differences_at_the_start_of_a_stream_are_one_burst() {
        let mut gate = Gate::new(Duration::from_millis(100));
        gate.set_syncing(true);
        gate.arrived(at(0));
        assert!(!gate.is_open(at(5000)));
        gate.set_syncing(false);
        assert!(gate.is_open(at(5001)));
        gate.set_syncing(true);
        gate.arrived(at(6000));
        assert!(gate.is_open(at(16_000)), "not longer than ten seconds");
    }
}
