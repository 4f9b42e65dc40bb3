//! ACME accounts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, Sealed};

/// An ACME account (RFC 8555 section 7.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The directory that it was made at. An issuer that moves to another directory
    /// needs another account.
    pub directory: String,
    /// The account key, PKCS#8 DER, sealed with kind `account`, the issuer's name and
    /// generation 0.
    pub key: Sealed,
    /// The account URL. `None` until the CA has confirmed it: the key is kept first,
    /// and newAccount with a known key returns the account that it has.
    pub url: Option<String>,
    /// The contacts that the CA was last told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contacts: Option<Vec<String>>,
    /// Key id of the external account binding that the CA may have seen with this account key. Written
    /// before it is sent: a CA takes a binding once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The key that takes the place of `key`, sealed with kind `next-account`. Written before the CA hears
    /// of it: from then on either of the two may be the one that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<Sealed>,
    /// The JWK thumbprints (RFC 7638) of the keys that it had before, the latest first: what stands
    /// in the DNS may have been made with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_thumbprints: Vec<String>,
    /// When the CA has deactivated it, as an operator wanted. It is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated_at: Option<Timestamp>,
    /// What an operator last wanted to have done to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<AccountChange>,
}

/// A change of an account that an operator has asked for. Written before the CA hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountChange {
    /// What is to be done.
    pub what: AccountDeed,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: String,
    /// How it ended; `None` while the leader has to see to it.
    #[serde(default)]
    pub ended: Option<AccountChangeEnd>,
}

/// What can be done to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountDeed {
    /// It is made, before an order needs it (RFC 8555 section 7.3).
    Create,
    /// It gets another key (RFC 8555 section 7.3.5).
    Roll,
    /// It is given up for good (RFC 8555 section 7.3.6).
    Deactivate,
}

impl AccountDeed {
    /// Its name for operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Roll => "roll",
            Self::Deactivate => "deactivate",
        }
    }
}

/// How a change of an account ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountChangeEnd {
    /// When.
    pub at: Timestamp,
    /// What the CA said when it did not do it.
    #[serde(default)]
    pub refused: Option<String>,
}

impl Record for Account {
    const KIND: &'static str = "account";
}
