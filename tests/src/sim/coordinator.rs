//! A coordinator as it runs on a machine: all of the real one but its listeners.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chancery_coordinator::{
    api::{self, Api, InProcess},
    app::coordinator::{Coordinator, Options, Parts},
    authority,
    challenge::http01,
    order::{self, AnswersWith, Generate, Outside},
    record::Instance,
    status::{About, Presence, Status},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    ca::CaWire,
    clock::NodeClock,
    kernel::Place,
    key_file,
    link::Door,
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
            answers_with: AnswersWith::default(),
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
            let (world, place, shutdown) = (world.clone(), place.clone(), shutdown.clone());
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
                let door = open_door(&world, &place, started.parts.clone(), shutdown);
                *coordinator.lock().expect("no holder panics") = Some(started);
                door.await;
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

/// Lets agents in, once there is an internal CA.
async fn open_door(world: &World, place: &Place, parts: Parts, shutdown: CancellationToken) {
    let (mirror, clock) = (parts.mirror.clone(), parts.clock.clone());
    let about = About {
        node: world.names[place.node].parse().expect("a name"),
        store: parts.store.kind(),
        version: "simulated",
    };
    let presence = Presence::new(clock.clone());
    let leadership = parts.leadership.clone();
    let status = Status::new(about, mirror.clone(), leadership.clone(), presence, clock.clone());
    let loading =
        authority::load(&mirror, &parts.sealer, clock.clone(), authority::Options::default());
    let loaded = shutdown.run_until_cancelled(loading).await;
    let Some(Ok(authority)) = loaded else { return };
    let Parts { store, mirror, sealer, peers, events, metrics, clock, .. } = parts;
    let (leadership, transfers, ask_now) = (parts.leadership, parts.transfers, parts.ask_now);
    let instance = Instance::random();
    let api = Api::new(api::Parts {
        store,
        mirror,
        sealer,
        status,
        leadership,
        transfers,
        ask_now,
        dns01: None,
        peers,
        instance,
        events,
        metrics,
        clock,
    });
    let door = Door {
        runtime: Handle::current(),
        place: place.clone(),
        service: InProcess::new(api, authority, shutdown),
    };
    world.doors.lock().expect("no holder panics").insert(place.node, door);
}

/// Long beside the times that anything takes to arrive.
pub const LEASE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_mins(1);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const CONCURRENCY: usize = 2;
const STOP_DEADLINE: Duration = Duration::from_secs(5);
