//! Removing agents, and letting new ones join.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{CreateTokenRequest, CreateTokenResponse};
use chancery_shared::{
    join_token::JoinToken,
    name::{AgentName, Labels},
    wire::to_timestamp,
    x509::Fingerprint,
};
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

use super::{super::Api, not_found};
use crate::{
    record::{self, Agent, Authority, EventKind, JoinToken as TokenRecord, key},
    store::Batch,
};

impl Api {
    /// Removes an agent with its reports and its join tokens. Its stream ends when the mirror
    /// shows it, which is before this returns.
    ///
    /// Identity and tokens go in one step: whoever has a token could bring the agent back. What it
    /// has reported goes afterwards, and by the next leader if this one dies.
    pub(super) async fn remove_agent(&self, name: &AgentName, who: &str) -> Result<(), Status> {
        let leadership = self.lead().await?;
        let agent_key = key::agent(name);
        let Some((_, revision)) = self.get::<Agent>(&agent_key).await? else {
            return Err(not_found("agent", name));
        };
        let mut tokens = self.tokens_of(name).await?;
        // More than fit go before: what they are for is gone in any case.
        while tokens.len() > MOST_TOKENS {
            let some = tokens.split_off(tokens.len() - MOST_TOKENS);
            self.commit(some.into_iter().fold(leadership.batch(), Batch::delete)).await?;
        }
        let batch = leadership
            .batch()
            .unchanged(&*agent_key, Some(revision))
            .delete(agent_key)
            .delete(key::services(name));
        self.commit(tokens.into_iter().fold(batch, Batch::delete)).await?;
        self.status.presence().forget(name);
        self.events.record(EventKind::AgentRemoved, name.as_str(), format!("removed by {who}"));
        self.sweep(&leadership).await;
        Ok(())
    }

    /// Keys of an agent's join tokens.
    async fn tokens_of(&self, name: &AgentName) -> Result<Vec<String>, Status> {
        let tokens = self.store.list(key::TOKENS).await.map_err(|error| self.refused(&error))?;
        let of_agent = |value: &[u8], at: &str| {
            record::decode::<TokenRecord>(at, value).is_ok_and(|token| token.agent == *name)
        };
        let entries = tokens.entries.into_iter();
        Ok(entries.filter(|e| of_agent(&e.value, &e.key)).map(|entry| entry.key).collect())
    }

    /// Makes a join token, and clears away expired ones.
    pub(super) async fn create_token(
        &self,
        request: CreateTokenRequest,
        who: &str,
    ) -> Result<CreateTokenResponse, Status> {
        let (agent, labels, ttl) = check(&request)?;
        let leadership = self.lead().await?;
        let authority = tokio::time::timeout(AUTHORITY_MADE, self.authority()).await;
        let authority = authority.map_err(|_| {
            Status::unavailable("the internal CA is being made; try again in a second")
        })?;
        let now = self.clock.now();
        let token = JoinToken::generate(Fingerprint::of(&authority.certificate));
        let record = TokenRecord {
            secret_hash: token.secret_hash().to_vec(),
            agent,
            labels,
            created_at: now,
            expires_at: now + ttl,
            used_by: Vec::new(),
        };
        let token_key = key::token(&token.id);
        let batch = leadership.batch().absent(&*token_key).put(token_key, record::encode(&record));
        self.commit(self.without_expired(batch, now)).await?;
        let until = record.expires_at;
        let message =
            format!("{who} made a join token for labels {}, valid until {until}", record.labels);
        self.events.record(EventKind::TokenCreated, record.agent.as_str(), message);
        Ok(CreateTokenResponse {
            token: token.expose(),
            expires_at: Some(to_timestamp(until)),
            ca_fingerprint: token.ca_fingerprint.to_string(),
        })
    }

    /// The internal CA. The very first leader makes it once it is elected. Cancel-safe.
    async fn authority(&self) -> Arc<Authority> {
        let mut touched = self.mirror.touched();
        loop {
            let known = self.mirror.read().authority.as_ref().map(|known| known.record.clone());
            if let Some(authority) = known {
                return authority;
            }
            if let Err(RecvError::Closed) = touched.recv().await {
                // The mirror is gone, and with it the process.
                std::future::pending::<()>().await;
            }
        }
    }

    fn without_expired(&self, batch: Batch, now: Timestamp) -> Batch {
        let view = self.mirror.read();
        let expired = view.tokens.iter().filter(|(_, token)| token.record.expires_at <= now);
        expired.take(CLEARED).fold(batch, |batch, (id, _)| batch.delete(key::token(id)))
    }
}

/// The request's values, or all that is wrong with it.
fn check(request: &CreateTokenRequest) -> Result<(AgentName, Labels, Duration), Status> {
    let mut problems = Vec::new();
    let agent = request.agent.parse::<AgentName>();
    let agent = agent.map_err(|error| problems.push(error.to_string())).ok();
    let labels = Labels::new(request.labels.clone());
    let labels = labels.map_err(|error| problems.push(error.to_string())).ok();
    let ttl = match request.ttl {
        None => Some(DEFAULT_TTL),
        Some(ttl) => Duration::try_from(ttl).ok().filter(|ttl| !ttl.is_zero() && *ttl <= MOST_TTL),
    };
    if ttl.is_none() {
        problems.push("a join token lives for more than nothing and at most 7 days".to_owned());
    }
    match (agent, labels, ttl) {
        (Some(agent), Some(labels), Some(ttl)) => Ok((agent, labels, ttl)),
        _ => Err(Status::invalid_argument(problems.join("\n"))),
    }
}

/// How long a token waits for the CA that the first leader makes right after its election.
const AUTHORITY_MADE: Duration = Duration::from_secs(3);
/// Join tokens that go in one step with their agent.
const MOST_TOKENS: usize = Batch::MOST_KEYS - 8;
const DEFAULT_TTL: Duration = Duration::from_hours(1);
const MOST_TTL: Duration = Duration::from_hours(7 * 24);
/// Expired tokens that go with the making of a new one.
const CLEARED: usize = 32;
