//! Which agents the other coordinators have seen: asked when somebody wants to know, never written.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{ListSeenRequest, SeenAgent, peer_service_client::PeerServiceClient};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Peers, Unreachable, peers::unreachable};
use crate::record::Member;

impl Peers {
    /// Asks every other coordinator for the agents that it has seen since it started. Bounded in time;
    /// one that cannot be asked has an error.
    pub async fn list_seen(&self) -> Vec<(Arc<Member>, Result<Vec<SeenAgent>, Unreachable>)> {
        let others = self.others();
        let asking = others.into_iter().map(|member| async move {
            let asked = timeout(ASK, self.ask_seen(&member)).await;
            let seen = asked.unwrap_or_else(|_| Err(unreachable(&member, "it does not answer")));
            (member, seen)
        });
        join_all(asking).await
    }

    async fn ask_seen(&self, member: &Member) -> Result<Vec<SeenAgent>, Unreachable> {
        let channel = self.channel(member).await?;
        let mut client = PeerServiceClient::new(channel).max_decoding_message_size(MOST);
        let answer = client.list_seen(ListSeenRequest {}).await.map_err(|status| {
            self.forget(member);
            unreachable(member, status.message())
        })?;
        Ok(answer.into_inner().agents)
    }
}

const ASK: Duration = Duration::from_secs(1);
/// Room for a hundred thousand agents.
const MOST: usize = 32 * 1024 * 1024;
