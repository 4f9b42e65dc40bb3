//! Desired state, read from TOML files.
//!
//! Everything that can be checked without the coordinator is checked here, over all
//! files at once, and every problem is told with its file, line, key and value and
//! with what to do about it. The files are walked as spanned TOML values rather than
//! deserialized, because a deserializer stops at its first error.
//!
//! Whether an issuer that a certificate names exists is not checked: it may be known
//! to the coordinator already, which checks it again with all else.

mod check;
mod external_account;
mod problem;
mod renew;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use chancery_proto::v1::DesiredState;
use toml::de::{DeTable, DeValue};

pub(crate) use self::problem::{Place, Problem};
use self::table::{Document, Table};
use crate::failure::Failure;

/// What the files say, and what looks like an oversight in them.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Issuers, certificates and freezes in order of their names.
    pub(crate) desired: DesiredState,
    /// Not wrong, but seldom meant.
    pub(crate) warnings: Vec<Problem>,
}

/// Reads and checks all of `paths`: files, and directories whose `*.toml` count.
///
/// Fails with **all** problems of all files.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Loaded, Failure> {
    let mut findings = Findings::default();
    let files = expand(paths, &mut findings.problems);
    for file in &files {
        match fs::read_to_string(file) {
            Ok(text) => read(&Document::new(file, &text), &mut findings),
            Err(error) => findings.problems.push(Problem::of_file(file, unreadable(&error))),
        }
    }
    if files.is_empty() && findings.problems.is_empty() {
        findings.problems.push(Problem::of_file(&paths[0], "no *.toml file in there".to_owned()));
    }
    if findings.problems.is_empty() {
        return Ok(findings.into_loaded());
    }
    let lines: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
    let (count, s) = (lines.len(), if lines.len() == 1 { "" } else { "s" });
    Err(Failure::usage(format!("{count} problem{s}; nothing was changed\n{}", lines.join("\n"))))
}

/// What is gathered while the files are read.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    issuers: BTreeMap<String, (Place, chancery_proto::v1::IssuerSpec)>,
    certificates: BTreeMap<String, (Place, chancery_proto::v1::CertificateSpec)>,
    freezes: BTreeMap<String, (Place, chancery_proto::v1::Freeze)>,
    /// What the file that is being read says for those of its certificates that say nothing.
    renew: Option<chancery_proto::v1::RenewTimes>,
}

impl Findings {
    fn into_loaded(self) -> Loaded {
        Loaded {
            desired: DesiredState {
                issuers: self.issuers.into_values().map(|(_, spec)| spec).collect(),
                certificates: self.certificates.into_values().map(|(_, spec)| spec).collect(),
                freezes: self.freezes.into_values().map(|(_, freeze)| freeze).collect(),
            },
            warnings: self.warnings,
        }
    }
}

/// The files that `paths` stand for, each once.
fn expand(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match toml_files_in(path) {
            Ok(found) => files.extend(found),
            Err(error) => problems.push(Problem::of_file(path, unreadable(&error))),
        }
    }
    // A file named both by itself and through its directory is one file.
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone())));
    files
}

fn toml_files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text; TOML has to be".to_owned(),
        _ => format!("it cannot be read: {error}"),
    }
}

/// Reads one document.
fn read(document: &Document<'_>, findings: &mut Findings) {
    let (root, errors) = DeTable::parse_recoverable(document.text);
    if !errors.is_empty() {
        // What a broken document seems to say is not worth checking.
        let mut problems: Vec<_> =
            errors.iter().map(|error| document.syntax_problem(error)).collect();
        problems.sort_by_key(Problem::line);
        findings.problems.append(&mut problems);
        return;
    }
    let first_problem = findings.problems.len();
    let table = Table::root(document, root.get_ref());
    table.refuse_unknown_keys(&ROOT_KEYS, &mut findings.problems);
    findings.renew = renew::times(&table, &mut findings.problems);
    for (kind, read_one) in KINDS {
        let Some(value) = table.value(kind) else { continue };
        let Some(entries) = value.get_ref().as_array() else {
            findings.problems.push(table.problem(
                kind,
                value,
                format!("this is not a list; write [[{kind}]] with two brackets"),
            ));
            continue;
        };
        for entry in entries {
            if let DeValue::Table(fields) = entry.get_ref() {
                read_one(&Table::entry(document, kind, fields, entry.span()), findings);
            } else {
                let text = format!("not a table; write [[{kind}]] and its keys below it");
                findings.problems.push(table.problem(kind, entry, text));
            }
        }
    }
    findings.problems[first_problem..].sort_by_key(Problem::line);
}

type ReadOne = fn(&Table<'_>, &mut Findings);

const ROOT_KEYS: [&str; 4] = ["renew", "issuer", "certificate", "freeze"];
const KINDS: [(&str, ReadOne); 3] =
    [("issuer", check::issuer), ("certificate", check::certificate), ("freeze", renew::freeze)];

#[cfg(test)]
mod tests;
