//! From the message to records, with all problems at once.

use std::collections::BTreeMap;

use chancery_proto::v1::{
    CertificateSpec as WireCertificate, DesiredState, ExternalAccount as WireExternalAccount,
    IssuerSpec as WireIssuer,
};
use chancery_shared::{
    challenge_type::ChallengeType,
    identifier::Identifier,
    key_type::KeyType,
    name::{CertName, FreezeName, IssuerName, Labels},
    secret::Secret,
    x509::{Facts, Fingerprint},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{Problems, renew};
use crate::{
    plan::budget::Limits,
    record::{CertificateSpec, ExternalAccount, Freeze, IssuerSpec, Sealed},
};

/// A desired state that is right in itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Issuers, by name.
    pub issuers: BTreeMap<IssuerName, IssuerSpec>,
    /// Certificates, by name.
    pub certificates: BTreeMap<CertName, CertificateSpec>,
    /// Freezes, by name.
    pub freezes: BTreeMap<FreezeName, Freeze>,
}

/// Reads a desired state, or says all that is wrong with it.
/// Secrets in it are sealed by `seal`, for the issuer of that name.
pub fn read(
    wire: &DesiredState,
    seal: &dyn Fn(&IssuerName, &Secret) -> Sealed,
) -> Result<Desired, Problems> {
    let mut problems = Vec::new();
    let mut desired = Desired::default();
    for wire in &wire.issuers {
        let about = format!("issuer {:?}", wire.name);
        let issuer = issuer(wire, seal, &mut Found { about: &about, problems: &mut problems });
        if let Some(issuer) = issuer
            && let Some(former) = desired.issuers.insert(issuer.name.clone(), issuer)
        {
            problems.push(format!("issuer {:?}: it is declared twice", former.name.as_str()));
        }
    }
    for wire in &wire.certificates {
        let about = format!("certificate {:?}", wire.name);
        let certificate = certificate(wire, &mut Found { about: &about, problems: &mut problems });
        if let Some(certificate) = certificate
            && let Some(former) = desired.certificates.insert(certificate.name.clone(), certificate)
        {
            problems.push(format!("certificate {:?}: it is declared twice", former.name.as_str()));
        }
    }
    for wire in &wire.freezes {
        let about = format!("freeze {:?}", wire.name);
        let freeze = renew::freeze(wire, &mut Found { about: &about, problems: &mut problems });
        if let Some(freeze) = freeze
            && let Some(former) = desired.freezes.insert(freeze.name.clone(), freeze)
        {
            problems.push(format!("freeze {:?}: it is declared twice", former.name.as_str()));
        }
    }
    if problems.is_empty() { Ok(desired) } else { Err(Problems(problems)) }
}

/// Collects the problems of one object.
pub(super) struct Found<'a> {
    about: &'a str,
    problems: &'a mut Vec<String>,
}

impl Found<'_> {
    pub(super) fn add(&mut self, problem: impl std::fmt::Display) {
        self.problems.push(format!("{}: {problem}", self.about));
    }

    /// The value, or `None` and a problem more.
    pub(super) fn ok<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }
}

/// `None` only if the object has no valid name; other problems are in `found`.
fn issuer(
    wire: &WireIssuer,
    seal: &dyn Fn(&IssuerName, &Secret) -> Sealed,
    found: &mut Found<'_>,
) -> Option<IssuerSpec> {
    let name: Option<IssuerName> = found.ok(wire.name.parse());
    if let Err(problem) = check_directory(&wire.directory) {
        found.add(problem);
    }
    for contact in &wire.contacts {
        let address = contact.strip_prefix("mailto:").unwrap_or_default();
        if !address.contains('@') {
            found.add(format!("contact {contact:?} is not of the form mailto:NAME@DOMAIN"));
        }
    }
    if let Err(problem) = check_roots(&wire.trust_roots_pem) {
        found.add(problem);
    }
    if let Err(problems) = Limits::of(&wire.limits, &wire.directory) {
        for problem in problems {
            found.add(problem);
        }
    }
    if let Some(bound) = &wire.external_account {
        check_external_account(bound, found);
    }
    let profile = profile(&wire.profile, found);
    let preferred_chain = preferred_chain(&wire.preferred_chain, found);
    let name = name?;
    Some(IssuerSpec {
        limits: wire.limits.clone(),
        directory: wire.directory.clone(),
        external_account: wire.external_account.as_ref().map(|bound| {
            let secret = Secret::new(bound.hmac_key.clone());
            ExternalAccount {
                key_id: bound.key_id.clone(),
                mark: Fingerprint::of(secret.expose_secret()).to_string()[..16].to_owned(),
                key: seal(&name, &secret),
            }
        }),
        profile,
        preferred_chain,
        name,
        contacts: wire.contacts.clone(),
        trust_roots_pem: wire.trust_roots_pem.trim().to_owned(),
    })
}

fn check_external_account(bound: &WireExternalAccount, found: &mut Found<'_>) {
    let is_printable = |c: char| !c.is_control() && !c.is_whitespace();
    if bound.key_id.is_empty() || bound.key_id.len() > MOST_KEY_ID {
        found.add(format!("the key id of external_account has to have 1 to {MOST_KEY_ID} bytes"));
    } else if !bound.key_id.chars().all(is_printable) {
        found.add(format!("the key id of external_account, {:?}, has blanks in it", bound.key_id));
    }
    if !(LEAST_HMAC_KEY..=MOST_HMAC_KEY).contains(&bound.hmac_key.len()) {
        found.add(format!(
            "the HMAC key of external_account has {} bytes; {LEAST_HMAC_KEY} to {MOST_HMAC_KEY} are \
             usual",
            bound.hmac_key.len()
        ));
    }
}

