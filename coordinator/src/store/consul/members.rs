//! Registrations: records that go when their session does.
//!
//! Consul could delete a record with its session by itself, but nobody would be told: the journal
//! is written by coordinators only. So the session of a registration holds a key of its own, under
//! `leases/`, and when the session ends Consul lets go of that key, and leaves it. Each coordinator
//! waits for changes there, and whichever is first deletes the record in an ordinary commit.

use std::time::Duration;

use super::{
    LEAST_TTL, Parts,
    client::Request,
    follow::{Index, POLL, WAIT},
    session::{self, Session},
    step::{Refusal, Step, check_lock},
    txn::{Op, Row},
    write::NotDone,
};
use crate::store::{Error, Operation, Registered, Registration};

impl Parts {
    pub(super) async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        let Registration { key, value, ttl } = registration;
        let name = format!("{}{key}", self.keys.prefix);
        let session = Session::create(&self.client, &name, (*ttl).max(LEAST_TTL)).await?;
        let lease = self.keys.lease(key);
        let step = |_| Step {
            // Away with the lock of a former registration; then the key is free.
            locks: vec![
                (Op::delete(&lease), Refusal::Never),
                (Op::lock(&lease, b"", session.id()), Refusal::Lock),
            ],
            changes: vec![(Operation::Put(key.clone(), value.clone()), None)],
            ..Step::default()
        };
        match self.write(&step).await {
            Ok(_) => Ok(Registered { key: key.clone(), lease: session.keep() }),
            Err(NotDone::Refused(_)) => {
                Err(Error::Unavailable(format!("the session for {key} ended before it was used")))
            }
            Err(NotDone::Failed(error)) => Err(error),
        }
    }

    pub(super) async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        let key = self.keys.lease(&registered.key);
        let (renewed, held) = tokio::join!(
            session::renew(&self.client, &registered.lease),
            self.holds(&key, &registered.lease)
        );
        if renewed? && held? {
            return Ok(());
        }
        Err(Error::Expired { key: registered.key.clone() })
    }

    pub(super) async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        let lease = self.keys.lease(&registered.key);
        let step = |_| Step {
            checks: vec![check_lock(&lease, &registered.lease)],
            locks: vec![(Op::delete(&lease), Refusal::Never)],
            changes: vec![(Operation::Delete(registered.key.clone()), None)],
        };
        let given_up = self.write(&step).await;
        let destroyed = session::destroy(&self.client, &registered.lease).await;
        match given_up {
            Ok(_) | Err(NotDone::Refused(_)) => Ok(()),
            // Without its session the record is deleted by whoever sees that first.
            Err(NotDone::Failed(_)) => destroyed,
        }
    }

    /// Deletes what is registered no more, until it is dropped.
    pub(super) async fn reap(&self) {
        let path = format!("/v1/kv/{}?recurse&", self.keys.leases());
        let mut index = Index::default();
        let mut waits = POLL.waits();
        loop {
            match self.reap_once(&path, &mut index).await {
                Ok(()) => waits.reset(),
                Err(error) => {
                    tracing::debug!(%error, "cannot look for registrations that have ended");
                    // What could not be deleted is looked for again without waiting for a change.
                    index = Index::default();
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        }
    }

    async fn reap_once(&self, path: &str, index: &mut Index) -> Result<(), Error> {
        let (rows, new) = self.client.rows(&Request::blocking(path, index.0, WAIT)).await?;
        index.advance(new);
        for row in rows.iter().filter(|row| row.session.is_none()) {
            self.delete_registration(row).await?;
        }
        // Leases come and go in bursts, of which each would wake us.
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    async fn delete_registration(&self, row: &Row) -> Result<(), Error> {
        let leases = self.keys.leases();
        let Some(key) = row.key.strip_prefix(&leases) else { return Ok(()) };
        let step = |_| Step {
            checks: vec![(Op::check_index(&row.key, row.revision), Refusal::Lock)],
            locks: vec![(Op::delete(&row.key), Refusal::Never)],
            changes: vec![(Operation::Delete(key.to_owned()), None)],
        };
        match self.write(&step).await {
            Ok(_) => {
                tracing::info!(key, "a registration has expired");
                Ok(())
            }
            // Another was faster, or it was registered anew.
            Err(NotDone::Refused(_)) => Ok(()),
            Err(NotDone::Failed(error)) => Err(error),
        }
    }
}

/// Between looks for registrations that have ended.
const PAUSE: Duration = Duration::from_millis(100);
