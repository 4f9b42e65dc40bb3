//! The election: which coordinator leads, and how everybody else in the process knows.
//!
//! # Leadership is a value
//!
//! There is no "am I the leader" to ask. Code that only a leader may run takes a
//! [`Leadership`], which nobody can make but this module. It names the term by its epoch,
//! and it ends: [`Leadership::check`] is called before each step towards the outside
//! world, [`Leadership::ended`] is raced against whatever takes long, and every write goes
//! through [`Leadership::batch`], which the store refuses once the term is over.
//!
//! So three things keep two leaders apart, each for where the one before ends:
//! 1. The term is given up before the store can give the lease away, counted on this
//!    process's own monotonic clock from when the last confirmed keep-alive was *sent*
//!    ([`lease`] says why that is enough).
//! 2. A process that was stopped (SIGSTOP, a paused virtual machine) and knows nothing of the
//!    time that has passed finds out in `check`: it compares clocks, it does not wait to be told.
//! 3. Whatever slips through between `check` and the wire is stopped by the fence, if it is a
//!    write to the store. Towards a CA nothing can stop it; the order journal bounds the damage.
//!
//! # Losing the store
//!
//! It ends the term, never the process: agents are still served from the mirror. Campaigns go
//! on with a jittered back-off.
//!
//! # Hand-over
//!
//! On shutdown subscribers see `None` and the term has ended for `check`, so nothing new
//! begins. What has begun holds a [`Hold`]; while there is one, the lease is kept
//! alive and the last writes pass the fence. Then the lease is given up, which deletes the
//! leader record; the others watch it and campaign at once.
//!
//! A transfer goes the same way, on an operator's word, and the process lives on ([`transfer`]).
//!
//! # Bad nodes
//!
//! No wall clock is read for any of this, so one that is wrong does no harm. A slow link makes
//! answers late; the lease is counted from the sending, and a second call goes out before the first is
//! given up. A node that wins and then cannot keep the lease stands aside for a while ([`lease`]).
//!
//! # Parts
//!
//! [`lease`] decides and is pure; [`runtime`] does what it says; [`signs`] is what the store shows
//! of others; [`leadership`] is what others see; [`observer`] is told what happens.

use std::{sync::Arc, time::Duration};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    name::NodeName,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

mod leadership;
mod lease;
mod observer;
mod runtime;
mod signs;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfer;

pub use leadership::{Hold, Leadership, Renewal, SteppedDown};
pub use lease::Reason;
pub use observer::{Observation, Observer, Outcome};
pub use transfer::Transfers;

/// How to take part in the election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// How long the lease lives without a keep-alive: what a crash costs.
    pub ttl: Duration,
    /// How long what has begun may take to end on shutdown, before the lease is given up
    /// regardless.
    pub drain: Duration,
}

/// Takes part in the election, in the background, until `shutdown`.
pub fn start(
    store: Arc<dyn Store>,
    clock: SharedClock,
    options: Options,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Election {
    let (publish, leadership) = watch::channel(None);
    let (commands, orders) = mpsc::channel(1);
    let transfers = Transfers::new(store.clone(), options.drain, commands);
    let parts = runtime::Parts { store, clock, options, observer };
    let task = tokio::spawn(runtime::run(parts, shutdown, orders, publish));
    Election { leadership, transfers, task }
}

/// A running election.
#[derive(Debug)]
pub struct Election {
    leadership: watch::Receiver<Option<Leadership>>,
    transfers: Transfers,
    task: JoinHandle<()>,
}

impl Election {
    /// Shows the term while this node leads, and `None` while it does not.
    pub fn subscribe(&self) -> watch::Receiver<Option<Leadership>> {
        self.leadership.clone()
    }

    /// Through which this node can be told to hand over.
    pub fn transfers(&self) -> Transfers {
        self.transfers.clone()
    }

    /// The term, if this node leads now.
    pub fn current(&self) -> Option<Leadership> {
        self.leadership.borrow().clone().filter(|leadership| leadership.check().is_ok())
    }

    /// Resolves once the shutdown is complete: the lease is given up, as far as the store could
    /// be told. Not cancel-safe: the election goes on if this is dropped, but nobody can
    /// wait for its end any more.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the election has ended in an error");
        }
    }
}

#[cfg(test)]
mod tests;
