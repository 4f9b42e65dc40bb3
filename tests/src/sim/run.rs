//! One simulation from its seed to its verdict.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chancery_coordinator::{
    mirror::View,
    record::{self, Agent, CertificateSpec, DeploymentState, Identity, IssuerSpec, key},
    store::{Batch, Store as _},
};
use chancery_shared::{dice, key_type::KeyType, name::Labels, number::Revision};
use fastrand::Rng;

use super::{
    Sabotage, Verdict,
    agent::{Site, identity},
    ca::{Habits, ModelCa, WINDOW},
    clock::{Quartz, beginning},
    event::Event,
    kernel::{Kernel, SLICE},
    key_file,
    machine::Machine,
    process::Running,
    weather::{Mishap, Shape, Weather, schedule},
    world::{World, now},
};

/// A simulation that is going on.
pub(super) struct Simulation {
    world: Arc<World>,
    machines: Vec<Machine<Running>>,
    planned: VecDeque<(Duration, Mishap)>,
    calm_from: Duration,
    /// Of the store, at the last look.
    revision: Revision,
}

impl Simulation {
    /// The world that follows from `seed`.
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, keep_trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let calm_from = Duration::from_secs(rng.u64(30..90));
        let shape = Shape {
            coordinators: 3,
            agents: rng.usize(1..=2),
            certificates: rng.usize(2..=MOST_CERTIFICATES),
            calm_from,
            most_mishaps: 12,
        };
        let weather = Weather::of(&mut rng, calm_from);
        let planned = schedule(&mut rng, &shape).into();
        let kernel = Kernel::new(weather);
        if keep_trace {
            kernel.with_trace(super::trace::Trace::keep_all);
        }
        // Temporary names are made with the dice, and more than once if they are taken.
        drop(key_file());
        let sites =
            (1..=shape.agents).map(|number| Site::new(&format!("agent-{number}"))).collect();
        dice::load(seed);
        let world = World::new(kernel, sabotage, sites, &shape, cas(&mut rng));
        declare(&world, &mut rng);
        let machines = (0..world.names.len())
            .map(|node| {
                let quartz = Quartz::new(rng.i64(-DRIFT_PPM..=DRIFT_PPM), rng.i64(-1000..=1000));
                Machine::new(node, quartz)
            })
            .collect();
        Self { world, machines, planned, calm_from, revision: Revision(0) }
    }

    /// Runs it to its end.
    pub(super) fn run(mut self, seed: u64) -> Verdict {
        for machine in &mut self.machines {
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
            for machine in &mut self.machines {
                if machine.run_until(&world, end) {
                    machine.crash(&world, "has ended");
                    restarts.insert(machine.node, end + RESTART);
                }
            }
            if world.violation().is_some() {
                break end;
            }
            let calm = self.calm_from < end && self.planned.is_empty();
            if calm && (latest <= end || self.may_have_converged(end) && self.missing().is_empty())
            {
                break end;
            }
        };
        world_ends(&self, converged_at, seed)
    }

    /// Whether it is worth a look at everything: now and then, when the store has been quiet.
    fn may_have_converged(&mut self, at: Duration) -> bool {
        if at.subsec_millis() != 0 {
            return false;
        }
        let revision = now(self.world.store.commit(Batch::unfenced())).expect("it does nothing");
        std::mem::replace(&mut self.revision, revision) == revision
            || at.as_secs().is_multiple_of(10)
    }

    fn meet_mishaps(&mut self, until: Duration) {
        while let Some((_, mishap)) = self.planned.pop_front_if(|(at, _)| *at <= until) {
            self.meet(mishap);
        }
        if self.calm_from <= until && until < self.calm_from + SLICE {
            for node in 0..self.machines.len() {
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
            Mishap::Crash(node) => self.machines[node].crash(&world, "CRASHES"),
            Mishap::Start(node) => self.machines[node].start(&world),
            Mishap::Pause(node) => self.machines[node].pause(&world),
            Mishap::Resume(node) => self.machines[node].resume(&world),
            Mishap::Terminate(node) => self.machines[node].terminate(&world),
            Mishap::Cut(wire) => world.kernel.note(|| format!("{wire:?} is cut")),
            Mishap::Mend(wire) => world.kernel.note(|| format!("{wire:?} is mended")),
            Mishap::SetClock(node, secs) => {
                world.note(node, || format!("has its clock set, {secs} s ahead"));
                self.machines[node].quartz.set_ahead(secs);
            }
            Mishap::Renew(which) => world.renew(&world.certificates[which]),
        }
    }

    fn restart(&mut self, until: Duration, restarts: &mut BTreeMap<usize, Duration>) {
        while let Some(entry) = restarts.first_entry() {
            if until < *entry.get() {
                // All wait equally long, so those after it are no earlier.
                return;
            }
            self.machines[entry.remove_entry().0].start(&self.world);
        }
    }

    /// What has not come to be.
    fn missing(&self) -> Vec<String> {
        let mut snapshot = now(self.world.store.list("")).expect("it is in memory");
        // To decode them all would be most of the work.
        snapshot.entries.retain(|entry| LOOKED_AT.iter().any(|at| entry.key.starts_with(at)));
        let view = View::of(&snapshot);
        let mut missing = Vec::new();
        for name in &self.world.certificates {
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
        for site in 0..self.world.sites.len() {
            self.missing_at(site, &view, &mut missing);
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

impl Simulation {
    /// What has not come to be at an agent.
    fn missing_at(&self, site: usize, view: &View, missing: &mut Vec<String>) {
        let world = &self.world;
        let agent = &world.names[world.coordinators + site];
        for name in &world.certificates {
            let wanted = view.states.get(name).map_or(0, |state| state.record.generation.0);
            let served = world.sites[site].serves(name);
            if served != Some(wanted) {
                missing.push(format!("{agent} serves {served:?} of {name} instead of {wanted}"));
            }
            let reported = view.deployment(agent, name.as_str());
            let reported = reported.filter(|one| one.state == DeploymentState::Installed);
            if reported.is_none_or(|one| one.served.0 != wanted) {
                missing.push(format!("{agent} does not say that it serves {wanted} of {name}"));
            }
        }
    }
}

fn world_ends(simulation: &Simulation, end: Duration, seed: u64) -> Verdict {
    let world = &simulation.world;
    for (site, agent) in world.sites.iter().zip(&world.names[world.coordinators..]) {
        site.look_at_all(world, agent);
    }
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
        let life = rng.u64(60..300);
        // What renewals need, so that nothing is impossible from the start, and little more.
        let renewals = usize::try_from(WINDOW.as_secs() * 3 / life).unwrap_or(1) + 1;
        let habits = Habits {
            orders: MOST_CERTIFICATES * renewals + rng.usize(1..12),
            duplicates: renewals + rng.usize(1..4),
            life: Duration::from_secs(life),
            signing: Duration::from_millis(rng.u64(100..3000)),
        };
        (host.to_owned(), ModelCa::new(host, habits, rng.fork()))
    };
    BTreeMap::from([ca("main"), ca("spare")])
}

/// What an operator declares.
fn declare(world: &World, rng: &mut Rng) {
    let mut batch = Batch::unfenced();
    for name in ["main", "spare"] {
        let issuer = IssuerSpec {
            name: name.parse().expect("a name"),
            directory: format!("https://{name}/directory"),
            external_account: None,
            profile: None,
            preferred_chain: None,
            contacts: Vec::new(),
            trust_roots_pem: String::new(),
            limits: BTreeMap::new(),
        };
        batch = batch.put(key::issuer(&issuer.name), record::encode(&issuer));
    }
    let labels = Labels::new([("role".to_owned(), "web".to_owned())]).expect("good labels");
    for agent in &world.names[world.coordinators..] {
        let identity = identity();
        let record = Agent {
            name: agent.parse().expect("a name"),
            labels: labels.clone(),
            joined_at: beginning(),
            identity: Identity {
                public_key_hash: identity.public_key_hash.to_vec(),
                serial: "1".to_owned(),
                not_after: identity.not_after,
            },
            next_identity: None,
            version: String::new(),
            hostname: String::new(),
        };
        batch = batch.put(key::agent(&record.name), record::encode(&record));
    }
    for name in &world.certificates {
        let hosts = ["a", "b"][..rng.usize(1..=2)].iter();
        let spec = CertificateSpec {
            name: name.clone(),
            identifiers: hosts
                .map(|host| format!("{host}.{name}.test").parse().expect("a name"))
                .collect(),
            key_type: KeyType::EcdsaP256,
            reuse_key: false,
            key_ahead: false,
            standby: None,
            profile: None,
            issuers: ["main", "spare"].map(|name| name.parse().expect("a name")).to_vec(),
            challenges: Vec::new(),
            labels: labels.clone(),
            renew: None,
        };
        batch = batch.put(key::certificate(name), record::encode(&spec));
    }
    world.commit(None, batch).expect("the store is new");
}

/// Clocks are wrong by a twentieth at most, half of what the lease's margin allows.
const DRIFT_PPM: i64 = 50_000;
/// How long the calm may last: the longest wait after failures, and an order after it.
const PATIENCE: Duration = Duration::from_mins(5);
/// As long as systemd waits before it starts again what has ended.
const RESTART: Duration = Duration::from_secs(1);
const LAG: u64 = 3;
const MOST_CERTIFICATES: usize = 4;
/// What has to come right.
const LOOKED_AT: &[&str] = &[key::STATES, key::ORDERS, key::CHALLENGES, key::DEPLOYMENTS];
