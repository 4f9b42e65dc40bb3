//! What an `[[issuer]]` and a `[[certificate]]` may say.

use std::{collections::BTreeMap, fmt, fs, str::FromStr};

use chancery_proto::v1::{CertificateSpec, IssuerSpec};
use chancery_shared::{
    challenge_type::ChallengeType,
    identifier::Identifier,
    key_type::KeyType,
    name::{CertName, IssuerName, Labels},
    x509::Facts,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use toml::de::DeTable;
use tonic::transport::Uri;

use super::{
    Findings, Place, Problem, external_account, renew,
    table::{Table, Text},
};

/// Reads one `[[issuer]]`.
pub(super) fn issuer(table: &Table<'_>, findings: &mut Findings) {
    let problems = &mut findings.problems;
    table.refuse_unknown_keys(&ISSUER_KEYS, problems);
    let name = table.required_text("name", "\"letsencrypt\"", problems);
    let name = name.and_then(|text| parsed::<IssuerName>(table, "name", text, problems));
    let directory = table.required_text("directory", DIRECTORY_EXAMPLE, problems);
    if let Some(text) = &directory {
        check_directory(table, text, problems);
    }
    let contacts = table.texts("contacts", problems);
    for contact in &contacts {
        check_contact(table, contact, problems);
    }
    refuse_repetitions(table, "contacts", &contacts, problems);
    let trust_roots = table.text("trust_roots", problems);
    let trust_roots = trust_roots.and_then(|path| read_trust_roots(table, &path, problems));
    let limits = limits(table, problems);
    let external_account = external_account::check(table, problems);
    let profile = word(table, "profile", "\"tlsserver\"", problems);
    let preferred_chain = preferred_chain(table, problems);
    let Some((name, text)) = name else { return };
    let spec = IssuerSpec {
        limits,
        name: name.to_string(),
        directory: directory.map(|text| text.value).unwrap_or_default(),
        contacts: contacts.into_iter().map(|text| text.value).collect(),
        trust_roots_pem: trust_roots.unwrap_or_default(),
        external_account,
        profile,
        preferred_chain,
    };
    keep(&mut findings.issuers, ("issuer", table, &text), spec.name.clone(), spec, problems);
}

/// Reads one `[[certificate]]`.
pub(super) fn certificate(table: &Table<'_>, findings: &mut Findings) {
    let problems = &mut findings.problems;
    table.refuse_unknown_keys(&CERTIFICATE_KEYS, problems);
    let name = table.required_text("name", "\"www\"", problems);
    let name = name.and_then(|text| parsed::<CertName>(table, "name", text, problems));
    let challenges = check_challenges(table, problems);
    let identifiers = check_identifiers(table, &challenges, problems);
    let key_type = table
        .text("key_type", problems)
        .and_then(|text| parsed::<KeyType>(table, "key_type", text, problems))
        .map_or(KeyType::default(), |(key_type, _)| key_type);
    let (reuse_key, key_ahead) = key_use(table, problems);
    let profile = word(table, "profile", "\"tlsserver\"", problems);
    let issuers = table.required_texts("issuers", "[\"letsencrypt\"]", problems);
    refuse_repetitions(table, "issuers", &issuers, problems);
    let issuers: Vec<_> = issuers
        .into_iter()
        .filter_map(|text| parsed::<IssuerName>(table, "issuers", text, problems))
        .map(|(issuer, _)| issuer.to_string())
        .collect();
    let standby = check_standby(table, &issuers, problems);
    let labels = check_labels(table, problems);
    let renew = renew::times(table, problems).or_else(|| findings.renew.clone());
    let Some((name, text)) = name else { return };
    if table
        .value("labels")
        .is_none_or(|value| value.get_ref().as_table().is_some_and(DeTable::is_empty))
    {
        findings.warnings.push(table.own_problem(format!(
            "certificate {name} has no labels, so no agent will get it; \
             add for example labels = {{ role = \"web\" }}"
        )));
    }
    let spec = CertificateSpec {
        name: name.to_string(),
        identifiers,
        key_type: key_type.to_string(),
        reuse_key,
        key_ahead,
        profile,
        issuers,
        standby,
        challenges: challenges.iter().map(ToString::to_string).collect(),
        labels,
        renew,
    };
    let entry = ("certificate", table, &text);
    keep(&mut findings.certificates, entry, spec.name.clone(), spec, problems);
}

/// `limits = "letsencrypt"`, or a table. The coordinator says which there are.
fn limits(table: &Table<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let Some(value) = table.value("limits") else { return BTreeMap::new() };
    if let Some(preset) = value.get_ref().as_str() {
        return BTreeMap::from([("preset".to_owned(), preset.to_owned())]);
    }
    let pairs = table.map("limits", problems).into_iter();
    pairs.map(|(key, text)| (key, text.value)).collect()
}

/// Keeps `spec` unless its name is taken.
pub(super) fn keep<T>(
    taken: &mut BTreeMap<String, (Place, T)>,
    (kind, table, text): (&str, &Table<'_>, &Text),
    name: String,
    spec: T,
    problems: &mut Vec<Problem>,
) {
    if let Some((place, _)) = taken.get(&name) {
        let message =
            format!("the {kind} {name} is defined at {place} already; keep one, or rename one");
        problems.push(table.text_problem("name", text, message));
    } else {
        taken.insert(name, (table.place_of(text), spec));
    }
}

/// `text` as a `T`, with the text for its place.
pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
    table: &Table<'_>,
    key: &str,
    text: Text,
    problems: &mut Vec<Problem>,
) -> Option<(T, Text)> {
    match text.value.parse() {
        Ok(value) => Some((value, text)),
        Err(error) => {
            problems.push(table.text_problem(key, &text, reason(&error)));
            None
        }
    }
}

/// The message of an error without the value, which the problem shows already.
fn reason(error: &impl fmt::Display) -> String {
    let message = error.to_string();
    [" is not valid: ", " is not known: "]
        .into_iter()
        .find_map(|seam| {
            let (_, reason) = message.split_once(seam)?;
            Some(format!("{}; {reason}", seam.trim_start_matches(" is ").trim_end_matches(": ")))
        })
        .unwrap_or(message)
}

/// Empty for none. Another CA than the first.
fn check_standby(table: &Table<'_>, issuers: &[String], problems: &mut Vec<Problem>) -> String {
    let text = table.text("standby", problems);
    let parsed = text.and_then(|text| parsed::<IssuerName>(table, "standby", text, problems));
    let Some((standby, text)) = parsed else { return String::new() };
    if issuers.first().map(String::as_str) == Some(standby.as_str()) {
        let message = "it is the first of issuers already; name another CA".to_owned();
        problems.push(table.text_problem("standby", &text, message));
    }
    standby.to_string()
}

fn check_challenges(table: &Table<'_>, problems: &mut Vec<Problem>) -> Vec<ChallengeType> {
    let challenges = table.texts("challenges", problems);
    refuse_repetitions(table, "challenges", &challenges, problems);
    challenges
        .into_iter()
        .filter_map(|text| parsed::<ChallengeType>(table, "challenges", text, problems))
        .map(|(challenge, _)| challenge)
        .collect()
}

fn check_identifiers(
    table: &Table<'_>,
    challenges: &[ChallengeType],
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut first: BTreeMap<Identifier, Place> = BTreeMap::new();
    let mut identifiers = Vec::new();
    for text in table.required_texts("identifiers", "[\"www.example.org\"]", problems) {
        let Some((identifier, text)) = parsed::<Identifier>(table, "identifiers", text, problems)
        else {
            continue;
        };
        if let Some(reason) = ChallengeType::none_validates(challenges, &identifier) {
            problems.push(table.text_problem("identifiers", &text, reason.to_owned()));
        }
        if let Some(place) = first.get(&identifier) {
            let message = format!("{identifier} stands at {place} already; leave one out");
            problems.push(table.text_problem("identifiers", &text, message));
            continue;
        }
        identifiers.push(identifier.to_string());
        first.insert(identifier, table.place_of(&text));
    }
    identifiers
}

pub(super) fn check_labels(
    table: &Table<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, text) in table.map("labels", problems) {
        match Labels::new([(key.as_str(), text.value.as_str())]) {
            Ok(_) => {
                labels.insert(key, text.value);
            }
            Err(error) => {
                let message = reason(&error);
                problems.push(table.text_problem(&format!("labels.{key}"), &text, message));
            }
        }
    }
    labels
}

