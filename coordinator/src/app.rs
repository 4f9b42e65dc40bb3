//! The composition root: configuration in, running parts out. It alone names concrete backends.
//!
//! Everything that can fail for good (the seal key, the store file, an address in use) fails before
//! anything is served. Afterwards nothing but a signal ends the process: a lost store or a lost
//! lease makes a coordinator step down and try again, while it goes on serving agents from its mirror.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use chancery_shared::clock::{SharedClock, SystemClock};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub mod coordinator;
mod leader;

use self::coordinator::{Coordinator, Options, Parts};
use crate::{
    api::{self, Api, Socket, SocketError, SocketOptions},
    authority,
    challenge::{
        dns01::{self, Dns01},
        http01, tls_alpn01,
    },
    config::{Config, StoreConfig},
    http,
    members::{self, Membership, NameTaken},
    order::{self, AnswersWith, Outside},
    record::{Instance, Member},
    seal::{self, KeyFile},
    status::{About, Presence, Status},
    store::{self, Store, consul::ConsulStore, embedded::EmbeddedStore, etcd::EtcdStore},
};

/// Why a coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The seal key file, or the data keys that it should open.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key} in the configuration)")]
    Listen {
        /// The key in the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The admin socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A DNS provider cannot be used.
    #[error(transparent)]
    Dns01(#[from] dns01::Problems),
    /// The internal CA cannot be opened.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// Another coordinator has this one's name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// A listener ended by itself.
    #[error("{what} has ended: {reason}")]
    Ended {
        /// Which one.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    /// It was asked to stop while it still waited for its store.
    #[error("stopped before the store could be reached")]
    Stopped,
}

/// Runs a coordinator until SIGTERM or SIGINT, then hands over and returns. A second
/// signal ends the waiting.
pub async fn run(config: Config) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let shutdown = CancellationToken::new();
    let listeners = Listeners::bind(&config).await?;
    let running = Running::start(config, listeners, shutdown.clone());
    tokio::pin!(running);
    let mut running = tokio::select! {
        running = &mut running => running?,
        () = signals.next() => {
            // It may lead already: then it does not make the others wait for its lease.
            shutdown.cancel();
            tokio::select! {
                running = running => match running {
                    Err(Error::Stopped) => return Ok(()),
                    running => running?,
                },
                () = signals.next() => return Ok(()),
                () = tokio::time::sleep(STOP_DEADLINE) => return Ok(()),
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = signals.next() => {
            tracing::info!("stopping");
            Ok(())
        }
        ended = running.ended() => Err(ended),
    };
    shutdown.cancel();
    tokio::select! {
        () = running.stopped() => {}
        () = signals.next() => tracing::warn!("stopping at once, at the second signal"),
        () = tokio::time::sleep(STOP_DEADLINE) => tracing::warn!("some parts did not stop in time"),
    }
    outcome
}

/// SIGTERM and SIGINT, as one.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Everything that others connect to.
struct Listeners {
    agents: TcpListener,
    http: TcpListener,
    http01: TcpListener,
    tls_alpn01: Option<TcpListener>,
    admin: Socket,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            agents: listen("agents.listen", config.agents_listen).await?,
            http: listen("http.listen", config.http_listen).await?,
            http01: listen("http01.listen", config.http01_listen).await?,
            tls_alpn01: match config.tls_alpn01_listen {
                Some(address) => Some(listen("tls_alpn01.listen", address).await?),
                None => None,
            },
            admin: Socket::bind(&SocketOptions {
                path: config.admin_socket.clone(),
                group: config.admin_group.clone(),
            })?,
        })
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { key, address, source })
}

/// A running coordinator.
struct Running {
    coordinator: Coordinator,
    membership: Membership,
    servers: JoinSet<(&'static str, String)>,
}

impl Running {
    async fn start(
        config: Config,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let clock = SystemClock::shared();
        let key_file = KeyFile::load(&config.seal_key_file)?;
        let opening = open_store(&config.store, clock.clone());
        let store = shutdown.run_until_cancelled(opening).await.ok_or(Error::Stopped)??;
        let options = Options {
            node: config.node.clone(),
            lease_ttl: config.lease_ttl,
            orders: order::Options {
                deadline: config.orders_deadline,
                retry_first: config.orders_retry_first,
            },
            concurrency: config.orders_concurrency,
        };
        let dns01 = Arc::new(Dns01::new(config.dns01.clone())?);
        let answers_with = AnswersWith {
            dns01: Some(dns01.clone()),
            tls_alpn01: config.tls_alpn01_listen.is_some(),
        };
        let outside = Outside { answers_with, ..Outside::default() };
        let coordinator =
            Coordinator::start(options, store, &key_file, clock, outside, shutdown.clone()).await?;
        let parts = coordinator.parts.clone();
        // Before anything is served: whoever counts on the members counts on what they serve.
        let member = member(&config, &listeners, parts.clock.now())?;
        let instance = member.instance;
        if let Err(taken) = members::check_name(&parts.peers, &parts.mirror, &member).await {
            // It may lead already: then it does not make the others wait for its lease.
            shutdown.cancel();
            coordinator.stopped(std::future::ready(())).await;
            return Err(taken.into());
        }
        let membership =
            Membership::enter(parts.store.clone(), &parts.mirror, member, config.lease_ttl).await;
        let servers = serve(parts, dns01, instance, &config, listeners, &shutdown).await?;
        tracing::info!(node = %config.node, "running");
        Ok(Self { coordinator, membership, servers })
    }

