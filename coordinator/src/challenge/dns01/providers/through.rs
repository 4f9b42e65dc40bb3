//! What all providers have in common that go through the crate `dns-update`.

use std::{fmt, path::PathBuf, sync::Mutex, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::digest;
use chancery_shared::secret::Secret;
use dns_update::{DnsRecord, DnsRecordType, DnsUpdater};

use super::{
    super::{Failure, Provider, Txt},
    Settings, read_secret,
};

/// In what one API differs from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// The TTL of records, unless it is configured, in seconds.
    pub(super) default_ttl_secs: u32,
    /// Whether it shows values in quotes, and the crate compares them with what was sent.
    pub(super) is_quoting: bool,
    /// Whether it is the primary name server itself, which has no second opinion on what it has done.
    pub(super) is_primary: bool,
    /// Whether it serves a change only after one more request, which the crate sends only if it has just changed
    /// something. If that request was lost, a repeat has to change something as well.
    pub(super) is_lazy: bool,
    /// The meaning of errors that only this API has.
    pub(super) explain: fn(&str) -> Option<Failure>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            default_ttl_secs: 60,
            is_quoting: false,
            is_primary: false,
            is_lazy: false,
            explain: |_| None,
        }
    }
}

/// A provider that is nothing but an updater: `make` makes it from the contents of the files that the keys
/// `files` name, in their order.
pub(super) fn api(
    settings: &Settings,
    files: &[&str],
    manners: Manners,
    make: impl Fn(&[Secret]) -> Result<DnsUpdater, String> + Send + Sync + 'static,
) -> Result<Box<dyn Provider>, Vec<String>> {
    let files = files.iter().map(|key| PathBuf::from(settings.required(key))).collect();
    let updater = Updater::new(settings, files, manners, make).map_err(|problem| vec![problem])?;
    Ok(Box::new(Api(updater)))
}

#[derive(Debug)]
struct Api(Updater);

#[async_trait]
impl Provider for Api {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.0.add(txt).await
    }

    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.0.remove(txt).await
    }
}

/// How errors begin that pass by themselves: the way to it, a busy server, and somebody else
/// who has changed the same records meanwhile.
const PASSING: &[&str] = &[
    "HTTP 409",
    "HTTP 412",
    "HTTP 429",
    "HTTP 5",
    "Failed to send request",
    "Failed to read response",
    // Route 53's own.
    "error sending request",
    "Route53 API error: 429",
    "Route53 API error: 5",
];

/// For one request to an API.
pub(super) const API_TIMEOUT: Option<Duration> = Some(Duration::from_secs(30));

/// An updater that is made from a file of credentials, and made again when that changes.
pub(super) struct Updater {
    files: Vec<PathBuf>,
    /// Where the credentials are from, in words.
    source: String,
    make: Make,
    manners: Manners,
    made: Mutex<Option<Made>>,
    ttl_secs: u32,
}

type Make = Box<dyn Fn(&[Secret]) -> Result<DnsUpdater, String> + Send + Sync>;