/// `None` for nothing. Whether a CA has it, the CA knows.
fn profile(text: &str, found: &mut Found<'_>) -> Option<String> {
    let is_word = |c: u8| c.is_ascii_graphic();
    if text.len() > MOST_PROFILE || !text.bytes().all(is_word) {
        found.add(format!("profile {text:?} is not a name of at most {MOST_PROFILE} letters"));
    }
    (!text.is_empty()).then(|| text.to_owned())
}

fn preferred_chain(text: &str, found: &mut Found<'_>) -> Option<String> {
    if text.len() > MOST_COMMON_NAME || text.chars().any(char::is_control) {
        found.add(format!("preferred_chain {text:?} is not a common name of a root"));
    }
    (!text.is_empty()).then(|| text.to_owned())
}

/// A directory has to be HTTPS: RFC 8555 section 6.1.
fn check_directory(directory: &str) -> Result<(), String> {
    let uri: Result<http::Uri, _> = directory.parse();
    let uri = uri.map_err(|_| format!("directory {directory:?} is not a URL"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => Ok(()),
        _ => Err(format!("directory {directory:?} has to be an https:// URL")),
    }
}

fn check_roots(pem: &str) -> Result<(), String> {
    if pem.trim().is_empty() {
        return Ok(());
    }
    if pem.len() > MOST_ROOTS {
        return Err(format!(
            "the trust roots have {} bytes, more than {MOST_ROOTS}: name only those of this issuer",
            pem.len()
        ));
    }
    let mut roots = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| format!("the trust roots are not valid PEM: {error}"))?;
        Facts::of(&certificate).map_err(|error| format!("one of the trust roots: {error}"))?;
        roots += 1;
    }
    if roots == 0 {
        return Err("the trust roots hold no PEM certificate".to_owned());
    }
    Ok(())
}

/// As [`issuer`].
fn certificate(wire: &WireCertificate, found: &mut Found<'_>) -> Option<CertificateSpec> {
    let name: Option<CertName> = found.ok(wire.name.parse());
    let challenges = challenges(&wire.challenges, found);
    let identifiers = identifiers(&wire.identifiers, &challenges, found);
    let key_type = if wire.key_type.is_empty() {
        Some(KeyType::default())
    } else {
        found.ok(wire.key_type.parse())
    };
    let mut issuers: Vec<IssuerName> = Vec::new();
    if wire.issuers.is_empty() {
        found.add("it names no issuer");
    }
    for text in &wire.issuers {
        match found.ok(text.parse()) {
            Some(issuer) if issuers.contains(&issuer) => {
                found.add(format!("issuer {text:?} is named twice"));
            }
            issuer => issuers.extend(issuer),
        }
    }
    let standby = standby(&wire.standby, &issuers, found);
    let labels = found.ok(Labels::new(wire.labels.clone()));
    if wire.reuse_key && wire.key_ahead {
        found.add("a key cannot be both kept and made ahead: choose key.reuse or key.ahead");
    }
    let profile = profile(&wire.profile, found);
    let renew = wire.renew.as_ref().and_then(|renew| renew::times(renew, found));
    Some(CertificateSpec {
        name: name?,
        identifiers,
        key_type: key_type.unwrap_or_default(),
        reuse_key: wire.reuse_key,
        key_ahead: wire.key_ahead,
        profile,
        issuers,
        standby,
        challenges,
        labels: labels.unwrap_or_default(),
        renew,
    })
}

/// `None` for nothing.
fn standby(text: &str, issuers: &[IssuerName], found: &mut Found<'_>) -> Option<IssuerName> {
    if text.is_empty() {
        return None;
    }
    let standby = found.ok(text.parse::<IssuerName>())?;
    if issuers.first() == Some(&standby) {
        found.add(format!("standby {text:?} is the first of its issuers: name another CA"));
    }
    Some(standby)
}

fn challenges(texts: &[String], found: &mut Found<'_>) -> Vec<ChallengeType> {
    let mut challenges: Vec<ChallengeType> = Vec::new();
    for text in texts {
        match found.ok(text.parse()) {
            Some(challenge) if challenges.contains(&challenge) => {
                found.add(format!("challenge {text:?} is named twice"));
            }
            challenge => challenges.extend(challenge),
        }
    }
    challenges
}

fn identifiers(
    texts: &[String],
    challenges: &[ChallengeType],
    found: &mut Found<'_>,
) -> Vec<Identifier> {
    let mut identifiers: Vec<Identifier> = Vec::new();
    if texts.is_empty() {
        found.add("it has no identifier");
    }
    if texts.len() > MAX_IDENTIFIERS {
        found.add(format!(
            "it has {} identifiers; CAs take at most {MAX_IDENTIFIERS} in one certificate",
            texts.len()
        ));
    }
    for text in texts {
        match found.ok(text.parse::<Identifier>()) {
            Some(identifier) if identifiers.contains(&identifier) => {
                found.add(format!("identifier {:?} is there twice", identifier.as_str()));
            }
            Some(identifier) => {
                if let Some(reason) = ChallengeType::none_validates(challenges, &identifier) {
                    found.add(format!("identifier {:?}: {reason}", identifier.as_str()));
                }
                identifiers.push(identifier);
            }
            None => {}
        }
    }
    identifiers
}

/// Bytes of PEM, so that an issuer fits into one transaction of every store.
const MOST_ROOTS: usize = 64 * 1024;
const MOST_PROFILE: usize = 64;
const MOST_COMMON_NAME: usize = 256;
const MOST_KEY_ID: usize = 256;
/// RFC 2104 wants as many as the hash has; some CAs give out fewer.
const LEAST_HMAC_KEY: usize = 16;
const MOST_HMAC_KEY: usize = 1024;
const MAX_IDENTIFIERS: usize = 100;
