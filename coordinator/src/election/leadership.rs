//! What the rest of the process sees of a term of leadership.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    number::Epoch,
};
use jiff::Timestamp;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::store::{Batch, Fence};

/// A term of leadership. Having one means that this node led when it was handed out;
/// [`Leadership::check`] says whether it still does. Clones are the same term.
#[derive(Clone)]
pub struct Leadership {
    term: Arc<Term>,
}

struct Term {
    fence: Fence,
    since: Timestamp,
    clock: SharedClock,
    lease: Mutex<Lease>,
    ended: CancellationToken,
    holds: TaskTracker,
}

/// What is known of the lease of a term.
struct Lease {
    deadline: Monotonic,
    /// The newest first.
    renewals: VecDeque<Renewal>,
}

/// A keep-alive that the store has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When, by the wall clock: for people.
    pub at: Timestamp,
    /// How long the store took to answer.
    pub took: Duration,
}

/// The term is over. Whoever gets this stops, and leaves things as they are: the order
/// journal says how far they are, and the next leader goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this coordinator no longer leads (epoch {epoch} is over)")]
pub struct SteppedDown {
    /// The epoch of the term.
    pub epoch: Epoch,
}

/// While one of these lives, a leader that is being shut down keeps its lease: something
/// has begun that has to be brought to an end, or to a point where it can be taken up again.
#[must_use = "nothing is held once this is dropped"]
#[derive(Debug)]
pub struct Hold {
    _token: TaskTrackerToken,
}

impl Leadership {
    /// A term that lasts until `deadline`, unless it is renewed.
    pub(super) fn new(fence: Fence, clock: SharedClock, deadline: Monotonic) -> Self {
        let since = clock.now();
        let term = Term {
            fence,
            since,
            clock,
            lease: Mutex::new(Lease { deadline, renewals: VecDeque::new() }),
            ended: CancellationToken::new(),
            holds: TaskTracker::new(),
        };
        Self { term: Arc::new(term) }
    }

    /// Strictly greater than that of every earlier term, of any node.
    pub fn epoch(&self) -> Epoch {
        self.term.fence.epoch
    }

    /// What the store checks.
    pub fn fence(&self) -> Fence {
        self.term.fence.clone()
    }

    /// A batch that the store accepts only while this term holds: the one way in which code that
    /// only a leader may run comes to a batch.
    pub fn batch(&self) -> Batch {
        Batch::fenced(self.fence())
    }

    /// Whether the term still lasts, by this process's own clock. To be called before each
    /// step towards the outside world; costs no IO.
    pub fn check(&self) -> Result<(), SteppedDown> {
        if self.term.ended.is_cancelled() || self.remaining().is_zero() {
            return Err(SteppedDown { epoch: self.epoch() });
        }
        Ok(())
    }

    /// Resolves when the term ends. Cancel-safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.term.ended.clone().cancelled_owned()
    }

    /// Delays a hand-over until the hold is dropped, within the time that
    /// [`super::Options::drain`] allows.
    pub fn hold(&self) -> Result<Hold, SteppedDown> {
        // The token first: whoever ends the term between these two lines finds it.
        let hold = Hold { _token: self.term.holds.token() };
        self.check()?;
        Ok(hold)
    }

    /// When the term began.
    pub fn since(&self) -> Timestamp {
        self.term.since
    }

    /// When the store last confirmed the lease.
    pub fn last_renewed(&self) -> Timestamp {
        self.lease().renewals.front().map_or(self.term.since, |renewal| renewal.at)
    }

    /// The last keep-alives that were confirmed, the newest first; at most ten.
    pub fn renewals(&self) -> Vec<Renewal> {
        self.lease().renewals.iter().copied().collect()
    }

    /// How long the term lasts if the lease is not confirmed again.
    pub fn remaining(&self) -> Duration {
        self.lease().deadline.since(self.term.clock.monotonic())
    }

    /// The lease was confirmed by a call that took this long.
    pub(super) fn extend(&self, deadline: Monotonic, took: Duration) {
        let at = self.term.clock.now();
        let mut lease = self.lease();
        lease.deadline = deadline;
        lease.renewals.truncate(KEPT_RENEWALS - 1);
        lease.renewals.push_front(Renewal { at, took });
    }

    /// Ends the term.
    pub(super) fn end(&self) {
        self.term.ended.cancel();
        self.term.holds.close();
    }

    /// Resolves when the term has ended and nothing is held. Cancel-safe.
    pub(super) async fn drained(&self) {
        self.term.holds.wait().await;
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.term.lease.lock().expect("no holder panics")
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("epoch", &self.epoch())
            .field("since", &self.since())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Keep-alives that are remembered, for whoever looks at how the lease does.
const KEPT_RENEWALS: usize = 10;
