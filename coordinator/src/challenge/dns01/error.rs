//! Why a DNS-01 challenge could not be answered, in words that say what to do about it.

use chancery_shared::{identifier::Identifier, name::DnsProviderName};

use super::Failure;

/// Why a DNS-01 challenge could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None of the configured providers is responsible.
    #[error(
        "no DNS provider is responsible for {name}, which answers for {identifier} ({known}): add \
         a [dns.NAME] whose zones hold it to every coordinator's configuration, or use http-01"
    )]
    NoProvider {
        /// What is to be validated.
        identifier: Identifier,
        /// Where the TXT record would stand.
        name: String,
        /// What is configured.
        known: String,
    },
    /// The provider that the journal names is not configured here.
    #[error(
        "the DNS provider {0} is not configured on this coordinator: give every coordinator the \
         same [dns.{0}]"
    )]
    UnknownProvider(DnsProviderName),
    /// CNAME records lead in a circle, or too far.
    #[error("{name} cannot be followed: {reason}; correct the CNAME records ({chain})")]
    Cname {
        /// Where the TXT record was to stand.
        name: String,
        /// What is wrong.
        reason: &'static str,
        /// The names, one after the other.
        chain: String,
    },
    /// There is no zone for the name, or not the one that was meant.
    #[error("no zone for {name}: {reason}")]
    Zone {
        /// Where the TXT record was to stand.
        name: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// A question was not answered.
    #[error("the DNS cannot be asked for {name}: {reason}")]
    Lookup {
        /// What was asked for.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The provider failed.
    #[error("DNS provider {provider}: {failure}")]
    Provider {
        /// Which one.
        provider: DnsProviderName,
        /// How.
        failure: Failure,
    },
    /// The value is not on all authoritative name servers.
    #[error(
        "{name} is not on every name server of {zone} after {waited_secs} s: {missing}; see \
         whether they get their zone transfers, or raise dns01.propagation_deadline"
    )]
    NotVisible {
        /// Where the TXT record stands.
        name: String,
        /// Its zone.
        zone: String,
        /// How long it was waited for.
        waited_secs: u64,
        /// Which server answers what.
        missing: String,
    },
    /// A record that an operator has to set does not stand on all authoritative name servers.
    #[error(
        "the TXT record {name} does not prove it ({missing}): set it, once, to \"{value}\", beside \
         any others, or allow another challenge"
    )]
    NotStanding {
        /// Its name.
        name: String,
        /// What it has to be.
        value: String,
        /// Which server answers what.
        missing: String,
    },
}

impl Error {
    /// Stable code, with a page in `docs/errors/`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoProvider { .. } | Self::UnknownProvider(_) => "dns-no-provider",
            Self::Cname { .. } => "dns-cname",
            Self::Zone { .. } => "dns-zone",
            Self::Lookup { .. } => "dns-lookup",
            Self::Provider { failure, .. } => match failure {
                Failure::Refused(_) => "dns-refused",
                Failure::NoZone(_) => "dns-zone",
                Failure::Unavailable(_) => "dns-unavailable",
            },
            Self::NotVisible { .. } => "dns-propagation",
            Self::NotStanding { .. } => "dns-persist",
        }
    }

    /// Whether it may work in a moment, without anybody doing anything.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Lookup { .. } | Self::Provider { failure: Failure::Unavailable(_), .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_page() {
        let codes = crate::error_pages::check(include_str!("error.rs"));
        assert!(codes.contains(&"dns-refused"), "{codes:?}");
    }

    #[test]
    fn only_what_can_get_better_by_itself_is_repeated() {
        let provider = |failure| Error::Provider { provider: "p".parse().unwrap(), failure };
        assert!(provider(Failure::Unavailable(String::new())).may_pass());
        assert!(!provider(Failure::Refused(String::new())).may_pass());
        assert!(!provider(Failure::NoZone(String::new())).may_pass());
    }
}
