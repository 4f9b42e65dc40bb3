//! DNS-01 (RFC 8555 section 8.4): a TXT record proves that a name is ours.
//!
//! # Where the record goes
//!
//! `_acme-challenge` and the identifier, or where CNAME records lead from there ([`lookup`]): that is how
//! a zone that must not change delegates its proofs to one that may. The name that is found in the end decides
//! which of the configured providers keeps the record: the one with the longest matching zone.
//!
//! dns-account-01 is the same with one more label, made from the account's URL ([`Owner`]): two clients
//! of one CA, each with its account, then have names of their own, which can be delegated to different zones.
//!
//! # Whose values these are
//!
//! Several values may stand at one name: an apex and its wildcard share it, so do orders that run side by side,
//! and another ACME client may use it too. So the journal is the ledger. Before the DNS is touched, the
//! challenge's record in the store says which provider, zone, name and value ([`TxtRecord`]); it
//! is deleted after the value has been removed. An order does not wait for that: what is left when no live order
//! has the challenge's token any more (a CA may give one challenge to several) belongs to nobody, and the leader's
//! [`Sweeper`] removes it, whoever wrote it, also from where it stood before. No other value is ever touched.
//!
//! One name is changed by one task at a time: there are providers whose API only knows
//! how to replace all values of a name. The task outlives whoever wants the change: a request that is
//! on the wire is carried out, whether or not somebody still waits for its answer, and until that is
//! there nobody else may look at the name.
//!
//! # When the CA is told
//!
//! After every authoritative name server has shown the value ([`propagation`]), and the
//! provider's own least wait is over. All values of an order are waited for together.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chancery_shared::{identifier::Identifier, name::DnsProviderName};
use data_encoding::BASE32_NOPAD;
use futures_util::future::try_join_all;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

mod error;
mod locks;
mod lookup;
mod propagation;
mod provider;
pub mod providers;
mod standing;
mod sweep;

pub use error::Error;
pub use provider::{Failure, Provider, Txt};
pub use standing::Look;
pub use sweep::Sweeper;

use self::{
    locks::Locks,
    lookup::Lookup,
    propagation::{Awaited, Propagation},
    providers::Settings,
};
use crate::{
    events::printable,
    record::{Challenge, TxtRecord},
};

/// How DNS-01 challenges are answered.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who is asked where names lead; empty: the system's resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// How long a value may take to reach all name servers.
    pub propagation_deadline: Duration,
    /// The providers.
    pub providers: Vec<ProviderOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            propagation_deadline: DEFAULT_PROPAGATION_DEADLINE,
            providers: Vec::new(),
        }
    }
}

/// A provider, as it is configured.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// Its name.
    pub name: DnsProviderName,
    /// The zones that it is responsible for, with all below them; empty: everything.
    pub zones: Vec<String>,
    /// Who is asked whether a value is there, instead of those in the zone's NS records.
    pub name_servers: Vec<SocketAddr>,
    /// How long to wait before they are asked.
    pub propagation_wait: Duration,
    /// What it is, and where its credentials are.
    pub settings: Settings,
}

/// Why DNS-01 cannot be set up. One line for each problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// Whose name below an identifier the proof stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Everybody's, with dns-01.
    Everybody,
    /// That of the account with this URL, with dns-account-01.
    Account(&'a str),
}

impl Owner<'_> {
    /// The name for `identifier` (RFC 8555 section 8.4; draft-ietf-acme-dns-account-label section 3.1: ten
    /// bytes of the SHA-256 of the account's URL, in base32).
    pub fn name(self, identifier: &Identifier) -> String {
        let base = identifier.as_str().strip_prefix("*.").unwrap_or(identifier.as_str());
        match self {
            Self::Everybody => format!("_acme-challenge.{base}"),
            Self::Account(url) => {
                let hash = digest::digest(&digest::SHA256, url.as_bytes());
                let label = BASE32_NOPAD.encode(&hash.as_ref()[..10]).to_ascii_lowercase();
                format!("_{label}._acme-challenge.{base}")
            }
        }
    }
}

/// Where the proof for an identifier has to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    provider: DnsProviderName,
    zone: String,
    name: String,
}

impl Place {
    /// The record with the proof: the hash of the key authorization (RFC 8555 section 8.4).
    pub fn txt(self, key_authorization: &str) -> TxtRecord {
        let hash = digest::digest(&digest::SHA256, key_authorization.as_bytes());
        let value = BASE64_URL_SAFE_NO_PAD.encode(hash);
        TxtRecord { provider: self.provider, zone: self.zone, name: self.name, value }
    }
}

/// Answers DNS-01 challenges.
pub struct Dns01 {
    providers: Vec<Arc<Configured>>,
    lookup: Lookup,
    propagation: Arc<Propagation>,
    propagation_deadline: Duration,
    locks: Locks,
}