pub(super) fn refuse_repetitions(
    table: &Table<'_>,
    key: &str,
    texts: &[Text],
    problems: &mut Vec<Problem>,
) {
    for (i, text) in texts.iter().enumerate() {
        if texts[..i].iter().any(|earlier| earlier.value == text.value) {
            let message = "this stands in the list already; leave one out".to_owned();
            problems.push(table.text_problem(key, text, message));
        }
    }
}

/// A directory is reached over HTTPS (RFC 8555 section 6.1).
fn check_directory(table: &Table<'_>, text: &Text, problems: &mut Vec<Problem>) {
    let message = match text.value.parse::<Uri>() {
        Err(error) => format!("this is not a URL: {error}; write for example {DIRECTORY_EXAMPLE}"),
        Ok(url) if url.scheme_str() != Some("https") || url.host().is_none_or(str::is_empty) => {
            format!(
                "the URL does not begin with https://HOST; write for example {DIRECTORY_EXAMPLE}"
            )
        }
        Ok(_) => return,
    };
    problems.push(table.text_problem("directory", text, message));
}

/// A contact is one `mailto:` address without headers (RFC 8555 section 7.3).
fn check_contact(table: &Table<'_>, text: &Text, problems: &mut Vec<Problem>) {
    let message = match text.value.strip_prefix("mailto:") {
        None => "this is not a mailto: URL; write \"mailto:ops@example.org\"",
        Some(address) if address.contains([',', '?']) => {
            "one address each, without headers; write [\"mailto:a@example.org\", \"mailto:b@example.org\"]"
        }
        Some(address) => match address.split_once('@') {
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() => return,
            _ => "this is not an e-mail address; write \"mailto:ops@example.org\"",
        },
    };
    problems.push(table.text_problem("contacts", text, message.to_owned()));
}

