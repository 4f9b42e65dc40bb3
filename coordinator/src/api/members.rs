//! The service for the other coordinators.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chancery_proto::v1::{
    CatchUpRequest, CatchUpResponse, HelloRequest, HelloResponse, ListSeenRequest,
    ListSeenResponse, peer_service_server::PeerService,
};
use chancery_shared::number::Revision;
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use crate::status;

impl Api {
    /// Asks the other coordinators which agents are connected to them, unless that was done a
    /// moment ago. Bounded in time, and costs nothing while there is no other.
    pub(super) async fn look_around(&self) {
        let mut looked = self.looked_around.lock().await;
        let now = self.clock.monotonic();
        if looked.is_some_and(|looked| now.since(looked) < FRESH) {
            return;
        }
        let mut others = BTreeMap::new();
        for (member, seen) in self.peers.list_seen().await {
            if let Err(error) = &seen {
                tracing::warn!(%error, "not known now: which agents are connected there");
            }
            others.insert(member.node.clone(), seen.ok());
        }
        self.status.presence().learn(others);
        *looked = Some(now);
    }
}

/// For how long what the others said is good enough.
const FRESH: Duration = Duration::from_secs(1);

/// Who may call it is looked at before: see [`super::forward`].
pub(super) struct Members {
    pub(super) api: Arc<Api>,
}

#[async_trait]
impl PeerService for Members {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let about = self.api.status.about();
        Ok(Response::new(HelloResponse {
            node: about.node.to_string(),
            instance: self.api.instance.to_string(),
            version: about.version.to_owned(),
            revision: self.api.mirror.revision().0,
            behind_for: self.api.mirror.lost_for().map(status::duration),
            lease: Some(self.api.status.lease()).filter(|lease| lease.confirmed),
        }))
    }

    async fn catch_up(
        &self,
        request: Request<CatchUpRequest>,
    ) -> Result<Response<CatchUpResponse>, Status> {
        self.api.mirror.wait_for(Revision(request.into_inner().revision)).await;
        Ok(Response::new(CatchUpResponse { revision: self.api.mirror.revision().0 }))
    }

    async fn list_seen(
        &self,
        _: Request<ListSeenRequest>,
    ) -> Result<Response<ListSeenResponse>, Status> {
        let agents = self.api.status.presence().to_wire();
        Ok(Response::new(ListSeenResponse { agents }))
    }
}
