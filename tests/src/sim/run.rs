//! One simulation from its seed to its verdict.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chancery_coordinator::{
    mirror::View,
    record::{self, CertificateSpec, IssuerSpec, key},
    store::{Batch, Store as _},
};
use chancery_shared::{
    dice,
    key_type::KeyType,
    name::{CertName, Labels},
};
use fastrand::Rng;

use super::{
    Sabotage, Verdict,
    ca::{Habits, ModelCa},
    clock::{Quartz, beginning},
    coordinator::Running,
    event::Event,
    kernel::{Kernel, SLICE},
    key_file,
    machine::Machine,
    weather::{Mishap, Shape, Weather, schedule},
    world::{World, now},
};

/// A simulation that is going on.
pub(super) struct Simulation {
    world: Arc<World>,
    coordinators: Vec<Machine<Running>>,
    certificates: Vec<CertName>,
    planned: VecDeque<(Duration, Mishap)>,
    calm_from: Duration,
}

impl Simulation {
    /// The world that follows from `seed`.
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, keep_trace: bool) -> Self {
        // Whoever comes first makes the file, under a name that the dice decide.
        drop(key_file());
        dice::load(seed);
        let mut rng = Rng::with_seed(seed);
        let calm_from = Duration::from_secs(rng.u64(30..90));
        let shape = Shape {
            coordinators: 3,
            agents: 0,
            certificates: rng.usize(2..=4),
            calm_from,
            most_mishaps: 12,
        };
        let weather = Weather::of(&mut rng, calm_from);
        let planned = schedule(&mut rng, &shape).into();
        let kernel = Kernel::new(weather);
        if keep_trace {
            kernel.with_trace(super::trace::Trace::keep_all);
        }
        let names = (1..=shape.coordinators).map(|number| format!("node-{number}")).collect();
        let world = World::new(kernel, sabotage, names, cas(&mut rng));
        let certificates = declare(&world, &mut rng, shape.certificates);
        let coordinators = (0..shape.coordinators)
            .map(|node| {
                let quartz = Quartz::new(rng.i64(-DRIFT_PPM..=DRIFT_PPM), rng.i64(-1000..=1000));
                Machine::new(node, quartz)
            })
            .collect();
        Self { world, coordinators, certificates, planned, calm_from }
    }

    /// Runs it to its end.
    pub(super) fn run(mut self, seed: u64) -> Verdict {
        for machine in &mut self.coordinators {
            machine.start(&self.world);
        }
        let latest = self.calm_from + PATIENCE;
        let mut end = Duration::ZERO;
        let mut restarts = BTreeMap::new();
        let converged_at = loop {
            self.meet_mishaps(end);
            self.restart(end, &mut restarts);
            end += SLICE;
            let world = self.world.clone();
            world.kernel.run_until(end, || world.pump());
            world.pump();
            for machine in &mut self.coordinators {
                if machine.run_until(&world, end) {
                    machine.crash(&world, "has ended");
                    restarts.insert(machine.node, end + RESTART);
                }
            }
            if world.violation().is_some() {
                break end;
            }
            let calm = self.calm_from < end && self.planned.is_empty();
            // Not each time: it looks at everything.
            if calm && end.subsec_millis() == 0 && (self.missing().is_empty() || latest <= end) {
                break end;
            }
        };
        world_ends(&self, converged_at, seed)
    }

    fn meet_mishaps(&mut self, until: Duration) {
        while let Some((_, mishap)) = self.planned.pop_front_if(|(at, _)| *at <= until) {
            self.meet(mishap);
        }
        if self.calm_from <= until && until < self.calm_from + SLICE {
            for node in 0..self.coordinators.len() {
                self.meet(Mishap::Resume(node));
                self.meet(Mishap::Start(node));
            }
            self.world.kernel.with_weather(Weather::calm);
            self.world.kernel.note(|| "the calm begins".to_owned());
        }
    }

    fn meet(&mut self, mishap: Mishap) {
        let world = self.world.clone();
        world.kernel.with_weather(|weather| {
            weather.disturb();
            match mishap {
                Mishap::Cut(wire) => weather.set_cut(wire, true),
                Mishap::Mend(wire) => weather.set_cut(wire, false),
                _ => {}
            }
        });
        match mishap {
            Mishap::Crash(node) => {
                world.seen.lock().expect("no holder panics").remove(&node);
                self.coordinators[node].crash(&world, "CRASHES");
            }
            Mishap::Start(node) => self.coordinators[node].start(&world),
            Mishap::Pause(node) => self.coordinators[node].pause(&world),
            Mishap::Resume(node) => self.coordinators[node].resume(&world),
            Mishap::Terminate(node) => self.coordinators[node].terminate(&world),
            Mishap::Cut(wire) => world.kernel.note(|| format!("{wire:?} is cut")),
            Mishap::Mend(wire) => world.kernel.note(|| format!("{wire:?} is mended")),
            Mishap::SetClock(node, secs) => {
                world.note(node, || format!("has its clock set, {secs} s ahead"));
                self.coordinators[node].quartz.set_ahead(secs);
            }
            Mishap::Renew(which) => world.renew(&self.certificates[which]),
        }
    }

    fn restart(&mut self, until: Duration, restarts: &mut BTreeMap<usize, Duration>) {
        while let Some(entry) = restarts.first_entry() {
            if until < *entry.get() {
                // All wait equally long, so those after it are no earlier.
                return;
            }
            self.coordinators[entry.remove_entry().0].start(&self.world);
        }
    }

    /// What has not come to be.
    fn missing(&self) -> Vec<String> {
        let snapshot = now(self.world.store.list("")).expect("it is in memory");
        let view = View::of(&snapshot);
        let mut missing = Vec::new();
        for name in &self.certificates {
            let state = view.states.get(name).map(|state| &*state.record);
            let issued = state.and_then(|state| state.issued.as_ref());
            match issued {
                None => missing.push(format!("{name} has no certificate")),
                Some(issued) if issued.not_after <= beginning() + self.world.kernel.now() => {
                    missing.push(format!("{name} has expired"));
                }
                Some(_) if state.is_some_and(|state| state.renewal_requested_at.is_some()) => {
                    missing.push(format!("{name} was to be renewed"));
                }
                Some(_) => {}
            }
        }
        missing.extend(view.orders.keys().map(|name| format!("an order of {name} is not over")));
        if view.orders.is_empty() && !view.challenges.is_empty() {
            missing.push(format!("{} challenges are left over", view.challenges.len()));
        }
        let seen = self.world.seen.lock().expect("no holder panics");
        let leaders: BTreeSet<_> = seen
            .iter()
            .filter(|(_, seen)| seen.get().is_some_and(|seen| seen.leadership.borrow().is_some()))
            .map(|(node, _)| *node)
            .collect();
        if leaders.len() != 1 {
            missing.push(format!("{} coordinators lead", leaders.len()));
        }
        for (node, seen) in seen.iter() {
            let shown = seen.get().map(|seen| seen.mirror.revision());
            // The last commits may be on their way.
            if shown.is_none_or(|shown| shown.0 + LAG < snapshot.revision.0) {
                missing.push(format!("the mirror of node {node} is behind"));
            }
        }
        missing
    }
}

