//! The connection to the coordinators: one at a time, the next one when it fails.
//!
//! It carries bundles to the engine and reports back, and knows nothing of files or
//! services. When no coordinator answers, nothing here stops the engine.

mod candidates;
mod failure;
mod reach;
mod session;
mod verdict;

use std::{sync::Arc, time::Duration};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    retry::{Policy, Waits},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

pub use self::reach::{Broken, Reach, Wire};
use self::session::End;
pub(crate) use self::{candidates::Candidates, failure::Failure, reach::Client};
use crate::{
    engine::Event,
    identity::{self, Identity},
    report::Snapshot,
};

/// What keeps the connection.
pub(crate) struct Link {
    pub(crate) candidates: Candidates,
    pub(crate) clock: SharedClock,
    pub(crate) reach: Reach,
    pub(crate) store: identity::Store,
    pub(crate) identity: Identity,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) published: watch::Receiver<Arc<Snapshot>>,
    /// Not before this another identity is asked for.
    pub(crate) rotate_after: Option<Monotonic>,
    /// The last revision that was passed on whole.
    pub(crate) revision: u64,
}

impl Link {
    /// Stays connected until told to stop; then sends what is still to be reported, if that
    /// is quickly done.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut trouble = Trouble::new();
        let mut address = self.candidates.next();
        loop {
            let began = self.clock.monotonic();
            let end = self.session(&address, &stop, trouble.is_unclear()).await;
            if self.events.send(Event::Disconnected).await.is_err() {
                return;
            }
            let pause = match end {
                End::Stopped => return,
                End::Rotated => continue,
                End::Lost(failure) => {
                    let lived = self.clock.monotonic().since(began);
                    self.candidates.worked();
                    trouble.lost(&address, &failure, lived)
                }
                End::Failed(failure) => trouble.failed(&address, failure, self.candidates.count()),
            };
            address = self.candidates.next();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }
}

/// How long to wait after which failure, and what to say about it.
struct Trouble {
    waits: Waits,
    slow: Waits,
    /// Failures since the last round over all coordinators.
    round: Vec<String>,
    refusals: usize,
    told: bool,
    refused: bool,
}

impl Trouble {
    fn new() -> Self {
        Self {
            waits: Policy::CONNECT.waits(),
            slow: SLOW.waits(),
            round: Vec::new(),
            refusals: 0,
            told: false,
            refused: false,
        }
    }

    /// Whether it is worth a connection more to learn why one failed: not each time, for
    /// coordinators that are overrun by a whole fleet.
    fn is_unclear(&self) -> bool {
        !self.told || self.refused
    }

    /// A connection that had worked has ended.
    fn lost(&mut self, address: &str, failure: &Failure, lived: Duration) -> Duration {
        // One that accepts everybody and drops everybody is not to be tried ever faster.
        if lived >= WORKED {
            *self = Self::new();
        }
        match failure {
            Failure::Refused(why) => tell_refusal(address, why),
            why => tracing::warn!("the connection to the coordinator {address} has ended: {why}"),
        }
        self.waits.next_wait()
    }

    /// A connection could not be made. The others are tried at once; then it waits.
    fn failed(&mut self, address: &str, failure: Failure, coordinators: usize) -> Duration {
        self.refused = matches!(failure, Failure::Refused(_));
        match failure {
            Failure::Refused(why) => {
                tell_refusal(address, &why);
                self.refusals += 1;
                self.round.push(format!("{address}: {why}"));
            }
            Failure::Stranger(why) => self.round.push(format!(
                "{address} is not a coordinator of the fleet that this agent joined ({why})"
            )),
            Failure::Unavailable(why) => self.round.push(format!("{address}: {why}")),
        }
        if self.round.len() < coordinators {
            return Duration::ZERO;
        }
        let all = std::mem::take(&mut self.round).join("; ");
        let refused = std::mem::take(&mut self.refusals) == coordinators;
        if refused {
            return self.slow.next_wait();
        }
        if self.told {
            tracing::debug!("still no coordinator can be used: {all}");
        } else {
            tracing::warn!("no coordinator can be used; going on with what is on disk: {all}");
            self.told = true;
        }
        self.waits.next_wait()
    }
}

fn tell_refusal(address: &str, why: &str) {
    tracing::error!(
        "the coordinator {address} does not accept this agent's identity ({why}). What is on disk \
         stays in use, but nothing is renewed any more. If the agent is still wanted: make a token \
         with `chancery agent token create`, stop the agent, run `chancery-agent join`, and start \
         it again"
    );
}

/// A connection that lived for as long is one that has worked.
const WORKED: Duration = Duration::from_secs(5);
/// For a refused identity: only a person can change that.
const SLOW: Policy =
    Policy { first: Duration::from_secs(30), most: Duration::from_mins(10), factor: 2 };

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Failure {
        Failure::Unavailable("refused".to_owned())
    }

    #[test]
    fn every_coordinator_is_tried_before_it_waits() {
        let mut trouble = Trouble::new();
        for _ in 0..3 {
            assert_eq!(trouble.failed("a:1", unavailable(), 3), Duration::ZERO);
            assert_eq!(trouble.failed("b:1", unavailable(), 3), Duration::ZERO);
            let pause = trouble.failed("c:1", unavailable(), 3);
            assert!(pause >= Policy::CONNECT.first && pause <= 2 * Policy::CONNECT.most);
        }
    }

    #[test]
    fn only_a_refusal_by_all_slows_down() {
        let mut trouble = Trouble::new();
        let refused = || Failure::Refused("removed".to_owned());
        assert_eq!(trouble.failed("a:1", refused(), 2), Duration::ZERO);
        assert!(trouble.failed("b:1", unavailable(), 2) < SLOW.first);
        assert_eq!(trouble.failed("a:1", refused(), 2), Duration::ZERO);
        assert!(trouble.failed("b:1", refused(), 2) >= SLOW.first);
    }

    #[test]
    fn a_connection_that_worked_is_soon_tried_again() {
        let mut trouble = Trouble::new();
        for _ in 0..20 {
            let _ = trouble.failed("a:1", unavailable(), 1);
        }
        assert!(trouble.lost("a:1", &unavailable(), WORKED) <= 2 * Policy::CONNECT.first);
        for _ in 0..20 {
            let _ = trouble.lost("a:1", &unavailable(), Duration::ZERO);
        }
        assert!(trouble.lost("a:1", &unavailable(), Duration::ZERO) >= Policy::CONNECT.most);
    }
}
