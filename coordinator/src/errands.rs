//! What operators want of a CA beside certificates: the leader sees to it.
//!
//! An operator's wish is written down first, by the call that carries it; that call then only watches.
//! The leader finds it in its mirror and does it, again and again until the CA has answered. So a
//! wish survives whoever dies, and needs no connection between the caller and the CA.
//!
//! Level-triggered: what is to be done follows from the mirror, also for a new leader. Each errand waits by
//! itself after a failure, and none waits for another at a CA that hangs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    name::IssuerName,
    retry::{Policy, Waits},
};
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};

use crate::{
    election::Leadership,
    mirror::{Mirror, View},
    order::{Error, Orders},
    record::{Revocation, key},
};

/// Does errands for one term of leadership.
pub struct Errands {
    mirror: Arc<Mirror>,
    orders: Arc<Orders>,
    clock: SharedClock,
    leadership: Leadership,
    /// Those that are under way, or wait after a failure, by the key of their records.
    known: BTreeMap<String, Progress>,
    running: JoinSet<(String, Result<(), Error>)>,
}

/// What is to be done.
#[derive(Clone, Debug)]
enum Errand {
    Revoke(Arc<Revocation>),
    ChangeAccount(IssuerName),
}

#[derive(Debug)]
struct Progress {
    waits: Waits,
    /// When it is tried again; `None` while it is being tried.
    next: Option<Monotonic>,
}

impl Errands {
    /// The errands of one term.
    pub fn new(
        mirror: Arc<Mirror>,
        orders: Arc<Orders>,
        clock: SharedClock,
        leadership: Leadership,
    ) -> Self {
        let (known, running) = (BTreeMap::new(), JoinSet::new());
        Self { mirror, orders, clock, leadership, known, running }
    }

    /// Runs until the term ends. What is under way then is dropped where it is, and found again by the
    /// successor.
    pub async fn run(mut self) {
        let mut touched = self.mirror.touched();
        let leadership = self.leadership.clone();
        let ended = leadership.ended();
        tokio::pin!(ended);
        loop {
            let nap = self.start();
            loop {
                tokio::select! {
                    biased;
                    () = &mut ended => return,
                    Some(done) = self.running.join_next() => match done {
                        Ok((key, result)) => self.ended(&key, &result),
                        Err(error) => {
                            tracing::error!(%error, "an errand's task died");
                            self.known.clear();
                        }
                    },
                    nudge = touched.recv() => match nudge {
                        Ok(touched) if !touched.issuers && !touched.everything => continue,
                        Ok(_) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    },
                    () = tokio::time::sleep(nap) => {}
                }
                break;
            }
        }
    }

    /// Starts what is to be done now. How long until there is more.
    fn start(&mut self) -> Duration {
        let wanted = wanted(&self.mirror.read());
        self.known.retain(|key, progress| progress.next.is_none() || wanted.contains_key(key));
        let now = self.clock.monotonic();
        let mut nap = LONGEST_NAP;
        for (key, errand) in wanted {
            let progress = self
                .known
                .entry(key.clone())
                .or_insert_with(|| Progress { waits: RETRY.waits(), next: Some(now) });
            let Some(next) = progress.next else { continue };
            let wait = next.since(now);
            if !wait.is_zero() || self.running.len() >= MOST_AT_ONCE {
                nap = nap.min(wait.max(SOON));
                continue;
            }
            progress.next = None;
            let (orders, leadership) = (self.orders.clone(), self.leadership.clone());
            self.running.spawn(async move {
                let done = match errand {
                    Errand::Revoke(revocation) => orders.revoke(&leadership, &revocation).await,
                    Errand::ChangeAccount(issuer) => {
                        orders.change_account(&leadership, &issuer).await
                    }
                };
                (key, done)
            });
        }
        nap
    }

    fn ended(&mut self, key: &str, result: &Result<(), Error>) {
        let Err(error) = result else {
            self.known.remove(key);
            return;
        };
        let Some(progress) = self.known.get_mut(key) else { return };
        let least = match error {
            Error::CaBusy { retry_after, .. } => retry_after.unwrap_or_default(),
            Error::IssuerPaused { wait, .. } => *wait,
            _ => Duration::ZERO,
        };
        let wait = progress.waits.next_wait().max(least);
        progress.next = Some(self.clock.monotonic().after(wait));
        tracing::warn!(key, %error, wait_millis = wait.as_millis(), "it is tried again");
    }
}

/// What the records ask for, by their keys.
fn wanted(view: &View) -> BTreeMap<String, Errand> {
    let open = view.revocations.iter().filter(|(_, revocation)| revocation.record.ended.is_none());
    let revocations = open.map(|((name, generation), revocation)| {
        (key::revocation(name, *generation), Errand::Revoke(revocation.record.clone()))
    });
    let changes = view.accounts.iter().filter(|(name, account)| {
        let change = account.record.change.as_ref();
        change.is_some_and(|change| change.ended.is_none()) && view.issuers.contains_key(*name)
    });
    let changes =
        changes.map(|(name, _)| (key::account(name), Errand::ChangeAccount(name.clone())));
    revocations.chain(changes).collect()
}

const RETRY: Policy =
    Policy { first: Duration::from_millis(500), most: Duration::from_mins(5), factor: 2 };
const LONGEST_NAP: Duration = Duration::from_mins(5);
/// Keeps a full house from becoming a busy loop.
const SOON: Duration = Duration::from_millis(100);
/// A mass revocation must not take every connection that there is.
const MOST_AT_ONCE: usize = 16;
