//! Keys that are made before they are used.

use chancery_shared::{key_type::KeyType, name::CertName, x509::Fingerprint};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, Sealed};

/// The private key of a certificate's next generation, made together with the present one so that its
/// hash can be published long before it is served (TLSA, RFC 7671 section 8.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKey {
    /// The certificate.
    pub certificate: CertName,
    /// Its algorithm.
    pub key_type: KeyType,
    /// SHA-256 of the public key (`SubjectPublicKeyInfo`).
    pub public_key: Fingerprint,
    /// PKCS#8 DER, sealed with kind `next-key`, the certificate's name and generation 0.
    pub key: Sealed,
    /// When it was made.
    pub made_at: Timestamp,
}

impl Record for NextKey {
    const KIND: &'static str = "next-key";
}
