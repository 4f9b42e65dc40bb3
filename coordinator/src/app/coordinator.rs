//! A coordinator without its listeners: everything that follows the store, takes part in the
//! election, and leads. [`super`] puts the listeners around it; the simulation runs it as it is.

use std::{sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, name::NodeName, number::Epoch, retry::Policy};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{DRAIN, leader};
use crate::{
    election::{self, Election, Leadership, Transfers},
    events::{self, Events},
    members::Peers,
    metrics::Metrics,
    mirror::Mirror,
    order::{self, Outside},
    renewal_info::AskNow,
    seal::{self, KeyFile, Sealer},
    store::Store,
};

/// How a coordinator works.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// See [`election::Options::ttl`].
    pub lease_ttl: Duration,
    /// How orders are made.
    pub orders: order::Options,
    /// Orders at once at each issuer.
    pub concurrency: usize,
}

/// A running coordinator. Dropping it leaves its tasks alone: they end with its `shutdown`.
pub struct Coordinator {
    /// What the listeners serve from.
    pub parts: Parts,
    election: Election,
    events: JoinHandle<()>,
    stop_events: CancellationToken,
    leader: JoinHandle<()>,
}

/// What all parts of a coordinator have in common.
#[derive(Clone)]
pub struct Parts {
    /// The store, for writes and for what decides them.
    pub store: Arc<dyn Store>,
    /// The mirror, for reads.
    pub mirror: Arc<Mirror>,
    /// Seals and opens private keys.
    pub sealer: Sealer,
    /// The other coordinators.
    pub peers: Arc<Peers>,
    /// Where events are written down.
    pub events: Events,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: SharedClock,
    /// Whether this coordinator leads.
    pub leadership: watch::Receiver<Option<Leadership>>,
    /// Through which it hands over.
    pub transfers: Transfers,
    /// Through which CAs are asked now when to renew.
    pub ask_now: AskNow,
}

impl Coordinator {
    /// Loads the data keys, or makes them; reads the store, and waits for it if it cannot serve now;
    /// then takes part in the election until `shutdown`. Dropping the future starts nothing that leads.
    pub async fn start(
        options: Options,
        store: Arc<dyn Store>,
        key_file: &KeyFile,
        clock: SharedClock,
        outside: Outside,
        shutdown: CancellationToken,
    ) -> Result<Self, seal::Error> {
        let mut waits = Policy::CONNECT.waits();
        let (sealer, mirror) = loop {
            match first_look(&store, key_file, &clock, &shutdown).await {
                Err(seal::Error::Store(error)) if error.is_transient() => {
                    let wait = waits.next_wait();
                    tracing::warn!(%error, ?wait, "the store cannot be read yet; waiting for it");
                    tokio::time::sleep(wait).await;
                }
                decided => break decided?,
            }
        };
        let metrics = Arc::new(Metrics::default());
        let election = election::start(
            store.clone(),
            clock.clone(),
            election::Options { node: options.node.clone(), ttl: options.lease_ttl, drain: DRAIN },
            metrics.clone(),
            shutdown.clone(),
        );
        let (leadership, transfers) = (election.subscribe(), election.transfers());
        let stop_events = CancellationToken::new();
        let epochs = leadership.clone();
        let epoch = move || epochs.borrow().as_ref().map_or(Epoch(0), Leadership::epoch);
        let recorder = events::Options {
            node: options.node.clone(),
            clock: clock.clone(),
            epoch: Box::new(epoch),
            metrics: metrics.clone(),
        };
        let (events, events_task) = Events::start(store.clone(), recorder, stop_events.clone());
        let peers = Peers::new(options.node.clone(), mirror.clone(), sealer.clone(), clock.clone());
        let ask_now = AskNow::default();
        let parts = Parts {
            store,
            mirror,
            sealer,
            peers,
            events,
            metrics,
            clock,
            leadership,
            transfers,
            ask_now,
        };
        let leader = tokio::spawn(leader::lead(parts.clone(), options, outside, shutdown));
        Ok(Self { parts, election, events: events_task, stop_events, leader })
    }

    /// After the shutdown was asked for: resolves when the lease is given up, `others` have ended,
    /// and all that happened until then is written down.
    pub async fn stopped(self, others: impl Future<Output = ()>) {
        let _ = self.leader.await;
        self.election.stopped().await;
        others.await;
        // Last, so that nothing of what happened above is missing.
        self.stop_events.cancel();
        let _ = self.events.await;
    }
}

/// The data keys, and the mirror of a store that has been read once.
async fn first_look(
    store: &Arc<dyn Store>,
    key_file: &KeyFile,
    clock: &SharedClock,
    shutdown: &CancellationToken,
) -> Result<(Sealer, Arc<Mirror>), seal::Error> {
    let sealer = seal::bootstrap(&**store, key_file, clock.now()).await?;
    let mirror = Mirror::start(store.clone(), shutdown.clone()).await?;
    Ok((sealer, mirror))
}
