//! Whether a caller is an agent of this fleet, and still is.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::AgentInfo;
use chancery_shared::name::AgentName;
use tonic::{Request, Status};

use super::{
    Api,
    peer::{Peer, PeerIdentity},
};
use crate::{
    events::printable,
    metrics::Refusal,
    mirror::Versioned,
    record::{self, Agent, key},
    store::Batch,
};

/// An agent that was let in.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: AgentName,
    pub(super) identity: Arc<PeerIdentity>,
}

/// Which of an agent's identities was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The one it uses.
    Present,
    /// The one that a rotation has issued.
    Next,
}

/// Which of `agent`'s identities `identity` is, if any.
pub(super) fn shown(agent: &Agent, identity: &PeerIdentity) -> Option<Shown> {
    let is = |known: &record::Identity| known.public_key_hash == identity.public_key_hash;
    if is(&agent.identity) {
        Some(Shown::Present)
    } else if agent.next_identity.as_ref().is_some_and(is) {
        Some(Shown::Next)
    } else {
        None
    }
}

impl Api {
    /// Lets an agent in, or says why not. Being seen with the identity of a rotation makes that the
    /// one and only; `info` is kept if it is new.
    pub(super) async fn authorize<T>(
        &self,
        request: &Request<T>,
        info: Option<&AgentInfo>,
    ) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let Some(identity) = peer.identity.clone() else {
            let message = format!("a client at {} showed no identity certificate", peer.address);
            self.refusals.refuse(Refusal::NoIdentity, peer.address.ip().to_string(), message);
            return Err(Status::unauthenticated(
                "this needs an agent's identity certificate: join first",
            ));
        };
        self.check_expiry(&identity)?;
        let agent = self.admit(&identity).await?;
        self.refresh(&agent, &identity, info).await;
        let name = identity.agent.clone();
        self.status.presence().heard(&name);
        Ok(Caller { name, identity })
    }

    fn check_expiry(&self, identity: &PeerIdentity) -> Result<(), Status> {
        if self.clock.now() < identity.not_after {
            return Ok(());
        }
        let message = format!("its identity certificate expired at {}", identity.not_after);
        self.refusals.refuse(Refusal::ExpiredIdentity, identity.agent.as_str(), message);
        Err(expired(identity))
    }

    /// The agent's record, if the identity is one of its own.
    async fn admit(&self, identity: &PeerIdentity) -> Result<Versioned<Agent>, Status> {
        let known = self.mirror.read().agents.get(&identity.agent).cloned();
        if let Some(agent) = known
            && shown(&agent.record, identity).is_some()
        {
            return Ok(agent);
        }
        // The mirror may lag behind a join or a rotation at another coordinator, and
        // this refusal is one that an agent takes for good.
        // A removed agent asks for ever: a bounded number of questions reaches the store at once.
        let permit = self.lookups.acquire().await.expect("it is never closed");
        let known = self.get::<Agent>(&key::agent(&identity.agent)).await?;
        drop(permit);
        let Some((agent, revision)) = known else {
            let message = "it was removed, but tried to connect";
            self.refusals.refuse(Refusal::RemovedAgent, identity.agent.as_str(), message);
            return Err(removed(&identity.agent));
        };
        if shown(&agent, identity).is_none() {
            let message = "an identity that has been superseded was used";
            self.refusals.refuse(Refusal::SupersededIdentity, identity.agent.as_str(), message);
            return Err(superseded(&identity.agent));
        }
        if tokio::time::timeout(CATCH_UP, self.mirror.wait_for(revision)).await.is_err() {
            return Err(Status::unavailable("this coordinator is behind; try another"));
        }
        Ok(Versioned { record: Arc::new(agent), revision })
    }

    /// Looks again, at the mirror only: for streams, which were let in before.
    pub(super) fn still_admitted(&self, identity: &PeerIdentity) -> Result<(), Status> {
        if self.clock.now() >= identity.not_after {
            return Err(expired(identity));
        }
        let view = self.mirror.read();
        match view.agents.get(&identity.agent) {
            None => Err(removed(&identity.agent)),
            Some(agent) if shown(&agent.record, identity).is_none() => {
                Err(superseded(&identity.agent))
            }
            Some(_) => Ok(()),
        }
    }

    /// Writes what is new of an agent that was seen. It is let in whether that works or not; the
    /// next call tries again. No leader owns this: the precondition alone keeps it from
    /// bringing back an agent that was removed.
    async fn refresh(
        &self,
        agent: &Versioned<Agent>,
        identity: &PeerIdentity,
        info: Option<&AgentInfo>,
    ) {
        let mut record = (*agent.record).clone();
        if shown(&record, identity) == Some(Shown::Next)
            && let Some(next) = record.next_identity.take()
        {
            record.identity = next;
        }
        if let Some(info) = info {
            (record.version, record.hostname) = told(info);
        }
        if record == *agent.record {
            return;
        }
        let key = key::agent(&identity.agent);
        let batch = Batch::unfenced()
            .unchanged(&*key, Some(agent.revision))
            .put(key, record::encode(&record));
        match self.store.commit(batch).await {
            Ok(revision) => self.shown(revision).await,
            Err(error) => {
                tracing::debug!(agent = %identity.agent, %error, "the agent's record is not updated yet");
            }
        }
    }
}

/// What an agent says of itself, made fit for a terminal: version and host name.
pub(super) fn told(info: &AgentInfo) -> (String, String) {
    (printable(&info.version, MAX_INFO), printable(&info.hostname, MAX_INFO))
}

fn expired(identity: &PeerIdentity) -> Status {
    Status::unauthenticated(format!(
        "the identity certificate expired at {}: join again with a new token",
        identity.not_after
    ))
}

fn removed(agent: &AgentName) -> Status {
    Status::permission_denied(format!("agent {agent} was removed"))
}

fn superseded(agent: &AgentName) -> Status {
    Status::permission_denied(format!(
        "this identity of agent {agent} has been superseded by a newer one"
    ))
}

const MAX_INFO: usize = 128;
const CATCH_UP: Duration = Duration::from_secs(5);
