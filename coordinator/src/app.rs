//! The composition root: configuration in, running parts out. It alone names concrete backends.
//!
//! Everything that can fail for good (the seal key, the store file, an address in use) fails before
//! anything is served. Afterwards nothing but a signal ends the process: a lost store or a lost
//! lease makes a coordinator step down and try again, while it goes on serving agents from its mirror.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use chancery_shared::{
    clock::{SharedClock, SystemClock},
    number::Epoch,
    retry::Policy,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, Socket, SocketError, SocketOptions},
    authority,
    challenge::http01,
    config::{Config, StoreConfig},
    election::{self, Election, Leadership},
    events::{self, Events},
    http,
    metrics::Metrics,
    mirror::{Mirror, Touched},
    order::{self, Orders},
    record::EventKind,
    scheduler::Scheduler,
    seal::{self, KeyFile, Sealer, rotation},
    status::{About, Presence, Status},
    store::{self, Store, embedded::EmbeddedStore},
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
    /// The internal CA cannot be opened.
    #[error(transparent)]
    Authority(#[from] authority::Error),
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
                running = running => running?,
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
    admin: Socket,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            agents: listen("agents.listen", config.agents_listen).await?,
            http: listen("http.listen", config.http_listen).await?,
            http01: listen("http01.listen", config.http01_listen).await?,
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
    election: Election,
    servers: JoinSet<(&'static str, String)>,
    events: tokio::task::JoinHandle<()>,
    stop_events: CancellationToken,
    leader: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(
        config: Config,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let clock = SystemClock::shared();
        let key_file = KeyFile::load(&config.seal_key_file)?;
        let store = open_store(&config.store, clock.clone())?;
        let sealer = seal::bootstrap(&*store, &key_file, clock.now()).await?;
        let mirror = Mirror::start(store.clone(), shutdown.clone()).await?;
        let options =
            election::Options { node: config.node.clone(), ttl: config.lease_ttl, drain: DRAIN };
        let election = election::start(store.clone(), clock.clone(), options, shutdown.clone());
        let leadership = election.subscribe();
        let metrics = Arc::new(Metrics::default());
        let stop_events = CancellationToken::new();
        let (events, events_task) = start_events(
            &config,
            store.clone(),
            clock.clone(),
            metrics.clone(),
            leadership.clone(),
            stop_events.clone(),
        );
        let parts = Parts { store, mirror, sealer, events, metrics, clock, leadership };
        let leader = tokio::spawn(lead(parts.clone(), config.clone(), shutdown.clone()));
        let servers = serve(parts, &config, listeners, &shutdown).await?;
        tracing::info!(node = %config.node, "running");
        Ok(Self { election, servers, events: events_task, stop_events, leader })
    }

    /// Resolves if a listener ends although nobody asked it to.
    async fn ended(&mut self) -> Error {
        match self.servers.join_next().await {
            Some(Ok((what, reason))) => Error::Ended { what, reason },
            Some(Err(error)) => Error::Ended { what: "a listener", reason: error.to_string() },
            None => Error::Ended { what: "every listener", reason: String::new() },
        }
    }

    /// After the shutdown was asked for: resolves when the lease is given up and all is written.
    async fn stopped(mut self) {
        let _ = self.leader.await;
        self.election.stopped().await;
        // A peer that keeps its connection open must not cost the last events.
        let servers = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, servers).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        // Last, so that nothing of what happened above is missing.
        self.stop_events.cancel();
        let _ = self.events.await;
    }
}

/// What the parts below have in common.
#[derive(Clone)]
struct Parts {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    sealer: Sealer,
    events: Events,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    leadership: watch::Receiver<Option<Leadership>>,
}

fn open_store(config: &StoreConfig, clock: SharedClock) -> Result<Arc<dyn Store>, store::Error> {
    match config {
        StoreConfig::Embedded { path } => Ok(EmbeddedStore::open(path, clock)?),
    }
}

fn start_events(
    config: &Config,
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    leadership: watch::Receiver<Option<Leadership>>,
    stop: CancellationToken,
) -> (Events, tokio::task::JoinHandle<()>) {
    let epoch = move || leadership.borrow().as_ref().map_or(Epoch(0), Leadership::epoch);
    let options =
        events::Options { node: config.node.clone(), clock, epoch: Box::new(epoch), metrics };
    Events::start(store, options, stop)
}

/// Starts everything that others connect to.
async fn serve(
    parts: Parts,
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
        events: parts.events,
        metrics: parts.metrics.clone(),
        clock: parts.clock.clone(),
    });
    let mut servers = JoinSet::new();
    let Listeners { agents, http, http01, admin } = listeners;

    let stop = shutdown.clone();
    spawn(&mut servers, "the listener for HTTP-01", {
        let routes = http01::routes(mirror.clone());
        async move { axum::serve(http01, routes).with_graceful_shutdown(stop.cancelled_owned()).await }
    });
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

