//! How far the other coordinators are: whether each of them serves what stood in the store at some revision.
//!
//! A CA may look for the answer to an HTTP-01 challenge at any coordinator, so before it is told to look,
//! each has to confirm that it has the answer. One that is registered but cannot be asked is waited for
//! up to [`GIVE_UP`]: until then it is likely to come back, or its registration to expire. After that
//! it is only looked at now and then, in the background, and holds up nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chancery_proto::v1::{CatchUpRequest, peer_service_client::PeerServiceClient};
use chancery_shared::{clock::Monotonic, number::Revision};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{Peers, Unreachable, peers::unreachable};
use crate::record::{Instance, Member};

/// What is known of the others, by process.
pub(super) type Known = BTreeMap<Instance, Progress>;

/// What is known of one.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// It serves what stood in the store here.
    confirmed: Revision,
    /// Since when it cannot be asked.
    failing_since: Option<Monotonic>,
    /// Whether nobody waits for it any more, and when it is to be looked at again.
    given_up: Option<Monotonic>,
}

/// What to do about a member that may not have caught up.
enum Next {
    /// Nothing: it has, or is not waited for.
    Done,
    Ask,
    /// Ask it, but do not wait for the answer.
    Probe,
}

impl Peers {
    /// Resolves when every other coordinator that can be asked serves what stood in the store at
    /// `revision`. Bounded in time. Costs nothing while there is no other. Cancel-safe.
    pub async fn caught_up(self: &Arc<Self>, revision: Revision) {
        let others = self.others();
        if others.is_empty() {
            return;
        }
        join_all(others.iter().map(|member| self.wait_for(member, revision))).await;
    }

    async fn wait_for(self: &Arc<Self>, member: &Arc<Member>, revision: Revision) {
        loop {
            match self.next(member, revision) {
                Next::Done => return,
                Next::Probe => {
                    let (peers, member) = (self.clone(), member.clone());
                    tokio::spawn(async move {
                        let asked = peers.catch_up(&member, revision).await;
                        peers.note(&member, asked);
                    });
                    return;
                }
                Next::Ask => {}
            }
            let asked = self.catch_up(member, revision).await;
            let failed = asked.is_err();
            self.note(member, asked);
            if failed {
                sleep(AGAIN).await;
            }
        }
    }

    fn next(&self, member: &Member, revision: Revision) -> Next {
        let still = {
            let view = self.mirror.read();
            let known = view.members.get(&member.node);
            known.is_some_and(|known| known.record.instance == member.instance)
        };
        let mut known = self.progress.lock().expect("no holder panics");
        if !still {
            known.remove(&member.instance);
            return Next::Done;
        }
        let progress = known.entry(member.instance).or_default();
        let now = self.clock.monotonic();
        match &mut progress.given_up {
            _ if progress.confirmed >= revision => Next::Done,
            None => Next::Ask,
            Some(again) if *again <= now => {
                *again = now.after(PROBE);
                Next::Probe
            }
            Some(_) => Next::Done,
        }
    }

    /// Takes note of an answer, or of its absence.
    fn note(&self, member: &Member, asked: Result<Revision, Unreachable>) {
        let now = self.clock.monotonic();
        let mut known = self.progress.lock().expect("no holder panics");
        let progress = known.entry(member.instance).or_default();
        match asked {
            Ok(revision) => {
                if progress.given_up.is_some() {
                    tracing::info!(node = %member.node, "this coordinator confirms challenges again");
                }
                let confirmed = progress.confirmed.max(revision);
                *progress = Progress { confirmed, ..Progress::default() };
            }
            Err(error) => {
                let since = *progress.failing_since.get_or_insert(now);
                if progress.given_up.is_none() && now.since(since) >= GIVE_UP {
                    tracing::warn!(
                        %error,
                        "not waiting for this coordinator any more before the CA is told to look for \
                         answers to challenges: if the CA asks it, an order may fail"
                    );
                    progress.given_up = Some(now.after(PROBE));
                }
            }
        }
    }

    async fn catch_up(&self, member: &Member, revision: Revision) -> Result<Revision, Unreachable> {
        let asking = async {
            let channel = self.channel(member).await?;
            let request = CatchUpRequest { revision: revision.0 };
            let answer = PeerServiceClient::new(channel).catch_up(request).await;
            answer.map_err(|status| {
                self.forget(member);
                unreachable(member, status.message())
            })
        };
        let asked = timeout(ASK, asking).await;
        let answer = asked.unwrap_or_else(|_| Err(unreachable(member, "it does not confirm")))?;
        Ok(Revision(answer.into_inner().revision))
    }
}

/// How long one that cannot be asked holds up orders.
const GIVE_UP: Duration = Duration::from_secs(5);
/// For one answer: a mirror follows within milliseconds.
const ASK: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(100);
/// Between looks at one that is not waited for.
const PROBE: Duration = Duration::from_secs(5);
