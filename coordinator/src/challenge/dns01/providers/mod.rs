//! The DNS providers, one file each, and the keys that each takes in the configuration.
//!
//! Credentials stand in files of their own, and only there. A file is read when the coordinator starts, so that a
//! mistake shows at once, and again whenever it has changed, so that a new key needs no restart.

use std::{collections::BTreeMap, path::Path};

use chancery_shared::secret::Secret;

use super::Provider;

mod acme_dns;
mod cloudflare;
mod desec;
mod digitalocean;
mod exec;
mod google;
mod others;
mod ovh;
mod powerdns;
mod rfc2136;
mod route53;
mod through;

/// What the configuration says of a provider: its kind, and texts by key.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kind.
    pub kind: &'static Kind,
    /// The values; those of required keys are there.
    pub values: BTreeMap<&'static str, String>,
}

/// A kind of provider.
#[derive(Debug)]
pub struct Kind {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Keys that it needs, with an example of each.
    pub required: &'static [(&'static str, &'static str)],
    /// Keys that it knows beside them.
    pub optional: &'static [&'static str],
    build: Build,
}

/// Makes a provider, or tells all that is wrong with its settings.
type Build = fn(&Settings) -> Result<Box<dyn Provider>, Vec<String>>;

/// Those that have a file of their own.
const KINDS: &[&Kind] = &[
    &rfc2136::KIND,
    &powerdns::KIND,
    &exec::KIND,
    &acme_dns::KIND,
    &cloudflare::KIND,
    &route53::KIND,
    &google::KIND,
    &digitalocean::KIND,
    &ovh::KIND,
    &desec::KIND,
];

/// Every kind of provider.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(others::KINDS).copied()
}

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    kinds().find(|kind| kind.name == name)
}

/// Makes the provider. All that is wrong with its settings otherwise.
pub(super) fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    (settings.kind.build)(settings)
}

impl Settings {
    fn optional(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// As [`Self::optional`].
    fn owned(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    /// The value of a required key.
    fn required(&self, key: &str) -> &str {
        self.optional(key).unwrap_or_default()
    }

    /// The whole number at `key`, or `default`.
    fn number(&self, key: &str, default: u32) -> Result<u32, String> {
        let Some(text) = self.optional(key) else { return Ok(default) };
        text.parse().map_err(|_| format!("{key} = {text:?} is not a whole number"))
    }
}

/// The text in a file of credentials, without white space around it.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let secret = Secret::new(bytes);
    let text = text_of(&secret).map_err(|reason| format!("{shown}: {reason}"))?.trim();
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(Secret::new(text.as_bytes().to_vec()))
}

fn text_of(secret: &Secret) -> Result<&str, String> {
    std::str::from_utf8(secret.expose_secret()).map_err(|_| "it is not a text".to_owned())
}