    /// Resolves if a listener ends although nobody asked it to, or the name is somebody else's.
    async fn ended(&mut self) -> Error {
        tokio::select! {
            taken = self.membership.ousted() => taken.into(),
            ended = self.servers.join_next() => match ended {
                Some(Ok((what, reason))) => Error::Ended { what, reason },
                Some(Err(error)) => Error::Ended { what: "a listener", reason: error.to_string() },
                None => Error::Ended { what: "every listener", reason: String::new() },
            }
        }
    }

    /// After the shutdown was asked for: resolves when the lease is given up and all is written.
    async fn stopped(self) {
        let Self { coordinator, membership, mut servers } = self;
        let servers = async {
            // A peer that keeps its connection open must not cost the last events.
            let all = async { while servers.join_next().await.is_some() {} };
            if tokio::time::timeout(DRAIN, all).await.is_err() {
                tracing::warn!("some connections did not end in time");
            }
        };
        coordinator.stopped(servers).await;
        membership.leave().await;
    }
}

/// What the others are told of this coordinator.
fn member(
    config: &Config,
    listeners: &Listeners,
    started_at: jiff::Timestamp,
) -> Result<Member, Error> {
    let address = |key, listener: &TcpListener, configured| {
        listener.local_addr().map_err(|source| Error::Listen { key, address: configured, source })
    };
    let agents = address("agents.listen", &listeners.agents, config.agents_listen)?;
    let http = address("http.listen", &listeners.http, config.http_listen)?;
    Ok(Member {
        node: config.node.clone(),
        instance: Instance::random(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: members::dialled(config.agents_advertise.as_deref(), agents),
        http: members::dialled(None, http),
        started_at,
    })
}

/// Waits while a store that is a server cannot be reached; an error is one that waiting does not
/// mend.
async fn open_store(
    config: &StoreConfig,
    clock: SharedClock,
) -> Result<Arc<dyn Store>, store::Error> {
    match config {
        StoreConfig::Embedded { path } => Ok(EmbeddedStore::open(path, clock)?),
        StoreConfig::Etcd(options) => Ok(EtcdStore::open(options.clone(), clock).await?),
        StoreConfig::Consul(options) => Ok(ConsulStore::open(options.clone(), clock).await?),
    }
}

/// Starts everything that others connect to.
async fn serve(
    parts: Parts,
    dns01: Arc<Dns01>,
    instance: Instance,
    config: &Config,
    listeners: Listeners,
    shutdown: &CancellationToken,
) -> Result<JoinSet<(&'static str, String)>, Error> {
    let about = About {
        node: config.node.clone(),
        store: parts.store.kind(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let presence = Presence::new(parts.clock.clone());
    let (mirror, leadership) = (parts.mirror.clone(), parts.leadership.clone());
    let status =
        Status::new(about, mirror.clone(), leadership.clone(), presence, parts.clock.clone());
    let api = Api::new(api::Parts {
        store: parts.store,
        mirror: mirror.clone(),
        sealer: parts.sealer.clone(),
        status: status.clone(),
        leadership,
        peers: parts.peers,
        instance,
        transfers: parts.transfers,
        ask_now: parts.ask_now,
        dns01: Some(dns01),
        events: parts.events,
        metrics: parts.metrics.clone(),
        clock: parts.clock.clone(),
    });
    let mut servers = JoinSet::new();
    let Listeners { agents, http, http01, tls_alpn01, admin } = listeners;

    let serving = http01::serve(http01, mirror.clone(), shutdown.clone());
    spawn(&mut servers, "the listener for HTTP-01", serving);
    if let Some(listener) = tls_alpn01 {
        let serving = tls_alpn01::serve(listener, mirror.clone(), shutdown.clone());
        spawn(&mut servers, "the listener for TLS-ALPN-01", serving);
    }
    let stop = shutdown.clone();
    let metrics = parts.metrics;
    spawn(&mut servers, "the listener for metrics and health", async move {
        http::serve(http, status, &metrics, stop).await
    });
    spawn(
        &mut servers,
        "the admin socket",
        api::serve_operators(api.clone(), admin, shutdown.clone()),
    );
    // The first leader makes the internal CA; until then there is nothing to say to agents.
    let options = authority::Options { identity_lifetime: config.identity_lifetime };
    let loading = authority::load(&mirror, &parts.sealer, parts.clock, options);
    if let Some(authority) = shutdown.run_until_cancelled(loading).await {
        let serving = api::serve_agents(api, authority?, agents, shutdown.clone());
        spawn(&mut servers, "the listener for agents", serving);
    }
    Ok(servers)
}

fn spawn<E: std::fmt::Display>(
    servers: &mut JoinSet<(&'static str, String)>,
    what: &'static str,
    server: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    servers.spawn(async move {
        match server.await {
            Ok(()) => (what, "it was stopped".to_owned()),
            Err(error) => (what, error.to_string()),
        }
    });
}

/// How long what has begun may take to end before the lease is given up.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stop may take in all.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
