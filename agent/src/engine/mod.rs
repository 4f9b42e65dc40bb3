//! The reconciler: keeps what is on disk and in the services as it is wanted.
//!
//! Level-triggered. Whatever happens (a bundle arrives, a batch ends, a wait is over, the
//! process starts) leads to the same *pass*: store what was received, look at the disk, ask
//! [`crate::plan`], write builds, start batches, remove old builds, save, publish. There are
//! no inner retries: what failed waits, and a later pass tries again. No coordinator is
//! needed for any of it.
//!
//! Batches run as tasks of their own, so that a service that takes its time holds up nobody
//! but the certificates in its batch. What a batch touches is *busy* until it ends.

mod gate;
mod outcome;
mod receive;
#[cfg(test)]
mod tests;
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    durable,
    name::{CertName, ServiceName},
    retry::Policy,
    x509::Fingerprint,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::gate::Gate;
pub(crate) use self::receive::Event;
use crate::{
    bundle::{Brief, Bundle},
    cache::{self, Cache},
    config::Config,
    install::{self, BuildName, Layout, Staging},
    plan::{Batch, Plan, World, plan},
    report::Snapshot,
    service::{Activator, Host, Outcome, Subject},
    state::{CertRecord, Phase, State, StateFile},
    text,
};

/// The reconciler's state.
pub(crate) struct Engine {
    config: Arc<Config>,
    clock: SharedClock,
    host: Arc<dyn Host>,
    cache: Cache,
    layout: Layout,
    file: StateFile,
    state: State,
    /// What is in the cache and wanted on disk.
    wanted: BTreeMap<CertName, Brief>,
    /// Received, but the cache could not be written.
    uncached: BTreeMap<CertName, Bundle>,
    /// What is wrong with a received bundle, while something else is installed.
    troubles: BTreeMap<CertName, String>,
    waits: Waits,
    gate: Gate,
    running: JoinSet<(u64, Outcome)>,
    batches: BTreeMap<u64, Running>,
    next_batch: u64,
    publish: watch::Sender<Arc<Snapshot>>,
}

/// Until when something is not tried again. In memory only: a restart tries at once.
#[derive(Debug, Default)]
struct Waits {
    certificates: BTreeMap<CertName, Monotonic>,
    services: BTreeMap<ServiceName, Monotonic>,
    /// Writing the cache or the state file.
    storage: Option<(Monotonic, u32)>,
    /// What the last plan waits for.
    plan: Option<Monotonic>,
}

