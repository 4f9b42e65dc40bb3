//! Writes that the leader owns, and what a store's refusal means to a caller.

use std::time::Duration;

use chancery_shared::{name::NodeName, number::Revision};
use tonic::{Code, Status};

use super::Api;
use crate::{
    election::Leadership,
    record::{self, Record},
    store::{Batch, Error},
};

/// Who leads.
pub(super) enum Leader {
    /// This coordinator.
    Own(Leadership),
    /// Another one.
    Other(NodeName),
}

impl Api {
    /// The present term of leadership, or `FAILED_PRECONDITION` with who has it. While nobody
    /// leads, as after a start and in a hand-over, it waits a little for this to pass.
    pub(super) async fn lead(&self) -> Result<Leadership, Status> {
        match self.leader().await? {
            Leader::Own(term) => Ok(term),
            Leader::Other(_) => Err(self.not_leading()),
        }
    }

    /// Whether this coordinator leads now.
    pub(super) fn leads(&self) -> bool {
        self.leadership.borrow().as_ref().is_some_and(|own| own.check().is_ok())
    }

    /// Who leads, as far as this coordinator knows. While nobody does, it waits a little for this
    /// to pass, and then says `UNAVAILABLE`.
    pub(super) async fn leader(&self) -> Result<Leader, Status> {
        let mut terms = self.leadership.clone();
        let mut touched = self.mirror.touched();
        let known = async {
            loop {
                let own = terms.borrow_and_update().clone();
                if let Some(own) = own.filter(|own| own.check().is_ok()) {
                    return Leader::Own(own);
                }
                if let Some(other) = self.other_leader() {
                    return Leader::Other(other);
                }
                tokio::select! {
                    Ok(()) = terms.changed() => {}
                    // Lagging is as good a reason to look again.
                    _ = touched.recv() => {}
                }
            }
        };
        let known = tokio::time::timeout(ELECTION, known).await;
        known.map_err(|_| self.not_leading())
    }

    /// The leader, if another coordinator was the last to lead.
    fn other_leader(&self) -> Option<NodeName> {
        let view = self.mirror.read();
        let leader = view.leader.as_ref().map(|leader| &leader.record.node);
        leader.filter(|node| **node != self.status.about().node).cloned()
    }

    pub(super) fn not_leading(&self) -> Status {
        match self.other_leader() {
            Some(node) => Status::failed_precondition(format!(
                "this coordinator does not lead any more, {node} does; nothing was changed, try again"
            )),
            None => Status::unavailable(
                "no coordinator leads at the moment; nothing was changed, try again shortly",
            ),
        }
    }

    /// Commits, and waits until the mirror shows it, so that the caller reads its own write.
    pub(super) async fn commit(&self, batch: Batch) -> Result<Revision, Status> {
        let revision = self.store.commit(batch).await.map_err(|error| self.refused(&error))?;
        self.shown(revision).await;
        Ok(revision)
    }

    /// Waits until the mirror shows `revision`, but not for long: what was written is written.
    pub(super) async fn shown(&self, revision: Revision) {
        let _ = tokio::time::timeout(OWN_WRITE, self.mirror.wait_for(revision)).await;
    }

    /// Does `attempt` again while somebody else changes what it has read before it commits, as an
    /// order may at any moment: a person who asks for something should not have to repeat it.
    /// Whoever competes commits in the meantime, so that a few attempts are enough.
    pub(super) async fn undisturbed<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        for _ in 1..ATTEMPTS {
            match attempt().await {
                Err(status) if status.code() == Code::Aborted => {}
                ended => return ended,
            }
        }
        attempt().await
    }

    /// A record as the store has it now, with its revision.
    pub(super) async fn get<T: Record>(&self, key: &str) -> Result<Option<(T, Revision)>, Status> {
        let entry = self.store.get(key).await.map_err(|error| self.refused(&error))?;
        let Some(entry) = entry else { return Ok(None) };
        let record = record::decode(key, &entry.value)
            .map_err(|error| Status::data_loss(error.to_string()))?;
        Ok(Some((record, entry.revision)))
    }

    /// What a store's error means to a caller.
    pub(super) fn refused(&self, error: &Error) -> Status {
        match error {
            Error::Conflict { .. } => {
                Status::aborted(format!("{error} meanwhile; nothing was changed, try again"))
            }
            Error::Fenced { .. } => {
                self.metrics.write_fenced();
                self.not_leading()
            }
            Error::Unavailable(_) | Error::Misconfigured(_) | Error::Compacted { .. } => {
                Status::unavailable(format!("{error}; nothing was changed"))
            }
            Error::OutcomeUnknown(_) => {
                Status::unknown(format!("{error}: look before you repeat it"))
            }
            Error::Full(_) => Status::resource_exhausted(error.to_string()),
            Error::InUse(_) | Error::Expired { .. } | Error::TooLarge { .. } => {
                Status::internal(error.to_string())
            }
            Error::Damaged(_) => Status::data_loss(error.to_string()),
        }
    }
}

const ATTEMPTS: usize = 8;
const OWN_WRITE: Duration = Duration::from_secs(5);
/// An election without trouble takes a fraction of this.
const ELECTION: Duration = Duration::from_secs(3);
