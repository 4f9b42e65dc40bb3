//! The challenges by which a CA lets us prove that a name is ours.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::identifier::Identifier;

/// A type of challenge (RFC 8555 section 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChallengeType {
    /// A file under `/.well-known/acme-challenge/` (RFC 8555 section 8.3).
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// A TXT record at `_acme-challenge` (RFC 8555 section 8.4).
    #[serde(rename = "dns-01")]
    Dns01,
    /// A TXT record at a name of the account's own, so that several clients can prove one name side by
    /// side (draft-ietf-acme-dns-account-label).
    #[serde(rename = "dns-account-01")]
    DnsAccount01,
    /// A TXT record at `_validation-persist` that names the account, and stays there for good
    /// (draft-ietf-acme-dns-persist).
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
    /// A certificate in a TLS handshake (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// The text names no type of challenge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "challenge {0:?} is not known: use http-01, dns-01, dns-account-01, dns-persist-01 or tls-alpn-01"
)]
pub struct UnknownChallengeType(String);

impl ChallengeType {
    /// All of them, the default first.
    pub const ALL: [Self; 5] =
        [Self::Http01, Self::Dns01, Self::DnsAccount01, Self::DnsPersist01, Self::TlsAlpn01];

    /// The name in the registry of RFC 8555 section 9.7.8.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::DnsAccount01 => "dns-account-01",
            Self::DnsPersist01 => "dns-persist-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }

    /// Whether it is HTTP-01, the default.
    pub fn is_http01(&self) -> bool {
        *self == Self::Http01
    }

    /// What a list of challenges in order of preference means: an empty one is HTTP-01 alone.
    pub fn preferred(declared: &[Self]) -> &[Self] {
        if declared.is_empty() { &[Self::Http01] } else { declared }
    }

    /// Whether it can prove that `identifier` is ours: a wildcard needs DNS-01 (RFC 8555
    /// sections 7.1.3 and 8.4), which is not for addresses (RFC 8738 section 7).
    pub fn can_validate(self, identifier: &Identifier) -> bool {
        match self {
            Self::Http01 | Self::TlsAlpn01 => !identifier.is_wildcard(),
            Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01 => identifier.ip().is_none(),
        }
    }

    /// Why none of the challenges that are declared can prove that `identifier` is ours, and what to
    /// do.
    pub fn none_validates(declared: &[Self], identifier: &Identifier) -> Option<&'static str> {
        if Self::preferred(declared).iter().any(|challenge| challenge.can_validate(identifier)) {
            None
        } else if identifier.is_wildcard() {
            Some("only DNS-01 can validate a wildcard; add \"dns-01\" to its challenges")
        } else {
            Some("DNS-01 cannot validate an IP address; add \"http-01\" to its challenges")
        }
    }
}

impl FromStr for ChallengeType {
    type Err = UnknownChallengeType;

    fn from_str(text: &str) -> Result<Self, UnknownChallengeType> {
        Self::ALL
            .into_iter()
            .find(|challenge| challenge.as_str() == text)
            .ok_or_else(|| UnknownChallengeType(text.to_owned()))
    }
}

impl fmt::Display for ChallengeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_rfc() {
        for challenge in ChallengeType::ALL {
            assert_eq!(challenge.as_str().parse(), Ok(challenge));
            assert_eq!(serde_json::to_value(challenge).unwrap(), challenge.as_str());
        }
        assert!("dns01".parse::<ChallengeType>().unwrap_err().to_string().contains("dns-01"));
    }

    #[test]
    fn a_wildcard_needs_dns_and_an_address_something_else() {
        let [wildcard, address, name]: [Identifier; 3] =
            ["*.example.org", "192.0.2.1", "example.org"].map(|text| text.parse().unwrap());
        let said = |declared: &[ChallengeType], identifier| {
            ChallengeType::none_validates(declared, identifier).unwrap_or_default()
        };
        assert!(said(&[], &wildcard).contains("add \"dns-01\""));
        assert!(said(&[ChallengeType::DnsAccount01], &address).contains("add \"http-01\""));
        assert_eq!(said(&[ChallengeType::DnsAccount01], &wildcard), "");
        assert_eq!(said(&[ChallengeType::DnsPersist01], &wildcard), "");
        assert!(said(&[ChallengeType::Dns01], &address).contains("add \"http-01\""));
        assert_eq!(said(&ChallengeType::ALL, &wildcard), "");
        assert_eq!(said(&ChallengeType::ALL, &address), "");
        assert!(said(&[ChallengeType::TlsAlpn01], &wildcard).contains("add \"dns-01\""));
        assert_eq!(said(&[ChallengeType::TlsAlpn01], &address), "");
        assert_eq!(said(&[], &name), "");
        assert_eq!(said(&[ChallengeType::Dns01], &name), "");
    }
}