/// A batch that is being carried out.
struct Running {
    batch: Batch,
    builds: BTreeMap<CertName, Fingerprint>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error("{0}")]
    Install(#[from] install::Error),
    #[error(transparent)]
    State(#[from] durable::Error),
}

impl Engine {
    /// Loads what is on disk and removes what a killed process left half done. The caller
    /// holds the lock of the state folder.
    pub(crate) fn open(
        config: Arc<Config>,
        clock: SharedClock,
        host: Arc<dyn Host>,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), Error> {
        let cache = Cache::open(config.state_dir.join("bundles"))?;
        let layout = Layout::new(config.install.dir.clone());
        layout.clean_up()?;
        let (file, mut state) = StateFile::open(&config.state_dir)?;
        state.services.retain(|name, _| config.services.contains_key(name));
        let (publish, published) = watch::channel(Arc::default());
        let mut engine = Self {
            gate: Gate::new(config.install.settle),
            config,
            clock,
            host,
            wanted: BTreeMap::new(),
            uncached: BTreeMap::new(),
            troubles: BTreeMap::new(),
            waits: Waits::default(),
            running: JoinSet::new(),
            batches: BTreeMap::new(),
            next_batch: 0,
            cache,
            layout,
            file,
            state,
            publish,
        };
        engine.load()?;
        Ok((engine, published))
    }

    /// Works until told to stop; then gives running batches a moment to end.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        self.pass().await;
        loop {
            let due = self.due_in();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.running.join_next() => {
                    self.ended(ended);
                    // Even if a burst holds up the next pass: this must not be forgotten.
                    self.save_and_publish();
                }
                event = events.recv() => {
                    let Some(event) = event else { break };
                    self.receive(event);
                    while let Ok(event) = events.try_recv() {
                        self.receive(event);
                    }
                }
                () = wait(due) => {}
            }
            if self.gate.is_open(self.clock.monotonic()) {
                self.pass().await;
            }
        }
        let ending = async {
            while let Some(ended) = self.running.join_next().await {
                self.ended(ended);
            }
        };
        if timeout(STOP_GRACE, ending).await.is_err() {
            tracing::info!("stopping in the middle of a batch; it is taken up at the next start");
        }
        self.running.shutdown().await;
        self.save_and_publish();
    }

    /// How long until the next thing that has a time is due; `None` if nothing has.
    fn due_in(&self) -> Option<Duration> {
        let storage = self.waits.storage.map(|(at, _)| at);
        // A certificate that could not even be looked at is not part of the plan.
        let certificates = self.waits.certificates.values().min().copied();
        let due = [self.waits.plan, certificates, storage].into_iter().flatten().min();
        // In a burst nothing is done, so to wake for what is due meanwhile would be to spin.
        let due = self.gate.opens_at().or(due);
        due.map(|at| at.since(self.clock.monotonic()))
    }

    /// Looks and does what there is to do.
    async fn pass(&mut self) {
        self.store_received();
        // Twice is enough: builds are written in the first round, used in the second.
        for _ in 0..2 {
            let world = self.world();
            let plan = plan(&world);
            tracing::trace!(?plan);
            self.waits.plan = plan.wake_at;
            if plan.stage.is_empty() {
                self.note_installed(&world);
                self.carry_out(plan, &world);
                break;
            }
            for (certificate, build) in plan.stage {
                self.stage(&certificate, build);
                // Fsyncs take their time: let the connection answer its pings meanwhile.
                tokio::task::yield_now().await;
            }
        }
        self.save_and_publish();
    }

    /// Writes a build to disk.
    fn stage(&mut self, certificate: &CertName, build: BuildName) {
        let Some(brief) = self.wanted.get(certificate) else { return };
        let bundle = match self.cache.get(certificate) {
            Ok(Some(bundle)) if bundle.brief() == *brief => bundle,
            Ok(_) => return self.lost(certificate, "its cached bundle has gone"),
            Err(error) => return self.lost(certificate, &text::chain(&error)),
        };
        let ownership = self.config.ownership_of(certificate);
        match self.layout.stage(&Staging { bundle: &bundle, build, ownership }) {
            Ok(()) => tracing::debug!(%certificate, %build, "written"),
            Err(error) => self.install_failed(certificate, &error.to_string()),
        }
    }

    fn carry_out(&mut self, plan: Plan, world: &World) {
        for batch in plan.batches {
            self.start(batch, world);
        }
        for (certificate, build) in plan.prune {
            if let Err(error) = self.layout.remove_build(&certificate, build) {
                // Nothing depends on it, and the next pass tries again.
                tracing::warn!(%certificate, %build, "an old build stays: {error}");
            }
        }
    }

    fn start(&mut self, batch: Batch, world: &World) {
        let builds = batch.switches.keys();
        let builds = builds.map(|name| (name.clone(), world.certificates[name].build)).collect();
        let subject = |name: &CertName| {
            let brief = &self.wanted[name];
            let server_name = brief.server_name();
            Subject { leaf: brief.leaf, server_name, identifiers: brief.identifiers.clone() }
        };
        let subjects: BTreeMap<_, _> =
            batch.switches.keys().map(|name| (name.clone(), subject(name))).collect();
        let activator = Activator {
            config: self.config.clone(),
            layout: self.layout.clone(),
            host: self.host.clone(),
        };
        let number = self.next_batch;
        self.next_batch += 1;
        let carried = batch.clone();
        self.running.spawn(async move { (number, activator.activate(&carried, &subjects).await) });
        self.batches.insert(number, Running { batch, builds });
    }

    /// A certificate could not be installed: wait and try again.
    fn install_failed(&mut self, certificate: &CertName, message: &str) {
        let record = self.record(certificate);
        record.failures = record.failures.saturating_add(1);
        let wait = wait_after(self.config.retry, self.record(certificate).failures);
        let at = self.clock.monotonic().after(wait);
        self.waits.certificates.insert(certificate.clone(), at);
        self.set(certificate, Phase::InstallFailed, message.to_owned());
    }

    /// Moves a deployment to a phase and logs that, once.
    fn set(&mut self, certificate: &CertName, phase: Phase, message: String) {
        let now = self.clock.now();
        let record = self.record(certificate);
        if record.phase == phase && record.message == message {
            return;
        }
        let generation = record.delivered;
        record.set(phase, message, now);
        let message = record.message.as_str();
        match phase {
            Phase::Installed => tracing::info!(%certificate, %generation, "installed and in use"),
            Phase::Delivered => tracing::info!(%certificate, %generation, "received"),
            Phase::Withdrawn => tracing::info!(%certificate, "withdrawn; its files stay"),
            _ => tracing::warn!(%certificate, %generation, ?phase, "{message}"),
        }
    }

    fn record(&mut self, certificate: &CertName) -> &mut CertRecord {
        let now = self.clock.now();
        self.state.certificates.entry(certificate.clone()).or_insert_with(|| CertRecord::new(now))
    }

    fn save_and_publish(&mut self) {
        match self.file.save(&self.state) {
            Ok(_) if self.uncached.is_empty() => self.waits.storage = None,
            Ok(_) => {}
            Err(error) => self.storage_failed(&text::durable(&error)),
        }
        let snapshot = Snapshot::of(&self.state, &self.config, &self.wanted);
        self.publish.send_if_modified(|published| {
            let changed = **published != snapshot;
            if changed {
                *published = Arc::new(snapshot);
            }
            changed
        });
    }

    /// The state folder cannot be written: says so once and tries again later.
    fn storage_failed(&mut self, message: &str) {
        let now = self.clock.monotonic();
        match self.waits.storage {
            // Told before and not due: another attempt was made for another reason.
            Some((at, _)) if at > now => {}
            waiting => {
                let failures = waiting.map_or(1, |(_, failures)| failures + 1);
                if failures == 1 {
                    tracing::error!("{message}");
                }
                let at = now.after(wait_after(self.config.retry, failures));
                self.waits.storage = Some((at, failures));
            }
        }
    }
}

/// Waits for `due`, for ever if there is nothing to wait for.
async fn wait(due: Option<Duration>) {
    match due {
        Some(due) => sleep(due).await,
        None => std::future::pending().await,
    }
}

/// The wait after a number of failures in a row.
fn wait_after(policy: Policy, failures: u32) -> Duration {
    let mut waits = policy.waits();
    // Long past the longest wait of any sensible policy.
    let before = failures.saturating_sub(1).min(32);
    for _ in 0..before {
        let _ = waits.next_wait();
    }
    waits.next_wait()
}

/// How long running batches may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(4);
