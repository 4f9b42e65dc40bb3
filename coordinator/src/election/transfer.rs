//! Handing leadership over because an operator wants it.
//!
//! The leader writes down whom it hands over to ([`Nomination`], fenced, so that only the leader can),
//! waits a moment so that everybody has seen it, and only then steps down, drains and resigns, as on a
//! shutdown. The others see the nomination before they see that leadership is free, and hold
//! their campaigns back; the nominee does not, and wins. Without a nominee whoever is first does.
//!
//! What can go wrong, and what follows:
//! * The leader dies after it has nominated: the lease expires as after any crash. The others hold
//!   back for a bounded time from when they saw the nomination, less than a usual TTL.
//! * The nominee dies, or cannot reach the store: after that same time the others campaign.
//! * A node has not seen the nomination, because its link is slow: it may win. The operator is told
//!   who leads.
//! * The nomination cannot be written: nothing is handed over.
//! * Two operators at once: a nomination belongs to a term, and so does the command. The second
//!   finds another term and is told so.
//! * The record outlives its purpose: the next leader deletes it, and it counts only as long as no
//!   later term has been seen.

use std::{fmt, sync::Arc, time::Duration};

use chancery_shared::{name::NodeName, number::Epoch};
use tokio::sync::mpsc;

use super::Leadership;
use crate::{
    record::{self, Nomination, key},
    store::{self, Store},
};

/// Through which a node can be told to hand over. Cheap to clone.
#[derive(Clone)]
pub struct Transfers {
    store: Arc<dyn Store>,
    hold: Duration,
    commands: mpsc::Sender<Epoch>,
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The nomination could not be written. If its outcome is not known it may stand, and does
    /// nothing but delay the others' campaigns for a moment if this leader dies.
    #[error("leadership was not handed over, because whom to could not be written down: {0}")]
    Nomination(#[from] store::Error),
    /// The process is ending, which hands over as well.
    #[error("this coordinator is being stopped")]
    Stopping,
}

impl Transfers {
    /// `drain` is how long a leader may take from stepping down to resigning.
    pub(super) fn new(
        store: Arc<dyn Store>,
        drain: Duration,
        commands: mpsc::Sender<Epoch>,
    ) -> Self {
        Self { store, hold: NOTICE + drain + START, commands }
    }

    /// Ends the term, in favour of `nominee` if there is one. Returns once this node has stepped
    /// down; the lease is given up when what has begun has ended. A term that is over already is no error.
    /// Dropping the future may leave a nomination that does little, or a transfer that goes on.
    pub async fn transfer(
        &self,
        leadership: &Leadership,
        nominee: Option<&NodeName>,
    ) -> Result<(), Error> {
        if let Some(node) = nominee {
            self.nominate(leadership, node).await?;
            tokio::select! {
                biased;
                () = leadership.ended() => return Ok(()),
                () = tokio::time::sleep(NOTICE) => {}
            }
        }
        self.commands.send(leadership.epoch()).await.map_err(|_| Error::Stopping)?;
        leadership.ended().await;
        Ok(())
    }

    async fn nominate(&self, leadership: &Leadership, node: &NodeName) -> Result<(), Error> {
        let hold_millis = u64::try_from(self.hold.as_millis()).unwrap_or(u64::MAX);
        let epoch = leadership.epoch();
        let nomination = Nomination { node: node.clone(), epoch, hold_millis };
        let batch = leadership.batch().put(key::NOMINATION, record::encode(&nomination));
        match self.store.commit(batch).await {
            // Over is over: whoever leads by now need not be nominated.
            Ok(_) | Err(store::Error::Fenced { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transfers")
    }
}

/// Deletes the nomination of an earlier term, at the beginning of a term. It does nothing any more;
/// this is for those who look into the store.
pub async fn forget(store: &dyn Store, leadership: &Leadership) -> Result<(), store::Error> {
    store.commit(leadership.batch().delete(key::NOMINATION)).await.map(drop)
}

/// From the nomination to stepping down: everybody who is well has seen it by then. The leader
/// leads meanwhile, so it costs the fleet nothing.
const NOTICE: Duration = Duration::from_millis(100);
/// How long the nominee may take to win once leadership is free.
const START: Duration = Duration::from_secs(1);
