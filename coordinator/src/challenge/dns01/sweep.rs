//! Removes the TXT values that no order needs any more, and their records.
//!
//! Level-triggered: a pass looks at all challenges in the mirror, and takes those whose order is over,
//! whether it ended a moment ago under this leader or in a term that was killed. What cannot be
//! removed now stays recorded, and is tried again later.

use std::{sync::Arc, time::Duration};

use chancery_shared::retry::Policy;
use futures_util::{StreamExt as _, stream};
use tokio::sync::broadcast::error::RecvError;

use super::{Dns01, Error};
use crate::{
    election::Leadership,
    mirror::{Mirror, View},
    record::{self, Challenge, Order, key},
    store::{self, Store},
};

/// Removes what ended orders have left in the DNS.
pub struct Sweeper {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    dns01: Arc<Dns01>,
}

/// Why a value could not be removed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dns(#[from] Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("this coordinator no longer leads")]
    SteppedDown,
}

impl Sweeper {
    /// A sweeper for the challenges in `store`.
    pub fn new(store: Arc<dyn Store>, mirror: Arc<Mirror>, dns01: Arc<Dns01>) -> Self {
        Self { store, mirror, dns01 }
    }

    /// Sweeps whenever an order has ended, until the future is dropped.
    pub async fn run(&self, leadership: &Leadership) {
        let mut touched = self.mirror.touched();
        let mut waits = AFTER_FAILURE.waits();
        loop {
            let wait = if self.pass(leadership).await {
                waits.reset();
                Duration::MAX
            } else {
                waits.next_wait()
            };
            let ended = async {
                loop {
                    match touched.recv().await {
                        Ok(touched) if touched.certificates.is_empty() && !touched.everything => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => return,
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            // With a failure, the wait is kept to: a dead provider is not asked at each order.
            if wait == Duration::MAX {
                ended.await;
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Removes everything that nobody needs. Whether all of it could be.
    async fn pass(&self, leadership: &Leadership) -> bool {
        let orphans = orphans(&self.mirror.read());
        let work: Vec<_> = orphans
            .iter()
            .map(|(token, challenge)| self.try_remove(leadership, token, challenge))
            .collect();
        // Not `all`, which would leave the rest alone after the first failure.
        let removed = stream::iter(work).buffer_unordered(AT_ONCE);
        removed.fold(true, async |all, removed| all && removed).await
    }

    async fn try_remove(
        &self,
        leadership: &Leadership,
        token: &str,
        challenge: &Challenge,
    ) -> bool {
        let Err(error) = self.remove(leadership, token, challenge).await else { return true };
        let txt = challenge.txt.as_ref().map(|txt| txt.name.as_str()).unwrap_or_default();
        tracing::warn!(%error, name = txt, "a TXT value stays in the DNS for now");
        false
    }

    async fn remove(
        &self,
        leadership: &Leadership,
        token: &str,
        challenge: &Challenge,
    ) -> Result<(), Failed> {
        let at = key::challenge(token);
        let mut revision = None;
        // The store decides, not the mirror: another order may have presented the same challenge again.
        let still = async {
            leadership.check().map_err(|_| Failed::SteppedDown)?;
            let Some(found) = self.store.get(&at).await? else { return Ok(false) };
            let Ok(present) = record::decode::<Challenge>(&at, &found.value) else {
                return Ok(false);
            };
            revision = Some(found.revision);
            Ok(present == *challenge && !self.is_live(&present).await?)
        };
        let Some(txt) = &challenge.txt else { return Ok(()) };
        if self.dns01.remove::<Failed>(token, challenge, txt, still).await? {
            let batch = leadership.batch().unchanged(&at, revision).delete(&at);
            match self.store.commit(batch).await {
                // Somebody has presented it again, and will put the value back.
                Ok(_) | Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn is_live(&self, challenge: &Challenge) -> Result<bool, Failed> {
        let at = key::order(&challenge.certificate);
        let Some(found) = self.store.get(&at).await? else { return Ok(false) };
        // An order that cannot be read may need it.
        Ok(record::decode::<Order>(&at, &found.value)
            .map_or(true, |order| order.id == challenge.order))
    }
}

/// The challenges with a TXT value whose order is over.
fn orphans(view: &View) -> Vec<(String, Challenge)> {
    let of_nobody = |challenge: &Challenge| {
        let order = view.orders.get(&challenge.certificate);
        challenge.txt.is_some() && order.is_none_or(|order| order.record.id != challenge.order)
    };
    view.challenges
        .iter()
        .filter(|(_, challenge)| of_nobody(&challenge.record))
        .map(|(token, challenge)| (token.clone(), (*challenge.record).clone()))
        .collect()
}

const AFTER_FAILURE: Policy =
    Policy { first: Duration::from_secs(5), most: Duration::from_mins(10), factor: 2 };
const AT_ONCE: usize = 8;
