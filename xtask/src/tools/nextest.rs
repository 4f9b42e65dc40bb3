//! The test runner: cargo-nextest where it is there, else built once into `.tools`.

use std::process::Command;

use crate::{cargo, out, run};

/// How tests are run.
pub(crate) enum Nextest {
    /// `cargo nextest`.
    Installed,
    /// The one in `.tools`.
    Own(std::path::PathBuf),
    /// Not to be had: `cargo test` instead.
    Missing,
}

impl Nextest {
    /// Finds it, or builds it.
    pub(crate) fn ensure() -> Self {
        if run::exists(cargo::cargo().args(["nextest", "--version"])) {
            return Self::Installed;
        }
        let root = super::folder().join("nextest");
        let program = root.join("bin/cargo-nextest");
        if run::exists(Command::new(&program).args(["nextest", "--version"])) {
            return Self::Own(program);
        }
        out::step("building cargo-nextest into .tools (once; some minutes)");
        let built = run::run(
            cargo::cargo().args(["install", "cargo-nextest", "--locked", "--root"]).arg(&root),
        );
        match built {
            Ok(()) => Self::Own(program),
            Err(error) => {
                out::error(&error);
                out::note("`cargo install cargo-nextest --locked` gets it by hand");
                Self::Missing
            }
        }
    }

    /// The command that runs tests of the workspace, with the features of the tests.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Installed => cargo::nextest(cargo::cargo()),
            Self::Own(program) => cargo::nextest(Command::new(program)),
            Self::Missing => cargo::workspace("test"),
        }
    }
}
