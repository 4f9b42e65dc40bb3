//! The service for agents.

use std::sync::Arc;

use chancery_proto::v1::{
    ReportRequest, ReportResponse, RotateIdentityRequest, RotateIdentityResponse, WatchRequest,
    agent_service_server::AgentService,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    authorize::{Caller, Shown, shown},
    watch_stream::{self, WatchStream},
};
use crate::{
    authority::{Authority, Csr},
    record::{self, Agent, EventKind, key},
};

pub(super) struct Agents {
    pub(super) api: Arc<Api>,
    pub(super) authority: Arc<Authority>,
    pub(super) shutdown: CancellationToken,
}

#[async_trait]
impl AgentService for Agents {
    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let caller = self.api.authorize(&request, request.get_ref().info.as_ref()).await?;
        let request = request.into_inner();
        let stream = watch_stream::open(&self.api, caller, request, self.shutdown.clone()).await?;
        Ok(Response::new(stream))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let caller = self.api.authorize(&request, request.get_ref().info.as_ref()).await?;
        self.api.report(&caller, request.into_inner()).await?;
        Ok(Response::new(ReportResponse {}))
    }

    async fn rotate_identity(
        &self,
        request: Request<RotateIdentityRequest>,
    ) -> Result<Response<RotateIdentityResponse>, Status> {
        let caller = self.api.authorize(&request, None).await?;
        let csr = Csr::parse(&request.into_inner().csr_der)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.rotate(&caller, &csr).await.map(Response::new)
    }
}

impl Agents {
    async fn rotate(&self, caller: &Caller, csr: &Csr) -> Result<RotateIdentityResponse, Status> {
        let leadership = self.api.lead().await?;
        let agent_key = key::agent(&caller.name);
        let stored = self.api.get::<Agent>(&agent_key).await?;
        let (mut agent, revision) = match stored {
            Some((agent, revision)) if shown(&agent, &caller.identity).is_some() => {
                (agent, revision)
            }
            // Removed or replaced since the call was let in.
            _ => return Err(Status::permission_denied("this identity is no longer valid")),
        };
        if shown(&agent, &caller.identity) == Some(Shown::Next)
            && let Some(next) = agent.next_identity.take()
        {
            agent.identity = next;
        }
        if agent.identity.public_key_hash == csr.public_key_hash() {
            return Err(Status::invalid_argument(
                "the certificate signing request is for the present key: rotate to a new one",
            ));
        }
        let issued = self.authority.issue_identity(&caller.name, csr).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot issue an identity");
            Status::internal(error.to_string())
        })?;
        let until = issued.record.not_after;
        agent.next_identity = Some(issued.record);
        let batch = leadership
            .batch()
            .unchanged(&*agent_key, Some(revision))
            .put(agent_key, record::encode(&agent));
        self.api.commit(batch).await?;
        let message = format!("got a new identity certificate, valid until {until}");
        self.api.events.record(EventKind::AgentRotated, caller.name.as_str(), message);
        Ok(RotateIdentityResponse { chain_der: issued.chain.into_iter().map(Into::into).collect() })
    }
}
