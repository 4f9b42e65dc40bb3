//! Three coordinators on a cluster, a CA behind a gate, and agents.
//!
//! Each member of the store and each coordinator stands on a node of its own, and so does the gate, which
//! is the CA to the coordinators. Agents, Pebble behind the gate, and the balancer through
//! which Pebble validates are on the host's side.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::balancer::Balancer;
use crate::cli::Cli;
use crate::coordinator::{self, Coordinator};
use crate::gate::Gate;
use crate::netns::{Network, Node};
use crate::pebble::{self, Pebble};
use crate::place::Place;
use crate::scene::Scene;
use crate::world::{self, server_name};
use crate::{ports, tls_client, tools, wait};

use super::cluster::{Cluster, Kind};

/// What a trial wants to be different.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which store.
    pub kind: Kind,
    /// How long a lease is good, in seconds.
    pub lease_ttl_secs: u64,
    /// How many agents there are. All get all certificates.
    pub agents: usize,
    /// Whether the clocks of coordinators can be set.
    pub clocks: bool,
    /// What coordinators log, as `RUST_LOG` has it.
    pub log: String,
}

impl Options {
    /// The shortest leases that the store has, or nearly; a few agents.
    pub fn new(kind: Kind) -> Self {
        let lease_ttl_secs = match kind {
            Kind::Etcd => 2,
            Kind::Consul => 10,
        };
        Self { kind, lease_ttl_secs, agents: 3, clocks: true, log: "info".to_owned() }
    }
}

/// Everything that runs.
pub struct World {
    // Dropped in this order: those who ask before those who answer, the network last.
    /// `agent-0`, `agent-1` ... with the label `role=web`.
    pub agents: Vec<Agent>,
    /// `node-0`, `node-1`, `node-2`.
    pub coordinators: Vec<Coordinator>,
    _balancer: Balancer,
    /// The CA, to the coordinators.
    pub gate: Gate,
    /// The CA itself.
    pub pebble: Pebble,
    /// The store.
    pub cluster: Cluster,
    /// The nodes of the store.
    pub store_nodes: Vec<Node>,
    /// The nodes of the coordinators.
    pub nodes: Vec<Node>,
    /// The node of the gate.
    pub ca: Node,
    /// All nodes.
    pub network: Network,
    _clocks: Clocks,
    options: Options,
    folder: PathBuf,
}

/// Who leads, as the coordinators themselves say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its number.
    pub coordinator: usize,
    /// Its term.
    pub epoch: u64,
}

impl World {
    /// Starts all, with the agents joined and running, and no certificate declared.
    pub async fn start(scene: &Scene, options: Options) -> Result<Self> {
        let mut network = Network::new()?;
        let mut nodes = |prefix: &str| -> Result<Vec<Node>> {
            (0..3).map(|number| network.node(&format!("{prefix}{number}"))).collect()
        };
        let (store_nodes, nodes) = (nodes("s")?, nodes("c")?);
        let ca = network.node("ca")?;
        let cluster = Cluster::start(options.kind, &scene.folder("store")?, &store_nodes).await?;
        let http01 = ports::free()?;
        let pebble = Pebble::start(&scene.folder("pebble")?, &pebble::Options::new(http01)).await?;
        let gate = Gate::open_on(&ca, pebble.address(), pebble.https_root())?;
        let coordinators = coordinators(scene, &options, &nodes, &cluster).await?;
        let answerers: Vec<_> = coordinators.iter().map(Coordinator::http01_address).collect();
        let balancer = Balancer::start(&scene.folder("balancer")?, http01, &answerers).await?;
        let mut world = Self {
            agents: Vec::new(),
            coordinators,
            _balancer: balancer,
            gate,
            pebble,
            cluster,
            store_nodes,
            nodes,
            ca,
            network,
            _clocks: Clocks,
            options,
            folder: scene.path().to_owned(),
        };
        for coordinator in &mut world.coordinators {
            coordinator.spawn()?;
        }
        for coordinator in &mut world.coordinators {
            coordinator.wait_until_ready().await?;
        }
        world.start_agents(scene).await?;
        Ok(world)
    }

