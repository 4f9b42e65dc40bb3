//! A coordinator as it runs on a machine: all of the real one but its listeners.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chancery_coordinator::{
    app::coordinator::{Coordinator, Options},
    challenge::http01,
    order::{self, Generate, Outside},
};
use tokio_util::sync::CancellationToken;

use super::{
    ca::CaWire,
    clock::NodeClock,
    kernel::Place,
    key_file,
    machine::Process,
    store::WiredStore,
    world::{Seen, World},
};

/// The process.
pub struct Running {
    shutdown: CancellationToken,
    coordinator: Arc<Mutex<Option<Coordinator>>>,
    ended: Arc<AtomicBool>,
}

impl Process for Running {
    fn start(world: &Arc<World>, place: &Place, clock: Arc<NodeClock>) -> Self {
        let shutdown = CancellationToken::new();
        let coordinator = Arc::new(Mutex::new(None));
        let ended = Arc::new(AtomicBool::new(false));
        let shown = Arc::new(OnceLock::new());
        world.seen.lock().expect("no holder panics").insert(place.node, shown.clone());
        let options = Options {
            node: world.names[place.node].parse().expect("a name"),
            lease_ttl: LEASE,
            orders: order::Options { deadline: DEADLINE, retry_first: RETRY_FIRST },
            concurrency: CONCURRENCY,
        };
        let store = Arc::new(WiredStore { world: world.clone(), place: place.clone() });
        let wire = CaWire { world: world.clone(), place: place.clone() };
        let outside = Outside {
            connect: Arc::new(move |_| Ok(Box::new(wire.clone()))),
            generate: Generate::InPlace,
        };
        let starting = {
            let shutdown = shutdown.clone();
            async move {
                let key_file = key_file();
                Coordinator::start(options, store, &key_file, clock, outside, shutdown).await
            }
        };
        tokio::spawn({
            let (coordinator, ended) = (coordinator.clone(), ended.clone());
            async move {
                // As systemd does it: one that cannot start is started again.
                let Ok(started) = starting.await else {
                    return ended.store(true, Ordering::Relaxed);
                };
                let parts = &started.parts;
                let seen = Seen {
                    mirror: parts.mirror.clone(),
                    leadership: parts.leadership.clone(),
                    http01: http01::routes(parts.mirror.clone()),
                };
                assert!(shown.set(seen).is_ok(), "a life begins once");
                *coordinator.lock().expect("no holder panics") = Some(started);
            }
        });
        Self { shutdown, coordinator, ended }
    }

    fn terminate(&self) {
        self.shutdown.cancel();
        let (coordinator, ended) = (self.coordinator.clone(), self.ended.clone());
        tokio::spawn(async move {
            let started = coordinator.lock().expect("no holder panics").take();
            if let Some(started) = started {
                let _ = tokio::time::timeout(STOP_DEADLINE, started.stopped(async {})).await;
            }
            ended.store(true, Ordering::Relaxed);
        });
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Long beside the times that anything takes to arrive.
pub const LEASE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_mins(1);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const CONCURRENCY: usize = 2;
const STOP_DEADLINE: Duration = Duration::from_secs(5);
