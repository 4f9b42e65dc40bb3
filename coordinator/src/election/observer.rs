//! What happens in the election, for whoever counts.

use std::time::Duration;

use chancery_shared::{clock::Monotonic, number::Epoch};

use super::Reason;

/// Is told what happens. Called from the election's own task: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, observation: &Observation);
}

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The store was asked for leadership.
    Campaigned(Outcome),
    /// The store has kept the lease alive.
    KeptAlive {
        /// How long it took to answer.
        took: Duration,
    },
    /// A keep-alive failed, or was not answered in time.
    KeepAliveFailed,
    /// This node no longer leads.
    SteppedDown(Reason),
    /// Nobody leads: the leader record is not there.
    Vacant {
        /// Since when this node knows.
        at: Monotonic,
    },
    /// Somebody leads, maybe this node: the leader record says so.
    Led {
        /// The number of the term.
        epoch: Epoch,
        /// Since when this node knows.
        at: Monotonic,
    },
}

/// How a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This node leads.
    Won,
    /// Somebody else holds the lease.
    Lost,
    /// The store could not be asked, or its answer did not come.
    Failed,
}

impl Outcome {
    /// For a metric's label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}
