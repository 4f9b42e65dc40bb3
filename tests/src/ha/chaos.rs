//! A schedule of faults while certificates are renewed, and the verdict on what became of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

use crate::cli::Cli;
use crate::coordinator::Coordinator;
use crate::gate::Endpoint;
use crate::scene::Scene;
use crate::wait;

use super::check::{self, Accounts, AtCa, Intent, Window};
use super::cluster::Kind;
use super::dice::Dice;
use super::fault::Fault;
use super::history::{Commit, Witness};
use super::world::{self, PATIENCE, World};

/// How long chaos reigns.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// These faults, in an order that the seed decides.
    Each(Vec<Fault>),
    /// Whatever the seed decides, until this time has passed.
    For(Duration),
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which store.
    pub kind: Kind,
    /// What it all follows from, but for time.
    pub seed: u64,
    /// Which faults.
    pub schedule: Schedule,
}

/// What became of it.
#[derive(Debug)]
pub struct Verdict {
    /// What struck, and when.
    pub faults: Vec<Window>,
    /// Terms of leadership, less the first.
    pub leader_changes: usize,
    /// Writes to the store.
    pub commits: usize,
    /// Renewals that were asked for and promised.
    pub asked: u64,
    /// The CA's orders beside the intended ones.
    pub accounts: Accounts,
    /// What must not have happened. Empty, if all is well.
    pub violations: Vec<String>,
}

/// Runs a trial. `tell` is told what happens. An error is a world that did not recover; what it did
/// wrong on its way is in the verdict.
pub async fn run(scene: &Scene, options: &Options, tell: impl Fn(&str)) -> Result<Verdict> {
    let mut world = World::start(scene, world::Options::new(options.kind)).await?;
    let witness = Witness::start(&world.cluster);
    let certificates: Vec<String> =
        (0..CERTIFICATES).map(|number| format!("site-{number}")).collect();
    world.declare(&certificates).await?;
    for certificate in &certificates {
        world.wait_until_everywhere(certificate, 1).await?;
    }

    let renewals = Renewals::start(&world.coordinators, &certificates, options.seed);
    let faults = strike(&mut world, options, &tell).await?;
    let asked = renewals.stop().await;
    tell("no more faults: all agents shall get a last generation");
    for certificate in &certificates {
        settle(&world, certificate).await?;
    }
    let history = wait_until_idle(&world, &witness, scene.path().to_owned()).await?;

    let terms = check::terms(&history);
    let (intents, mut violations) = check::orders(&history);
    violations.extend(check::no_epochs_interleave(&history));
    let at_ca = at_ca(&world);
    let (accounts, found) = check::accounts(&intents, &at_ca, &faults);
    violations.extend(found);
    violations.extend(pebble_counts(&world, at_ca.len()));
    Ok(Verdict {
        faults,
        leader_changes: terms.len().saturating_sub(1),
        commits: history.len(),
        asked,
        accounts,
        violations,
    })
}

async fn strike(world: &mut World, options: &Options, tell: &impl Fn(&str)) -> Result<Vec<Window>> {
    let mut dice = Dice::new(options.seed);
    let mut happened = Vec::new();
    let begun = Instant::now();
    let mut planned = match &options.schedule {
        Schedule::Each(faults) => faults.clone(),
        Schedule::For(_) => Vec::new(),
    };
    dice.shuffle(&mut planned);
    loop {
        let fault = match options.schedule {
            Schedule::Each(_) => planned.pop(),
            Schedule::For(time) => (begun.elapsed() < time).then(|| dice.pick(&Fault::ALL)),
        };
        let Some(fault) = fault else { return Ok(happened) };
        let window = fault.strike(world, &mut dice).await?;
        let took = (window.to - window.from).as_secs_f64();
        tell(&format!("{:7.1} s  {}: {took:.1} s", begun.elapsed().as_secs_f64(), window.what));
        happened.push(window);
    }
}

/// Renews a certificate once more, now that nothing is wrong, and waits until every agent has it.
async fn settle(world: &World, certificate: &str) -> Result<()> {
    let what = format!("a renewal of {certificate} to be taken");
    let before = wait::until(&what, PATIENCE, async || {
        let leader = world.leader().await.context("nobody leads")?;
        let cli = world.cli(leader.coordinator);
        let shown = cli.certificate(certificate).await?;
        cli.text(&["cert", "renew", certificate]).await?;
        shown["generation"].as_u64().context("no generation")
    })
    .await?;
    world.wait_until_everywhere(certificate, before + 1).await?;
    Ok(())
}

/// Waits until no order is under way, and returns the history up to then.
async fn wait_until_idle(world: &World, witness: &Witness, folder: PathBuf) -> Result<Vec<Commit>> {
    wait::until("the end of all orders", PATIENCE, async || {
        let history = witness.history(&world.cluster, &folder).await?;
        let (intents, _) = check::orders(&history);
        let live: Vec<&Intent> = intents.iter().filter(|intent| intent.live).collect();
        ensure!(live.is_empty(), "{live:?}");
        Ok(history)
    })
    .await
}

/// What the gate let through to the CA.
fn at_ca(world: &World) -> Vec<AtCa> {
    let seen = world.gate.seen();
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let finalized: Vec<String> = seen
        .iter()
        .filter(|seen| seen.endpoint == Endpoint::Finalize && seen.succeeded())
        .map(|seen| last(&seen.path))
        .collect();
    seen.iter()
        .filter(|seen| seen.endpoint == Endpoint::NewOrder && seen.succeeded())
        .filter_map(|seen| {
            let url = seen.location.clone()?;
            let finalized = finalized.contains(&last(&url));
            Some(AtCa { url, at: seen.at, names: seen.names.clone(), finalized })
        })
        .collect()
}

/// Whether Pebble itself counts as many orders as went through the gate.
fn pebble_counts(world: &World, through_the_gate: usize) -> Option<String> {
    let counted = world.pebble.log().matches(PEBBLE_MADE_AN_ORDER).count();
    (counted != through_the_gate)
        .then(|| format!("Pebble made {counted} orders, and {through_the_gate} were seen"))
}

/// Asks for renewals again and again, at any coordinator that answers.
struct Renewals {
    task: JoinHandle<()>,
    asked: Arc<AtomicU64>,
}

impl Renewals {
    fn start(coordinators: &[Coordinator], certificates: &[String], seed: u64) -> Self {
        let clis: Vec<Cli> = coordinators.iter().map(Coordinator::cli).collect();
        let certificates = certificates.to_vec();
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        let mut dice = Dice::new(seed ^ 0x5eed);
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let cli = &clis[dice.below(clis.len())];
                let certificate = &certificates[dice.below(certificates.len())];
                // Whoever is dead, paused or cut off promises nothing.
                let words = ["cert", "renew", certificate.as_str()];
                let said = timeout(EVERY * 4, cli.run(&words)).await;
                if matches!(said, Ok(Ok(said)) if said.status.success()) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { task, asked }
    }

    async fn stop(self) -> u64 {
        self.task.abort();
        let _ = self.task.await;
        self.asked.load(Ordering::Relaxed)
    }
}

const CERTIFICATES: usize = 4;
const EVERY: Duration = Duration::from_millis(500);
const PEBBLE_MADE_AN_ORDER: &str = "Added order ";