    /// Starts the agents, a few at a time: each joins with a token of its own as it starts.
    async fn start_agents(&mut self, scene: &Scene) -> Result<()> {
        let addresses: Vec<_> = self.coordinators.iter().map(Coordinator::agents_address).collect();
        let leader = self.wait_for_leader(|_| true).await?;
        let cli = self.cli(leader.coordinator);
        let agents = (0..self.options.agents).map(|number| {
            let (name, cli, addresses) = (format!("agent-{number}"), &cli, &addresses);
            async move {
                let mut agent = Agent::prepare(&scene.folder(&name)?, &name, addresses, &[])?;
                // There may be hundreds.
                agent.set_log("info");
                let token = cli.token(&name, &["role=web"]).await?;
                let joined = agent.join(&token).await?.success();
                joined.with_context(|| format!("{name} cannot join"))?;
                agent.run()?;
                Ok::<_, anyhow::Error>(agent)
            }
        });
        self.agents = futures_util::stream::iter(agents).buffered(AT_ONCE).try_collect().await?;
        Ok(())
    }

    /// The CLI for one coordinator.
    pub fn cli(&self, coordinator: usize) -> Cli {
        self.coordinators[coordinator].cli()
    }

    /// How long a lease is good.
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs(self.options.lease_ttl_secs)
    }

    /// Which store this is on.
    pub fn kind(&self) -> Kind {
        self.options.kind
    }

    /// Declares certificates, through whoever leads.
    pub async fn declare(&self, certificates: &[String]) -> Result<()> {
        let names: Vec<&str> = certificates.iter().map(String::as_str).collect();
        let roots = self.pebble.https_root_path();
        let toml = world::declaration(&self.gate.directory(), roots, &names)?;
        let leader = self.wait_for_leader(|_| true).await?;
        self.cli(leader.coordinator).apply(&self.folder, &toml).await
    }

    /// Who says that it leads; nobody if two do, or none.
    pub async fn leader(&self) -> Option<Leader> {
        let mut found = None;
        for (number, coordinator) in self.coordinators.iter().enumerate() {
            // One that is paused or cut off must not hold up the question.
            let asked = timeout(Duration::from_millis(300), coordinator.metrics()).await;
            let Ok(Ok(metrics)) = asked else { continue };
            if gauge(&metrics, "chancery_lease_held") != Some(1) {
                continue;
            }
            let epoch = gauge(&metrics, "chancery_lease_epoch")?;
            if found.replace(Leader { coordinator: number, epoch }).is_some() {
                return None;
            }
        }
        found
    }

    /// Waits until somebody leads who fulfils a condition.
    pub async fn wait_for_leader(&self, condition: impl Fn(Leader) -> bool) -> Result<Leader> {
        wait::until("a leader", PATIENCE, async || match self.leader().await {
            Some(leader) if condition(leader) => Ok(leader),
            other => bail!("{other:?}"),
        })
        .await
    }

    /// Waits until all agents have installed this generation of a certificate, or a later one, as
    /// a coordinator says and as their disks say.
    pub async fn wait_until_everywhere(&self, certificate: &str, generation: u64) -> Result<u64> {
        let what = format!("generation {generation} of {certificate} on every agent");
        wait::until(&what, PATIENCE, async || {
            let leader = self.leader().await.context("nobody leads")?;
            let shown = self.cli(leader.coordinator).certificate(certificate).await?;
            let newest = shown["generation"].as_u64().context("no generation")?;
            ensure!(newest >= generation, "generation {newest}");
            for agent in &self.agents {
                let installed = Installed::on(agent, certificate)?;
                ensure!(installed.generation == newest, "{}: {installed:?}", agent.name());
            }
            Ok(newest)
        })
        .await
    }

    /// The file that says by how much the clock of a coordinator is wrong.
    fn clock_file(folder: &Path) -> PathBuf {
        folder.join("clock")
    }

    /// Puts the clock of a coordinator wrong by this many seconds; 0 puts it right.
    pub fn set_clock(&self, coordinator: usize, offset_secs: i64) -> Result<()> {
        let file = Self::clock_file(self.coordinators[coordinator].folder());
        let new = file.with_extension("new");
        fs::write(&new, format!("{offset_secs:+}\n"))?;
        // In one step: it may be reading it.
        fs::rename(&new, &file).with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// What an agent has on its disk for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// The generation that the stable path leads to.
    pub generation: u64,
}

