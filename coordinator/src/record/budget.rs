//! What of a CA's limits is used up, as far as we know.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chancery_shared::{identifier::Identifier, name::IssuerName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;

/// The mirror of the token buckets that a CA keeps for us. Written by the leader alone, with the step
/// that spends from it, so that a new leader knows all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The issuer.
    pub issuer: IssuerName,
    /// The directory that it counts for. Another directory is another CA, which knows nothing
    /// of what was spent here.
    pub directory: String,
    /// The limits that were declared when it was written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// When each bucket that is not full will be: milliseconds since 1970. What is not here is full.
    #[serde(default)]
    pub full_at_millis: BTreeMap<Bucket, i64>,
    /// What the CA has refused of itself, and until when.
    #[serde(default)]
    pub refused: BTreeMap<Bucket, Refused>,
    /// Identifiers that the CA refuses until somebody unpauses them.
    #[serde(default)]
    pub paused: BTreeMap<Identifier, Paused>,
}

impl Record for Budget {
    const KIND: &'static str = "budget";
}

/// What a CA counts separately.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bucket {
    /// All requests: a CA that is overloaded or being maintained.
    Requests,
    /// New orders of the account.
    Orders,
    /// Certificates for a registered domain.
    Domain(String),
    /// Certificates for exactly these identifiers, by a hash of them.
    Set(String),
    /// Failed authorizations of an identifier.
    Failed(Identifier),
    /// Failed authorizations of an identifier that no success has come between.
    InARow(Identifier),
}

/// A refusal that comes with a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// Nothing is to be asked before.
    pub until: Timestamp,
    /// What the CA said.
    pub message: String,
}

/// An identifier that the CA has paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when we know.
    pub since: Timestamp,
    /// What the CA said.
    pub message: String,
    /// Where to unpause it, if the CA said.
    pub link: Option<String>,
}

/// A text that names no bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no bucket")]
pub struct UnknownBucket(String);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests => f.write_str("requests"),
            Self::Orders => f.write_str("orders"),
            Self::Domain(domain) => write!(f, "domain:{domain}"),
            Self::Set(hash) => write!(f, "set:{hash}"),
            Self::Failed(identifier) => write!(f, "failed:{identifier}"),
            Self::InARow(identifier) => write!(f, "in-a-row:{identifier}"),
        }
    }
}

impl FromStr for Bucket {
    type Err = UnknownBucket;

    fn from_str(text: &str) -> Result<Self, UnknownBucket> {
        let unknown = || UnknownBucket(text.to_owned());
        let identifier = |rest: &str| rest.parse::<Identifier>().map_err(|_| unknown());
        match text.split_once(':') {
            None if text == "requests" => Ok(Self::Requests),
            None if text == "orders" => Ok(Self::Orders),
            Some(("domain", rest)) => Ok(Self::Domain(rest.to_owned())),
            Some(("set", rest)) => Ok(Self::Set(rest.to_owned())),
            Some(("failed", rest)) => identifier(rest).map(Self::Failed),
            Some(("in-a-row", rest)) => identifier(rest).map(Self::InARow),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Bucket {
    type Error = UnknownBucket;

    fn try_from(text: String) -> Result<Self, UnknownBucket> {
        text.parse()
    }
}

impl From<Bucket> for String {
    fn from(bucket: Bucket) -> Self {
        bucket.to_string()
    }
}