/// A provider and what it is responsible for.
struct Configured {
    name: DnsProviderName,
    /// As they are declared; empty if none are.
    zones: Vec<String>,
    name_servers: Vec<SocketAddr>,
    propagation_wait: Duration,
    provider: Box<dyn Provider>,
    /// Each call takes one.
    calls: Arc<Semaphore>,
}

/// What a provider is to do with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// The right to change a name.
type Turn = (OwnedMutexGuard<()>, OwnedSemaphorePermit);

impl fmt::Debug for Dns01 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns01").field("providers", &self.known()).finish_non_exhaustive()
    }
}

/// Reads the credentials of all providers, and reaches nobody.
pub fn check(options: &Options) -> Result<(), Problems> {
    let settings = options.providers.iter().map(|provider| (&provider.name, &provider.settings));
    let problems: Vec<String> = settings
        .filter_map(|(name, settings)| Some((name, providers::build(settings).err()?)))
        .flat_map(|(name, found)| {
            found.into_iter().map(move |problem| format!("dns.{name}: {problem}"))
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

impl Dns01 {
    /// Reads the credentials of all providers, and reaches nobody yet. Needs a runtime.
    pub fn new(options: Options) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut providers = Vec::new();
        for options in options.providers {
            let ProviderOptions { name, zones, name_servers, propagation_wait, settings } = options;
            match providers::build(&settings) {
                Ok(provider) => providers.push(Arc::new(Configured {
                    name,
                    zones,
                    name_servers,
                    propagation_wait,
                    provider,
                    calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
                })),
                Err(found) => {
                    problems.extend(found.iter().map(|problem| format!("dns.{name}: {problem}")));
                }
            }
        }
        let lookup = Lookup::new(&options.resolvers).map_err(|problem| problems.push(problem));
        match lookup {
            Ok(lookup) if problems.is_empty() => Ok(Self {
                providers,
                propagation: Propagation::new(lookup.clone()),
                lookup,
                propagation_deadline: options.propagation_deadline,
                locks: Locks::default(),
            }),
            _ => Err(Problems(problems)),
        }
    }

    /// Where the value that proves `identifier` has to stand, and who keeps it there. Asks the DNS, and
    /// changes nothing.
    pub async fn place(&self, owner: Owner<'_>, identifier: &Identifier) -> Result<Place, Error> {
        let name = self.lookup.target(&owner.name(identifier)).await?;
        let Some((provider, zone)) = self.responsible(&name) else {
            let (identifier, known) = (identifier.clone(), self.known());
            return Err(Error::NoProvider { identifier, name, known });
        };
        let declared = zone.filter(|_| !provider.zones.is_empty());
        let zone = self.lookup.zone(&name).await?;
        if let Some(declared) = declared.filter(|declared| !is_within(&zone, declared)) {
            let reason = format!(
                "dns.{} is declared for {declared}, but the DNS has it in the zone {zone}: see \
                 whether {declared} exists and is delegated, or correct its zones",
                provider.name
            );
            return Err(Error::Zone { name, reason });
        }
        Ok(Place { provider: provider.name.clone(), zone, name })
    }

    /// Puts the values of challenges into the DNS, and waits until all its servers have them. May be
    /// repeated. `challenges` are those of one order, by token; others are passed over. `still` is asked
    /// right before each change, when nobody else touches the name; what it returns is kept until the
    /// provider has answered. Dropping the future ends the waiting, not a change that has begun.
    pub async fn present<E: From<Error>, G: Send + 'static>(
        &self,
        challenges: &BTreeMap<String, Arc<Challenge>>,
        still: impl Fn() -> Result<G, E> + Sync,
    ) -> Result<(), E> {
        let values = || {
            let all = challenges.iter();
            all.filter_map(|(token, challenge)| Some((token, challenge, challenge.txt.as_ref()?)))
        };
        let adding = values().map(|(token, found, txt)| self.add(token, found, txt, &still));
        try_join_all(adding).await?;
        try_join_all(values().map(|(_, _, txt)| self.until_visible(txt))).await?;
        Ok(())
    }

    async fn add<E: From<Error>, G: Send + 'static>(
        &self,
        token: &str,
        challenge: &Challenge,
        txt: &TxtRecord,
        still: &(impl Fn() -> Result<G, E> + Sync),
    ) -> Result<(), E> {
        let configured = self.configured(&txt.provider)?;
        let turn = self.turn(configured, txt).await;
        let held = (turn, still()?);
        change(configured, Change::Add, token, challenge, txt, held).await?;
        tracing::debug!(name = txt.name, provider = %txt.provider, "presented a TXT value");
        Ok(())
    }

    async fn until_visible(&self, txt: &TxtRecord) -> Result<(), Error> {
        let configured = self.configured(&txt.provider)?;
        tokio::time::sleep(configured.propagation_wait).await;
        let place = Awaited { zone: txt.zone.clone(), servers: configured.name_servers.clone() };
        self.propagation.wait(place, &txt.name, &txt.value, self.propagation_deadline).await
    }

    /// Removes a value of a challenge, if it is there and `still` says so once nobody else
    /// touches the name. Returns what that said. Dropping the future does not end a change that has begun.
    pub async fn remove<E: From<Error>>(
        &self,
        token: &str,
        challenge: &Challenge,
        txt: &TxtRecord,
        still: impl Future<Output = Result<bool, E>>,
    ) -> Result<bool, E> {
        let configured = self.configured(&txt.provider)?;
        let turn = self.turn(configured, txt).await;
        if !still.await? {
            return Ok(false);
        }
        change(configured, Change::Remove, token, challenge, txt, turn).await?;
        tracing::debug!(name = txt.name, provider = %txt.provider, "removed a TXT value");
        Ok(true)
    }

    /// The name first: whoever waits for that keeps no provider from others.
    async fn turn(&self, configured: &Configured, txt: &TxtRecord) -> Turn {
        let alone = self.locks.lock(txt.name.clone()).await;
        let call = configured.calls.clone().acquire_owned().await.expect("it is never closed");
        (alone, call)
    }

    fn configured(&self, name: &DnsProviderName) -> Result<&Arc<Configured>, Error> {
        let found = self.providers.iter().find(|configured| configured.name == *name);
        found.ok_or_else(|| Error::UnknownProvider(name.clone()))
    }

    /// The provider with the longest zone that holds `name`, and that zone; one without zones
    /// holds everything.
    fn responsible(&self, name: &str) -> Option<(&Arc<Configured>, Option<String>)> {
        let zones = self.providers.iter().flat_map(|configured| {
            let zones = configured.zones().map_or_else(
                || vec![None],
                |zones| zones.into_iter().filter(|zone| is_within(name, zone)).map(Some).collect(),
            );
            zones.into_iter().map(move |zone| (configured, zone))
        });
        zones.max_by_key(|(_, zone)| zone.as_ref().map_or(0, |zone| zone.len() + 1))
    }

    fn known(&self) -> String {
        if self.providers.is_empty() {
            return "none is configured".to_owned();
        }
        let shown = self.providers.iter().map(|configured| match configured.zones() {
            None => configured.name.to_string(),
            Some(zones) if zones.is_empty() => format!("{} for nothing yet", configured.name),
            Some(zones) => format!("{} for {}", configured.name, zones.join(" and ")),
        });
        format!("there is {}", shown.collect::<Vec<_>>().join(", "))
    }
}

