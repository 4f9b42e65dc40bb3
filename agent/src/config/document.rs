//! Reads a TOML document key by key and collects every problem on the way.
//!
//! `serde` stops at the first mistake; an operator with three mistakes then needs
//! three restarts to see them all. Here a [`Section`] hands out its keys, each
//! [`Value`] notes what is wrong with it under its line and full key, and
//! [`Section::finish`] reports the keys that nobody asked for.

use std::{cell::RefCell, fmt, ops::Range, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One thing that is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` for what is missing altogether.
    pub line: Option<usize>,
    /// The key, such as `service.nginx.reload_timeout`; empty for the whole file.
    pub key: String,
    /// The value as it stands in the file, if there is one.
    pub value: Option<String>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Collects problems while a document is read.
pub(super) struct Problems<'a> {
    text: &'a str,
    list: RefCell<Vec<Problem>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, list: RefCell::default() }
    }

    /// All problems, in the order of the file, those without a line last.
    pub(super) fn into_list(self) -> Vec<Problem> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        list
    }

    /// Notes a mistake in TOML's own syntax.
    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let line = error.span().map(|span| self.line(&span));
        let reason = format!("this is not TOML: {}", error.message());
        self.add(Problem { line, key: String::new(), value: None, reason });
    }

    /// Notes that `key` is missing.
    pub(super) fn missing(&self, key: String, reason: impl Into<String>) {
        self.add(Problem { line: None, key, value: None, reason: reason.into() });
    }

    fn add(&self, problem: Problem) {
        self.list.borrow_mut().push(problem);
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// The source text of a value, shortened to one line.
    fn excerpt(&self, span: &Range<usize>) -> Option<String> {
        let text = self.text.get(span.clone())?;
        let mut lines = text.lines();
        let first: String = lines.next()?.chars().take(60).collect();
        let whole = lines.next().is_none() && first.len() == text.len();
        Some(if whole { first } else { format!("{first} …") })
    }
}

/// A table of the document, and which of its keys were asked for.
pub(super) struct Section<'a> {
    path: String,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
    problems: &'a Problems<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a DeTable<'a>, problems: &'a Problems<'a>) -> Self {
        Self { path: String::new(), table, known: Vec::new(), problems }
    }

    /// The value of `key`, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let spanned = self.table.get(key)?;
        Some(Value { path: self.key(key), spanned, problems: self.problems })
    }

    /// The value of `key`; a problem if it is not there.
    pub(super) fn require(&mut self, key: &'static str, remedy: &str) -> Option<Value<'a>> {
        let value = self.take(key);
        if value.is_none() {
            self.problems.missing(self.key(key), format!("is missing; {remedy}"));
        }
        value
    }

    /// Names the section by its content instead of its position.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn problems(&self) -> &'a Problems<'a> {
        self.problems
    }

    /// Reports the keys that no reader asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                self.problems.add(Problem {
                    line: Some(self.problems.line(&key.span())),
                    key: self.key(name),
                    value: self.problems.excerpt(&value.span()),
                    reason: format!("is not a known key; known here: {}", self.known.join(", ")),
                });
            }
        }
    }
}

/// A value of the document.
pub(super) struct Value<'a> {
    path: String,
    spanned: &'a Spanned<DeValue<'a>>,
    problems: &'a Problems<'a>,
}

impl<'a> Value<'a> {
    /// Notes what is wrong with this value.
    pub(super) fn wrong(&self, reason: impl Into<String>) {
        let span = self.spanned.span();
        self.problems.add(Problem {
            line: Some(self.problems.line(&span)),
            key: self.path.clone(),
            value: self.problems.excerpt(&span),
            reason: reason.into(),
        });
    }

    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.spanned.get_ref().as_str()
    }

    pub(super) fn is_false(&self) -> bool {
        self.spanned.get_ref().as_bool() == Some(false)
    }

    pub(super) fn is_array(&self) -> bool {
        self.spanned.get_ref().as_array().is_some()
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        let text = self.as_str();
        if text.is_none() {
            self.wrong("a text in quotes is expected");
        }
        text
    }

    /// A text that `read` understands; its error says why not.
    pub(super) fn with<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        read(self.string()?).map_err(|reason| self.wrong(reason)).ok()
    }

    /// A text that parses as `T`.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&self) -> Option<T> {
        self.with(|text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    pub(super) fn integer(&self, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let number = self.spanned.get_ref().as_integer().and_then(|integer| {
            usize::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
        });
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(format!("a number from {} to {} is expected", range.start(), range.end()));
        }
        number
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Option<Vec<Value<'a>>> {
        let Some(array) = self.spanned.get_ref().as_array() else {
            self.wrong("a list in square brackets is expected");
            return None;
        };
        let element = |(i, spanned)| Value {
            path: format!("{}[{i}]", self.path),
            spanned,
            problems: self.problems,
        };
        Some(array.iter().enumerate().map(element).collect())
    }

    /// A table.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        if let DeValue::Table(table) = self.spanned.get_ref() {
            let path = self.path.clone();
            return Some(Section { path, table, known: Vec::new(), problems: self.problems });
        }
        self.wrong("a table is expected");
        None
    }
}