/// The PEM file that `path`, relative to the file that names it, leads to.
fn read_trust_roots(table: &Table<'_>, path: &Text, problems: &mut Vec<Problem>) -> Option<String> {
    let folder = table.file().parent().unwrap_or_else(|| ".".as_ref());
    let file = folder.join(&path.value);
    let outcome = fs::read_to_string(&file)
        .map_err(|error| super::unreadable(&error))
        .and_then(|pem| check_trust_roots(&pem).map(|()| pem));
    match outcome {
        Ok(pem) => Some(pem),
        Err(why) => {
            let message = format!(
                "{}: {why}; name a PEM file of CA certificates, relative to this file",
                file.display()
            );
            problems.push(table.text_problem("trust_roots", path, message));
            None
        }
    }
}

fn check_trust_roots(pem: &str) -> Result<(), String> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("it holds a private key, which has no place here and is not sent".to_owned());
    }
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        Facts::of(&certificate).map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
}

/// Whether renewals keep the private key, and whether it is made ahead.
fn key_use(table: &Table<'_>, problems: &mut Vec<Problem>) -> (bool, bool) {
    let Some(key) = table.table("key", "{ reuse = true }", problems) else { return (false, false) };
    key.refuse_unknown_keys(&["reuse", "ahead"], problems);
    let (reuse, ahead) = (key.flag("reuse", problems), key.flag("ahead", problems));
    if reuse && ahead {
        let message = "a key cannot be both kept and made ahead; leave out reuse or ahead";
        problems.push(key.own_problem(message.to_owned()));
    }
    (reuse, ahead)
}

/// What a key with one word says; words are of visible ASCII, as CAs name their profiles.
fn word(table: &Table<'_>, key: &str, example: &str, problems: &mut Vec<Problem>) -> String {
    let Some(text) = table.text(key, problems) else { return String::new() };
    if text.value.is_empty() || !text.value.bytes().all(|c| c.is_ascii_graphic()) {
        let message = format!("this is not one word; write for example {key} = {example}");
        problems.push(table.text_problem(key, &text, message));
    }
    text.value
}

/// The common name of the root that chains are to end under.
fn preferred_chain(table: &Table<'_>, problems: &mut Vec<Problem>) -> String {
    let Some(text) = table.text("preferred_chain", problems) else { return String::new() };
    if text.value.trim() != text.value || text.value.is_empty() {
        let message = "this is not the common name of a root; write for example \
                       preferred_chain = \"ISRG Root X2\"";
        problems.push(table.text_problem("preferred_chain", &text, message.to_owned()));
    }
    text.value
}

const CERTIFICATE_KEYS: [&str; 10] = [
    "name",
    "identifiers",
    "key_type",
    "key",
    "profile",
    "issuers",
    "standby",
    "challenges",
    "labels",
    "renew",
];
const ISSUER_KEYS: [&str; 8] = [
    "name",
    "directory",
    "contacts",
    "profile",
    "preferred_chain",
    "external_account",
    "trust_roots",
    "limits",
];
const DIRECTORY_EXAMPLE: &str = "\"https://acme-v02.api.letsencrypt.org/directory\"";