/// Does the leader's work whenever this coordinator leads.
async fn lead(parts: Parts, config: Config, shutdown: CancellationToken) {
    let orders = Arc::new(Orders::new(
        order::Parts {
            store: parts.store.clone(),
            mirror: parts.mirror.clone(),
            sealer: parts.sealer.clone(),
            events: parts.events.clone(),
            metrics: parts.metrics.clone(),
            clock: parts.clock.clone(),
        },
        order::Options { deadline: config.orders_deadline, retry_first: config.orders_retry_first },
    ));
    let mut terms = parts.leadership.clone();
    let follow = follow_seal(&parts);
    let work = async {
        loop {
            let Some(leadership) = terms.borrow_and_update().clone() else {
                if terms.changed().await.is_err() {
                    return;
                }
                continue;
            };
            one_term(&parts, &orders, &config, leadership).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = follow => {}
        () = shutdown.cancelled() => {}
    }
}

/// The leader's work for one term.
async fn one_term(parts: &Parts, orders: &Arc<Orders>, config: &Config, leadership: Leadership) {
    let work = async {
        let message = format!("{} leads, epoch {}", config.node, leadership.epoch());
        parts.events.record(EventKind::LeaderElected, config.node.as_str(), message);
        let scheduler = Scheduler::new(
            parts.mirror.clone(),
            orders.clone(),
            parts.clock.clone(),
            leadership.clone(),
            config.orders_concurrency,
        );
        // Side by side: an internal CA that cannot be made or read must not stop renewals.
        tokio::join!(
            ensure_authority(parts, &leadership),
            scheduler.run(),
            reseal(parts, &leadership)
        );
    };
    tokio::select! {
        () = work => {}
        () = leadership.ended() => {}
    }
}

async fn ensure_authority(parts: &Parts, leadership: &Leadership) {
    let mut waits = Policy::CONNECT.waits();
    while let Err(error) =
        authority::ensure(&*parts.store, leadership, &parts.sealer, &parts.clock).await
    {
        tracing::warn!(%error, "the internal CA cannot be made yet");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

/// Loads data keys that another coordinator, or an operator through this one, has made.
async fn follow_seal(parts: &Parts) {
    let mut touched = parts.mirror.touched();
    // At once as well: they may have changed since they were loaded.
    loop {
        let ring = parts.mirror.read().seal.as_ref().map(|ring| ring.record.clone());
        if let Some(ring) = ring
            && let Err(error) = parts.sealer.reload(&ring)
        {
            tracing::error!(%error, "the data keys cannot be loaded");
        }
        if !seal_touched(&mut touched).await {
            return;
        }
    }
}

/// Moves records to the active data key as long as there are older keys.
async fn reseal(parts: &Parts, leadership: &Leadership) {
    let mut touched = parts.mirror.touched();
    loop {
        let keys = parts.mirror.read().seal.as_ref().map_or(0, |ring| ring.record.keys.len());
        if keys > 1 {
            reseal_once(parts, leadership).await;
            // Orders under way keep their key, and keys are dropped late: look again.
            tokio::time::sleep(RESEAL_PAUSE).await;
        } else if !seal_touched(&mut touched).await {
            return;
        }
    }
}

async fn reseal_once(parts: &Parts, leadership: &Leadership) {
    let now = parts.clock.now();
    match rotation::reseal(&*parts.store, leadership, &parts.sealer, now).await {
        Ok(progress) if progress.dropped.is_empty() => {
            tracing::debug!(?progress, "older data keys are still needed");
        }
        Ok(progress) => {
            let message = format!(
                "every record is sealed under the active data key; dropped data key {}",
                progress.dropped.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            );
            parts.events.record(EventKind::SealRotated, "seal", message);
        }
        Err(error) => tracing::warn!(%error, "records cannot be sealed again yet"),
    }
}

/// Resolves when a commit has touched the data keys; `false` if there will be no more commits.
async fn seal_touched(touched: &mut broadcast::Receiver<Arc<Touched>>) -> bool {
    loop {
        match touched.recv().await {
            Ok(touched) if !touched.seal && !touched.everything => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

/// How long what has begun may take to end before the lease is given up.
const DRAIN: Duration = Duration::from_secs(2);
/// Between looks at records that are still under an older data key.
const RESEAL_PAUSE: Duration = Duration::from_mins(1);
/// How long a stop may take in all.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
