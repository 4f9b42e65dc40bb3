//! Which cargo, which flags, which folders.
//!
//! Build, clippy, documentation and tests use the same features everywhere: else
//! each would compile the shared dependencies once more.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools;

/// The features under which everything is built and tested: places where a test may kill
/// a program, which released binaries are built without; and all that those have.
pub(crate) const TEST_FEATURES: &str =
    "chancery-coordinator/failpoints,chancery-agent/failpoints,chancery-tests/aws";
/// The features of a released coordinator.
pub(crate) const RELEASE_FEATURES: &str = "chancery-coordinator/aws";

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    with_protoc(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// A command that builds, in the root of the workspace. The etcd client needs `protoc` for that:
/// the one that [`tools::ensure`] fetched, unless somebody names another.
fn with_protoc(mut command: Command) -> Command {
    command.current_dir(root());
    if env::var_os("PROTOC").is_none()
        && let Some(protoc) = tools::protoc()
    {
        command.env("PROTOC", protoc);
    }
    command
}

/// `cargo SUBCOMMAND --workspace` with the features of the tests.
pub(crate) fn workspace(subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--workspace", "--features", TEST_FEATURES]);
    command.args(locked());
    command
}

/// In CI the lock file must be complete; a developer may be about to add a dependency.
pub(crate) fn locked() -> Option<&'static str> {
    in_ci().then_some("--locked")
}

/// Whether this runs in CI.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// `nextest run` for the workspace, on top of a command that is cargo or cargo-nextest.
/// The same flags as the build, so that nothing is compiled twice.
pub(crate) fn nextest(command: Command) -> Command {
    let mut command = with_protoc(command);
    command.args(["nextest", "run", "--workspace", "--all-targets"]);
    command.args(["--features", TEST_FEATURES]);
    command.args(locked());
    command
}
