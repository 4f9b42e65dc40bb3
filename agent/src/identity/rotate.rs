//! Replacing the identity at half life.

use std::time::Duration;

use chancery_proto::v1::RotateIdentityRequest;
use chancery_shared::{
    clock::{Monotonic, SharedClock},
    failpoint::crash_point,
    retry::Policy,
};
use rustls_pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use super::{Error, Identity, Store, new_key, signing_request};
use crate::{
    text,
    watch::{Client, Failure},
};

/// Waits until the identity is due, and until `not_before` if there is one, then replaces it, on disk
/// first. Fails are logged and tried again; the former identity stays valid until the new one was
/// used. Dropping the future leaves the former or the new one on disk.
pub(crate) async fn rotation(
    identity: &Identity,
    store: &Store,
    client: Client,
    clock: &SharedClock,
    not_before: Option<Monotonic>,
) -> Identity {
    let mut waits = RETRY.waits();
    if let Some(not_before) = not_before {
        sleep(not_before.since(clock.monotonic())).await;
    }
    loop {
        let left = identity.rotate_at().duration_since(clock.now());
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            // In steps: monotonic time stands still while the machine sleeps, and the wall
            // clock may be set.
            sleep(left.min(LONGEST_SLEEP)).await;
            continue;
        }
        match rotate(identity, store, client.clone()).await {
            Ok(identity) => return identity,
            Err(error) => {
                tracing::warn!(
                    valid_until = %identity.not_after(),
                    "the agent's identity could not be replaced yet: {}",
                    text::chain(&error)
                );
                sleep(waits.next_wait()).await;
            }
        }
    }
}

/// When the next identity may be asked for at the earliest, if `fresh` is one that would be due at
/// once: this machine's clock is far ahead, and another would not be any better.
pub(crate) fn earliest_next(fresh: &Identity, clock: &SharedClock) -> Option<Monotonic> {
    let now = clock.now();
    if fresh.rotate_at() > now {
        return None;
    }
    tracing::warn!(
        %now,
        valid_until = %fresh.not_after(),
        "the identity that was just made is past half of its life by this machine's clock: set the clock"
    );
    Some(clock.monotonic().after(CLOCK_AHEAD))
}

async fn rotate(identity: &Identity, store: &Store, mut client: Client) -> Result<Identity, Error> {
    let key = new_key()?;
    let request = RotateIdentityRequest { csr_der: signing_request(&key)? };
    let answer = timeout(CALL_TIMEOUT, client.rotate_identity(request))
        .await
        .map_err(|_| Error::Unreachable("no answer in time".to_owned()))?
        .map_err(|status| Error::Unreachable(Failure::of_status(&status).to_string()))?;
    crash_point("identity::rotation_answered");
    let chain: Vec<_> =
        answer.into_inner().chain_der.into_iter().map(CertificateDer::from).collect();
    let new = Identity::new(identity.agent.clone(), key, chain).map_err(Error::Answer)?;
    if new.root() != identity.root() {
        return Err(Error::Answer("it comes from another CA".to_owned()));
    }
    store.save(&new)?;
    Ok(new)
}

const RETRY: Policy =
    Policy { first: Duration::from_secs(10), most: Duration::from_mins(30), factor: 2 };
/// Some agent of a fleet always has a wrong clock: it must not keep the coordinators busy.
const CLOCK_AHEAD: Duration = Duration::from_hours(6);
const LONGEST_SLEEP: Duration = Duration::from_hours(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chancery_shared::clock::{Clock as _, ManualClock};

    use super::*;
    use crate::identity::tests::identity;

    #[test]
    fn a_clock_that_is_far_ahead_does_not_ask_for_one_identity_after_the_other() {
        let fresh = identity("web-1");
        let right = Arc::new(ManualClock::new(fresh.rotate_at() - Duration::from_secs(1)));
        assert_eq!(earliest_next(&fresh, &(right as SharedClock)), None);
        let ahead = Arc::new(ManualClock::new(fresh.rotate_at() + Duration::from_hours(1)));
        let next = earliest_next(&fresh, &(ahead.clone() as SharedClock)).unwrap();
        assert_eq!(next.since(ahead.monotonic()), CLOCK_AHEAD);
    }
}
