//! Licences and bans of everything that is compiled, and what `cargo deny` adds where it is
//! installed.
//!
//! `cargo tree` is asked, and not the lock file or `cargo metadata`: those also name packages
//! that an optional feature would bring in and that nothing compiles.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, out, run};

/// Fails when a package has a licence that is not allowed, or is banned.
pub(crate) fn check() -> Result<()> {
    let tree = run::output(cargo::workspace("tree").args([
        "--prefix",
        "none",
        "--target",
        "all",
        "--no-dedupe",
        "--format",
        "{p}|{l}",
    ]))?;
    let mut problems = problems(&tree);
    problems.sort();
    problems.dedup();
    if !problems.is_empty() {
        for problem in &problems {
            out::note(problem);
        }
        bail!(
            "{} packages may not be used; `cargo tree -i NAME` shows who asks for them",
            problems.len()
        );
    }
    deny()
}

/// Licences under which we may ship a dependency. `deny.toml` has the same list.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that must not come back, and why. `deny.toml` has the same list.
const BANNED: &[(&str, &str)] = &[
    ("backoff", "unmaintained; use backon"),
    ("consulrs", "pins versions with advisories; our own client is used"),
    ("instant", "unmaintained"),
    ("native-tls", "TLS is rustls"),
    ("openssl", "TLS is rustls, cryptography is aws-lc-rs"),
    ("openssl-sys", "TLS is rustls, cryptography is aws-lc-rs"),
    ("ring", "cannot make RSA keys; cryptography is aws-lc-rs, once"),
    ("rsa", "timing attack without a fix; use aws-lc-rs"),
    ("serde_yaml", "unmaintained; configuration is TOML"),
    ("serde_yml", "unsound and unmaintained; configuration is TOML"),
];

/// Problems in lines of `name vVERSION …|licence`.
fn problems(tree: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for line in tree.lines().filter(|line| !line.trim().is_empty()) {
        let Some((package, licence)) = line.split_once('|') else { continue };
        let name = package.split(' ').next().unwrap_or_default();
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            problems.push(format!("{package}: banned: {why}"));
        }
        if licence.trim().is_empty() {
            problems.push(format!("{package}: states no licence"));
        } else if !is_allowed(licence) {
            problems.push(format!("{package}: licence `{licence}` is not on the list"));
        }
    }
    problems
}

/// Whether an SPDX expression can be met with allowed licences only. An expression that cannot
/// be read is not.
fn is_allowed(expression: &str) -> bool {
    // Old manifests separate alternatives by a slash.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    parser.any() == Some(true) && parser.at == words.len()
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    /// `all OR all OR …`
    fn any(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.take("OR") {
            met |= self.all()?;
        }
        Some(met)
    }

    /// `one AND one AND …`
    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.take("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    /// A licence, with its exception if it has one, or something in parentheses.
    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let met = self.any()?;
            return self.take(")").then_some(met);
        }
        let mut name = (*self.words.get(self.at)?).to_owned();
        self.at += 1;
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.words.get(self.at)?);
            self.at += 1;
        }
        Some(ALLOWED.contains(&name.as_str()))
    }

    fn take(&mut self, word: &str) -> bool {
        let next = self.words.get(self.at) == Some(&word);
        self.at += usize::from(next);
        next
    }
}

/// `cargo deny`, with what it can check here.
fn deny() -> Result<()> {
    if !run::exists(cargo::cargo().args(["deny", "--version"])) {
        out::note(
            "not checked: security advisories, sources (cargo-deny is not installed; \
             `cargo install cargo-deny --locked` gets it)",
        );
        return Ok(());
    }
    let mut checks = vec!["bans", "licenses", "sources"];
    if advisory_database() {
        checks.push("advisories");
    } else {
        out::note(
            "not checked: security advisories (their database is not on this machine; \
             `cargo deny fetch` gets it where the network allows)",
        );
    }
    let mut command: Command = cargo::cargo();
    command.args(["deny", "--offline", "--features", cargo::TEST_FEATURES]);
    run::run(command.arg("check").args(checks))
}

/// Whether cargo-deny finds a copy of the advisory database where it keeps it.
fn advisory_database() -> bool {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    home.and_then(|home| home.join("advisory-dbs").read_dir().ok())
        .is_some_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_need_one_and_conjunctions_need_all() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("MIT/GPL-3.0"));
        assert!(is_allowed("(MIT OR GPL-2.0) AND Unicode-3.0"));
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
        assert!(is_allowed("MIT OR Apache-2.0 OR LGPL-2.1-or-later"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
        assert!(!is_allowed("GPL-3.0"));
        assert!(!is_allowed("GPL-2.0 WITH Classpath-exception-2.0"));
    }

    #[test]
    fn what_cannot_be_read_is_not_allowed() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT"] {
            assert!(!is_allowed(expression), "{expression}");
        }
    }

    #[test]
    fn banned_packages_and_missing_licences_are_found() {
        let found = problems(
            "serde v1.0.0|MIT OR Apache-2.0\nring v0.17.14|Apache-2.0 AND ISC\n\nnone v1.0.0|\n\
             copyleft v2.0.0|AGPL-3.0\n",
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("ring v0.17.14: banned"), "{found:?}");
        assert!(found[1].contains("states no licence"), "{found:?}");
        assert!(found[2].contains("AGPL-3.0"), "{found:?}");
    }
}
