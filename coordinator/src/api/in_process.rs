//! The service for agents without a network, for the simulation.

use std::{net::SocketAddr, sync::Arc};

use chancery_proto::v1::agent_service_server::AgentServiceServer;
use chancery_shared::name::AgentName;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, codegen::Service as _};

use super::{
    Api,
    agent::Agents,
    peer::{Peer, PeerIdentity},
};
use crate::authority::Authority;

/// The service for agents. Clones are the same one.
#[derive(Clone)]
pub struct InProcess {
    service: AgentServiceServer<Agents>,
}

impl InProcess {
    /// The service of `api`, whose streams end with `shutdown`.
    pub fn new(api: Arc<Api>, authority: Arc<Authority>, shutdown: CancellationToken) -> Self {
        Self { service: AgentServiceServer::new(Agents { api, authority, shutdown }) }
    }

    /// Answers a gRPC request of the agent whose identity certificate says this: its name, the SHA-256
    /// of its public key, and the end of its validity.
    pub async fn call(
        &self,
        (agent, public_key_hash, not_after): (AgentName, [u8; 32], Timestamp),
        mut request: http::Request<Body>,
    ) -> http::Response<Body> {
        let identity = PeerIdentity { agent, public_key_hash, not_after };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let peer = Peer { address, identity: Some(Arc::new(identity)), coordinator: None };
        request.extensions_mut().insert(peer);
        match self.service.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
