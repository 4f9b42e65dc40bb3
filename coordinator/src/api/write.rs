//! Writes that the leader owns, and what a store's refusal means to a caller.

use std::time::Duration;

use chancery_shared::number::Revision;
use tonic::Status;

use super::Api;
use crate::{
    election::Leadership,
    record::{self, Record},
    store::{Batch, Error},
};

impl Api {
    /// The present term of leadership, or `FAILED_PRECONDITION` with who has it.
    pub(super) fn lead(&self) -> Result<Leadership, Status> {
        let own = self.leadership.borrow().clone();
        own.filter(|own| own.check().is_ok()).ok_or_else(|| self.not_leading())
    }

    pub(super) fn not_leading(&self) -> Status {
        let view = self.mirror.read();
        let leader = view.leader.as_ref().map(|leader| &leader.record.node);
        Status::failed_precondition(match leader {
            Some(node) if *node != self.status.about().node => {
                format!("this coordinator does not lead; {node} does: ask there")
            }
            _ => "no coordinator leads at the moment; try again shortly".to_owned(),
        })
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
            Error::Unavailable(_) | Error::Compacted { .. } => {
                Status::unavailable(format!("{error}; nothing was changed"))
            }
            Error::OutcomeUnknown(_) => {
                Status::unknown(format!("{error}: look before you repeat it"))
            }
            Error::Full(_) => Status::resource_exhausted(error.to_string()),
            Error::InUse(_) => Status::internal(error.to_string()),
            Error::Damaged(_) => Status::data_loss(error.to_string()),
        }
    }
}

const OWN_WRITE: Duration = Duration::from_secs(5);
