//! What goes wrong, and when: all of it follows from the seed.

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;

use super::kernel::SLICE;

/// A way from a node to something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    /// From a node to the store.
    Store(usize),
    /// From a node to a CA.
    Ca(usize),
    /// From an agent to a coordinator.
    Link(usize, usize),
}

impl Wire {
    /// How long an answer is waited for.
    pub fn patience(self) -> Duration {
        match self {
            Self::Store(_) | Self::Link(..) => Duration::from_secs(5),
            Self::Ca(_) => Duration::from_secs(8),
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done and answered.
    Done,
    /// It is answered, and was not done.
    Refused,
    /// It never arrives.
    LostRequest,
    /// It is done, and the answer never arrives.
    LostAnswer,
}

/// How a call travels.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// What becomes of it.
    pub fate: Fate,
    /// How long it takes to arrive.
    pub there: Duration,
    /// How long the answer takes.
    pub back: Duration,
}

/// How often calls fail, and what is cut now.
#[derive(Debug)]
pub struct Weather {
    /// For all that is not laid down beforehand.
    pub rng: Rng,
    /// Faults end here.
    pub calm_from: Duration,
    /// Of a thousand calls to the store and on links, so many fail in each way.
    pub store_per_mille: u32,
    /// Of a thousand calls to a CA, so many fail in each way.
    pub ca_per_mille: u32,
    /// Of a thousand calls, so many are slow.
    pub slow_per_mille: u32,
    cut: BTreeSet<Wire>,
    disturbances: u64,
}

impl Weather {
    /// The weather of one seed: from none to a storm.
    pub fn of(rng: &mut Rng, calm_from: Duration) -> Self {
        let rates = [0, 2, 10, 40];
        Self {
            store_per_mille: *rng.choice(&rates).expect("there are some"),
            ca_per_mille: *rng.choice(&rates).expect("there are some"),
            slow_per_mille: *rng.choice(&[0, 10, 50]).expect("there are some"),
            rng: rng.fork(),
            calm_from,
            cut: BTreeSet::new(),
            disturbances: 0,
        }
    }

    /// How the next call over `wire` travels.
    pub fn passage(&mut self, wire: Wire, now: Duration) -> Passage {
        let storm = now < self.calm_from;
        let per_mille = match wire {
            Wire::Store(_) | Wire::Link(..) => self.store_per_mille,
            Wire::Ca(_) => self.ca_per_mille,
        };
        let fate = match (storm, self.rng.u32(..1000)) {
            (true, roll) if roll < per_mille => Fate::Refused,
            (true, roll) if roll < 2 * per_mille => Fate::LostRequest,
            (true, roll) if roll < 3 * per_mille => Fate::LostAnswer,
            _ => Fate::Done,
        };
        let mut there = SLICE + self.millis(50);
        let mut back = self.millis(50);
        if storm && self.rng.u32(..1000) < self.slow_per_mille {
            if self.rng.bool() {
                there += self.millis(SLOW_MILLIS);
            } else {
                back += self.millis(SLOW_MILLIS);
            }
            self.disturbances += 1;
        }
        if fate != Fate::Done {
            self.disturbances += 1;
        }
        Passage { fate, there, back }
    }

    /// A time below so many milliseconds.
    pub fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.rng.u64(..below))
    }

    /// Whether nothing gets through `wire` now.
    pub fn is_cut(&mut self, wire: Wire) -> bool {
        let cut = self.cut.contains(&wire);
        self.disturbances += u64::from(cut);
        cut
    }

    /// Cuts or mends a wire.
    pub fn set_cut(&mut self, wire: Wire, cut: bool) {
        if cut {
            self.cut.insert(wire);
        } else {
            self.cut.remove(&wire);
        }
    }

    /// How much has gone wrong so far.
    pub fn disturbances(&self) -> u64 {
        self.disturbances
    }

    /// Notes that something goes wrong.
    pub fn disturb(&mut self) {
        self.disturbances += 1;
    }

    /// Everything works from now on.
    pub fn calm(&mut self) {
        self.cut.clear();
    }
}

/// A slow call may outlast a lease.
const SLOW_MILLIS: u64 = 14_000;

/// What happens to nodes and wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// kill -9.
    Crash(usize),
    /// A node that was killed or has stopped starts again.
    Start(usize),
    /// SIGSTOP.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    /// SIGTERM.
    Terminate(usize),
    /// Nothing gets through.
    Cut(Wire),
    /// It does again.
    Mend(Wire),
    /// The wall clock of a node is set, by so many seconds.
    SetClock(usize, i64),
    /// An operator asks for a new certificate.
    Renew(usize),
}

/// What will happen, in the order of time. What begins also ends, at the latest when the weather
/// becomes calm.
pub fn schedule(rng: &mut Rng, shape: &Shape) -> Vec<(Duration, Mishap)> {
    let mut planned = Vec::new();
    let calm = shape.calm_from;
    let mishaps = rng.u32(0..=shape.most_mishaps);
    for _ in 0..mishaps {
        let at = Duration::from_millis(rng.u64(..u64::try_from(calm.as_millis()).unwrap_or(1)));
        let short = Duration::from_millis(rng.u64(500..25_000));
        let end = (at + short).min(calm);
        let coordinator = rng.usize(..shape.coordinators);
        let node = rng.usize(..shape.coordinators + shape.agents);
        match rng.u32(..100) {
            0..25 => planned.extend([(at, Mishap::Crash(node)), (end, Mishap::Start(node))]),
            25..50 => planned.extend([(at, Mishap::Pause(node)), (end, Mishap::Resume(node))]),
            50..60 => {
                planned.extend([(at, Mishap::Terminate(node)), (end, Mishap::Start(node))]);
            }
            60..78 => {
                let wire = Wire::Store(coordinator);
                planned.extend([(at, Mishap::Cut(wire)), (end, Mishap::Mend(wire))]);
            }
            78..85 => {
                let wire = Wire::Ca(coordinator);
                planned.extend([(at, Mishap::Cut(wire)), (end, Mishap::Mend(wire))]);
            }
            85..88 => {
                let secs = rng.i64(-30..=30);
                planned.extend([
                    (at, Mishap::SetClock(coordinator, secs)),
                    (calm, Mishap::SetClock(coordinator, 0)),
                ]);
            }
            _ => planned.push((at, Mishap::Renew(rng.usize(..shape.certificates)))),
        }
    }
    planned.sort_by_key(|(at, _)| *at);
    planned
}

/// How big a world is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Coordinators; they have the numbers from 0.
    pub coordinators: usize,
    /// Agents; they have the numbers after the coordinators'.
    pub agents: usize,
    /// Certificates.
    pub certificates: usize,
    /// When faults end.
    pub calm_from: Duration,
    /// At most so many things happen to nodes and wires.
    pub most_mishaps: u32,
}
