//! How coordinators are reached.

use std::{fmt, sync::Arc};

use chancery_proto::v1::agent_service_client::AgentServiceClient;
use chancery_shared::tls;
use rustls::ClientConfig;
use tonic::body::Body;
use tower::{BoxError, ServiceExt as _, util::BoxCloneSyncService};

use super::{Failure, verdict::verdict};

/// One connection: gRPC requests in, answers out.
pub type Wire = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Broken>;

/// A connection failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(#[source] pub BoxError);

/// A client on such a connection.
pub(crate) type Client = AgentServiceClient<Wire>;

/// How coordinators are reached.
#[derive(Clone, Default)]
pub enum Reach {
    /// By TLS on TCP.
    #[default]
    Network,
    /// In another way, which makes a connection to an address.
    Through(Arc<dyn Fn(&str) -> Wire + Send + Sync>),
}

impl Reach {
    /// Connects to the coordinator at `address`.
    pub(super) async fn connect(
        &self,
        address: &str,
        config: ClientConfig,
    ) -> Result<Client, Failure> {
        let wire = match self {
            Self::Network => {
                let channel = tls::connect(address, Arc::new(config)).await;
                let channel = channel.map_err(|error| Failure::of_transport(&error))?;
                BoxCloneSyncService::new(channel.map_err(|error| Broken(error.into())))
            }
            Self::Through(make) => make(address),
        };
        Ok(AgentServiceClient::new(wire))
    }

    /// What the coordinator at `address` has against this identity, if that is why it hangs up.
    pub(super) async fn verdict(&self, address: &str, config: ClientConfig) -> Option<Failure> {
        match self {
            Self::Network => verdict(address, config).await,
            // Without TLS there is no identity to refuse.
            Self::Through(_) => None,
        }
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "Network",
            Self::Through(_) => "Through",
        })
    }
}
