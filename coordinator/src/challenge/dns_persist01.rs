//! dns-persist-01 (draft-ietf-acme-dns-persist): a TXT record that an operator sets once proves a name
//! for good.
//!
//! `_validation-persist.DOMAIN` names the CA and the account that may have certificates for the domain. An
//! order presents nothing and removes nothing, so nobody here needs a right to change the zone. All that is
//! left to do is to look before the CA does: a record that is missing, or is wrong, costs a failed
//! authorization there and says little about why.
//!
//! # Which account
//!
//! Up to version 01 of the draft the record holds the account's URL. Since version 02 it holds a hash of
//! it with the account's key and the domain, under a prefix that the CA's directory tells; a CA whose
//! directory has no such prefix is one of before. A CA goes on to take hashes with keys that the account had before,
//! so records survive a rollover, and those keys' thumbprints are kept beside the account.
//!
//! Pure: who asks the name servers is [`super::dns01`].

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chancery_shared::identifier::Identifier;
use jiff::Timestamp;

use crate::{events::printable, record::StandingRecord};

/// An account, as far as records name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its URL.
    pub url: String,
    /// The JWK thumbprints (RFC 7638) of its keys in base64url, the present one first.
    pub thumbprints: Vec<String>,
}

impl Holder {
    /// What a record at `domain` may have as its `accounturi`, the one to be set first. `prefix` is
    /// `accountHashPrefix` of the CA's directory.
    fn uris(&self, prefix: Option<&str>, domain: &str) -> Vec<String> {
        let Some(prefix) = prefix else { return vec![self.url.clone()] };
        // Also one that was made for any domain.
        let domains = [domain, "*"];
        self.thumbprints
            .iter()
            .flat_map(|key| domains.map(|domain| hashed(prefix, domain, key, &self.url)))
            .collect()
    }
}

/// A hashed account URI (draft version 02, section 4.1).
fn hashed(prefix: &str, domain: &str, thumbprint: &str, url: &str) -> String {
    // A domain name has at most 255 octets (RFC 1035 section 2.3.4).
    let length = u8::try_from(domain.len()).unwrap_or(u8::MAX);
    let text = [&[length], domain.as_bytes(), thumbprint.as_bytes(), url.as_bytes()].concat();
    let hash = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &text));
    format!("{prefix}sha-256/{hash}")
}

impl StandingRecord {
    /// What has to stand in the DNS so that `identifier` is proved to a CA that goes by `issuers`. `None`
    /// if it names none, or more than the draft lets it.
    pub fn new(
        identifier: &Identifier,
        issuers: &[String],
        holder: &Holder,
        prefix: Option<&str>,
    ) -> Option<Self> {
        let is_name = |issuer: &String| {
            issuer.parse::<Identifier>().is_ok_and(|parsed| parsed.as_str() == *issuer)
        };
        if !(1..=MOST_ISSUERS).contains(&issuers.len()) || !issuers.iter().all(is_name) {
            return None;
        }
        let domain = identifier.as_str().strip_prefix("*.").unwrap_or(identifier.as_str());
        Some(Self {
            name: format!("_validation-persist.{domain}"),
            issuers: issuers.to_vec(),
            account_uris: holder.uris(prefix, domain),
            wildcard: identifier.is_wildcard(),
        })
    }

    /// The value to set.
    pub fn value(&self, until: Option<Timestamp>) -> String {
        let none = String::new();
        let issuer = self.issuers.first().unwrap_or(&none);
        let uri = self.account_uris.first().unwrap_or(&none);
        let mut value = format!("{issuer}; accounturi={uri}");
        if self.wildcard {
            value.push_str("; policy=wildcard");
        }
        if let Some(until) = until {
            value.push_str("; persistUntil=");
            value.push_str(&until.as_second().to_string());
        }
        value
    }

