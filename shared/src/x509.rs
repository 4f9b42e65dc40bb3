//! What Chancery reads from a certificate (RFC 5280), and whether a key belongs to it.

use std::{fmt, net::IpAddr, str::FromStr};

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// SHA-256 of a certificate's DER. Prints as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256 fingerprint: it has 64 hexadecimal digits")]
pub struct InvalidFingerprint(String);

impl Fingerprint {
    /// The fingerprint of `der`.
    pub fn of(der: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let invalid = || InvalidFingerprint(text.to_owned());
        if text.len() != 64 || !text.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Self, InvalidFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// What Chancery reads from a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Serial number, lower-case hexadecimal without leading zero bytes.
    pub serial: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// DNS names of the subject alternative name extension, lower case.
    pub dns_names: Vec<String>,
    /// IP addresses of the subject alternative name extension.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<IpAddr>,
    /// URIs of the subject alternative name extension.
    pub uris: Vec<String>,
    /// Common name of the issuer, or its whole distinguished name if it has none.
    pub issuer: String,
}

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// A private key that no signer here understands.
    #[error("the private key cannot be read")]
    UnreadableKey(#[source] rustls::Error),
    /// The private key is not that of the certificate (invariant 3).
    #[error("the private key does not belong to the certificate with serial {serial}")]
    KeyMismatch {
        /// Serial number of the certificate.
        serial: String,
    },
}

impl Facts {
    /// Reads a certificate.
    pub fn of(der: &[u8]) -> Result<Self, Error> {
        let certificate = parse(der)?;
        let time = |at: i64| {
            Timestamp::from_second(at).map_err(|error| Error::Unreadable(error.to_string()))
        };
        let mut facts = Self {
            serial: hex_without_leading_zeros(certificate.raw_serial()),
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            issuer: certificate
                .issuer()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map_or_else(|| certificate.issuer().to_string(), str::to_owned),
        };
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| Error::Unreadable(error.to_string()))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => facts.dns_names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(octets) => facts.ip_addresses.extend(address(octets)),
                GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// What it is for: its DNS names, then its IP addresses, each as an
    /// [`Identifier`](crate::identifier::Identifier) writes it.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let addresses = self.ip_addresses.iter().map(ToString::to_string);
        self.dns_names.iter().cloned().chain(addresses)
    }
}

/// An address in network byte order (RFC 5280 section 4.2.1.6).
fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Checks that `key` is the private key of the certificate `leaf` (invariant 3).
pub fn check_key_matches(leaf: &CertificateDer<'_>, key: &PrivateKeyDer<'_>) -> Result<(), Error> {
    let certificate = parse(leaf)?;
    let signer =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(Error::UnreadableKey)?;
    match signer.public_key() {
        Some(spki) if spki.as_ref() == certificate.public_key().raw => Ok(()),
        _ => {
            Err(Error::KeyMismatch { serial: hex_without_leading_zeros(certificate.raw_serial()) })
        }
    }
}

/// The SHA-256 of the public key in a certificate (its `SubjectPublicKeyInfo`): what TLSA records of
/// selector 1 (RFC 6698) and pins hold. Stays the same as long as the key does.
pub fn public_key_of(der: &[u8]) -> Result<Fingerprint, Error> {
    Ok(Fingerprint::of(parse(der)?.public_key().raw))
}

/// The SHA-256 of a certificate's public key (its `SubjectPublicKeyInfo`).
pub fn public_key_hash(spki_der: &[u8]) -> [u8; 32] {
    *Fingerprint::of(spki_der).as_bytes()
}

/// PEM of certificates, one after the other (RFC 7468).
pub fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| pem_block("CERTIFICATE", der)).collect()
}

/// PEM of a PKCS#8 private key (RFC 7468 section 10). The result is secret.
pub fn key_to_pem(pkcs8_der: &[u8]) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(pem_block("PRIVATE KEY", pkcs8_der))
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let body = zeroize::Zeroizing::new(BASE64_STANDARD.encode(der));
    // Sized once, so that no copy of a key is left behind by a growing buffer.
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 64);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| Error::Unreadable(error.to_string()))?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(Error::Unreadable("data follows the certificate".to_owned()))
    }
}

fn hex_without_leading_zeros(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("writing to a string works");
    }
    let trimmed = hex.trim_start_matches("00");
    if trimmed.is_empty() { "00".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_type::KeyType;

    fn issue(key_type: KeyType) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = key_type.generate().unwrap();
        let params =
            rcgen::CertificateParams::new(["A.example".to_owned(), "b.example".to_owned()])
                .unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    #[test]
    fn names_and_validity_are_read() {
        let (leaf, _) = issue(KeyType::EcdsaP256);
        let facts = Facts::of(&leaf).unwrap();
        assert_eq!(facts.dns_names, ["a.example", "b.example"]);
        assert!(facts.not_before < facts.not_after);
        assert!(!facts.serial.starts_with("00"));
    }

    #[test]
    fn a_key_matches_its_own_certificate_and_no_other() {
        for key_type in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048] {
            let (leaf, key) = issue(key_type);
            let (other, _) = issue(key_type);
            assert_ne!(public_key_of(&leaf).unwrap(), public_key_of(&other).unwrap());
            check_key_matches(&leaf, &key).unwrap();
            assert!(matches!(check_key_matches(&other, &key), Err(Error::KeyMismatch { .. })));
        }
    }

    #[test]
    fn rubbish_is_an_error_and_not_a_panic() {
        assert!(matches!(Facts::of(b"rubbish"), Err(Error::Unreadable(_))));
        let (leaf, _) = issue(KeyType::EcdsaP256);
        let longer = [leaf.as_ref(), b"x"].concat();
        assert!(matches!(Facts::of(&longer), Err(Error::Unreadable(_))));
    }

    #[test]
    fn pem_is_what_other_tools_read() {
        use rustls_pki_types::pem::PemObject as _;
        let (leaf, key) = issue(KeyType::EcdsaP256);
        let pem = to_pem([leaf.as_ref(), leaf.as_ref()]);
        let read: Vec<_> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, [leaf.clone(), leaf]);
        let pem = key_to_pem(key.secret_der());
        assert_eq!(PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap(), key);
    }
}
