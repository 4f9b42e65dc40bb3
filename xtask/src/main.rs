//! The project's chores, run as `cargo xtask COMMAND`: fetch the real servers that tests
//! need, build and test, check what CI checks, show the demo, measure.
//!
//! Few dependencies on purpose: this crate is compiled first, and everybody waits for it.

mod cargo;
mod ci;
mod launch;
mod licences;
mod out;
mod run;
mod test;
mod tidy;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the Chancery workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch the servers and programs that tests use, into .tools
    Tools {
        /// Fetch what only the benchmarks compare with, too
        #[arg(long)]
        peers: bool,
    },
    /// Build once, then run every test with the real servers
    Test {
        /// Only tests whose names contain one of these
        filters: Vec<String>,
    },
    /// What CI runs: format, tidy, licences, clippy, documentation, tests
    Ci,
    /// Check the rules on layout, size and forbidden text
    Tidy,
    /// Simulate whole fleets with faults, one for each seed
    Sim {
        /// How many seeds
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first of them; any, if none is given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// From nothing to a served and renewed certificate, on this machine
    Demo {
        /// Leave everything running afterwards
        #[arg(long)]
        keep: bool,
        /// Three coordinators on a cluster of three servers, and a leader that is killed
        #[arg(long)]
        ha: bool,
        /// The store of the three: etcd or consul
        #[arg(long, requires = "ha", value_parser = ["etcd", "consul"])]
        store: Option<String>,
    },
    /// Kill, pause and cut off coordinators and stores, and judge what became of it (root)
    Chaos(Chaos),
    /// Measure Chancery beside its peers
    Bench {
        /// What to measure; `list` names the benchmarks
        name: String,
        /// With so many certificates, in those that let one choose
        #[arg(long, value_name = "COUNT")]
        certificates: Option<u32>,
        /// Write the figures as JSON to this file, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// What `chaos` is passed on.
#[derive(Debug, clap::Args)]
struct Chaos {
    /// How many minutes on each store
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Which faults, and in which order; drawn when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// On which store: etcd, consul or both
    #[arg(long, default_value = "both")]
    store: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Tools { peers } => tools::ensure(peers),
        Command::Test { filters } => test::test(&filters),
        Command::Ci => ci::ci(),
        Command::Tidy => tidy::check(),
        Command::Sim { seeds, seed } => launch::sim(seeds, seed),
        Command::Demo { keep, ha, store } => launch::demo(keep, ha, store.as_deref()),
        Command::Chaos(chaos) => launch::chaos(chaos.minutes, chaos.seed, &chaos.store),
        Command::Bench { name, certificates, json } => {
            launch::bench(&name, certificates, json.as_deref())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::error(&error);
            ExitCode::FAILURE
        }
    }
}