impl Installed {
    /// Looks at an agent's disk. An error when key and certificate do not belong together.
    pub fn on(agent: &Agent, certificate: &str) -> Result<Self> {
        use rustls_pki_types::pem::PemObject as _;
        use rustls_pki_types::{CertificateDer, PrivateKeyDer};

        let stable = agent.installed(certificate);
        let link = fs::read_link(&stable)
            .with_context(|| format!("{} is not installed", stable.display()))?;
        let folder = link.file_name().context("a link to nowhere")?.to_string_lossy().into_owned();
        // The same generation, written again, is `7.1`.
        let generation = folder.split('.').next().unwrap_or_default();
        let generation = generation.parse().with_context(|| format!("no generation: {folder}"))?;
        // Through the link as it was read: it may be switched meanwhile.
        let folder = stable.parent().context("no folder")?.join(&link);
        let leaf = CertificateDer::from_pem_file(folder.join("fullchain.pem"))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("privkey.pem"))?;
        chancery_shared::x509::check_key_matches(&leaf, &key)?;
        let names = chancery_shared::x509::Facts::of(&leaf)?.dns_names;
        ensure!(names == [server_name(certificate)], "{certificate} is for {names:?}");
        Ok(Self { generation })
    }
}

async fn coordinators(
    scene: &Scene,
    options: &Options,
    nodes: &[Node],
    cluster: &Cluster,
) -> Result<Vec<Coordinator>> {
    let mut coordinators: Vec<Coordinator> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("node-{number}");
        let folder = scene.folder(&name)?;
        let mut wanted = coordinator::Options::new((node.address(), 5080).into());
        wanted.lease_ttl = format!("{}s", options.lease_ttl_secs);
        wanted.store = cluster.store();
        wanted.place = Place::Node(node.clone());
        wanted.log.clone_from(&options.log);
        wanted.node = name;
        wanted.seal_key = coordinators.first().map(Coordinator::seal_key);
        if options.clocks {
            wanted.environment = settable_clock(&World::clock_file(&folder))?;
        }
        coordinators.push(Coordinator::prepare(&folder, wanted).await?);
    }
    Ok(coordinators)
}

/// The environment of a program whose wall clock a file puts wrong.
fn settable_clock(file: &Path) -> Result<Vec<(String, String)>> {
    fs::write(file, "+0\n")?;
    let library = tools::library("libfaketimeMT.so.1")?.display().to_string();
    let pairs = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file.display().to_string()),
        // Time that passes is not what jumps.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_CACHE_DURATION", "1"),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

/// Dropped after the programs, it removes what libfaketime leaves of one that was killed.
struct Clocks;

impl Drop for Clocks {
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = ["faketime_shm_", "sem.faketime_sem_"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix)?.parse::<u32>().ok());
            // What belongs to a process that lives is not ours to judge.
            if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A number among metrics without labels.
pub(super) fn gauge(metrics: &str, name: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

/// How many agents are started at once.
const AT_ONCE: usize = 4;
/// For elections of store and coordinators and whole orders, one after the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// What `/readyz` of a coordinator says.
pub async fn is_ready(coordinator: &Coordinator) -> bool {
    let asked = tls_client::get_plain(coordinator.http_address(), "/readyz");
    timeout(Duration::from_millis(500), asked)
        .await
        .is_ok_and(|answer| answer.is_ok_and(|(status, _)| status.is_success()))
}
