//! The service for the other coordinators.

use std::sync::Arc;

use chancery_proto::v1::{
    CatchUpRequest, CatchUpResponse, HelloRequest, HelloResponse, ListSeenRequest,
    ListSeenResponse, peer_service_server::PeerService,
};
use chancery_shared::number::Revision;
use tonic::{Request, Response, Status, async_trait};

use super::Api;

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
