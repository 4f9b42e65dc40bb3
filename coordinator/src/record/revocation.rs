//! Certificates that are to be revoked, or have been.

use chancery_shared::{
    name::{CertName, IssuerName},
    number::Generation,
    revocation::RevocationReason,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, base64_bytes};

/// A revocation that an operator has asked for (RFC 8555 section 7.6). Written before the CA hears of
/// it, with all that is needed for it: also when the certificate is no longer declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The certificate.
    pub certificate: CertName,
    /// Which bundle of it.
    pub generation: Generation,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The end-entity certificate, DER.
    #[serde(with = "base64_bytes")]
    pub leaf: Vec<u8>,
    /// Who has issued it.
    pub issuer: IssuerName,
    /// Why.
    pub reason: RevocationReason,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: String,
    /// How it ended; `None` while the leader has to see to it.
    #[serde(default)]
    pub ended: Option<RevocationEnd>,
}

/// How a revocation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationEnd {
    /// When.
    pub at: Timestamp,
    /// What the CA said when it did not revoke it.
    #[serde(default)]
    pub refused: Option<String>,
}

impl Record for Revocation {
    const KIND: &'static str = "revocation";
}

/// That the newest bundle of a certificate is not to be used any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The bundle.
    pub generation: Generation,
    /// Why.
    pub reason: RevocationReason,
    /// When that was decided.
    pub at: Timestamp,
}
