//! Certificates, what was issued for them, and by whom.

use std::collections::BTreeMap;

use chancery_shared::{
    challenge_type::ChallengeType,
    identifier::Identifier,
    key_type::KeyType,
    name::{CertName, IssuerName, Labels},
    number::Generation,
    x509::Fingerprint,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{LastProblem, Record, RenewTimes, Revoked, Sealed, base64_bytes};

/// A certificate as an operator declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// Its name.
    pub name: CertName,
    /// What it is for; the first is the one a probe asks for.
    pub identifiers: Vec<Identifier>,
    /// Algorithm of its key.
    pub key_type: KeyType,
    /// Whether a renewal keeps the key as long as its algorithm is the wanted one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reuse_key: bool,
    /// Whether the key of the next generation is made with each generation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key_ahead: bool,
    /// The profile to ask issuers for; without it what the issuer declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Issuers, in order of preference.
    pub issuers: Vec<IssuerName>,
    /// The issuer of a bundle that is kept ready beside the one that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<IssuerName>,
    /// Challenges that may be used, in order of preference. Empty: HTTP-01.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub challenges: Vec<ChallengeType>,
    /// The labels that an agent must have to get it.
    pub labels: Labels,
    /// When it may be renewed; without it, as soon as it is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<RenewTimes>,
}

impl Record for CertificateSpec {
    const KIND: &'static str = "certificate";
}

/// What is so for a certificate. Written by the leader alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateState {
    /// Generation of the newest bundle; 0 before the first. Never goes down.
    pub generation: Generation,
    /// What the newest bundle holds.
    pub issued: Option<Issued>,
    /// When an operator last asked for a renewal that has not happened yet.
    #[serde(default)]
    pub renewal_requested_at: Option<Timestamp>,
    /// When an operator last asked for the standby to take the place of the newest bundle, if that has
    /// not happened yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_requested_at: Option<Timestamp>,
    /// That the newest bundle was revoked, and has to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// Failed orders since the last one that worked.
    #[serde(default)]
    pub failures: u32,
    /// The last of them.
    #[serde(default)]
    pub last_failure: Option<Failure>,
    /// What a CA last said against it since then, also if a later failure was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_problem: Option<LastProblem>,
}

impl Record for CertificateState {
    const KIND: &'static str = "state";
}

/// The public facts of an issued bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the end-entity certificate.
    pub fingerprint: Fingerprint,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The issuer that was asked.
    pub issuer: IssuerName,
    /// Name of the CA certificate that signed it.
    pub issued_by: String,
    /// The identifiers that were asked for.
    pub identifiers: Vec<Identifier>,
    /// Algorithm of the key.
    pub key_type: KeyType,
    /// The profile that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// When it was stored.
    pub stored_at: Timestamp,
}

/// A failed order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What an operator should read.
    pub message: String,
    /// Stable code, with a page in `docs/errors/`.
    pub code: String,
    /// No new try before this.
    pub retry_at: Timestamp,
}

/// One issued private key and its chain. Immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The certificate that it is for.
    pub certificate: CertName,
    /// Its number.
    pub generation: Generation,
    /// Who has issued it; not known of bundles of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerName>,
    /// The end-entity certificate, DER.
    #[serde(with = "base64_bytes")]
    pub leaf: Vec<u8>,
    /// The issuing certificates, in order; each stands under [`super::key::chain`].
    pub chain: Vec<Fingerprint>,
    /// The private key, PKCS#8 DER, sealed with kind `bundle`, the certificate's name and the
    /// generation.
    pub key: Sealed,
    /// The identifiers that were asked for.
    pub identifiers: Vec<Identifier>,
}

impl Record for Bundle {
    const KIND: &'static str = "bundle";
}

/// An issuing certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// DER.
    #[serde(with = "base64_bytes")]
    pub der: Vec<u8>,
}

impl Record for Chain {
    const KIND: &'static str = "chain";
}

/// An ACME CA as an operator declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerSpec {
    /// Its name.
    pub name: IssuerName,
    /// Directory URL (RFC 8555 section 7.1.1).
    pub directory: String,
    /// What binds the account to one that its holder has with the CA in another way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<ExternalAccount>,
    /// The profile to ask for when a certificate names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Of several chains the one that ends under the root with this common name is taken (RFC 8555
    /// section 7.4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// Contact URLs (RFC 8555 section 7.3).
    #[serde(default)]
    pub contacts: Vec<String>,
    /// PEM of the roots to trust for its HTTPS; empty: the system's.
    #[serde(default)]
    pub trust_roots_pem: String,
    /// What it grants, as [`crate::plan::budget::Limits::of`] reads it; empty: what its directory
    /// is known for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// An external account binding (RFC 8555 section 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// The identifier that the CA has given out with the key.
    pub key_id: String,
    /// Tells one key from another: the beginning of its SHA-256.
    pub mark: String,
    /// The key of the HMAC, sealed with kind `external-account`, the issuer's name and generation 0.
    pub key: Sealed,
}

impl Record for IssuerSpec {
    const KIND: &'static str = "issuer";
}
