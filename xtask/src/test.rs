//! `cargo xtask test`: the tools, one build, then every test with the real programs.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Nextest};
use crate::{cargo, out, run};

/// Runs the tests; with filters only those whose names contain one of them.
pub(crate) fn test(filters: &[String]) -> Result<()> {
    tools::ensure(false)?;
    let nextest = Nextest::ensure();
    // The end-to-end suite starts the programs that stand in the target folder. This build
    // puts them there, with the very flags with which the tests are built.
    out::step("building programs and tests");
    run::run(cargo::workspace("build").arg("--all-targets"))?;
    if filters.is_empty() && has_doc_tests()? {
        out::step("running the examples in the documentation");
        run::run(cargo::workspace("test").arg("--doc"))?;
    }
    out::step("running the tests");
    let mut command = nextest.command();
    if matches!(nextest, Nextest::Missing) {
        out::note("cargo-nextest is not to be had; `cargo test` runs them, without time limits");
        command.args(["--all-targets", "--no-fail-fast"]);
        match filters {
            [] => {}
            [filter] => {
                command.arg(filter);
            }
            _ => bail!("without cargo-nextest only one filter can be given"),
        }
    } else {
        command.args(filters);
    }
    run::run(&mut command).context("the tests did not pass")
}

/// Whether any documentation has a code block that `cargo test --doc` would run. Without one
/// that command would spend its time on linking nothing.
fn has_doc_tests() -> Result<bool> {
    let listed = run::output(std::process::Command::new("git").current_dir(cargo::root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]))?;
    Ok(listed
        .lines()
        .filter_map(|path| fs::read_to_string(cargo::root().join(path)).ok())
        .any(|text| is_tested(&text)))
}

fn is_tested(text: &str) -> bool {
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim_start();
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        let Some(fence) = doc.and_then(|doc| doc.trim_start().strip_prefix("```")) else {
            continue;
        };
        if inside {
            inside = false;
            continue;
        }
        inside = true;
        let rust = ["", "rust", "no_run", "should_panic", "edition2024"];
        if fence.split(',').all(|word| rust.contains(&word.trim())) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_in_documentation_is_a_test() {
        assert!(is_tested("/// ```\n/// let a = 1;\n/// ```\nfn f() {}"));
        assert!(is_tested("//! ```no_run\n//! f();\n//! ```"));
        assert!(!is_tested("/// ```text\n/// a\n/// ```\nfn f() {}"));
        assert!(!is_tested("fn f() {} // ```"));
    }
}
