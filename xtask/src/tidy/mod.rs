//! Rules on this repository that no compiler knows: who may import whom, how big a file or a
//! function may get, what must not stand in any file.
//!
//! A rule is a function from the files to problems, so that its own test can show it bites.
//! To add one: a function in a module here, and a line in [`check`].

mod exceptions;
mod imports;
mod size;
mod source;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, out, run};

/// Applies every rule to the files that git knows, and tells all problems at once.
pub(crate) fn check() -> Result<()> {
    let files = files()?;
    let exceptions = fs::read_to_string(cargo::root().join(exceptions::PATH))
        .with_context(|| format!("{} cannot be read", exceptions::PATH))?;
    let mut problems = imports::check(&files);
    problems.extend(size::check(&files, &exceptions));
    problems.extend(text::check(&files));
    problems.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        out::note(problem);
    }
    bail!("{} places are not tidy", problems.len())
}

/// One file of the repository.
struct File {
    /// From the root of the repository.
    path: String,
    text: String,
    /// Whether it is compiled for tests only.
    test: bool,
}

impl File {
    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }
}

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    path: String,
    /// From 1; 0 when the whole file is meant.
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// The text files that git tracks or would track.
fn files() -> Result<Vec<File>> {
    let listed = run::output(Command::new("git").current_dir(cargo::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    let mut paths: Vec<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    paths.dedup();
    for path in paths {
        // Deleted but not yet committed, or not text: nothing to check.
        let Ok(text) = fs::read_to_string(cargo::root().join(path)) else { continue };
        files.push(File { path: path.to_owned(), text, test: false });
    }
    mark_tests(&mut files);
    Ok(files)
}

/// Finds the files that other files declare for tests only.
fn mark_tests(files: &mut [File]) {
    let sources = files.iter().filter(|file| file.is_rust());
    let modules: Vec<String> = sources
        .flat_map(|file| source::test_modules(&file.path, &source::code(&file.text)))
        .collect();
    for file in files {
        file.test = modules.iter().any(|module| {
            let rest = file.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned(), test: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_tests_are_known_by_their_declaration() {
        let mut files = [
            file("a/src/b/mod.rs", "#[cfg(test)]\nmod suite;\nmod real;"),
            file("a/src/b/suite.rs", ""),
            file("a/src/b/suite/part.rs", ""),
            file("a/src/b/real.rs", ""),
            file("a/src/b/suites.rs", ""),
        ];
        mark_tests(&mut files);
        assert_eq!(files.map(|file| file.test), [false, true, true, false, false]);
    }
}
