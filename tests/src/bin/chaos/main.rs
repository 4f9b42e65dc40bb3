//! `cargo xtask chaos`: faults on a schedule that a seed decides, for as long as one likes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a verdict is there to be read")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chancery_tests::ha::chaos::{self, Options, Schedule, Verdict};
use chancery_tests::ha::cluster::Kind;
use chancery_tests::scene::{self, Scene};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// Faults on a schedule that a seed decides.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos")]
struct Arguments {
    /// How many minutes on each store
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Which faults, and in which order; drawn when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// On which store
    #[arg(long, value_enum, default_value_t = Store::Both)]
    store: Store,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Store {
    Etcd,
    Consul,
    Both,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chancery_shared::tls::install_crypto();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was violated.
fn run(arguments: &Arguments) -> Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => draw()?,
    };
    let kinds: &[Kind] = match arguments.store {
        Store::Etcd => &[Kind::Etcd],
        Store::Consul => &[Kind::Consul],
        Store::Both => &[Kind::Etcd, Kind::Consul],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Dropped futures kill what they started, so nothing runs on after Ctrl-C.
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            verdict = on_each(kinds, seed, arguments.minutes) => verdict,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })
}

async fn on_each(kinds: &[Kind], seed: u64, minutes: u64) -> Result<bool> {
    let (mut changes, mut well) = (0, true);
    for kind in kinds {
        println!("{}, seed {seed}, {minutes} minutes", kind.name());
        let schedule = Schedule::For(Duration::from_secs(minutes * 60));
        let options = Options { kind: *kind, seed, schedule };
        let scene = Scene::new()?;
        let ran = chaos::run(&scene, &options, |text| println!("  {text}")).await;
        let again = || {
            let store = kind.name().to_lowercase();
            format!("cargo xtask chaos --minutes {minutes} --seed {seed} --store {store}")
        };
        if ran.as_ref().is_ok_and(|verdict| verdict.violations.is_empty()) {
            // Nothing to look into.
        } else {
            scene::show_logs(scene.path());
            eprintln!("the files are in {}", scene.keep().display());
        }
        let verdict = ran.with_context(|| format!("again: {}", again()))?;
        show(*kind, &verdict);
        changes += verdict.leader_changes;
        if !verdict.violations.is_empty() {
            well = false;
            println!("again: {}", again());
        }
    }
    println!("leader changes in all: {changes}; seed {seed}");
    Ok(well)
}

fn show(kind: Kind, verdict: &Verdict) {
    let accounts = &verdict.accounts;
    println!("{}:", kind.name());
    println!("  faults                       {}", verdict.faults.len());
    println!("  leader changes               {}", verdict.leader_changes);
    println!("  writes to the store          {}", verdict.commits);
    println!("  renewals asked and promised  {}", verdict.asked);
    println!("  orders intended              {}", accounts.intended);
    println!("  orders at the CA             {}", accounts.at_ca);
    println!("  bundles                      {}", accounts.issued);
    println!("  orphan orders, explained     {}", accounts.orphans.len());
    for orphan in &accounts.orphans {
        println!("    {orphan}");
    }
    println!("  finalized for nothing        {}", accounts.forsaken.len());
    for forsaken in &accounts.forsaken {
        println!("    {forsaken}");
    }
    println!("  violations                   {}", verdict.violations.len());
    for violation in &verdict.violations {
        println!("    {violation}");
    }
}

/// A seed that a person can type.
fn draw() -> Result<u64> {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)
        .context("no seed can be drawn")?;
    Ok(u32::from_le_bytes(bytes).into())
}
