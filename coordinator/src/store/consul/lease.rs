//! Leadership: a session that holds the key `lock`.
//!
//! # How long it lives
//!
//! Consul promises that a session lives at least for its TTL, and takes up to twice that to end it.
//! So a leader that crashes is succeeded after up to twice the TTL, and the least TTL is 10 seconds. A
//! leader that is shut down gives the lock back, and is succeeded at once.
//!
//! # No lock-delay
//!
//! By default Consul keeps a lock whose session was ended from everybody for 15 seconds, so that a
//! holder that has not noticed can stop. Here nobody has to notice: each write of a leader
//! carries `check-session`, and Consul refuses it once another, or nobody, has the lock. So the
//! delay is 0, and leadership is free the moment that the session ends.
//!
//! # Epochs
//!
//! The epoch of a term is the revision that its campaign was conditioned on. Revisions only grow, whatever
//! is deleted by hand, so epochs do; and should the records move to another Consul, whose
//! revisions are small again, the epoch in the lock's value is there to count on from.
//!
//! # Looking before campaigning
//!
//! A lock that somebody has is seen by a read. A session is made only for a lock that
//! looks free, because each one costs Consul several commits, and losers look twice a second.

use chancery_shared::number::Epoch;
use serde::{Deserialize, Serialize};

use super::{
    Parts,
    journal::Head,
    session::{self, Session},
    step::{Refusal, Step},
    txn::Op,
    write::NotDone,
};
use crate::{
    record::{self, Leader, key},
    store::{Campaign, Candidate, Error, Fence, Operation},
};

/// The value of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Term {
    epoch: Epoch,
}

impl Parts {
    pub(super) async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        let lock = self.lock_at(&self.keys.lock()).await?;
        if lock.as_ref().is_some_and(|lock| lock.session.is_some()) {
            return Ok(Campaign::Lost);
        }
        // What somebody wrote there by hand is no reason to have no leader.
        let last: Option<Term> = lock.and_then(|lock| serde_json::from_slice(&lock.value).ok());
        let name = format!("{}lock of {}", self.keys.prefix, candidate.node);
        let session = Session::create(&self.client, &name, candidate.ttl).await?;
        let epoch_behind = |head: Head| {
            let after_last = last.map_or(Epoch(0), |term| term.epoch.next());
            Epoch(head.revision.0).max(after_last)
        };
        let since = self.clock.now();
        // The epoch of the try that was applied, which is the last.
        let won = std::sync::Mutex::new(Epoch(0));
        let step = |head| {
            let epoch = epoch_behind(head);
            *won.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = epoch;
            let leader = Leader::of(candidate, epoch, since);
            let take = Op::lock(&self.keys.lock(), &encode(epoch), session.id());
            let record = Operation::Put(key::LEADER.to_owned(), record::encode(&leader));
            Step {
                locks: vec![(take, Refusal::Lock)],
                changes: vec![(record, None)],
                ..Step::default()
            }
        };
        match self.write(&step).await {
            Ok(_) => {
                let epoch = *won.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Ok(Campaign::Won(Fence { epoch, lease: session.keep() }))
            }
            Err(NotDone::Refused(_)) => Ok(Campaign::Lost),
            Err(NotDone::Failed(error)) => Err(error),
        }
    }

    /// The session is renewed, and the lock is looked at: somebody may have deleted it.
    pub(super) async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        let lock = self.keys.lock();
        let (renewed, held) = tokio::join!(
            session::renew(&self.client, &fence.lease),
            self.holds(&lock, &fence.lease)
        );
        if renewed? && held? { Ok(()) } else { Err(Error::Fenced { epoch: fence.epoch }) }
    }

    pub(super) async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        let step = |_| {
            let free = Op::unlock(&self.keys.lock(), &encode(fence.epoch), &fence.lease);
            Step {
                locks: vec![(free, Refusal::Lock)],
                changes: vec![(Operation::Delete(key::LEADER.to_owned()), None)],
                ..Step::default()
            }
        };
        let given_up = self.write(&step).await;
        // Should the first have failed, this frees the lock as well.
        let destroyed = session::destroy(&self.client, &fence.lease).await;
        match given_up {
            Ok(_) | Err(NotDone::Refused(_)) => Ok(()),
            Err(NotDone::Failed(error)) => destroyed.and(Err(error)),
        }
    }
}

fn encode(epoch: Epoch) -> Vec<u8> {
    serde_json::to_vec(&Term { epoch }).expect("it has text keys")
}