struct Made {
    /// Hash of the credentials.
    of: Vec<u8>,
    updater: DnsUpdater,
    secrets: Vec<Secret>,
}

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updater").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Updater {
    /// An updater that `make` makes from the contents of `files`. Fails if it cannot be made now.
    pub(super) fn new(
        settings: &Settings,
        files: Vec<PathBuf>,
        manners: Manners,
        make: impl Fn(&[Secret]) -> Result<DnsUpdater, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let shown: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let mut this = Self::from_elsewhere(settings, shown.join(" and "), manners, make)?;
        this.files = files;
        this.current()?;
        Ok(this)
    }

    /// An updater whose credentials are given to each call, as they are found at `source`.
    pub(super) fn from_elsewhere(
        settings: &Settings,
        source: String,
        manners: Manners,
        make: impl Fn(&[Secret]) -> Result<DnsUpdater, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let ttl_secs = settings.number("ttl", manners.default_ttl_secs)?;
        Ok(Self {
            files: Vec::new(),
            source,
            make: Box::new(make),
            manners,
            made: Mutex::new(None),
            ttl_secs,
        })
    }

    /// Adds the value of `txt`.
    pub(super) async fn add(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.add_by(&self.current().map_err(Failure::Refused)?, txt).await
    }

    /// Removes the value of `txt`.
    pub(super) async fn remove(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.remove_by(&self.current().map_err(Failure::Refused)?, txt).await
    }

    /// As [`Self::add`].
    pub(super) async fn add_by(&self, updater: &DnsUpdater, txt: &Txt<'_>) -> Result<(), Failure> {
        if self.manners.is_lazy {
            self.no_longer(updater, txt).await?;
        }
        self.also(updater, txt).await
    }

    /// As [`Self::remove`].
    pub(super) async fn remove_by(
        &self,
        updater: &DnsUpdater,
        txt: &Txt<'_>,
    ) -> Result<(), Failure> {
        if self.manners.is_lazy {
            self.also(updater, txt).await?;
        }
        self.no_longer(updater, txt).await?;
        if self.manners.is_primary { Ok(()) } else { must_be_gone(updater, txt).await }
    }

    async fn also(&self, updater: &DnsUpdater, txt: &Txt<'_>) -> Result<(), Failure> {
        let (ttl, values) = (self.ttl_secs, self.values(txt));
        let added = updater.add_to_rrset(txt.name, DnsRecordType::TXT, ttl, values, txt.zone);
        added.await.map_err(|error| self.failure(error, txt))
    }

    async fn no_longer(&self, updater: &DnsUpdater, txt: &Txt<'_>) -> Result<(), Failure> {
        let values = self.values(txt);
        let removed = updater.remove_from_rrset(txt.name, DnsRecordType::TXT, values, txt.zone);
        removed.await.map_err(|error| self.failure(error, txt))
    }

    fn values(&self, txt: &Txt<'_>) -> Vec<DnsRecord> {
        let value = if self.manners.is_quoting {
            format!("\"{}\"", txt.value)
        } else {
            txt.value.to_owned()
        };
        vec![DnsRecord::TXT(value)]
    }

    /// The updater for the credentials as they stand in the files now.
    fn current(&self) -> Result<DnsUpdater, String> {
        let secrets = self.files.iter().map(|file| read_secret(file)).collect::<Result<_, _>>()?;
        self.made_of(secrets)
    }

    /// The updater for these credentials.
    pub(super) fn made_of(&self, secrets: Vec<Secret>) -> Result<DnsUpdater, String> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for secret in &secrets {
            hash.update(&secret.expose_secret().len().to_be_bytes());
            hash.update(secret.expose_secret());
        }
        let of = hash.finish().as_ref().to_vec();
        let mut made = self.made.lock().expect("no holder panics");
        if let Some(made) = made.as_ref().filter(|made| made.of == of) {
            return Ok(made.updater.clone());
        }
        let updater = (self.make)(&secrets)?;
        *made = Some(Made { of, updater: updater.clone(), secrets });
        Ok(updater)
    }

    /// What an error means. The crate tells most of them as text.
    fn failure(&self, error: dns_update::Error, txt: &Txt<'_>) -> Failure {
        use dns_update::Error as E;
        let source = &self.source;
        let said = match error {
            E::Unauthorized => {
                return Failure::Refused(format!(
                    "it does not accept the credentials in {source} (401): correct them"
                ));
            }
            E::NotFound => {
                return Failure::NoZone(format!(
                    "it does not find the zone {} (404): create it there, see whether the \
                     credentials in {source} belong to that account, or correct the provider's zones",
                    txt.zone
                ));
            }
            E::BadRequest => "it refuses the request (400)".to_owned(),
            E::InvalidRegion => "there is no such region".to_owned(),
            E::Protocol(said)
            | E::Parse(said)
            | E::Client(said)
            | E::Response(said)
            | E::Api(said)
            | E::Serialize(said)
            | E::Unsupported(said) => self.without_secrets(said),
            other => self.without_secrets(format!("{other:?}")),
        };
        if let Some(failure) = (self.manners.explain)(&said) {
            return failure;
        }
        if said.starts_with("HTTP 403") || said.starts_with("HTTP 401") {
            return Failure::Refused(format!(
                "the credentials in {source} have no right to change TXT records of {}: {said}",
                txt.zone
            ));
        }
        if PASSING.iter().any(|start| said.starts_with(start)) {
            Failure::Unavailable(said)
        } else {
            Failure::Refused(said)
        }
    }

    /// What a provider says may repeat what it was sent.
    fn without_secrets(&self, mut text: String) -> String {
        let made = self.made.lock().expect("no holder panics");
        for secret in made.iter().flat_map(|made| &made.secrets) {
            for word in super::text_of(secret).unwrap_or_default().split_whitespace() {
                if word.len() > 5 {
                    text = text.replace(word, "***");
                }
            }
        }
        text
    }
}

/// An API that shows values otherwise than it takes them has the crate find nothing to remove, and
/// say that all is well. It is asked again, so that nothing of ours is forgotten in the DNS.
async fn must_be_gone(updater: &DnsUpdater, txt: &Txt<'_>) -> Result<(), Failure> {
    let left = updater.list_rrset(txt.name, DnsRecordType::TXT, txt.zone).await;
    // Not all of them can be asked, nor for a name whose last record is gone.
    let Ok(left) = left else { return Ok(()) };
    let is_ours = |record: &DnsRecord| matches!(record, DnsRecord::TXT(value) if value.trim_matches('"') == txt.value);
    if left.iter().any(is_ours) {
        return Err(Failure::Unavailable(format!(
            "it took the removal of a value at {}, and still shows it",
            txt.name
        )));
    }
    Ok(())
}
