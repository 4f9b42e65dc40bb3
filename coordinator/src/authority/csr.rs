//! Certificate signing requests (RFC 2986), of which only the key is believed.

use chancery_shared::x509::public_key_hash;
use rcgen::{PublicKeyData as _, SubjectPublicKeyInfo};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

/// A CSR whose signature has been verified, reduced to its public key.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: SubjectPublicKeyInfo,
    public_key_hash: [u8; 32],
}

/// Why a CSR is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    /// Not a CSR, or far too big for one.
    #[error("the certificate signing request cannot be read: send PKCS#10 in DER")]
    Unreadable,
    /// Its signature is not by its key.
    #[error("the certificate signing request is not signed with the key that it names")]
    NotProven,
    /// Another kind of key.
    #[error(
        "the key of the certificate signing request is not supported: use ECDSA on P-256 or P-384"
    )]
    UnsupportedKey,
}

impl Csr {
    /// Reads a CSR and verifies that its sender has the private key.
    pub fn parse(der: &[u8]) -> Result<Self, InvalidCsr> {
        if der.len() > MAX_CSR_BYTES {
            return Err(InvalidCsr::Unreadable);
        }
        let (rest, csr) =
            X509CertificationRequest::from_der(der).map_err(|_| InvalidCsr::Unreadable)?;
        if !rest.is_empty() {
            return Err(InvalidCsr::Unreadable);
        }
        let spki = csr.certification_request_info.subject_pki.raw;
        let public_key =
            SubjectPublicKeyInfo::from_der(spki).map_err(|_| InvalidCsr::UnsupportedKey)?;
        // Before the signature: verifying with a huge RSA key is work that a stranger asks for.
        let supported = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
        if !supported.contains(&public_key.algorithm()) {
            return Err(InvalidCsr::UnsupportedKey);
        }
        csr.verify_signature().map_err(|_| InvalidCsr::NotProven)?;
        Ok(Self { public_key_hash: public_key_hash(spki), public_key })
    }

    /// SHA-256 of the public key.
    pub fn public_key_hash(&self) -> [u8; 32] {
        self.public_key_hash
    }

    /// The public key.
    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}

/// Far more than any CSR with an elliptic curve key.
const MAX_CSR_BYTES: usize = 16 * 1024;
