//! What the lease machine is told, and what it says.

use std::{fmt, time::Duration};

use super::Monotonic;
use crate::store::Fence;

/// How the machine counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::election) struct Timing {
    /// How long the lease lives without a keep-alive.
    pub(in crate::election) ttl: Duration,
    /// How long before that a term is given up.
    pub(in crate::election) margin: Duration,
    /// How long what has begun may take to end once the leader has stepped down for a shutdown.
    pub(in crate::election) drain: Duration,
}

impl Timing {
    /// The timing for a lease of `ttl`: a tenth of it is margin, 50 ms at least, but never
    /// more than half.
    pub(in crate::election) fn new(ttl: Duration, drain: Duration) -> Self {
        let margin = (ttl / 10).max(LEAST_MARGIN).min(ttl / 2);
        Self { ttl, margin, drain }
    }

    pub(super) fn deadline(&self, confirmed: Monotonic) -> Monotonic {
        confirmed.after(self.ttl.saturating_sub(self.margin))
    }

    /// From one keep-alive to the next.
    pub(super) fn keep_alive_every(&self) -> Duration {
        self.ttl / 3
    }

    /// How long a keep-alive may stay without an answer before another one is sent.
    pub(super) fn keep_alive_patience(&self) -> Duration {
        self.ttl / 6
    }

    /// From a failed keep-alive to the next: several fit in before the deadline.
    pub(super) fn keep_alive_retry(&self) -> Duration {
        self.ttl / 12
    }

    /// How long an answer to a campaign is waited for. A lease won later is worth nothing.
    pub(super) fn campaign_patience(&self) -> Duration {
        self.ttl
    }

    /// How long one who has handed over leaves leadership to others: until the lease has expired
    /// for certain, should the resignation not have come through, and they have looked.
    pub(super) fn patience_with_successors(&self) -> Duration {
        self.ttl + 2 * super::POLL
    }

    /// How long one who has let its lease lapse leaves leadership to others, after so many lapses
    /// in a row.
    pub(super) fn handicap(&self, lapses: u32) -> Duration {
        (self.ttl / 2) * 2_u32.pow(lapses.saturating_sub(1).min(MOST_DOUBLED))
    }

    /// A term that has lasted this long shows that its holder reaches the store.
    pub(super) fn steady(&self) -> Duration {
        self.ttl * 6
    }

    /// How long an answer to a resignation is waited for. Without it the lease expires.
    pub(super) fn resign_patience(&self) -> Duration {
        self.ttl.min(LONGEST_GOODBYE)
    }
}

/// The number of a call to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::election) struct Call(pub(super) u64);

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::election) enum Event {
    /// The time that was asked for has come. Comes too early, too late or too often: harmless.
    Woken,
    /// The store has answered a call.
    Answered(Call, Answer),
    /// The leader record was deleted: leadership is free.
    Vacant,
    /// Somebody else was seen to lead.
    Led,
    /// The leader means to hand over to another node: leave leadership to that one, for this long
    /// at most.
    Nominated(Duration),
    /// An operator wants somebody else to lead.
    Transfer,
    /// The process is to end.
    Shutdown,
    /// What had begun when the leader stepped down has ended.
    Drained,
}

/// What the store has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::election) enum Answer {
    /// To a campaign: won.
    Won(Fence),
    /// To a campaign: somebody else leads.
    Lost,
    /// To a keep-alive or a resignation: done.
    Done,
    /// The lease is gone.
    Fenced,
    /// It failed, or its outcome is not known.
    Failed(String),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::election) enum Action {
    /// Ask the store for leadership.
    Campaign(Call),
    /// Ask the store to keep the lease alive.
    KeepAlive(Call, Fence),
    /// Give the lease up. The answer is wanted, but not needed.
    Resign(Call, Fence),
    /// Tell everybody that this node leads, until this moment for now.
    Lead(Fence, Monotonic),
    /// The lease was confirmed: the term now lasts until this moment.
    Extend(Monotonic),
    /// Tell everybody that this node no longer leads.
    StepDown(Reason),
    /// Stop waiting for the answer to this call, and drop the call.
    Forget(Call),
    /// A call has failed and will be made again.
    Trouble(Attempt, String),
    /// All is done: the process may end.
    Stop,
}

/// Why a term has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The lease could not be confirmed in time.
    Unconfirmed,
    /// The store has given leadership to somebody else, or has forgotten the lease.
    Fenced,
    /// The process ends.
    Shutdown,
    /// An operator wants somebody else to lead.
    Transfer,
}

impl Reason {
    /// Whether the leader gives up a lease that it still holds, so that what has begun can end.
    pub(in crate::election) fn is_hand_over(self) -> bool {
        matches!(self, Self::Shutdown | Self::Transfer)
    }

    /// For a metric's label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Fenced => "fenced",
            Self::Shutdown => "shutdown",
            Self::Transfer => "transfer",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unconfirmed => "the lease could not be confirmed in time",
            Self::Fenced => "the store says that the lease is gone",
            Self::Shutdown => "this coordinator is being stopped",
            Self::Transfer => "an operator wants another coordinator to lead",
        })
    }
}

/// What was tried, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::election) enum Attempt {
    /// To win leadership.
    Campaign,
    /// To keep it.
    KeepAlive,
    /// To give it up.
    Resign,
}

/// Less would be eaten up by the scheduling of a busy machine.
const LEAST_MARGIN: Duration = Duration::from_millis(50);
/// How often the time that one who lapses stands aside is doubled.
const MOST_DOUBLED: u32 = 3;
/// Longest wait for the answer to a resignation: the process is to end.
const LONGEST_GOODBYE: Duration = Duration::from_secs(2);
