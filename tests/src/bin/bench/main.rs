//! `cargo xtask bench NAME`: Chancery beside its peers, on this machine, in one run.

mod agent;
mod delivery;
mod failover;
mod fleet;
mod issuance;
mod lego;
mod plan;
mod report;
mod scale;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;

/// Measure Chancery beside its peers.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// What to measure; `list` names the benchmarks, `all` runs them
    name: String,
    /// With so many certificates, in those that let one choose
    #[arg(long, value_name = "COUNT")]
    certificates: Option<u32>,
    /// Write the figures as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The benchmarks, with what each tells.
const BENCHMARKS: &[(&str, &str)] = &[
    ("issue", "certificates per second and CPU for each, beside lego with 8 processes"),
    ("scale", "100,000 certificates in etcd: apply, start, memory, a pass, sizes"),
    ("agent", "size of the agent's program, and its memory and CPU while nothing changes"),
    ("delivery", "from a certificate's commit to its installation on one agent"),
    ("plan", "a year of 50,000 certificates under a CA's limits, in virtual time"),
    ("failover", "how long nobody leads after a crash and in a hand-over, on etcd and on Consul"),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chancery_shared::tls::install_crypto();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.name == "list" {
        report::list(BENCHMARKS);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Dropped futures kill what they started, so nothing runs on after Ctrl-C.
    let reports = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            reports = measure(arguments) => reports,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })?;
    if let Some(path) = &arguments.json {
        report::write_json(path, &reports)?;
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Vec<Report>> {
    let name = &*arguments.name;
    let chosen: Vec<&str> = BENCHMARKS
        .iter()
        .map(|(known, _)| *known)
        .filter(|known| name == "all" || name == *known)
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = BENCHMARKS.iter().map(|(known, _)| *known).collect();
        bail!("there is no benchmark {name:?}; there are: {}, all, list", known.join(", "));
    }
    let mut reports = Vec::new();
    for name in chosen {
        let report = match name {
            "issue" => issuance::measure(arguments.certificates.unwrap_or(1_000)).await?,
            "scale" => scale::measure(arguments.certificates.unwrap_or(100_000)).await?,
            "agent" => agent::measure().await?,
            "delivery" => delivery::measure().await?,
            "plan" => plan::measure()?,
            _ => failover::measure().await?,
        };
        let report = match arguments.certificates {
            Some(count) => report.with_certificates(count),
            None => report,
        };
        report.print();
        reports.push(report);
    }
    Ok(reports)
}
