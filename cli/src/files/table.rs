//! Spanned TOML tables, read key by key without stopping at the first mistake.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Place, Problem, look_alike};

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Document<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    /// Where the lines end: each of a hundred thousand entries is asked for its own.
    ends: Vec<usize>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// Where a byte of the text stands.
    fn place(&self, offset: usize) -> Place {
        let line = self.ends.partition_point(|end| *end < offset) + 1;
        Place { file: self.file.to_owned(), line }
    }

    /// The first line of what the file has at `span`, shortened.
    fn quote(&self, span: Range<usize>) -> String {
        let whole = self.text.get(span).unwrap_or_default();
        let line = whole.lines().next().unwrap_or_default().trim_end();
        let shortened: String = line.chars().take(LONGEST_QUOTE).collect();
        let cut = if shortened.len() < whole.trim_end().len() { "…" } else { "" };
        format!("{shortened}{cut}")
    }

    /// An error of the TOML parser.
    pub(super) fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let text = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        match error.span() {
            Some(span) => {
                let quote = self.quote(span.clone());
                let subject = (!quote.is_empty()).then_some(quote);
                Problem::at(self.place(span.start), subject, text)
            }
            None => Problem::of_file(self.file, text),
        }
    }
}

/// A text with the place where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) value: String,
    span: Range<usize>,
}

/// One table of a document.
#[derive(Clone, Debug)]
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    fields: &'a DeTable<'a>,
    /// `issuer` or `certificate`; nothing for the document itself.
    kind: Option<&'static str>,
    /// What stands before the names of its keys: `key.` in a table within an entry.
    path: String,
    span: Range<usize>,
}

impl<'a> Table<'a> {
    /// The document's own keys.
    pub(super) fn root(document: &'a Document<'a>, fields: &'a DeTable<'a>) -> Self {
        Self { document, fields, kind: None, path: String::new(), span: 0..0 }
    }

    /// One `[[kind]]`.
    pub(super) fn entry(
        document: &'a Document<'a>,
        kind: &'static str,
        fields: &'a DeTable<'a>,
        span: Range<usize>,
    ) -> Self {
        Self { document, fields, kind: Some(kind), path: String::new(), span }
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> Place {
        self.document.place(self.span.start)
    }

    /// Where `text` stands.
    pub(super) fn place_of(&self, text: &Text) -> Place {
        self.document.place(text.span.start)
    }

    /// The file, relative to which it names others.
    pub(super) fn file(&self) -> &'a Path {
        self.document.file
    }

    /// The value of `key`.
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.fields.get(key)
    }

    /// That the value of `key` is wrong.
    pub(super) fn problem(&self, key: &str, value: &Spanned<DeValue<'_>>, text: String) -> Problem {
        self.problem_in(key, value.span(), text)
    }

    /// That a text in the value of `key` is wrong.
    pub(super) fn text_problem(&self, key: &str, value: &Text, text: String) -> Problem {
        self.problem_in(key, value.span.clone(), text)
    }

    /// That the table as a whole is wrong.
    pub(super) fn own_problem(&self, text: String) -> Problem {
        let subject = self.kind.map_or_else(|| self.path.clone(), |kind| format!("[[{kind}]]"));
        let subject = subject.trim_end_matches('.');
        Problem::at(self.place(), (!subject.is_empty()).then(|| subject.to_owned()), text)
    }

    fn problem_in(&self, key: &str, span: Range<usize>, text: String) -> Problem {
        let subject = format!("{}{key} = {}", self.path, self.document.quote(span.clone()));
        Problem::at(self.document.place(span.start), Some(subject), text)
    }

    /// Complains of each key that is not in `known`.
    pub(super) fn refuse_unknown_keys(&self, known: &[&str], problems: &mut Vec<Problem>) {
        for key in self.fields.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let remedy = match look_alike(name, known) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known are {}", known.join(", ")),
            };
            let place = self.document.place(key.span().start);
            problems.push(Problem::at(
                place,
                Some(format!("{}{name}", self.path)),
                format!("this key is not known; {remedy}"),
            ));
        }
    }

    /// The text of a key that must be there.
    pub(super) fn required_text(
        &self,
        key: &str,
        example: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Text> {
        if self.value(key).is_none() {
            problems.push(
                self.own_problem(format!("{key} is missing; add for example {key} = {example}")),
            );
        }
        self.text(key, problems)
    }

    /// The table of a key that may be there.
    pub(super) fn table(
        &self,
        key: &str,
        example: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Table<'a>> {
        let value = self.value(key)?;
        let Some(fields) = value.get_ref().as_table() else {
            let text = format!("this is not a table; write for example {key} = {example}");
            problems.push(self.problem(key, value, text));
            return None;
        };
        let path = format!("{}{key}.", self.path);
        Some(Table { document: self.document, fields, kind: None, path, span: value.span() })
    }

    /// Whether a key is there and `true`.
    pub(super) fn flag(&self, key: &str, problems: &mut Vec<Problem>) -> bool {
        let Some(value) = self.value(key) else { return false };
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            let text = "this is neither true nor false, without quotes".to_owned();
            problems.push(self.problem(key, value, text));
        }
        flag.unwrap_or_default()
    }

    /// The text of a key that may be there.
    pub(super) fn text(&self, key: &str, problems: &mut Vec<Problem>) -> Option<Text> {
        let value = self.value(key)?;
        let text = as_text(value);
        if text.is_none() {
            problems.push(self.problem(
                key,
                value,
                "this is not a text; put it in quotes".to_owned(),
            ));
        }
        text
    }

    /// The texts of a list that must be there and have an element.
    pub(super) fn required_texts(
        &self,
        key: &str,
        example: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Text> {
        match self.value(key) {
            None => problems.push(
                self.own_problem(format!("{key} is missing; add for example {key} = {example}")),
            ),
            Some(value) if value.get_ref().as_array().is_some_and(|array| array.is_empty()) => {
                let text = format!("the list is empty; write for example {key} = {example}");
                problems.push(self.problem(key, value, text));
            }
            Some(_) => {}
        }
        self.texts(key, problems)
    }

    /// The texts of a list that may be there, without those that are no texts.
    pub(super) fn texts(&self, key: &str, problems: &mut Vec<Problem>) -> Vec<Text> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            let text = "this is not a list; put it in square brackets, [\"…\"]".to_owned();
            problems.push(self.problem(key, value, text));
            return Vec::new();
        };
        let mut texts = Vec::new();
        for element in array {
            match as_text(element) {
                Some(text) => texts.push(text),
                None => problems.push(self.problem(
                    key,
                    element,
                    "this is not a text; put it in quotes".to_owned(),
                )),
            }
        }
        texts
    }

    /// Keys and texts of a table that may be there, `{ role = "web" }`.
    pub(super) fn map(&self, key: &str, problems: &mut Vec<Problem>) -> Vec<(String, Text)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            let text = format!("this is not a table; write {key} = {{ role = \"web\" }}");
            problems.push(self.problem(key, value, text));
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, element) in table {
            let name = name.get_ref();
            match as_text(element) {
                Some(text) => pairs.push((name.to_string(), text)),
                None => problems.push(self.problem(
                    &format!("{key}.{name}"),
                    element,
                    "this is not a text; put it in quotes".to_owned(),
                )),
            }
        }
        pairs
    }
}

fn as_text(value: &Spanned<DeValue<'_>>) -> Option<Text> {
    let text = value.get_ref().as_str()?;
    Some(Text { value: text.to_owned(), span: value.span() })
}

/// Characters of a value that a message shows.
const LONGEST_QUOTE: usize = 60;
