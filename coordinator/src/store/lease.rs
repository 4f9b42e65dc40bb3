//! The lease of a store that lives in one process. The epoch is the store's to keep; the lease
//! itself is in memory, because it cannot outlive the only process that could hold it.

use std::time::Duration;

use chancery_shared::{clock::Monotonic, number::Epoch};

use super::{Candidate, Error, Fence};

/// Who holds leadership, and until when.
#[derive(Debug, Default)]
pub(super) struct Lease {
    last: Option<Granted>,
}

#[derive(Debug)]
struct Granted {
    fence: Fence,
    ttl: Duration,
    expires: Monotonic,
}

impl Lease {
    /// Whether somebody can campaign at `now`.
    pub(super) fn is_free(&self, now: Monotonic) -> bool {
        self.last.as_ref().is_none_or(|granted| granted.expires <= now)
    }

    /// The fence of a term that is not granted yet.
    pub(super) fn fence(candidate: &Candidate, epoch: Epoch) -> Fence {
        Fence { epoch, lease: format!("{}-{epoch}", candidate.node) }
    }

    /// Grants a new term.
    pub(super) fn grant(&mut self, fence: Fence, ttl: Duration, now: Monotonic) {
        self.last = Some(Granted { fence, ttl, expires: now.after(ttl) });
    }

    /// Refuses a fence that does not hold leadership at `now`.
    pub(super) fn check(&self, fence: &Fence, now: Monotonic) -> Result<(), Error> {
        let holds =
            self.last.as_ref().is_some_and(|last| last.fence == *fence && now < last.expires);
        if holds { Ok(()) } else { Err(Error::Fenced { epoch: fence.epoch }) }
    }

    /// Extends the lease, counted from `now`.
    pub(super) fn keep_alive(&mut self, fence: &Fence, now: Monotonic) -> Result<(), Error> {
        self.check(fence, now)?;
        if let Some(granted) = &mut self.last {
            granted.expires = now.after(granted.ttl);
        }
        Ok(())
    }

    /// Whether the term of `fence` is the last one that was granted, though it may have
    /// expired: only then is the leader record its own.
    pub(super) fn is_last(&self, fence: &Fence) -> bool {
        self.last.as_ref().is_some_and(|granted| granted.fence == *fence)
    }

    /// Ends the term of `fence`, if it is the last one.
    pub(super) fn release(&mut self, fence: &Fence) {
        if self.is_last(fence) {
            self.last = None;
        }
    }
}