    /// Whether one of the TXT values at a name proves it at `now`; if not, why.
    pub fn check(&self, values: &[String], now: Timestamp) -> Result<(), String> {
        let mut reasons = Vec::new();
        for value in values {
            // Other CAs have theirs beside it.
            if !self.issuers.iter().any(|issuer| issuer == issuer_of(value)) {
                continue;
            }
            match self.check_one(value, now) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        match (reasons.pop(), values.len()) {
            (Some(reason), _) => Err(reason),
            (None, 0) => Err("there is no TXT record".to_owned()),
            (None, others) => Err(format!("none of the {others} TXT records is for this CA")),
        }
    }

    fn check_one(&self, value: &str, now: Timestamp) -> Result<(), String> {
        let Parameters { account_uri, wildcard, until } = Parameters::read(value)
            .map_err(|reason| format!("{:?} cannot be read: {reason}", printable(value, 300)))?;
        let Some(account_uri) = account_uri else {
            return Err("its record has no accounturi".to_owned());
        };
        if !self.account_uris.iter().any(|uri| uri == account_uri) {
            let account_uri = printable(account_uri, 300);
            return Err(format!("its record is for another account, {account_uri}"));
        }
        if self.wildcard && !wildcard {
            return Err("its record has no policy=wildcard".to_owned());
        }
        match until {
            Some(until) if until <= now.as_second() => {
                let shown = Timestamp::from_second(until).map(|time| time.to_string());
                let shown = shown.unwrap_or_else(|_| until.to_string());
                Err(format!("its record has ended at {shown} (persistUntil)"))
            }
            _ => Ok(()),
        }
    }
}

/// The issuer-domain-name of an issue-value (RFC 8659 section 4.2).
fn issuer_of(value: &str) -> &str {
    let (issuer, _) = value.split_once(';').unwrap_or((value, ""));
    issuer.trim_matches(WHITE)
}

/// What counts of the parameters of an issue-value; others are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters<'a> {
    account_uri: Option<&'a str>,
    wildcard: bool,
    /// In seconds since 1970.
    until: Option<i64>,
}

impl<'a> Parameters<'a> {
    /// Reads them as strictly as CAs do.
    fn read(value: &'a str) -> Result<Self, String> {
        let mut read = Self::default();
        let Some((_, parameters)) = value.split_once(';') else { return Ok(read) };
        if parameters.trim_matches(WHITE).is_empty() {
            return Ok(read);
        }
        let mut seen = Vec::new();
        for parameter in parameters.split(';') {
            let Some((tag, value)) = parameter.split_once('=') else {
                let shown = parameter.trim_matches(WHITE);
                return Err(if shown.is_empty() {
                    "there is a semicolon too many".to_owned()
                } else {
                    format!("{shown:?} is no TAG=VALUE")
                });
            };
            let (tag, value) =
                (tag.trim_matches(WHITE).to_ascii_lowercase(), value.trim_matches(WHITE));
            let is_tag =
                !tag.is_empty() && tag.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
            if !is_tag || !value.bytes().all(|c| c.is_ascii_graphic() && c != b';') {
                return Err(format!("{:?} is no TAG=VALUE", parameter.trim_matches(WHITE)));
            }
            match tag.as_str() {
                "accounturi" => read.account_uri = Some(value),
                "policy" => read.wildcard = value.eq_ignore_ascii_case("wildcard"),
                "persistuntil" => {
                    let until =
                        value.parse().map_err(|_| format!("persistUntil={value} is no time"));
                    read.until = Some(until?);
                }
                _ => {}
            }
            if seen.contains(&tag) {
                return Err(format!("it has {tag} twice"));
            }
            seen.push(tag);
        }
        Ok(read)
    }
}

