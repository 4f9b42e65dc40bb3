//! ACME identifiers of type `dns` (RFC 8555 section 9.7.7) and `ip` (RFC 8738).

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a certificate is for: a DNS name, lower case, without a trailing dot, with perhaps a
/// wildcard in its first label (RFC 8555 section 7.1.3); or an IP address in its canonical text form
/// (RFC 5952 for IPv6).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("identifier {text:?} is not valid: {reason}")]
pub struct InvalidIdentifier {
    text: String,
    reason: &'static str,
}

impl Identifier {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// Whether it is a wildcard, which HTTP-01 cannot validate.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

impl FromStr for Identifier {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, InvalidIdentifier> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let lower = text.to_ascii_lowercase();
        match reason_against(&lower) {
            None => Ok(Self(lower)),
            Some(reason) => Err(InvalidIdentifier { text: text.to_owned(), reason }),
        }
    }
}

/// What is wrong with `text`, which is no address, as a DNS name, if anything.
fn reason_against(text: &str) -> Option<&'static str> {
    let base = text.strip_prefix("*.").unwrap_or(text);
    if text.starts_with('[') || text.contains('/') || text.contains(':') {
        return Some("write an IP address alone, without brackets, port, zone or prefix length");
    }
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > 253 {
        return Some("it is longer than 253 characters");
    }
    if text.ends_with('.') {
        return Some("leave out the trailing dot");
    }
    if !text.is_ascii() {
        return Some("write internationalized names in their ASCII form (xn--...)");
    }
    if base.contains('*') {
        return Some("a wildcard may only be the whole first label, as in *.example.org");
    }
    if base.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return Some("it looks like an IP address, and is none: write it as in 192.0.2.1");
    }
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !base.split('.').all(label_ok) {
        return Some("each label needs 1 to 63 letters, digits and inner hyphens");
    }
    if !base.contains('.') {
        return Some("a public name needs at least two labels, as in www.example.org");
    }
    None
}

impl TryFrom<String> for Identifier {
    type Error = InvalidIdentifier;

    fn try_from(text: String) -> Result<Self, InvalidIdentifier> {
        text.parse()
    }
}

impl From<Identifier> for String {
    fn from(identifier: Identifier) -> String {
        identifier.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_folded_to_lower_case() {
        assert_eq!("WWW.Example.ORG".parse::<Identifier>().unwrap().as_str(), "www.example.org");
        assert!("*.example.org".parse::<Identifier>().unwrap().is_wildcard());
    }

    #[test]
    fn addresses_are_kept_in_their_canonical_form() {
        for (text, kept) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ] {
            let identifier: Identifier = text.parse().unwrap();
            assert_eq!(identifier.as_str(), kept);
            assert_eq!(identifier.ip(), Some(kept.parse().unwrap()));
            assert!(!identifier.is_wildcard());
        }
        assert_eq!("www.example.org".parse::<Identifier>().unwrap().ip(), None);
    }

    #[test]
    fn each_kind_of_mistake_has_its_own_remedy() {
        for (text, expected) in [
            ("", "empty"),
            ("example.org.", "trailing dot"),
            ("bücher.example", "xn--"),
            ("a.*.example.org", "wildcard"),
            ("10.0.0.256", "looks like an IP address"),
            ("*.10.0.0.1", "looks like an IP address"),
            ("[2001:db8::1]", "without brackets"),
            ("2001:db8::/64", "prefix length"),
            ("fe80::1%eth0", "zone"),
            ("www.example.org:443", "port"),
            ("-a.example", "letters, digits"),
            ("a..example", "letters, digits"),
            ("localhost", "two labels"),
        ] {
            let message = text.parse::<Identifier>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_a_fixed_point(text in "[a-zA-Z0-9.*:-]{0,40}") {
            if let Ok(identifier) = text.parse::<Identifier>() {
                prop_assert_eq!(identifier.as_str().parse::<Identifier>().unwrap(), identifier);
            }
        }
    }
}
