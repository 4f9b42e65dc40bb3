//! Joining: a one-time token and a CSR for an identity certificate.
//!
//! A token is bound to the first key that used it, in the same batch that writes the agent. The same
//! key may ask again while the token lives, because the agent may have died before it stored
//! the answer, but only as long as the agent still has that very key as its identity: a removed
//! agent does not come back with its old token.
//!
//! To the caller all refusals of a token look the same. What was wrong goes into the event.

use std::sync::Arc;

use chancery_proto::v1::{JoinRequest, JoinResponse, enrolment_service_server::EnrolmentService};
use chancery_shared::{join_token::JoinToken, number::Revision};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, authorize::told, peer::Peer};
use crate::{
    authority::{Authority, Csr},
    metrics::Refusal,
    record::{self, Agent, EventKind, JoinToken as TokenRecord, key},
};

pub(super) struct Enrolment {
    pub(super) api: Arc<Api>,
    pub(super) authority: Arc<Authority>,
    /// Taken while the store is asked for a token that the mirror does not know.
    pub(super) lookups: Semaphore,
}

#[async_trait]
impl EnrolmentService for Enrolment {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let address = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
        let from = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let request = request.into_inner();
        let token: JoinToken = match request.token.parse() {
            Ok(token) => token,
            Err(_) => return Err(self.refuse(&from, "what was sent is not a join token")),
        };
        // The mirror first: it knows most tokens, and a guess at one of them costs the store nothing.
        // A token that it does not know may have been made a moment ago, at another coordinator.
        let known = self.api.mirror.read().tokens.get(&token.id).cloned();
        let unknown = match &known {
            Some(known) => {
                self.check(&token, Some(&*known.record), &from)?;
                None
            }
            // Few at a time: this is work that a stranger asks for.
            None => Some(self.lookups.acquire().await.expect("it is never closed")),
        };
        let leadership = self.api.lead().await?;
        let csr = Csr::parse(&request.csr_der)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let token_key = key::token(&token.id);
        let stored = self.api.get::<TokenRecord>(&token_key).await?;
        self.check(&token, stored.as_ref().map(|(record, _)| record), &from)?;
        drop(unknown);
        let Some((mut record, revision)) = stored else { return Err(refusal()) };

        let agent_key = key::agent(&record.agent);
        let present = self.api.get::<Agent>(&agent_key).await?;
        let hash = csr.public_key_hash();
        self.check_binding(&record, present.as_ref(), &hash)?;
        let identity = self.issue(&record, &csr)?;
        let (version, hostname) = request.info.as_ref().map(told).unwrap_or_default();
        let again = !record.used_by.is_empty();
        let agent = Agent {
            name: record.agent.clone(),
            labels: record.labels.clone(),
            joined_at: match &present {
                Some((agent, _)) if again => agent.joined_at,
                _ => self.api.clock.now(),
            },
            identity: identity.record,
            next_identity: None,
            version,
            hostname,
        };
        record.used_by = hash.to_vec();
        let batch = leadership
            .batch()
            .unchanged(&*token_key, Some(revision))
            .put(token_key, record::encode(&record))
            .unchanged(&*agent_key, present.as_ref().map(|(_, revision)| *revision))
            .put(agent_key, record::encode(&agent));
        self.api.commit(batch).await?;
        let how = match (again, present.is_some()) {
            (true, _) => "joined again with the same key",
            (false, true) => "joined anew and replaced the identity that it had",
            (false, false) => "joined",
        };
        self.api.events.record(
            EventKind::AgentJoined,
            agent.name.as_str(),
            format!("{how}, from {from}"),
        );
        Ok(Response::new(JoinResponse {
            agent: agent.name.to_string(),
            chain_der: identity.chain.into_iter().map(Into::into).collect(),
        }))
    }
}

impl Enrolment {
    /// Whether the token is known, unexpired, and its secret right.
    fn check(
        &self,
        token: &JoinToken,
        record: Option<&TokenRecord>,
        from: &str,
    ) -> Result<(), Status> {
        // Compared in any case, so that the time tells nothing about which half was wrong.
        let expected = record.map_or([0; 32].as_slice(), |record| &record.secret_hash);
        let secret = token.secret_hash();
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(&secret, expected).is_ok();
        let Some(record) = record else {
            return Err(self.refuse(from, "a join token was used that does not exist"));
        };
        if !same {
            return Err(self.refuse(
                record.agent.as_str(),
                &format!("a forged join token was used from {from}"),
            ));
        }
        if record.expires_at <= self.api.clock.now() {
            let message = format!("an expired join token was used from {from}");
            return Err(self.refuse(record.agent.as_str(), &message));
        }
        Ok(())
    }

    /// Whether the token is free, or this is the key that used it and still is the agent's.
    fn check_binding(
        &self,
        record: &TokenRecord,
        present: Option<&(Agent, Revision)>,
        hash: &[u8; 32],
    ) -> Result<(), Status> {
        if record.used_by.is_empty() {
            return Ok(());
        }
        if record.used_by != hash {
            let message = "its join token was used a second time, with another key";
            return Err(self.refuse(record.agent.as_str(), message));
        }
        if present.is_some_and(|(agent, _)| agent.identity.public_key_hash == hash) {
            return Ok(());
        }
        let message = "its join token was used again after its identity was removed or replaced";
        Err(self.refuse(record.agent.as_str(), message))
    }

    fn issue(
        &self,
        record: &TokenRecord,
        csr: &Csr,
    ) -> Result<crate::authority::IssuedIdentity, Status> {
        self.authority.issue_identity(&record.agent, csr).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot issue an identity");
            Status::internal(error.to_string())
        })
    }

    fn refuse(&self, subject: &str, reason: &str) -> Status {
        self.api.refusals.refuse(Refusal::Token, subject, reason);
        refusal()
    }
}

/// Tokens, or agents, that are looked up in the store at once.
pub(super) const LOOKUPS: usize = 4;

/// The same for every reason.
fn refusal() -> Status {
    Status::unauthenticated(
        "the join token was refused: it is unknown, expired, or was used by another agent; make a \
         new one with `chancery agent token create`",
    )
}
