//! The body of `/v1/txn`: up to 64 operations that Consul checks and applies as one, and what it
//! answers.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chancery_shared::number::Revision;
use serde::{Deserialize, Serialize};

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Op {
    #[serde(rename = "KV")]
    kv: Kv,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl Op {
    fn new(verb: &'static str, key: &str) -> Self {
        Self { kv: Kv { verb, key: key.to_owned(), ..Kv::default() } }
    }

    fn value(mut self, value: &[u8]) -> Self {
        self.kv.value = Some(BASE64_STANDARD.encode(value));
        self
    }

    fn session(mut self, session: &str) -> Self {
        self.kv.session = Some(session.to_owned());
        self
    }

    fn index(mut self, revision: Revision) -> Self {
        self.kv.index = Some(revision.0);
        self
    }

    /// Marks what is written with the number of its commit. Consul leaves a key alone, with its
    /// old `ModifyIndex`, when nothing of it changes; a new number changes it every time.
    #[must_use]
    pub(super) fn marked(mut self, sequence: u64) -> Self {
        self.kv.flags = Some(sequence);
        self
    }

    /// Whether it only looks whether something holds.
    pub(super) fn is_check(&self) -> bool {
        self.kv.verb.starts_with("check-")
    }

    /// Reads a key, which has to be there.
    pub(super) fn read(key: &str) -> Self {
        Self::new("get", key)
    }

    /// Reads all keys with a prefix.
    pub(super) fn read_tree(prefix: &str) -> Self {
        Self::new("get-tree", prefix)
    }

    /// Writes a key.
    pub(super) fn set(key: &str, value: &[u8]) -> Self {
        Self::new("set", key).value(value)
    }

    /// Writes a key that was last written at `revision`, or that is not there for `None`.
    pub(super) fn set_if(key: &str, value: &[u8], revision: Option<Revision>) -> Self {
        Self::new("cas", key).value(value).index(revision.unwrap_or_default())
    }

    /// Deletes a key, which need not be there.
    pub(super) fn delete(key: &str) -> Self {
        Self::new("delete", key)
    }

    /// Has a session take a lock: fails while another has it, or when the session is gone.
    pub(super) fn lock(key: &str, value: &[u8], session: &str) -> Self {
        Self::new("lock", key).value(value).session(session)
    }

    /// Gives a lock back: fails unless the session has it.
    pub(super) fn unlock(key: &str, value: &[u8], session: &str) -> Self {
        Self::new("unlock", key).value(value).session(session)
    }

    /// Fails unless the session has the lock.
    pub(super) fn check_session(key: &str, session: &str) -> Self {
        Self::new("check-session", key).session(session)
    }

    /// Fails unless the key was last written at `revision`.
    pub(super) fn check_index(key: &str, revision: Revision) -> Self {
        Self::new("check-index", key).index(revision)
    }

    /// Fails if the key is there.
    pub(super) fn check_absent(key: &str) -> Self {
        Self::new("check-not-exists", key)
    }
}

/// A key as Consul has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its whole key, prefix included.
    pub(super) key: String,
    /// Its value; empty in what a write answers.
    pub(super) value: Bytes,
    /// Its `ModifyIndex`.
    pub(super) revision: Revision,
    /// The session that has its lock.
    pub(super) session: Option<String>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was applied, or read; what it wrote or read.
    Done(Vec<Row>),
    /// Nothing of it was: the operations, by their place, that would not.
    Refused(Vec<Refused>),
}

/// An operation that would not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Refused {
    /// Its place in the transaction.
    #[serde(rename = "OpIndex")]
    pub(super) place: usize,
    /// Consul's words.
    #[serde(rename = "What")]
    pub(super) what: String,
}

