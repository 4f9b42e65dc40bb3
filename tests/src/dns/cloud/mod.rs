//! Clouds: a server for the APIs of DNS providers, made from their published documents. What it is told to
//! serve it hands on to a real name server.
//!
//! The addresses of these APIs stand in the client library, so the coordinator is sent here by the
//! environment: an HTTPS proxy that ends TLS itself, with certificates of a root of its own.

mod acme_dns;
mod cloudflare;
mod desec;
mod digitalocean;
mod google;
mod ovh;
mod route53;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::Bind;
use crate::authority::Authority;
use crate::{ports, process, tools, wait};

/// The clouds, with one account at each that has the same zones.
pub struct Cloud {
    proxy: SocketAddr,
    plain: SocketAddr,
    root: PathBuf,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

/// What a cloud says instead of doing what it is asked for.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Of which requests: a part of `METHOD host/path?query`.
    pub of: &'static str,
    /// How often.
    pub times: usize,
    /// The status.
    pub status: u16,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// The body.
    pub body: &'static str,
}

/// What every API accepts as a token, key or password.
pub const TOKEN: &str = "the-token-of-the-cloud";

impl Cloud {
    /// Starts it. TXT records are handed on to `bind`, which has the zones as well.
    pub async fn start(folder: &Path, bind: &Bind, zones: &[&str]) -> Result<Self> {
        let root = Authority::new()?;
        let root_path = folder.join("cloud-root.pem");
        std::fs::write(&root_path, root.root_pem())?;
        let state = State {
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            order: tokio::sync::Mutex::default(),
            bind: bind.address(),
            key: bind.key().write(folder)?,
        });
        let certificate = root.issue(&server::HOSTS)?;
        let (proxy, plain) = (ports::free()?, ports::free()?);
        let tasks = [
            server::proxy(proxy, &certificate, shared.clone()).await?,
            server::plain(plain, shared.clone()).await?,
        ];
        Ok(Self { proxy, plain, root: root_path, shared, tasks })
    }

    /// What sends a coordinator here.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("HTTPS_PROXY".to_owned(), format!("http://{}", self.proxy)),
            ("SSL_CERT_FILE".to_owned(), self.root.display().to_string()),
        ]
    }

    /// Where acme-dns is.
    pub fn plain_url(&self) -> String {
        format!("http://{}", self.plain)
    }

    /// Lets it refuse what it is asked for next.
    pub fn refuse(&self, refusal: Refusal) {
        self.shared.lock().refusals.push(refusal);
    }

    /// Values at a name, of which the name server does not know.
    pub fn put(&self, name: &str, values: impl IntoIterator<Item = String>) {
        let mut state = self.shared.lock();
        for value in values {
            let id = state.add(name, value, 60);
            let added = state.records.iter().find(|record| record.id == id).cloned();
            state.refreshed.extend(added);
        }
    }

    /// The values at a name.
    pub fn values(&self, name: &str) -> Vec<String> {
        let mut values = self.shared.lock().values(name);
        values.sort();
        values
    }

    /// The requests so far, as `METHOD host/path?query`.
    pub fn seen(&self) -> Vec<String> {
        self.shared.lock().seen.clone()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What the servers share.
struct Shared {
    state: Mutex<State>,
    /// One request after the other, so that the name server hears of changes in their order.
    order: tokio::sync::Mutex<()>,
    bind: SocketAddr,
    key: PathBuf,
}

/// What the account has.
#[derive(Default)]
struct State {
    zones: Vec<String>,
    records: Vec<Record>,
    /// Zones of which only what stands in `refreshed` is served.
    lazy_zones: Vec<String>,
    refreshed: Vec<Record>,
    last_id: u64,
    seen: Vec<String>,
    refusals: Vec<Refusal>,
}

/// One TXT value.
#[derive(Clone, PartialEq, Eq)]
struct Record {
    id: u64,
    name: String,
    value: String,
    ttl: u64,
}

/// A request.
struct Asked {
    method: Method,
    host: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: String,
}

/// An answer.
struct Answer {
    status: u16,
    retry_after: Option<u32>,
    body: String,
}

impl Answer {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, retry_after: None, body: body.into() }
    }
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The parts of the path, after `prefix`.
    fn parts(&self, prefix: &str) -> Vec<&str> {
        let rest = self.path.strip_prefix(prefix).unwrap_or_default();
        rest.split('/').filter(|part| !part.is_empty()).collect()
    }

    fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl State {
    fn has_zone(&self, zone: &str) -> bool {
        self.zones.iter().any(|known| known == zone)
    }

    fn values(&self, name: &str) -> Vec<String> {
        let at = self.records.iter().filter(|record| record.name == name);
        at.map(|record| record.value.clone()).collect()
    }

    fn add(&mut self, name: &str, value: String, ttl: u64) -> u64 {
        self.last_id += 1;
        self.records.push(Record { id: self.last_id, name: name.to_owned(), value, ttl });
        self.last_id
    }

    fn remove(&mut self, id: u64) -> bool {
        let before = self.records.len();
        self.records.retain(|record| record.id != id);
        self.records.len() < before
    }

    /// From now on this zone is served as it was when it was refreshed last.
    fn is_lazy(&mut self, zone: &str) {
        if !self.lazy_zones.iter().any(|lazy| lazy == zone) {
            self.lazy_zones.push(zone.to_owned());
        }
    }

    fn refresh(&mut self, zone: &str) {
        self.refreshed.retain(|record| !record.name.ends_with(zone));
        let all = self.records.iter().filter(|record| record.name.ends_with(zone));
        self.refreshed.extend(all.cloned());
    }

    /// What the name server is to know.
    fn served(&self) -> Vec<Record> {
        let is_lazy =
            |record: &Record| self.lazy_zones.iter().any(|zone| record.name.ends_with(zone));
        let others = self.records.iter().filter(|record| !is_lazy(record));
        others.chain(&self.refreshed).cloned().collect()
    }

    /// Makes these the values of a name.
    fn set(&mut self, name: &str, values: Vec<String>, ttl: u64) {
        self.records.retain(|record| record.name != name || values.contains(&record.value));
        for value in values {
            if !self.records.iter().any(|record| record.name == name && record.value == value) {
                self.add(name, value, ttl);
            }
        }
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let query: Vec<String> =
            asked.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let line = format!("{} {}{}?{}", asked.method, asked.host, asked.path, query.join("&"));
        let refusal =
            self.refusals.iter_mut().find(|refusal| refusal.times > 0 && line.contains(refusal.of));
        self.seen.push(line);
        if let Some(refusal) = refusal {
            refusal.times -= 1;
            let (status, retry_after) = (refusal.status, refusal.retry_after);
            return Answer { status, retry_after, body: refusal.body.to_owned() };
        }
        match asked.host.as_str() {
            server::CLOUDFLARE => cloudflare::answer(self, asked),
            server::ROUTE_53 => route53::answer(self, asked),
            server::GOOGLE | server::GOOGLE_OAUTH => google::answer(self, asked),
            server::DIGITALOCEAN => digitalocean::answer(self, asked),
            server::OVH => ovh::answer(self, asked),
            server::DESEC => desec::answer(self, asked),
            _ => acme_dns::answer(self, asked),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, asked: &Asked) -> Answer {
        let _one = self.order.lock().await;
        let (answer, before, after) = {
            let mut state = self.lock();
            let before = state.served();
            (state.answer(asked), before, state.served())
        };
        match self.hand_on(&before, &after).await {
            Ok(()) => answer,
            Err(error) => Answer::new(599, format!("{error:#}")),
        }
    }

    /// Tells the name server what has changed.
    async fn hand_on(&self, before: &[Record], after: &[Record]) -> Result<()> {
        let mut lines = Vec::new();
        for record in before.iter().filter(|record| !after.contains(record)) {
            lines.push(format!("update delete {}. TXT \"{}\"", record.name, record.value));
        }
        for record in after.iter().filter(|record| !before.contains(record)) {
            let Record { name, value, ttl, .. } = record;
            lines.push(format!("update add {name}. {ttl} TXT \"{value}\""));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let (address, changes) = (self.bind, lines.join("\n"));
        let script = format!("server {} {}\n{changes}\nsend\n", address.ip(), address.port());
        let file = self.key.with_extension("update");
        tokio::fs::write(&file, script).await?;
        let mut command = Command::new(tools::tool("nsupdate")?);
        command.arg("-k").arg(&self.key).arg(&file);
        process::run(&mut command, wait::SOON).await?.success().context("nsupdate")?;
        Ok(())
    }
}

/// `"value"` without its quotes.
fn unquoted(text: &str) -> String {
    text.trim_matches('"').to_owned()
}

/// `value` with quotes, as it stands in a zone file.
fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The name of a record from its part before the zone.
fn below(part: &str, zone: &str) -> String {
    if part.is_empty() || part == "@" { zone.to_owned() } else { format!("{part}.{zone}") }
}

/// The other way round.
fn part<'a>(name: &'a str, zone: &str) -> &'a str {
    name.strip_suffix(zone).map_or(name, |part| part.trim_end_matches('.'))
}
