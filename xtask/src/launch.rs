//! `cargo xtask demo`, `chaos` and `bench`: build what they run, then start them.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, out, run, tools};

/// Builds the programs and runs the demo.
pub(crate) fn demo(keep: bool, ha: bool, store: Option<&str>) -> Result<()> {
    tools::ensure(false)?;
    out::step("building");
    // All bins of the workspace, with the features of the tests: whoever has run the tests
    // has them built already.
    run::run(cargo::workspace("build").arg("--bins"))?;
    let mut command = Command::new(cargo::target().join("debug/chancery-demo"));
    if keep {
        command.arg("--keep");
    }
    if ha {
        command.arg("--ha");
    }
    if let Some(store) = store {
        command.args(["--store", store]);
    }
    start(&mut command)
}

/// Builds the programs, and lets chaos reign over them.
pub(crate) fn chaos(minutes: u64, seed: Option<u64>, store: &str) -> Result<()> {
    tools::ensure(false)?;
    out::step("building");
    run::run(cargo::workspace("build").arg("--bins"))?;
    let mut command = Command::new(cargo::target().join("debug/chancery-chaos"));
    command.args(["--minutes", &minutes.to_string(), "--store", store]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    start(&mut command)
}

/// Simulates fleets. Needs no server.
pub(crate) fn sim(seeds: u64, seed: Option<u64>) -> Result<()> {
    out::step("building");
    // With the features of the tests: whoever has run them has it built already.
    run::run(cargo::workspace("build").args(["--bin", "chancery-sim"]))?;
    let mut command = Command::new(cargo::target().join("debug/chancery-sim"));
    command.args(["--seeds", &seeds.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    start(&mut command)
}

/// Builds what is measured, as it is released, and runs a benchmark.
pub(crate) fn bench(name: &str, certificates: Option<u32>, json: Option<&Path>) -> Result<()> {
    tools::ensure(true)?;
    out::step("building for release");
    let build = |arguments: &[&str]| {
        run::run(cargo::cargo().arg("build").args(cargo::locked()).args(arguments))
    };
    let features = cargo::RELEASE_FEATURES;
    build(&[
        "--release",
        "-p",
        "chancery-coordinator",
        "-p",
        "chancery-cli",
        "--features",
        features,
    ])?;
    // By itself: features that the coordinator asks of shared dependencies would make it big.
    build(&["--profile", "agent", "-p", "chancery-agent"])?;
    build(&["--release", "-p", "chancery-tests", "--bin", "chancery-bench"])?;
    let mut command = Command::new(cargo::target().join("release/chancery-bench"));
    command.arg(name).env("CHANCERY_BIN_DIR", released()?);
    if let Some(count) = certificates {
        command.args(["--certificates", &count.to_string()]);
    }
    if let Some(json) = json {
        // The benchmark runs in the root of the workspace, the file is named from here.
        let here = env::current_dir().context("the current folder is gone")?;
        command.arg("--json").arg(here.join(json));
    }
    start(&mut command)
}

/// A folder with the programs as they are released, each from the folder of its profile.
fn released() -> Result<PathBuf> {
    let target = cargo::target();
    let folder = target.join("released");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    for (program, profile) in
        [("chancery-coordinator", "release"), ("chancery", "release"), ("chancery-agent", "agent")]
    {
        let link = folder.join(program);
        let _ = fs::remove_file(&link);
        symlink(target.join(profile).join(program), &link)
            .with_context(|| format!("{} cannot be linked", link.display()))?;
    }
    Ok(folder)
}

/// Unlike [`run::run`] this leaves the terminal to the program, and the signals: it cleans up
/// behind itself on Ctrl-C, and must not be left behind by us.
fn start(command: &mut Command) -> Result<()> {
    use std::os::unix::process::CommandExt as _;

    command.current_dir(cargo::root());
    let error = command.exec();
    bail!("{} could not be started: {error}", command.get_program().to_string_lossy())
}