impl Refused {
    /// Whether the token may not do this, rather than something being in the way.
    pub(super) fn is_denied(&self) -> bool {
        self.what.contains("Permission denied") || self.what.contains("ACL not found")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawOutcome<'a> {
    #[serde(borrow)]
    results: Option<Vec<RawResult<'a>>>,
    errors: Option<Vec<Refused>>,
}

#[derive(Deserialize)]
struct RawResult<'a> {
    #[serde(rename = "KV", borrow)]
    kv: RawRow<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRow<'a> {
    key: String,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    modify_index: u64,
    session: Option<String>,
}

impl TryFrom<RawRow<'_>> for Row {
    type Error = String;

    fn try_from(raw: RawRow<'_>) -> Result<Self, String> {
        let value = match &raw.value {
            Some(text) => BASE64_STANDARD
                .decode(text.as_bytes())
                .map_err(|error| format!("the value of {}: {error}", raw.key))?,
            None => Vec::new(),
        };
        let session = raw.session.filter(|session| !session.is_empty());
        let revision = Revision(raw.modify_index);
        Ok(Self { key: raw.key, value: value.into(), revision, session })
    }
}

/// Reads the answer to a transaction.
pub(super) fn parse(body: &[u8]) -> Result<Outcome, String> {
    let raw: RawOutcome<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match raw.errors {
        Some(refused) if !refused.is_empty() => Ok(Outcome::Refused(refused)),
        _ => {
            let results = raw.results.unwrap_or_default();
            let rows = results.into_iter().map(|result| result.kv.try_into());
            Ok(Outcome::Done(rows.collect::<Result<_, _>>()?))
        }
    }
}

/// Reads the answer to a `GET` of `/v1/kv`.
pub(super) fn parse_rows(body: &[u8]) -> Result<Vec<Row>, String> {
    let raw: Vec<RawRow<'_>> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    raw.into_iter().map(Row::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_the_field_names_of_the_interface() {
        let ops = [
            Op::set_if("p/a", b"x", None).marked(7),
            Op::lock("p/lock", b"", "s"),
            Op::check_index("p/b", Revision(3)),
        ];
        assert_eq!(
            serde_json::to_value(&ops).unwrap(),
            serde_json::json!([
                {"KV": {"Verb": "cas", "Key": "p/a", "Value": "eA==", "Flags": 7, "Index": 0}},
                {"KV": {"Verb": "lock", "Key": "p/lock", "Value": "", "Session": "s"}},
                {"KV": {"Verb": "check-index", "Key": "p/b", "Index": 3}},
            ])
        );
    }

    #[test]
    fn answers_are_read() {
        let body = br#"{"Results":[{"KV":{"LockIndex":1,"Key":"p/lock","Flags":0,"Value":null,
            "Session":"d189","CreateIndex":10,"ModifyIndex":12}},{"KV":{"LockIndex":0,"Key":"p/a",
            "Flags":7,"Value":"YQ==","CreateIndex":10,"ModifyIndex":10}}],"Errors":null}"#;
        let row = |key: &str, value: &'static [u8], revision, session: Option<&str>| Row {
            key: key.to_owned(),
            value: Bytes::from_static(value),
            revision: Revision(revision),
            session: session.map(str::to_owned),
        };
        let rows = vec![row("p/lock", b"", 12, Some("d189")), row("p/a", b"a", 10, None)];
        assert_eq!(parse(body), Ok(Outcome::Done(rows)));
        let body =
            br#"{"Results":null,"Errors":[{"OpIndex":1,"What":"failed to set key \"p/head\", index is stale"}]}"#;
        let Ok(Outcome::Refused(refused)) = parse(body) else { panic!("it was refused") };
        assert_eq!(refused[0].place, 1);
        assert!(!refused[0].is_denied());
        let denied = Refused { place: 0, what: "Permission denied".to_owned() };
        assert!(denied.is_denied());
        assert!(parse(b"<html>").is_err());
        let bad = br#"[{"Key":"p/a","Value":"?","ModifyIndex":1}]"#;
        assert!(parse_rows(bad).unwrap_err().contains("p/a"));
    }
}