fn world_ends(simulation: &Simulation, end: Duration, seed: u64) -> Verdict {
    let world = &simulation.world;
    if world.violation().is_none() {
        world.tell(&Event::Ended { missing: &simulation.missing() });
    }
    world.kernel.clear();
    let cas = world.cas.lock().expect("no holder panics");
    world.kernel.with_trace(|trace| Verdict {
        seed,
        violation: world.violation(),
        hash: trace.hash(),
        steps: trace.count(),
        orders: cas.values().map(ModelCa::orders).sum(),
        simulated: end,
        trace: trace.last_of_interest(usize::MAX),
    })
}

fn cas(rng: &mut Rng) -> BTreeMap<String, ModelCa> {
    let mut ca = |host: &str| {
        let habits = Habits {
            orders: rng.usize(6..30),
            duplicates: rng.usize(3..6),
            life: Duration::from_secs(rng.u64(60..300)),
            signing: Duration::from_millis(rng.u64(100..3000)),
        };
        (host.to_owned(), ModelCa::new(host, habits, rng.fork()))
    };
    BTreeMap::from([ca("main"), ca("spare")])
}

/// What an operator declares.
fn declare(world: &World, rng: &mut Rng, certificates: usize) -> Vec<CertName> {
    let mut batch = Batch::unfenced();
    for name in ["main", "spare"] {
        let issuer = IssuerSpec {
            name: name.parse().expect("a name"),
            directory: format!("https://{name}/directory"),
            contacts: Vec::new(),
            trust_roots_pem: String::new(),
        };
        batch = batch.put(key::issuer(&issuer.name), record::encode(&issuer));
    }
    let mut names = Vec::new();
    for number in 1..=certificates {
        let name: CertName = format!("web-{number}").parse().expect("a name");
        let hosts = ["a", "b"][..rng.usize(1..=2)].iter();
        let spec = CertificateSpec {
            name: name.clone(),
            identifiers: hosts
                .map(|host| format!("{host}.{name}.test").parse().expect("a name"))
                .collect(),
            key_type: KeyType::EcdsaP256,
            issuers: ["main", "spare"].map(|name| name.parse().expect("a name")).to_vec(),
            labels: Labels::default(),
        };
        batch = batch.put(key::certificate(&name), record::encode(&spec));
        names.push(name);
    }
    world.commit(None, batch).expect("the store is new");
    names
}

/// Clocks are wrong by a twentieth at most, half of what the lease's margin allows.
const DRIFT_PPM: i64 = 50_000;
/// How long the calm may last: the longest wait after failures, and an order after it.
const PATIENCE: Duration = Duration::from_mins(5);
/// As long as systemd waits before it starts again what has ended.
const RESTART: Duration = Duration::from_secs(1);
const LAG: u64 = 3;
