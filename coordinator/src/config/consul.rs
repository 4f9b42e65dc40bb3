//! The table `store.consul`.

use std::path::PathBuf;

use super::{
    duration,
    reader::{Reader, Section},
    store::{read_certificate, server_url},
};
use crate::store::consul::{Identity, Options};

/// What is right of it. What is wrong is noted.
pub(super) fn read<'a>(reader: &mut Reader<'a>, store: &mut Section<'a>) -> Options {
    let mut consul = reader.table(store, "consul");
    let default = Options::local();
    let addresses = read_addresses(reader, &mut consul).unwrap_or(default.addresses);
    if addresses.iter().all(|url| url.starts_with("http://")) {
        for key in ["ca_file", "cert_file", "key_file"].into_iter().filter(|key| consul.has(key)) {
            let line = consul.line_of(key);
            let problem = "certificates are of use with https:// addresses only";
            reader.problem(line, format!("store.consul.{key}: {problem}"));
        }
    }
    let prefix = reader.parsed(&mut consul, "prefix", prefix, "such as \"chancery/\"");
    let datacenter = reader.parsed(&mut consul, "datacenter", datacenter, "such as \"dc1\"");
    let file = |reader: &mut Reader<'a>, consul: &mut Section<'a>, key| {
        reader.text(consul, key).map(|(_, path)| PathBuf::from(path))
    };
    let token_file = file(reader, &mut consul, "token_file");
    let ca_file = file(reader, &mut consul, "ca_file");
    let identity = read_certificate(reader, &mut consul)
        .map(|(cert_file, key_file)| Identity { cert_file, key_file });
    let timeout = duration(reader, &mut consul, "timeout", default.timeout, 1..=60);
    reader.finish(&consul, &KEYS);
    let prefix = prefix.unwrap_or(default.prefix);
    Options { addresses, prefix, token_file, ca_file, identity, datacenter, timeout }
}

fn read_addresses<'a>(reader: &mut Reader<'a>, consul: &mut Section<'a>) -> Option<Vec<String>> {
    let (line, urls) = reader.texts(consul, "addresses")?;
    let mut addresses: Vec<String> = Vec::new();
    let mut problems = Vec::new();
    for url in &urls {
        match address(url) {
            Ok(address) if addresses.contains(&address) => {
                problems.push(format!("{url:?} is there twice"));
            }
            Ok(address) => addresses.push(address),
            Err(problem) => problems.push(format!("{url:?} {problem}")),
        }
    }
    if urls.is_empty() {
        problems.push("write at least one, such as \"http://127.0.0.1:8500\"".to_owned());
    }
    for problem in problems {
        reader.problem(line, format!("store.consul.addresses: {problem}"));
    }
    (!addresses.is_empty()).then_some(addresses)
}

/// The URL of a Consul agent, without a slash at its end.
fn address(url: &str) -> Result<String, &'static str> {
    server_url(
        url,
        "has a user; Consul knows tokens, so write store.consul.token_file",
        "has no port; Consul listens on 8500 for http and mostly on 8501 for https",
    )
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let Some(folders) = text.strip_suffix('/') else {
        return Err("it has to end with a slash");
    };
    if text.len() > MOST_PREFIX {
        return Err("it is longer than 256 bytes");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_folder =
        |name: &str| !name.is_empty() && !matches!(name, "." | "..") && name.chars().all(is_plain);
    if !folders.split('/').all(is_folder) {
        return Err("write letters, digits, -, _ and . between single slashes, and none before");
    }
    Ok(text.to_owned())
}

fn datacenter(text: &str) -> Result<String, &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("write letters, digits, - and _")
    }
}

const KEYS: [&str; 8] = [
    "addresses",
    "prefix",
    "token_file",
    "ca_file",
    "cert_file",
    "key_file",
    "datacenter",
    "timeout",
];
/// With the longest key of a record far below what Consul takes.
const MOST_PREFIX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_scheme_host_and_port() {
        assert_eq!(address("http://127.0.0.1:8500/").unwrap(), "http://127.0.0.1:8500");
        assert_eq!(address("https://[::1]:8501").unwrap(), "https://[::1]:8501");
        for bad in [
            "127.0.0.1:8500",
            "ftp://a:1",
            "http://a",
            "http://a:8500/v1",
            "http://token@a:8500",
            "unix:///run/consul.sock",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_a_folder_that_needs_no_encoding() {
        for good in ["chancery/", "a/b.c/d-1_2/"] {
            assert_eq!(prefix(good).unwrap(), good);
        }
        let long = format!("{}/", "p".repeat(256));
        for bad in ["", "/", "a", "/a/", "a//b/", "a/../", "a b/", "ä/", "a?/", &long] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }
}
