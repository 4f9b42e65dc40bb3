//! A real coordinator, on any store.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cli::Cli;
use crate::place::Place;
use crate::process::{self, Process};
use crate::{tls_client, tools, wait};

/// Where a coordinator keeps what it knows.
#[derive(Debug, Clone, Default)]
pub enum Store {
    /// In a file in its folder.
    #[default]
    Embedded,
    /// In etcd, at these URLs.
    Etcd(Vec<String>),
    /// In Consul, at these URLs.
    Consul(Vec<String>),
}

/// How a coordinator is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub node: String,
    /// Where it keeps what it knows.
    pub store: Store,
    /// The seal key file that it gets a copy of; without, it makes its own.
    pub seal_key: Option<PathBuf>,
    /// Where it runs.
    pub place: Place,
    /// Environment variables of its process.
    pub environment: Vec<(String, String)>,
    /// Where it answers HTTP-01 challenges.
    pub http01: SocketAddr,
    /// How long its lease is good.
    pub lease_ttl: String,
    /// How long an agent's identity certificate is valid.
    pub identity_lifetime: String,
    /// How many orders it works on at once.
    pub concurrency: usize,
    /// How long an order may take.
    pub deadline: String,
    /// How long it waits after a first failed order.
    pub retry_first: String,
    /// What it logs, as `RUST_LOG` has it.
    pub log: String,
    /// Where it is to die: see `chancery_shared::failpoint`.
    pub failpoints: String,
    /// More TOML for its configuration.
    pub more: String,
}

impl Options {
    /// `node-1`, with short times.
    pub fn new(http01: SocketAddr) -> Self {
        Self {
            node: "node-1".to_owned(),
            store: Store::Embedded,
            seal_key: None,
            place: Place::Loopback,
            environment: Vec::new(),
            http01,
            lease_ttl: "5s".to_owned(),
            identity_lifetime: "30days".to_owned(),
            concurrency: 8,
            deadline: "2m".to_owned(),
            retry_first: "1s".to_owned(),
            log: "info".to_owned(),
            failpoints: String::new(),
            more: String::new(),
        }
    }
}

/// A coordinator, running or not. What it stored stays in its folder.
#[derive(Debug)]
pub struct Coordinator {
    folder: PathBuf,
    options: Options,
    agents: SocketAddr,
    http: SocketAddr,
    process: Option<Process>,
}

impl Coordinator {
    /// Writes its configuration into `folder`, and runs `init` or copies the seal key that all share.
    pub async fn prepare(folder: &Path, options: Options) -> Result<Self> {
        let coordinator = Self {
            folder: folder.to_owned(),
            agents: options.place.address(7443)?,
            http: options.place.address(9443)?,
            options,
            process: None,
        };
        coordinator.write_config("")?;
        if let Some(seal_key) = &coordinator.options.seal_key {
            fs::copy(seal_key, coordinator.seal_key()).context("the seal key cannot be copied")?;
            return Ok(coordinator);
        }
        let mut command = coordinator.command("init")?;
        process::run(&mut command, wait::SOON).await?.success().context("init")?;
        Ok(coordinator)
    }

    /// Prepares it, starts it, and waits until it is ready.
    pub async fn start(folder: &Path, options: Options) -> Result<Self> {
        let mut coordinator = Self::prepare(folder, options).await?;
        coordinator.run().await?;
        Ok(coordinator)
    }

    /// Starts it and waits until it is ready.
    pub async fn run(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready().await
    }

    /// Starts it, and waits for nothing: for a coordinator that is to die, or to refuse.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = self.command("run")?;
        if !self.options.failpoints.is_empty() {
            command.env("FAILPOINTS", &self.options.failpoints);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let mut command = self.options.place.inside(command);
        self.process = Some(Process::start("coordinator", &self.folder, &mut command)?);
        Ok(())
    }

    /// Waits until `/readyz` says so. An error with its last words when it ends instead.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let http = self.http;
        let what = "the coordinator to be ready";
        self.process()?
            .wait_until(what, wait::SOON, async || {
                let (status, body) = tls_client::get_plain(http, "/readyz").await?;
                ensure!(status.is_success(), "{status} {body}");
                Ok(())
            })
            .await
    }

    /// Where it is to die from its next start; empty for nowhere.
    pub fn set_failpoints(&mut self, failpoints: &str) {
        failpoints.clone_into(&mut self.options.failpoints);
    }

    /// Writes the configuration anew, with more TOML at its end.
    pub fn write_config(&self, more: &str) -> Result<()> {
        let options = &self.options;
        let folder = self.folder.display();
        let store = match &options.store {
            Store::Embedded => format!("embedded = {{ path = \"{folder}/store.redb\" }}"),
            Store::Etcd(endpoints) => format!("etcd = {{ endpoints = {endpoints:?} }}"),
            Store::Consul(addresses) => format!("consul = {{ addresses = {addresses:?} }}"),
        };
        let mut text = format!("node = {:?}\n", options.node);
        write!(
            text,
            "\n[store]\n{store}\n\
             \n[seal]\nkey_file = \"{folder}/seal.key\"\n\
             \n[lease]\nttl = {:?}\n\
             \n[agents]\nlisten = \"{}\"\nidentity_lifetime = {:?}\n\
             \n[admin]\nsocket = \"{}\"\n\
             \n[http]\nlisten = \"{}\"\n\
             \n[http01]\nlisten = \"{}\"\n\
             \n[orders]\nconcurrency = {}\ndeadline = {:?}\nretry_first = {:?}\n\
             \n[log]\nformat = \"human\"\nfilter = {:?}\n{more}{}",
            options.lease_ttl,
            self.agents,
            options.identity_lifetime,
            self.socket().display(),
            self.http,
            options.http01,
            options.concurrency,
            options.deadline,
            options.retry_first,
            options.log,
            options.more,
        )?;
        fs::write(self.config(), text).context("coordinator.toml cannot be written")
    }

    /// The command `chancery-coordinator WORD --config FILE`.
    pub fn command(&self, word: &str) -> Result<Command> {
        let mut command = Command::new(tools::binary("chancery-coordinator")?);
        command.arg(word).arg("--config").arg(self.config()).env_remove("RUST_LOG");
        Ok(command)
    }

    /// The CLI for it.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.socket())
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("coordinator.toml")
    }

    /// The socket for operators.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Its seal key file.
    pub fn seal_key(&self) -> PathBuf {
        self.folder.join("seal.key")
    }

    /// Its node name.
    pub fn node(&self) -> &str {
        &self.options.node
    }

    /// The folder with its store, its seal key and its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where agents connect.
    pub fn agents_address(&self) -> SocketAddr {
        self.agents
    }

    /// Where it serves metrics and health.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where it answers HTTP-01 challenges.
    pub fn http01_address(&self) -> SocketAddr {
        self.options.http01
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        let (status, body) = tls_client::get_plain(self.http, "/metrics").await?;
        ensure!(status.is_success(), "/metrics: {status} {body}");
        Ok(body)
    }

    /// All that it printed since it was first started.
    pub fn log(&self) -> Result<String> {
        let path = self.folder.join("coordinator.log");
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the coordinator was not started")
    }
}
