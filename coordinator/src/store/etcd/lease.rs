//! Leases: granting them, keeping them alive on streams that stay open, and revoking them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use etcd_client::{LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper};

use super::{
    failure::{Failure, Kind},
    pool::{Handle, Pool},
};

/// The leases of this process.
pub(super) struct Leases {
    pool: Arc<Pool>,
    /// By lease, the stream on which the last keep-alive was answered. It is not here while one
    /// is under way, so an answer is never taken for that to a later one.
    streams: Mutex<HashMap<i64, Stream>>,
}

struct Stream {
    endpoint: usize,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Leases {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, streams: Mutex::default() }
    }

    /// Grants a lease of `ttl`, in whole seconds, rounded up. Its number is made here, so that asking
    /// twice grants one, and one of which the grant is not known can be revoked.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, Failure> {
        let lease = new_number();
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let granted = self.pool.repeat(HEDGE, |handle| grant(handle, lease, seconds)).await;
        match granted {
            Ok(()) => Ok(lease),
            Err(failure) => {
                if failure.kind == Kind::Unclear {
                    self.revoke_later(lease);
                }
                Err(failure)
            }
        }
    }

    /// Extends a lease through one member. [`Kind::NoLease`] if it is gone.
    pub(super) async fn extend(&self, handle: Handle, lease: i64) -> Result<(), Failure> {
        let open = self.lock().remove(&lease).filter(|open| open.endpoint == handle.endpoint);
        let reopened = match open {
            Some(open) => match again(open).await {
                Ok(stream) => Ok(stream),
                Err(failure) if failure.kind == Kind::NoLease => Err(failure),
                // Streams end: with their connection, with their member's leader.
                Err(_) => open_stream(handle, lease).await,
            },
            None => open_stream(handle, lease).await,
        };
        let stream = reopened?;
        self.lock().insert(lease, stream);
        Ok(())
    }

    /// Ends a lease with all that stands under it. Does not wait, because nothing depends on it:
    /// if it fails, the lease ends by itself.
    pub(super) fn revoke_later(&self, lease: i64) {
        self.forget(lease);
        let pool = self.pool.clone();
        tokio::spawn(async move {
            let revoked = pool.repeat(HEDGE, |handle| revoke(handle, lease)).await;
            if let Err(failure) = revoked {
                tracing::debug!(reason = failure.reason, "a lease could not be revoked");
            }
        });
    }

    /// Closes the stream of a lease that needs none any more.
    pub(super) fn forget(&self, lease: i64) {
        self.lock().remove(&lease);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Stream>> {
        self.streams.lock().expect("no holder panics")
    }
}

async fn grant(handle: Handle, lease: i64, seconds: i64) -> Result<(), Failure> {
    let options = LeaseGrantOptions::new().with_id(lease);
    let granted = handle.client.lease_client().grant(seconds, Some(options)).await;
    match granted.map_err(|error| Failure::of(&error)) {
        // By an earlier try, of which no answer came.
        Err(failure) if failure.kind == Kind::LeaseExists => Ok(()),
        result => result.map(drop),
    }
}

async fn revoke(handle: Handle, lease: i64) -> Result<(), Failure> {
    let revoked = handle.client.lease_client().revoke(lease).await;
    match revoked.map_err(|error| Failure::of(&error)) {
        Err(failure) if failure.kind == Kind::NoLease => Ok(()),
        result => result.map(drop),
    }
}

/// Opens a stream with a first keep-alive.
async fn open_stream(handle: Handle, lease: i64) -> Result<Stream, Failure> {
    let endpoint = handle.endpoint;
    let opened = handle.client.lease_client().keep_alive(lease).await;
    let (keeper, answers) = opened.map_err(|error| Failure::of(&error))?;
    Ok(Stream { endpoint, keeper, answers })
}

/// One more keep-alive on an open stream.
async fn again(mut stream: Stream) -> Result<Stream, Failure> {
    let failed = |error| Failure::of(&error);
    stream.keeper.keep_alive().await.map_err(failed)?;
    match stream.answers.message().await.map_err(failed)? {
        // etcd's way to say that there is no such lease.
        Some(answer) if answer.ttl() <= 0 => Err(Failure::new(Kind::NoLease, "lease not found")),
        Some(_) => Ok(stream),
        None => Err(Failure::new(Kind::Unclear, "the stream has ended")),
    }
}

/// A number for a lease: positive, and so random that nobody has made it before.
fn new_number() -> i64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source works");
    (i64::from_le_bytes(bytes) & i64::MAX).max(1)
}

/// How long a member may be silent before another one is asked as well: a small part of the
/// shortest lease.
pub(super) const HEDGE: Duration = Duration::from_millis(150);
