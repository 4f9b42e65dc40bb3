//! `cargo xtask sim`: simulates as many seeds as asked for, and shows those that fail.

use std::process::ExitCode;

use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::sim::{simulate_in_full, simulate_many};
use clap::Parser;

/// Simulates whole fleets, one for each seed.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them; any, if none is given
    #[arg(long)]
    seed: Option<u64>,
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn main() -> ExitCode {
    let Arguments { seeds, seed } = Arguments::parse();
    let first = seed.unwrap_or_else(|| fastrand::u64(..u64::from(u32::MAX)));
    if seeds == 1 {
        let verdict = simulate_in_full(first, None);
        for line in &verdict.trace {
            println!("{line}");
        }
        println!("{verdict}");
        return exit(verdict.violation.is_none());
    }
    println!("{seeds} seeds from {first}: cargo xtask sim --seeds {seeds} --seed {first}");
    let clock = SystemClock::new();
    let summary = simulate_many(first, seeds, None);
    for verdict in &summary.failed {
        println!("{verdict}\n");
    }
    println!(
        "{} of {} seeds failed; {} orders, {} steps, {} h simulated in {:.1} s",
        summary.failed.len(),
        summary.seeds,
        summary.orders,
        summary.steps,
        summary.simulated.as_secs() / 3600,
        clock.monotonic().0.as_secs_f64()
    );
    exit(summary.failed.is_empty())
}

fn exit(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
