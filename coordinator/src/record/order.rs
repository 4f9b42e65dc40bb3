//! The order journal.

use chancery_shared::{
    challenge_type::ChallengeType,
    identifier::Identifier,
    key_type::KeyType,
    name::{CertName, DnsProviderName, IssuerName},
    number::{Epoch, Generation},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Record, Sealed};

/// The live order of a certificate: what was written before each step towards the CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Tells one attempt from the next.
    pub id: Uuid,
    /// The certificate.
    pub certificate: CertName,
    /// The generation that it will become.
    pub generation: Generation,
    /// The issuer that is asked.
    pub issuer: IssuerName,
    /// URL of the account that asks.
    pub account: String,
    /// What the certificate shall be for.
    pub identifiers: Vec<Identifier>,
    /// Algorithm of the key.
    pub key_type: KeyType,
    /// The profile that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The private key, PKCS#8 DER, sealed with kind `order`, the certificate's name and
    /// the generation.
    pub key: Sealed,
    /// As in [`super::CertificateSpec::challenges`] when it was begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub challenges: Vec<ChallengeType>,
    /// Why it is made, as an operator would say it.
    pub reason: String,
    /// When the intent was written.
    pub started_at: Timestamp,
    /// When it will be given up, by the wall clock of the leader that took it up: for people. The leader
    /// itself counts in monotonic time.
    pub deadline: Timestamp,
    /// Epoch that wrote this last.
    pub epoch: Epoch,
    /// How often a step was taken up again by a new term or a new process.
    #[serde(default)]
    pub resumed: u32,
    /// The certificate that it replaces, by its identifier in ACME (RFC 9773 section 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Whether it is for the standby.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// How far it has come.
    pub stage: Stage,
}

impl Record for Order {
    const KIND: &'static str = "order";
}

/// How far an order has come. Each is written *before* the step that follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// newOrder may or may not have been sent (RFC 8555 section 7.4).
    Intended,
    /// The CA has the order.
    Placed {
        /// Its URL.
        url: String,
    },
    /// The challenges are served, and the CA may have been told (RFC 8555 section 7.5.1).
    Presented {
        /// URL of the order.
        url: String,
        /// Tokens of the challenges that stand in the store: exactly these are removed.
        tokens: Vec<String>,
    },
    /// All authorizations are valid; finalize may have been sent (RFC 8555 section 7.4).
    Validated {
        /// URL of the order.
        url: String,
        /// As in [`Stage::Presented`].
        tokens: Vec<String>,
    },
    /// The CA has the CSR; the certificate can be fetched when it is ready.
    Finalized {
        /// URL of the order.
        url: String,
        /// As in [`Stage::Presented`].
        tokens: Vec<String>,
    },
}

impl Stage {
    /// The stage's name for operators.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Placed { .. } => "placed",
            Self::Presented { .. } => "presented",
            Self::Validated { .. } => "validated",
            Self::Finalized { .. } => "finalized",
        }
    }

    /// The order's URL, once the CA has told it.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Intended => None,
            Self::Placed { url }
            | Self::Presented { url, .. }
            | Self::Validated { url, .. }
            | Self::Finalized { url, .. } => Some(url),
        }
    }

    /// Tokens of the challenges that this order has put into the store.
    pub fn tokens(&self) -> &[String] {
        match self {
            Self::Intended | Self::Placed { .. } => &[],
            Self::Presented { tokens, .. }
            | Self::Validated { tokens, .. }
            | Self::Finalized { tokens, .. } => tokens,
        }
    }
}

/// A presented challenge (RFC 8555 section 8). A CA may give the same authorization, and so the same
/// challenge, to several orders: it is there as long as one of them has its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The order that presented it last.
    pub order: Uuid,
    /// The certificate of the order.
    pub certificate: CertName,
    /// What is being validated.
    pub identifier: Identifier,
    /// How. Only that listener answers it.
    #[serde(default, skip_serializing_if = "ChallengeType::is_http01")]
    pub challenge_type: ChallengeType,
    /// What the answer has to be (RFC 8555 section 8.1).
    pub key_authorization: String,
    /// The TXT record that answers it, if it is a DNS-01 challenge.
    /// Written before the DNS is touched, and deleted after the value is gone from there: exactly
    /// the values that stand here are ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txt: Option<TxtRecord>,
    /// The TXT record that answers it, if it is a dns-persist-01 challenge. Operators set that; it is never
    /// touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<StandingRecord>,
    /// Where its value stood when it was presented before, with another provider or at another name: to be
    /// removed from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<TxtRecord>,
}

/// One value of a TXT record (RFC 8555 section 8.4), and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxtRecord {
    /// The provider, as this fleet's configuration calls it.
    pub provider: DnsProviderName,
    /// The zone: lower case, without a trailing dot.
    pub zone: String,
    /// The name of the record, in the same form: `_acme-challenge` and the identifier, or where a
    /// CNAME there leads.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A TXT record that has to stand in the DNS before the CA is told (draft-ietf-acme-dns-persist).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRecord {
    /// Its name: `_validation-persist` and the domain.
    pub name: String,
    /// The names that the CA goes by: any of them will do.
    pub issuers: Vec<String>,
    /// The URIs of the account, of which any will do.
    pub account_uris: Vec<String>,
    /// Whether wildcards have to be allowed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wildcard: bool,
}

impl Challenge {
    /// Whether there may be a value of it in the DNS, of which nothing else knows that it is ours.
    pub fn is_in_dns(&self) -> bool {
        self.txt.is_some() || !self.left.is_empty()
    }

    /// This challenge in the place of what stood in the store: what that has in the DNS elsewhere is
    /// not forgotten.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let known = before.left.iter().chain(&before.txt);
        self.left = known.filter(|txt| Some(*txt) != self.txt.as_ref()).cloned().collect();
        self
    }
}

impl Record for Challenge {
    const KIND: &'static str = "challenge";
}