/// As RFC 8659 has it.
const WHITE: [char; 2] = [' ', '\t'];
/// Names that a CA may go by (section 3.1 of the draft).
const MOST_ISSUERS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder {
            url: "https://ca.example/acct/123".to_owned(),
            thumbprints: vec!["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".to_owned()],
        }
    }

    fn record(identifier: &str, prefix: Option<&str>) -> StandingRecord {
        let issuers = ["authority.example", "ca.example.net"].map(str::to_owned);
        StandingRecord::new(&identifier.parse().unwrap(), &issuers, &holder(), prefix).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn check(record: &StandingRecord, values: &[&str]) -> Result<(), String> {
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        record.check(&values, at(1_000))
    }

    #[test]
    fn the_record_names_the_ca_and_the_account() {
        let plain = record("example.com", None);
        assert_eq!(plain.name, "_validation-persist.example.com");
        let value = "authority.example; accounturi=https://ca.example/acct/123";
        assert_eq!(plain.value(None), value);
        let wildcard = record("*.example.com", None);
        assert_eq!(wildcard.name, plain.name);
        let value = format!("{value}; policy=wildcard; persistUntil=1721952000");
        assert_eq!(wildcard.value(Some(at(1_721_952_000))), value);
        assert_eq!(check(&wildcard, &[&value]), Ok(()));
    }

    #[test]
    fn a_hash_is_that_of_the_draft() {
        let prefix = Some("https://ca.example/account-hash/");
        let hashed = record("example.com", prefix);
        let expected = "https://ca.example/account-hash/sha-256/\
                        5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw";
        assert_eq!(hashed.value(None), format!("authority.example; accounturi={expected}"));
        let for_all = "ca.example.net; accounturi=https://ca.example/account-hash/sha-256/\
                       NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug";
        assert_eq!(check(&hashed, &[for_all]), Ok(()));
        let url = "authority.example; accounturi=https://ca.example/acct/123";
        assert!(check(&hashed, &[url]).is_err(), "such a CA no longer takes the URL");
    }

    #[test]
    fn a_key_of_before_still_proves() {
        let prefix = Some("https://ca.example/account-hash/");
        let before = record("example.com", prefix).value(None);
        let mut rolled = holder();
        rolled.thumbprints.insert(0, "another".to_owned());
        let issuers = ["authority.example".to_owned()];
        let name = "example.com".parse().unwrap();
        let now = StandingRecord::new(&name, &issuers, &rolled, prefix).unwrap();
        assert_ne!(now.value(None), before, "what is set now is for the present key");
        assert_eq!(check(&now, &[&before]), Ok(()));
    }

    #[test]
    fn records_of_other_cas_stand_beside_it() {
        let record = record("example.com", None);
        let others = ["other.example; accounturi=https://other/1", "v=spf1 -all", ""];
        let reason = check(&record, &others).unwrap_err();
        assert_eq!(reason, "none of the 3 TXT records is for this CA");
        let ours = "ca.example.net ;\taccounturi=https://ca.example/acct/123;x-new=1";
        assert_eq!(check(&record, &[others[0], ours, others[1]]), Ok(()));
        assert_eq!(check(&record, &[]).unwrap_err(), "there is no TXT record");
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said() {
        let wildcard = record("*.example.com", None);
        let account = "accounturi=https://ca.example/acct/123";
        for (parameters, expected) in [
            (String::new(), "has no accounturi"),
            ("; policy=wildcard".to_owned(), "has no accounturi"),
            (
                "; accounturi=https://ca.example/acct/9".to_owned(),
                "for another account, https://ca",
            ),
            (format!("; {account}"), "no policy=wildcard"),
            (format!("; {account}; policy=all"), "no policy=wildcard"),
            (format!("; {account}; policy=WILDCARD; persistUntil=999"), "1970-01-01T00:16:39Z"),
            (format!("; {account}; policy=wildcard; persistUntil=soon"), "is no time"),
            (format!("; {account}; {account}"), "accounturi twice"),
            (format!("; {account};"), "a semicolon too many"),
            (format!("; {account}; policy"), "\"policy\" is no TAG=VALUE"),
            (format!("; {account}; policy=wild card"), "is no TAG=VALUE"),
        ] {
            let value = format!("authority.example{parameters}");
            let reason = check(&wildcard, &[&value]).unwrap_err();
            assert!(reason.contains(expected), "{value}: {reason}");
        }
        let lasting = format!("authority.example; {account}; Policy=Wildcard; persistuntil=1001");
        assert_eq!(check(&wildcard, &[&lasting]), Ok(()));
    }

    #[test]
    fn a_ca_without_a_proper_name_is_not_believed() {
        let identifier = "example.com".parse().unwrap();
        let new = |issuers: &[String]| StandingRecord::new(&identifier, issuers, &holder(), None);
        assert_eq!(new(&[]), None);
        assert_eq!(new(&["Authority.Example".to_owned()]), None);
        assert_eq!(new(&["authority.example; policy=wildcard".to_owned()]), None);
        assert_eq!(new(&vec!["authority.example".to_owned(); 11]), None);
    }
}
