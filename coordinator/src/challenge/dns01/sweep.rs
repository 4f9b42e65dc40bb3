//! Removes the TXT values that no order needs any more, and their records.
//!
//! Level-triggered: after each order that has ended, the mirror shows what is left over, whether it was
//! left a moment ago under this leader or in a term that was killed. A value that cannot be removed now
//! stays recorded and is tried again, after waits of its own: it holds up no other. After a month an
//! event tells that it was given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chancery_shared::{clock::SharedClock, failpoint::crash_point, retry::Policy};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::timeout,
};

use super::{Dns01, Error};
use crate::{
    election::Leadership,
    events::Events,
    mirror::{Mirror, Touched, Versioned, View},
    record::{self, Challenge, EventKind, TxtRecord, key},
    store::{self, Store},
};

/// Removes what ended orders have left in the DNS.
pub struct Sweeper {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    events: Events,
    clock: SharedClock,
    dns01: Arc<Dns01>,
}

/// Why a value could not be removed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dns(#[from] Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("its record has changed meanwhile")]
    Changed,
    #[error("this coordinator no longer leads")]
    SteppedDown,
}

/// A challenge with something that nobody needs.
struct LeftOver {
    found: Versioned<Challenge>,
    /// Whether all of it is, and not only what stands where it was presented before.
    is_stray: bool,
}

impl Sweeper {
    /// A sweeper for the challenges in `store`.
    pub fn new(
        store: Arc<dyn Store>,
        mirror: Arc<Mirror>,
        events: Events,
        clock: SharedClock,
        dns01: Arc<Dns01>,
    ) -> Self {
        Self { store, mirror, events, clock, dns01 }
    }

    /// Sweeps whenever an order has ended, until the future is dropped.
    pub async fn run(&self, leadership: &Leadership) {
        let mut touched = self.mirror.touched();
        let (mut at_work, mut work) = (BTreeSet::new(), FuturesUnordered::new());
        loop {
            for token in left_over(&self.mirror.read()).into_keys() {
                if at_work.insert(token.clone()) {
                    work.push(self.sweep(leadership, token));
                }
            }
            tokio::select! {
                () = until_orders_change(&mut touched) => {}
                Some(token) = work.next() => {
                    at_work.remove(&token);
                }
            }
        }
    }

    /// Tries until nothing of a challenge is left over. Returns its token.
    async fn sweep(&self, leadership: &Leadership, token: String) -> String {
        let mut waits = AFTER_FAILURE.waits();
        loop {
            let Some(left) = left_over(&self.mirror.read()).remove(&token) else { return token };
            let Err(error) = self.try_sweep(leadership, &token, &left).await else { continue };
            if matches!(error, Failed::Changed) {
                tracing::debug!(%error, "what is left of a challenge is looked at again");
            } else {
                let certificate = &left.found.record.certificate;
                tracing::warn!(%error, %certificate, "a TXT value stays in the DNS for now");
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    async fn try_sweep(
        &self,
        leadership: &Leadership,
        token: &str,
        LeftOver { found, is_stray }: &LeftOver,
    ) -> Result<(), Failed> {
        let before = &*found.record;
        let (mut after, mut failed) = (before.clone(), None);
        for txt in before.left.iter().chain(before.txt.iter().filter(|_| *is_stray)) {
            match self.remove(leadership, token, found, txt).await {
                Err(Failed::Dns(error)) if !self.gives_up(before, txt, &error) => {
                    failed = Some(Failed::Dns(error));
                }
                Ok(()) | Err(Failed::Dns(_)) => {
                    after.left.retain(|left| left != txt);
                    after.txt.take_if(|after| *after == *txt);
                }
                Err(error) => return Err(error),
            }
        }
        let at = key::challenge(token);
        let batch = leadership.batch().unchanged(&at, Some(found.revision));
        let batch = if *is_stray && !after.is_in_dns() {
            batch.delete(&at)
        } else if after != *before {
            batch.put(&at, record::encode(&after))
        } else {
            return failed.map_or(Ok(()), Err);
        };
        let revision = match self.store.commit(batch).await {
            Err(store::Error::Conflict { .. }) => return Err(Failed::Changed),
            done => done?,
        };
        // So that it is not seen as left over again. What is written is written.
        let _ = timeout(SHOWN, self.mirror.wait_for(revision)).await;
        failed.map_or(Ok(()), Err)
    }

    /// Removes one value, unless its record is no longer what it was.
    async fn remove(
        &self,
        leadership: &Leadership,
        token: &str,
        found: &Versioned<Challenge>,
        txt: &TxtRecord,
    ) -> Result<(), Failed> {
        // The store decides, not the mirror: another order may have presented the same challenge again.
        let still = async {
            leadership.check().map_err(|_| Failed::SteppedDown)?;
            let entry = self.store.get(&key::challenge(token)).await?;
            Ok(entry.is_some_and(|entry| entry.revision == found.revision))
        };
        crash_point("dns01::remove");
        let removed = self.dns01.remove::<Failed>(token, &found.record, txt, still).await?;
        if removed { Ok(()) } else { Err(Failed::Changed) }
    }

    /// Whether a value was tried for so long that it is left where it is.
    fn gives_up(&self, challenge: &Challenge, txt: &TxtRecord, error: &Error) -> bool {
        let began = challenge.order.get_timestamp().map_or(0, |time| time.to_unix().0);
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
        if now.saturating_sub(began) < GIVES_UP.as_secs() {
            return false;
        }
        let message = format!(
            "gave up removing the TXT value \"{}\" at {} after {} days, remove it by hand: {error}",
            txt.value,
            txt.name,
            GIVES_UP.as_secs() / (24 * 3600)
        );
        self.events.record(EventKind::ValueGivenUp, challenge.certificate.as_str(), message);
        true
    }
}

/// What is left over, by token.
fn left_over(view: &View) -> BTreeMap<String, LeftOver> {
    let strays = view.strays().map(|(token, found)| (token, found, true));
    let moved = view.challenges.iter().filter(|(_, found)| !found.record.left.is_empty());
    let moved = moved.map(|(token, found)| (token, found, false));
    // Of two for one token the last one stays.
    let all = moved.chain(strays);
    all.map(|(token, found, is_stray)| (token.clone(), LeftOver { found: found.clone(), is_stray }))
        .collect()
}

/// Resolves when an order may have come, gone on or ended.
async fn until_orders_change(touched: &mut Receiver<Arc<Touched>>) {
    loop {
        match touched.recv().await {
            Ok(touched) if touched.certificates.is_empty() && !touched.everything => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

const AFTER_FAILURE: Policy =
    Policy { first: Duration::from_secs(5), most: Duration::from_mins(10), factor: 2 };
/// How long it is tried to remove a value.
const GIVES_UP: Duration = Duration::from_hours(30 * 24);
/// For a mirror that is behind.
const SHOWN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
