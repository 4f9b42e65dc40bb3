//! Everything together: Pebble behind a gate, a coordinator, an nginx, and an agent that looks
//! after it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::agent::{Agent, Service};
use crate::cli::Cli;
use crate::coordinator::{self, Coordinator};
use crate::gate::Gate;
use crate::nginx::{CountedCommands, Nginx, Site};
use crate::pebble::{self, Pebble};
use crate::process::Process;
use crate::scene::Scene;
use crate::{ports, tls_client, wait};

/// A whole Chancery, small.
pub struct World {
    // Dropped in this order: those who ask before those who answer.
    /// The agent `web-1`, with the label `role=web`.
    pub agent: Agent,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// What the agent looks after. It serves a name for each certificate that was declared.
    pub nginx: Nginx,
    /// Counts how often nginx was tested and reloaded.
    pub commands: CountedCommands,
    /// In front of Pebble; the coordinator knows no other way to it.
    pub gate: Gate,
    /// The certificate authority.
    pub pebble: Pebble,
    folder: std::path::PathBuf,
}

/// What a test wants to be different.
#[derive(Debug, Clone)]
pub struct Options {
    /// The certificate authority.
    pub pebble: pebble::Options,
    /// The coordinator.
    pub coordinator: coordinator::Options,
}

impl Options {
    /// The coordinator answers where Pebble looks.
    pub fn new() -> Result<Self> {
        let http01 = ports::free()?;
        Ok(Self {
            pebble: pebble::Options::new(http01),
            coordinator: coordinator::Options::new(http01),
        })
    }
}

impl World {
    /// Starts all, with the agent joined and running, and no certificate declared.
    pub async fn start(scene: &Scene, options: Options) -> Result<Self> {
        let mut world = Self::prepare(scene, options).await?;
        world.coordinator.run().await?;
        world.join().await?;
        world.agent.run()?;
        Ok(world)
    }

    /// Starts Pebble and nginx; coordinator and agent are ready to be started.
    pub async fn prepare(scene: &Scene, options: Options) -> Result<Self> {
        let pebble = Pebble::start(&scene.folder("pebble")?, &options.pebble).await?;
        let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
        let nginx = Nginx::start(&scene.folder("nginx")?, &[]).await?;
        let commands = nginx.counted_commands()?;
        let coordinator =
            Coordinator::prepare(&scene.folder("coordinator")?, options.coordinator).await?;
        let addresses = [coordinator.agents_address()];
        let service = nginx_service(&commands, nginx.address());
        let agent = Agent::prepare(&scene.folder("agent")?, "web-1", &addresses, &[service])?;
        let folder = scene.path().to_owned();
        Ok(Self { agent, coordinator, nginx, commands, gate, pebble, folder })
    }

    /// Lets the agent join, with a token made for it.
    pub async fn join(&self) -> Result<()> {
        let token = self.cli().token(self.agent.name(), &["role=web"]).await?;
        self.agent.join(&token).await?.success().context("the agent could not join")?;
        Ok(())
    }

    /// The CLI for the coordinator.
    pub fn cli(&self) -> Cli {
        self.coordinator.cli()
    }

    /// The TOML that declares an issuer and these certificates for agents with `role=web`,
    /// each with the one name that [`server_name`] gives it.
    pub fn declaration(&self, certificates: &[&str]) -> Result<String> {
        declaration(&self.gate.directory(), self.pebble.https_root_path(), certificates)
    }

    /// Declares certificates, and configures nginx to serve them from where the agent installs
    /// them. nginx itself notices when it is reloaded next.
    pub async fn declare(&self, certificates: &[&str]) -> Result<()> {
        self.nginx.configure(&self.sites(certificates))?;
        self.cli().apply(&self.folder, &self.declaration(certificates)?).await
    }

    /// What nginx is to serve for these certificates.
    pub fn sites(&self, certificates: &[&str]) -> Vec<Site> {
        let site = |name: &&str| Site::installed(&server_name(name), &self.agent.installed(name));
        certificates.iter().map(site).collect()
    }

    /// Waits until every agent that is entitled to it has installed this generation of a
    /// certificate, or a later one. Returns what `cert show` says then.
    pub async fn wait_until_installed(
        &self,
        certificate: &str,
        generation: u64,
    ) -> Result<serde_json::Value> {
        let what = format!("the installation of generation {generation}");
        self.cli()
            .wait_for_certificate(certificate, &what, PATIENCE, |shown| {
                is_installed(shown, generation)
            })
            .await
    }

    /// The serial number that nginx serves for a certificate, to a client that trusts Pebble's
    /// root and no other.
    pub async fn served_serial(&self, certificate: &str) -> Result<String> {
        let trust = tls_client::Trust::Roots(self.pebble.issuing_root().await?);
        let name = server_name(certificate);
        let served = tls_client::served(self.nginx.address(), &name, &trust).await?;
        ensure!(served.leaf.dns_names == [name], "{:?}", served.leaf);
        Ok(served.leaf.serial)
    }

    /// All processes that run, to let them run on after a demo.
    pub fn processes(&mut self) -> Result<Vec<&mut Process>> {
        Ok(vec![
            self.agent.process()?,
            self.coordinator.process()?,
            self.nginx.process(),
            self.pebble.process(),
        ])
    }
}

/// nginx, as an agent looks after it.
pub fn nginx_service(commands: &CountedCommands, probe: SocketAddr) -> Service {
    Service {
        name: "nginx".to_owned(),
        test: vec![commands.test.display().to_string()],
        reload: vec![commands.reload.display().to_string()],
        probe: Some(probe),
    }
}

/// The TOML that declares the issuer `pebble` and certificates of it, each with the one name
/// that [`server_name`] gives it, for agents with the label `role=web`.
pub fn declaration(
    directory: &str,
    trust_roots: &std::path::Path,
    certificates: &[&str],
) -> Result<String> {
    let mut text = format!(
        "[[issuer]]\nname = \"pebble\"\ndirectory = {directory:?}\n\
         contacts = [\"mailto:ops@chancery.example\"]\ntrust_roots = \"{}\"\n",
        trust_roots.display()
    );
    for name in certificates {
        write!(
            text,
            "\n[[certificate]]\nname = {name:?}\nidentifiers = [{:?}]\nissuers = [\"pebble\"]\n\
             labels = {{ role = \"web\" }}\n",
            server_name(name)
        )?;
    }
    Ok(text)
}

/// The name in a certificate that the harness declares.
pub fn server_name(certificate: &str) -> String {
    format!("{certificate}.chancery.example")
}

/// Whether `cert show` tells that all agents that are entitled, at least one, have installed
/// this generation or a later one.
pub fn is_installed(shown: &serde_json::Value, generation: u64) -> bool {
    let deployments = shown["deployments"].as_array().map(Vec::as_slice).unwrap_or_default();
    let entitled = shown["agents_entitled"].as_u64().unwrap_or_default();
    let done = deployments.iter().filter(|deployment| {
        deployment["state"] == "installed"
            && deployment["served_generation"].as_u64() >= Some(generation)
    });
    entitled > 0 && done.count() as u64 >= entitled
}

/// For a whole order with its deployment on a loaded machine.
pub const PATIENCE: Duration = wait::SOON.saturating_mul(2);
