//! What a coordinator serves over gRPC: to agents over TLS, to operators on a unix socket.
//!
//! # Who may do what
//!
//! | service | on | who |
//! |---|---|---|
//! | `EnrolmentService` | TLS | who has a join token |
//! | `AgentService` | TLS | who shows an identity certificate *and* has a record in the store |
//! | `AdminService` | unix socket | who may open the socket: its file mode is the access control |
//! | `PeerService` | TLS | who shows a coordinator's identity certificate |
//! | health, reflection | both | anybody |
//!
//! A certificate alone opens nothing: each call looks at the agent's record ([`authorize`]), and a
//! stream looks again whenever that record changes, so that removing an agent cuts it at once.
//! Before an agent is told that it was removed, the store itself is asked: a mirror that
//! lags must not frighten an agent into giving up its identity.
//!
//! # Reads and writes
//!
//! Reads come from the mirror. A write that the leader owns reads what it depends on from the
//! store, states that as preconditions, goes in one fenced batch, and returns once this
//! coordinator's own mirror shows it. A coordinator that does not lead passes such calls on to the
//! one that does ([`forward`]). Reports of agents are owned by no leader; every coordinator takes them.

use std::{fmt, io, sync::Arc, time::Duration};

use chancery_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{self, admin_service_server::AdminServiceServer},
};
use chancery_shared::{
    clock::{Monotonic, SharedClock},
    tls::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Mutex, Semaphore, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tower::layer::util::{Identity, Stack};

use crate::{
    authority::{self, Authority},
    challenge::dns01::Dns01,
    election::{Leadership, Transfers},
    events::Events,
    members::Peers,
    metrics::Metrics,
    mirror::Mirror,
    record::Instance,
    renewal_info::AskNow,
    seal::Sealer,
    status::Status,
    store::Store,
};

mod admin;
mod agent;
mod authorize;
mod caller;
mod enrolment;
mod forward;
#[cfg(any(test, feature = "testing"))]
mod in_process;
mod members;
mod peer;
mod refusals;
mod report;
mod socket;
mod tls;
mod watch_stream;
mod write;

#[cfg(any(test, feature = "testing"))]
pub use in_process::InProcess;
pub use socket::{Socket, SocketError, SocketOptions};

use forward::{ForwardLayer, Side};
use refusals::Refusals;

/// What the services are made of.
#[derive(Clone)]
pub struct Parts {
    /// The store, for writes and for what decides them.
    pub store: Arc<dyn Store>,
    /// The mirror, for reads.
    pub mirror: Arc<Mirror>,
    /// Opens bundles' keys when they are sent.
    pub sealer: Sealer,
    /// The read model, and who is connected.
    pub status: Arc<Status>,
    /// Whether this coordinator leads: [`crate::election::Election::subscribe`].
    pub leadership: watch::Receiver<Option<Leadership>>,
    /// The other coordinators.
    pub peers: Arc<Peers>,
    /// Stands for this process, as in its member record.
    pub instance: Instance,
    /// Through which this coordinator hands over.
    pub transfers: Transfers,
    /// Through which CAs are asked now when to renew.
    pub ask_now: AskNow,
    /// Asks the DNS; without it nothing does.
    pub dns01: Option<Arc<Dns01>>,
    /// Where events are written down.
    pub events: Events,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: SharedClock,
}

/// What all services share.
pub struct Api {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    sealer: Sealer,
    status: Arc<Status>,
    leadership: watch::Receiver<Option<Leadership>>,
    peers: Arc<Peers>,
    instance: Instance,
    transfers: Transfers,
    ask_now: AskNow,
    dns01: Option<Arc<Dns01>>,
    events: Events,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    /// Two applies at once would only make each other fail.
    applying: Mutex<()>,
    /// Taken while the store is asked for an agent that the mirror does not know.
    lookups: Semaphore,
    /// When the other coordinators were last asked for their agents.
    looked_around: Mutex<Option<Monotonic>>,
}

/// Why a listener does not serve (any longer).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The internal CA.
    #[error("the server certificate cannot be made")]
    Authority(#[from] authority::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The listener.
    #[error("the listener failed")]
    Listener(#[from] io::Error),
    /// The gRPC server.
    #[error("the gRPC server failed")]
    Server(#[from] tonic::transport::Error),
    /// The descriptions of the services, which are compiled in.
    #[error("the services' descriptions cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Api {
    /// Puts the services together; serve them with [`serve_agents`] and [`serve_operators`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, mirror, sealer, status, leadership, peers, instance, .. } = parts;
        let (transfers, ask_now, events) = (parts.transfers, parts.ask_now, parts.events);
        let (metrics, clock, dns01) = (parts.metrics, parts.clock, parts.dns01);
        Arc::new(Self {
            refusals: Refusals::new(events.clone(), metrics.clone(), clock.clone()),
            applying: Mutex::new(()),
            lookups: Semaphore::new(enrolment::LOOKUPS),
            looked_around: Mutex::new(None),
            store,
            mirror,
            sealer,
            status,
            leadership,
            peers,
            instance,
            transfers,
            ask_now,
            dns01,
            events,
            clock,
            metrics,
        })
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

/// Serves agents on `listener` until `shutdown`, then lets calls end for a few seconds. Streams end
/// at once, so that agents go to another coordinator.
pub async fn serve_agents(
    api: Arc<Api>,
    authority: Arc<Authority>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let config = tls::server_config(&authority, api.clock.clone())?;
    let incoming = tls::accept(listener, config, api.clone(), shutdown.clone());
    let enrolment = enrolment::Enrolment {
        api: api.clone(),
        authority: authority.clone(),
        lookups: Semaphore::new(enrolment::LOOKUPS),
    };
    let members = members::Members { api: api.clone() };
    let admin = admin_server(api.clone(), shutdown.clone());
    let layer = ForwardLayer { api: api.clone(), side: Side::Agents };
    let agents = agent::Agents { api, authority, shutdown: shutdown.clone() };
    let router = router(layer)?
        // For operators' calls that another coordinator passes on, and nobody else.
        .add_service(admin)
        .add_service(v1::peer_service_server::PeerServiceServer::new(members))
        .add_service(v1::enrolment_service_server::EnrolmentServiceServer::new(enrolment))
        .add_service(v1::agent_service_server::AgentServiceServer::new(agents));
    let server = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    drained(server, &shutdown).await
}

/// Serves operators on `socket` until `shutdown`, then removes the socket's file.
pub async fn serve_operators(
    api: Arc<Api>,
    socket: Socket,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (listener, _file) = socket.into_parts();
    serve_operators_on(api, listener, shutdown).await
}

async fn serve_operators_on(
    api: Arc<Api>,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let layer = ForwardLayer { api: api.clone(), side: Side::Operators };
    let router = router(layer)?.add_service(admin_server(api, shutdown.clone()));
    let incoming = UnixListenerStream::new(listener);
    let server = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    drained(server, &shutdown).await
}

fn admin_server(api: Arc<Api>, shutdown: CancellationToken) -> AdminServiceServer<admin::Admin> {
    // A fleet's files may be larger than the default of 4 MiB.
    AdminServiceServer::new(admin::Admin { api, shutdown })
        .max_decoding_message_size(MAX_ADMIN_MESSAGE)
        .max_encoding_message_size(MAX_ADMIN_MESSAGE)
}

/// What every listener has: keep-alive, health and reflection, and the way to the leader.
fn router(layer: ForwardLayer) -> Result<Router<Stack<ForwardLayer, Identity>>, Error> {
    // SERVING as long as the process does: what agents get comes from the mirror, also while the
    // store is away. Whether everything is well is what /readyz and `chancery status` say.
    let (_, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .layer(layer)
        .add_service(health)
        .add_service(reflection);
    Ok(router)
}

/// Waits for `server`, but after `shutdown` not for longer than a deadline.
async fn drained(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => Ok(result?),
        () = deadline => {
            tracing::debug!("some connections did not end in time");
            Ok(())
        }
    }
}

/// Calls at once on one connection: an agent has one stream and a report, another coordinator
/// passes on what its own callers ask for.
const MAX_CONCURRENT_CALLS: u32 = 128;
const MAX_ADMIN_MESSAGE: usize = 64 * 1024 * 1024;
const DRAIN: Duration = Duration::from_secs(3);

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
