//! The table `store.etcd`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::{
    duration,
    reader::{Reader, Section},
    store::{read_certificate, server_url},
};
use crate::store::etcd::{ClientCertificate, Options, User};

/// `None` if something required is missing or wrong, which is then noted.
pub(super) fn read<'a>(reader: &mut Reader<'a>, store: &mut Section<'a>) -> Option<Options> {
    let mut etcd = reader.table(store, "etcd");
    let endpoints = read_endpoints(reader, &mut etcd);
    let is_plain = endpoints
        .as_ref()
        .is_some_and(|endpoints| endpoints.iter().all(|url| url.starts_with("http://")));
    if is_plain {
        for key in ["ca_file", "cert_file", "key_file"].into_iter().filter(|key| etcd.has(key)) {
            let line = etcd.line_of(key);
            let problem = "certificates are of use with https:// endpoints only";
            reader.problem(line, format!("store.etcd.{key}: {problem}"));
        }
    }
    let prefix = reader.parsed(&mut etcd, "prefix", prefix, "such as \"/chancery/\"");
    let user = read_user(reader, &mut etcd);
    let ca_file = reader.text(&mut etcd, "ca_file").map(|(_, path)| PathBuf::from(path));
    let identity = read_certificate(reader, &mut etcd)
        .map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file });
    let timeout = duration(reader, &mut etcd, "timeout", DEFAULT_TIMEOUT, 1..=60);
    reader.finish(&etcd, &KEYS);
    Some(Options {
        endpoints: endpoints?,
        prefix: prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        user,
        ca_file,
        identity,
        timeout,
    })
}

fn read_endpoints<'a>(reader: &mut Reader<'a>, etcd: &mut Section<'a>) -> Option<Vec<String>> {
    if !etcd.has("endpoints") {
        let example = "endpoints = [\"https://etcd-1:2379\", \"https://etcd-2:2379\"]";
        reader.missing(etcd, "endpoints", example);
        return None;
    }
    let (line, urls) = reader.texts(etcd, "endpoints")?;
    let mut problems = Vec::new();
    let mut endpoints: Vec<String> = Vec::new();
    for url in &urls {
        match endpoint(url) {
            Ok(endpoint) if endpoints.contains(&endpoint) => {
                problems.push(format!("{url:?} is there twice"));
            }
            Ok(endpoint) => endpoints.push(endpoint),
            Err(problem) => problems.push(format!("{url:?} {problem}")),
        }
    }
    if urls.is_empty() {
        problems.push("write at least one, such as \"https://etcd-1:2379\"".to_owned());
    }
    let schemes: BTreeSet<_> = endpoints.iter().filter_map(|url| url.split(':').next()).collect();
    if schemes.len() > 1 {
        problems.push("write https:// for all of them, or http:// for all".to_owned());
    }
    let is_clean = problems.is_empty();
    for problem in problems {
        reader.problem(line, format!("store.etcd.endpoints: {problem}"));
    }
    // What could be read of them is enough to look at the other keys.
    (is_clean || !endpoints.is_empty()).then_some(endpoints)
}

/// The URL of a member, without a slash at its end.
fn endpoint(url: &str) -> Result<String, &'static str> {
    server_url(
        url,
        "has a user; write store.etcd.username and password_file",
        "has no port; etcd listens on 2379 for clients",
    )
}

fn prefix(text: &str) -> Result<String, &'static str> {
    if text.ends_with('/') { Ok(text.to_owned()) } else { Err("it has to end with a slash") }
}

fn read_user<'a>(reader: &mut Reader<'a>, etcd: &mut Section<'a>) -> Option<User> {
    let (name, password_file) = reader.pair(
        etcd,
        ("username", "a user needs a password; add password_file, which names a file with it"),
        ("password_file", "a password needs a user; add username"),
    )?;
    Some(User { name, password_file: password_file.into() })
}

const KEYS: [&str; 8] = [
    "endpoints",
    "prefix",
    "username",
    "password_file",
    "ca_file",
    "cert_file",
    "key_file",
    "timeout",
];
const DEFAULT_PREFIX: &str = "/chancery/";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
