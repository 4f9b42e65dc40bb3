//! One thing that is wrong in a file, told so that it can be found and mended.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One problem. Prints as `file:line: key = value: problem; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    file: PathBuf,
    line: Option<usize>,
    /// `key = value`, as the file has it, or only the key.
    subject: Option<String>,
    text: String,
}

impl Problem {
    /// A problem of a file as a whole.
    pub(crate) fn of_file(file: &Path, text: String) -> Self {
        Self { file: file.to_owned(), line: None, subject: None, text }
    }

    /// A problem at a place.
    pub(crate) fn at(place: Place, subject: Option<String>, text: String) -> Self {
        Self { file: place.file, line: Some(place.line), subject, text }
    }

    /// The line, if it has one.
    pub(crate) fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(subject) = &self.subject {
            write!(f, " {subject}:")?;
        }
        write!(f, " {}", self.text)
    }
}

/// The one of `known` that `text` looks like a misspelling of.
pub(crate) fn look_alike<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(text, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2.min(candidate.len() / 2))
        .map(|(_, candidate)| candidate)
}

/// Edits that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_what_was_meant() {
        let known = ["name", "identifiers", "issuers"];
        assert_eq!(look_alike("identifier", &known), Some("identifiers"));
        assert_eq!(look_alike("nmae", &known), Some("name"));
        assert_eq!(look_alike("colour", &known), None);
        assert_eq!(look_alike("", &known), None);
    }
}
