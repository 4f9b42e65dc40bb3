//! Trading a join token for an identity.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{JoinRequest, enrolment_service_client::EnrolmentServiceClient};
use chancery_shared::{
    clock::SharedClock, failpoint::crash_point, join_token::JoinToken, name::AgentName,
    retry::Policy, secret::Secret, tls, x509::Fingerprint,
};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use super::{Error, Identity, Store, signing_request};
use crate::{config::Config, report, watch::Failure};

/// Joins: tries the coordinators in turn until one answers, for as long as `patience`
/// lasts (for ever without one). Safe to repeat with the same token after a crash.
pub(crate) async fn join(
    config: &Config,
    store: &Store,
    token: &JoinToken,
    clock: &SharedClock,
    patience: Option<Duration>,
) -> Result<Identity, Error> {
    let key = store.join_key()?;
    let csr = signing_request(&key)?;
    let client = tls::joining_client(token.ca_fingerprint)
        .map_err(|error| Error::Answer(error.to_string()))?;
    let client = Arc::new(client);
    let deadline = patience.map(|patience| clock.monotonic().after(patience));
    let mut waits = Policy::CONNECT.waits();
    loop {
        let round = round(config, &client, token, &csr).await;
        let failure = match round {
            Ok((agent, chain)) => return accept(store, token, key, &agent, chain),
            Err(Failure::Refused(why)) => {
                // The next token deserves a key of its own.
                store.forget_join_key()?;
                return Err(Error::Refused(why));
            }
            Err(Failure::Stranger(why)) => return Err(Error::Refused(why)),
            Err(Failure::Unavailable(why)) => why,
        };
        let wait = waits.next_wait();
        if deadline.is_some_and(|deadline| clock.monotonic().after(wait) > deadline) {
            return Err(Error::Unreachable(format!("no coordinator could be asked: {failure}")));
        }
        tracing::warn!("not joined yet, trying again: {failure}");
        sleep(wait).await;
    }
}

type Answer = (String, Vec<Vec<u8>>);

/// Asks each coordinator once. A refusal ends the round; a coordinator of another fleet
/// counts only if no other one could be asked.
async fn round(
    config: &Config,
    client: &Arc<ClientConfig>,
    token: &JoinToken,
    csr: &[u8],
) -> Result<Answer, Failure> {
    let mut failures = Vec::new();
    let mut strangers = 0;
    for address in &config.coordinators {
        match ask(address, client.clone(), token, csr).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Refused(why)) => {
                return Err(Failure::Refused(format!("{address} refused the join token: {why}")));
            }
            Err(Failure::Stranger(why)) => {
                strangers += 1;
                failures.push(format!(
                    "{address} is not a coordinator of the fleet that made this join token ({why})"
                ));
            }
            Err(Failure::Unavailable(why)) => failures.push(format!("{address}: {why}")),
        }
    }
    let failure = failures.join("; ");
    Err(if strangers == config.coordinators.len() {
        Failure::Stranger(failure)
    } else {
        Failure::Unavailable(failure)
    })
}

async fn ask(
    address: &str,
    client: Arc<ClientConfig>,
    token: &JoinToken,
    csr: &[u8],
) -> Result<Answer, Failure> {
    let asking = async {
        let channel =
            tls::connect(address, client).await.map_err(|error| Failure::of_transport(&error))?;
        let request = JoinRequest {
            token: token.expose(),
            csr_der: csr.to_vec(),
            info: Some(report::info()),
        };
        let answer = EnrolmentServiceClient::new(channel)
            .join(request)
            .await
            .map_err(|status| Failure::of_join(&status))?;
        let answer = answer.into_inner();
        Ok((answer.agent, answer.chain_der))
    };
    timeout(ASK_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(Failure::Unavailable("no answer in time".to_owned())))
}

/// Checks the answer and makes it this agent's identity.
fn accept(
    store: &Store,
    token: &JoinToken,
    key: Secret,
    agent: &str,
    chain: Vec<Vec<u8>>,
) -> Result<Identity, Error> {
    crash_point("identity::join_answered");
    let agent: AgentName = agent.parse().map_err(|error| Error::Answer(format!("{error}")))?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let identity = Identity::new(agent, key, chain).map_err(Error::Answer)?;
    if Fingerprint::of(identity.root()) != token.ca_fingerprint {
        return Err(Error::Answer("its CA is not the one in the join token".to_owned()));
    }
    store.save(&identity)?;
    store.forget_join_key()?;
    Ok(identity)
}

/// For the connection and the answer together: the coordinator may have to ask its leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
