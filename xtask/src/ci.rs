//! `cargo xtask ci`: everything that must hold before a change lands, the quick checks first.

use anyhow::{Context as _, Result};

use crate::{cargo, licences, out, run, test, tidy, tools};

/// Runs every step, and stops at the first that fails.
pub(crate) fn ci() -> Result<()> {
    let steps: &[(&str, &str, Step)] = &[
        ("format", "cargo fmt --all", format),
        ("tidy", "cargo xtask tidy", tidy::check),
        ("licences and bans", "cargo xtask ci", licences::check),
        ("tools", "cargo xtask tools", tools),
        ("clippy", "cargo clippy --workspace --all-targets", clippy),
        ("documentation", "cargo doc --workspace --no-deps", documentation),
        ("tests", "cargo xtask test", tests),
    ];
    let whole = run::Stopwatch::start();
    for (name, again, step) in steps {
        out::step(format!("ci: {name}"));
        let stopwatch = run::Stopwatch::start();
        step().with_context(|| {
            format!("ci stopped at: {name}. To see it again: `{again}`. The cause")
        })?;
        out::note(format!("{name}: {:.1} s", stopwatch.elapsed().as_secs_f64()));
    }
    out::note(format!("all of ci: {:.1} s", whole.elapsed().as_secs_f64()));
    Ok(())
}

type Step = fn() -> Result<()>;

fn format() -> Result<()> {
    run::run(cargo::cargo().args(["fmt", "--all", "--", "--check"]))
}

fn tools() -> Result<()> {
    tools::ensure(false)
}

fn clippy() -> Result<()> {
    run::run(cargo::workspace("clippy").args(["--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    run::run(cargo::workspace("doc").arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests() -> Result<()> {
    test::test(&[])
}
