//! Replacing the identity at half life.

use std::time::Duration;

use chancery_proto::v1::RotateIdentityRequest;
use chancery_shared::{clock::SharedClock, failpoint::crash_point, retry::Policy};
use rustls_pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use super::{Error, Identity, Store, new_key, signing_request};
use crate::{
    text,
    watch::{Client, Failure},
};

/// Waits until the identity is due, then replaces it, on disk first. Fails are logged and
/// tried again; the former identity stays valid until the new one was used. Dropping the
/// future leaves the former or the new one on disk.
pub(crate) async fn rotation(
    identity: &Identity,
    store: &Store,
    client: Client,
    clock: &SharedClock,
) -> Identity {
    let mut waits = RETRY.waits();
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
const LONGEST_SLEEP: Duration = Duration::from_hours(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
