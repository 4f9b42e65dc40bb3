//! Names and labels: parsed once, valid from then on.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {text:?} is not valid: use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
)]
pub struct InvalidName {
    kind: &'static str,
    text: String,
}

/// Whether `text` may stand as a path segment, a store key and a metric label at once.
fn is_name(text: &str) -> bool {
    let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(ok)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { kind: $kind, text: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name of a certificate: a managed object, not one issued bundle.
    CertName, "certificate name"
}
name! {
    /// The name of an agent, given by the operator who made its join token.
    AgentName, "agent name"
}
name! {
    /// The name of an issuer: an ACME CA with its account.
    IssuerName, "issuer name"
}
name! {
    /// The name of a time in which nothing is renewed.
    FreezeName, "freeze name"
}
name! {
    /// The name of a coordinator node.
    NodeName, "node name"
}
name! {
    /// The name of a DNS provider, under which a coordinator's configuration has it.
    DnsProviderName, "DNS provider name"
}
name! {
    /// The name of a local service that an agent tests, reloads and probes.
    ServiceName, "service name"
}

/// Labels of an agent, or the labels that a certificate asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

/// Why a set of labels is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// The key or the value has other characters, or a wrong length.
    #[error(
        "label {0:?} is not valid: write key=value, each 1 to 63 of a-z, 0-9, '-', '_' and '.', \
         starting with a letter or digit"
    )]
    Malformed(String),
    /// One key stands twice.
    #[error("label {0:?} is given twice")]
    Duplicate(String),
}

impl Labels {
    /// Labels from keys and values, each checked.
    pub fn new<I, K, V>(pairs: I) -> Result<Self, InvalidLabel>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            let (key, value) = (key.into(), value.into());
            if !is_name(&key) || !is_name(&value) {
                return Err(InvalidLabel::Malformed(format!("{key}={value}")));
            }
            if labels.insert(key.clone(), value).is_some() {
                return Err(InvalidLabel::Duplicate(key));
            }
        }
        Ok(Self(labels))
    }

    /// Labels from `key=value` texts, as on a command line.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidLabel> {
        let pairs = texts
            .into_iter()
            .map(|text| {
                text.split_once('=').ok_or_else(|| InvalidLabel::Malformed(text.to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(pairs)
    }

    /// Whether an agent with `self` may have what asks for `selector`: all of the
    /// selector's labels are there. An empty selector selects **nothing**, so
    /// that a forgotten line never hands a key to the whole fleet.
    pub fn satisfy(&self, selector: &Self) -> bool {
        !selector.0.is_empty() && selector.0.iter().all(|(k, v)| self.0.get(k) == Some(v))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// As the map of the wire format.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.clone()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Longest name, as a DNS label's.
const MAX_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_path_segments_and_store_keys() {
        for good in ["web", "a.example.org", "web-1", "9lives", "a_b"] {
            assert!(good.parse::<CertName>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "..", "a/b", "A", "-a", "_a", "ä", "a b", "a\n", long.as_str()] {
            assert!(bad.parse::<CertName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_error_names_the_kind_the_text_and_the_remedy() {
        let message = "Web Server".parse::<AgentName>().unwrap_err().to_string();
        assert!(message.contains("agent name \"Web Server\""), "{message}");
        assert!(message.contains("use 1 to 63"), "{message}");
    }

    #[test]
    fn a_selector_needs_all_its_labels() {
        let agent = Labels::parse(["role=web", "zone=a"]).unwrap();
        assert!(agent.satisfy(&Labels::parse(["role=web"]).unwrap()));
        assert!(!agent.satisfy(&Labels::parse(["role=web", "zone=b"]).unwrap()));
        assert!(!agent.satisfy(&Labels::parse(["tier=gold"]).unwrap()));
    }

    #[test]
    fn an_empty_selector_selects_no_agent() {
        assert!(!Labels::parse(["role=web"]).unwrap().satisfy(&Labels::default()));
        assert!(!Labels::default().satisfy(&Labels::default()));
    }

    #[test]
    fn a_label_given_twice_is_refused() {
        assert_eq!(Labels::parse(["a=b", "a=c"]), Err(InvalidLabel::Duplicate("a".to_owned())));
        assert!(matches!(Labels::parse(["role"]), Err(InvalidLabel::Malformed(_))));
    }
}