impl Configured {
    /// What it is responsible for; `None` for everything.
    fn zones(&self) -> Option<Vec<String>> {
        if self.zones.is_empty() { self.provider.zones() } else { Some(self.zones.clone()) }
    }
}

/// Has the provider make a change, in a task of its own that keeps what is `held` until it is done.
async fn change(
    configured: &Arc<Configured>,
    change: Change,
    token: &str,
    challenge: &Challenge,
    txt: &TxtRecord,
    held: impl Send + 'static,
) -> Result<(), Error> {
    let name = configured.name.clone();
    let (configured, token) = (configured.clone(), token.to_owned());
    let (challenge, txt) = (challenge.clone(), txt.clone());
    let work = async move {
        let _held = held;
        let txt = of(&token, &challenge, &txt);
        match change {
            Change::Add => bounded(&configured, configured.provider.present(&txt)).await,
            Change::Remove => bounded(&configured, configured.provider.cleanup(&txt)).await,
        }
    };
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        let failure = Failure::Unavailable(error.to_string());
        Err(Error::Provider { provider: name, failure })
    })
}

fn of<'a>(token: &'a str, challenge: &'a Challenge, txt: &'a TxtRecord) -> Txt<'a> {
    Txt {
        zone: &txt.zone,
        name: &txt.name,
        value: &txt.value,
        identifier: &challenge.identifier,
        token,
        key_authorization: &challenge.key_authorization,
    }
}

/// A provider's work, bounded in time, and its failure with its name.
async fn bounded(
    configured: &Configured,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Error> {
    let late = || Failure::Unavailable(format!("no answer within {} s", TIMEOUT.as_secs()));
    let done = if configured.provider.is_bounded() {
        work.await
    } else {
        tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(late()))
    };
    done.map_err(|failure| {
        let told = |text: String| printable(&text, MOST_TOLD);
        let failure = match failure {
            Failure::Refused(text) => Failure::Refused(told(text)),
            Failure::NoZone(text) => Failure::NoZone(told(text)),
            Failure::Unavailable(text) => Failure::Unavailable(told(text)),
        };
        Error::Provider { provider: configured.name.clone(), failure }
    })
}

/// Whether `name` is `zone` or below it.
fn is_within(name: &str, zone: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
}

/// See [`Options::propagation_deadline`].
pub const DEFAULT_PROPAGATION_DEADLINE: Duration = Duration::from_mins(3);
/// For one change at a provider, with all its retries.
const TIMEOUT: Duration = Duration::from_mins(2);
/// Changes that a provider is asked for at once.
const CALLS_AT_ONCE: usize = 16;
/// Bytes of what a provider says that are kept.
const MOST_TOLD: usize = 1000;

#[cfg(test)]
mod tests;
