//! Reads a TOML file key by key and collects every problem with its line, instead of stopping at
//! the first.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A problem with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, starting from 1.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// All problems of one file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Problems {
    /// The file.
    pub file: String,
    /// What is wrong with it, in order of lines.
    pub problems: Vec<Problem>,
}

impl Problems {
    fn lines(&self) -> String {
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|problem| format!("{}:{}: {}", self.file, problem.line, problem.message))
            .collect();
        lines.join("\n")
    }
}

/// Reads one file.
pub(super) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

/// One table of the file, of which keys are taken out until none should be left.
pub(super) struct Section<'i> {
    path: String,
    line: usize,
    entries: BTreeMap<String, (usize, DeValue<'i>)>,
}

impl<'a> Reader<'a> {
    /// Reads `text`, which stood in `file`. A text that is no TOML at all is one problem.
    pub(super) fn open(file: &'a Path, text: &'a str) -> Result<(Self, Section<'a>), Problems> {
        let mut reader = Self { file, text, problems: Vec::new() };
        match DeTable::parse(text) {
            Ok(table) => {
                let root = reader.section(String::new(), 1, table.into_inner());
                Ok((reader, root))
            }
            Err(error) => {
                let line = error.span().map_or(1, |span| reader.line(span.start));
                reader.problem(line, error.message().to_owned());
                Err(reader.into_problems())
            }
        }
    }

    fn section(&self, path: String, line: usize, table: DeTable<'a>) -> Section<'a> {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let line = self.line(key.span().start);
                (key.into_inner().into_owned(), (line, Spanned::into_inner(value)))
            })
            .collect();
        Section { path, line, entries }
    }

    fn line(&self, offset: usize) -> usize {
        self.text[..offset.min(self.text.len())].matches('\n').count() + 1
    }

    /// Notes a problem.
    pub(super) fn problem(&mut self, line: usize, message: String) {
        self.problems.push(Problem { line, message });
    }

    /// The table at `key`; an empty one if it is not there.
    pub(super) fn table(&mut self, section: &mut Section<'a>, key: &str) -> Section<'a> {
        let path = section.join(key);
        match section.entries.remove(key) {
            None => Section { path, line: section.line, entries: BTreeMap::new() },
            Some((line, DeValue::Table(table))) => self.section(path, line, table),
            Some((line, other)) => {
                self.problem(line, format!("{path}: expected a table, found {}", kind(&other)));
                Section { path, line, entries: BTreeMap::new() }
            }
        }
    }

    /// The text at `key`, and its line.
    pub(super) fn text(&mut self, section: &mut Section<'a>, key: &str) -> Option<(usize, String)> {
        let path = section.join(key);
        match section.entries.remove(key)? {
            (line, DeValue::String(text)) => Some((line, text.into_owned())),
            (line, other) => {
                self.problem(line, format!("{path}: expected a text, found {}", kind(&other)));
                None
            }
        }
    }

    /// Two texts of which neither is there without the other. Each key comes with what to say if
    /// it is alone.
    pub(super) fn pair(
        &mut self,
        section: &mut Section<'a>,
        (first, first_alone): (&str, &str),
        (second, second_alone): (&str, &str),
    ) -> Option<(String, String)> {
        let found = (self.text(section, first), self.text(section, second));
        let (line, key, alone) = match found {
            (Some((_, first)), Some((_, second))) => return Some((first, second)),
            (Some((line, _)), None) => (line, first, first_alone),
            (None, Some((line, _))) => (line, second, second_alone),
            (None, None) => return None,
        };
        let path = section.join(key);
        self.problem(line, format!("{path}: {alone}"));
        None
    }

    /// The list of texts at `key`, and its line.
    pub(super) fn texts(
        &mut self,
        section: &mut Section<'a>,
        key: &str,
    ) -> Option<(usize, Vec<String>)> {
        let path = section.join(key);
        let (line, value) = section.entries.remove(key)?;
        let DeValue::Array(values) = value else {
            let found = kind(&value);
            self.problem(line, format!("{path}: expected a list of texts, found {found}"));
            return None;
        };
        let mut texts = Vec::new();
        for value in values {
            let line = self.line(value.span().start);
            match value.into_inner() {
                DeValue::String(text) => texts.push(text.into_owned()),
                other => {
                    let found = kind(&other);
                    self.problem(line, format!("{path}: expected a text, found {found}"));
                    return None;
                }
            }
        }
        Some((line, texts))
    }

    /// The text at `key`, parsed; `remedy` ends the message if it cannot be.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        section: &mut Section<'a>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        remedy: &str,
    ) -> Option<T> {
        let (line, text) = self.text(section, key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let path = section.join(key);
                let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
                self.problem(line, format!("{path} = {text:?}: {error}{remedy}"));
                None
            }
        }
    }

    /// The whole number at `key`, if it is within `range`.
    pub(super) fn number(
        &mut self,
        section: &mut Section<'a>,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let path = section.join(key);
        let (line, value) = section.entries.remove(key)?;
        let number = match &value {
            DeValue::Integer(integer) => {
                u32::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.problem(line, format!("{path}: write a whole number from {least} to {most}"));
        }
        number
    }

    /// Notes that `key` is missing.
    pub(super) fn missing(&mut self, section: &Section<'_>, key: &str, example: &str) {
        let path = section.join(key);
        self.problem(section.line, format!("{path} is missing; for example: {example}"));
    }

    /// Notes every key that nobody took.
    pub(super) fn finish(&mut self, section: &Section<'_>, known: &[&str]) {
        for (key, (line, _)) in &section.entries {
            let path = section.join(key);
            self.problem(*line, format!("{path}: unknown key; known here: {}", known.join(", ")));
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Everything that is wrong.
    pub(super) fn into_problems(mut self) -> Problems {
        self.problems.sort_by_key(|problem| problem.line);
        Problems { file: self.file.display().to_string(), problems: self.problems }
    }
}

impl Section<'_> {
    fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line of `key`, or of the table if it is not there.
    pub(super) fn line_of(&self, key: &str) -> usize {
        self.entries.get(key).map_or(self.line, |(line, _)| *line)
    }

    /// The keys that were not taken yet.
    pub(super) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Whether `key` is there and was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
