//! Three coordinators on a cluster of three servers: the leader is killed in the middle of an
//! order, another goes on with the same order, and nobody who visits notices.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_tests::agent::{Agent, Service};
use chancery_tests::balancer::Balancer;
use chancery_tests::consul::{self, ConsulCluster};
use chancery_tests::coordinator::{self, Coordinator, Store};
use chancery_tests::etcd::{self, EtcdCluster};
use chancery_tests::gate::{Endpoint, Gate, Moment};
use chancery_tests::haproxy::Haproxy;
use chancery_tests::nginx::{Nginx, Site};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::tls_client::{self, Trust, Visitor};
use chancery_tests::{ports, wait, world};
use tokio::time::Instant;

use crate::screen::Screen;
use crate::show;

/// The store that coordinators share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// etcd, three members
    Etcd,
    /// Consul, three servers
    Consul,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Consul => "Consul",
        })
    }
}

impl Kind {
    /// The TTL of the lease: Consul takes none below ten seconds.
    fn lease_ttl(self) -> &'static str {
        match self {
            Self::Etcd => "5s",
            Self::Consul => "10s",
        }
    }
}

/// A cluster of one of both kinds. Dropped, it ends.
enum Cluster {
    Etcd(EtcdCluster),
    Consul(ConsulCluster),
}

impl Cluster {
    async fn start(kind: Kind, folder: &Path) -> Result<Self> {
        Ok(match kind {
            Kind::Etcd => {
                let options = etcd::Options::new(etcd::Version::V3_5, 3);
                Self::Etcd(EtcdCluster::start(folder, options).await?)
            }
            Kind::Consul => {
                Self::Consul(ConsulCluster::start(folder, consul::Options::new(3)).await?)
            }
        })
    }

    fn store(&self) -> Store {
        match self {
            Self::Etcd(cluster) => Store::Etcd(cluster.endpoints()),
            Self::Consul(cluster) => Store::Consul(cluster.endpoints()),
        }
    }
}

/// All that runs in the demo. Dropped from the top: those who ask before those who answer.
struct Stage {
    agents: Vec<Agent>,
    coordinators: Vec<Coordinator>,
    nginx: Nginx,
    haproxy: Haproxy,
    _balancer: Balancer,
    gate: Gate,
    pebble: Pebble,
    _cluster: Cluster,
    scene: Scene,
}

const COORDINATORS: usize = 3;
const CERTIFICATES: [&str; 2] = ["www", "api"];

/// Plays it from the first server to the last word.
pub(crate) async fn play(screen: &Screen, kind: Kind, keep: bool) -> Result<()> {
    ensure!(!keep, "--keep is for the demo without --ha: here the CA's gate ends with the demo");
    let mut stage = set_up(screen, kind).await?;
    if let Err(error) = perform(screen, &mut stage).await {
        screen.logs(stage.scene.path());
        return Err(error);
    }
    clean_up(screen, stage).await
}

/// Starts everything that is there before the first certificate.
async fn set_up(screen: &Screen, kind: Kind) -> Result<Stage> {
    let scene = Scene::new()?;
    let cluster = Cluster::start(kind, &scene.folder("cluster")?).await?;
    screen.step(format!("{kind}, a cluster of three servers"));
    let http01 = ports::free()?;
    let pebble = Pebble::start(&scene.folder("pebble")?, &pebble::Options::new(http01)).await?;
    let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
    screen.step("Pebble, an ACME certificate authority, behind a gate that can hold requests");
    let coordinators = start_coordinators(&scene, kind, &cluster).await?;
    let answer: Vec<SocketAddr> = coordinators.iter().map(Coordinator::http01_address).collect();
    let balancer = Balancer::start(&scene.folder("balancer")?, http01, &answer).await?;
    screen.step("three coordinators, and a load balancer in front of them for HTTP-01");
    let nginx = Nginx::start(&scene.folder("nginx")?, &[]).await?;
    let haproxy = Haproxy::start(&scene.folder("haproxy")?, &[]).await?;
    let services = [
        service("nginx", nginx.test_command(), nginx.reload_command(), nginx.address()),
        service("haproxy", haproxy.test_command(), haproxy.reload_command(), haproxy.address()),
    ];
    let mut agents = Vec::new();
    for (number, service) in services.into_iter().enumerate() {
        // Each by another coordinator: most of them do not lead.
        let agent = start_agent(&scene, &coordinators[number + 1], number + 1, service).await?;
        agents.push(agent);
    }
    screen.step("two agents, with nginx and with HAProxy, joined through two of the coordinators");
    Ok(Stage {
        agents,
        coordinators,
        nginx,
        haproxy,
        _balancer: balancer,
        gate,
        pebble,
        _cluster: cluster,
        scene,
    })
}

async fn start_coordinators(
    scene: &Scene,
    kind: Kind,
    cluster: &Cluster,
) -> Result<Vec<Coordinator>> {
    let mut coordinators: Vec<Coordinator> = Vec::new();
    for number in 1..=COORDINATORS {
        let mut options = coordinator::Options::new(ports::free()?);
        options.node = format!("coordinator-{number}");
        options.store = cluster.store();
        options.seal_key = coordinators.first().map(Coordinator::seal_key);
        kind.lease_ttl().clone_into(&mut options.lease_ttl);
        let folder = scene.folder(&options.node)?;
        coordinators.push(Coordinator::start(&folder, options).await?);
    }
    Ok(coordinators)
}

fn service(name: &str, test: Vec<String>, reload: Vec<String>, probe: SocketAddr) -> Service {
    Service { name: name.to_owned(), test, reload, probe: Some(probe) }
}

/// Starts an agent that knows one coordinator, and is told the others by it.
async fn start_agent(
    scene: &Scene,
    coordinator: &Coordinator,
    number: usize,
    service: Service,
) -> Result<Agent> {
    let name = format!("web-{number}");
    let token = coordinator.cli().token(&name, &["role=web"]).await?;
    let folder = scene.folder(&name)?;
    let mut agent = Agent::prepare(&folder, &name, &[coordinator.agents_address()], &[service])?;
    agent.join(&token).await?.success().with_context(|| format!("{name} could not join"))?;
    agent.run()?;
    Ok(agent)
}

/// What the demo is about.
async fn perform(screen: &Screen, stage: &mut Stage) -> Result<()> {
    let cli = stage.coordinators[0].cli();
    let root = stage.pebble.https_root_path();
    let declaration = world::declaration(&stage.gate.directory(), root, &CERTIFICATES)?;
    let file = stage.scene.path().join("fleet.toml");
    fs::write(&file, &declaration)?;
    let sites = |agent: &Agent| -> Vec<Site> {
        let site = |name: &&str| Site::installed(&world::server_name(name), &agent.installed(name));
        CERTIFICATES.iter().map(site).collect()
    };
    stage.nginx.configure(&sites(&stage.agents[0]))?;
    stage.haproxy.configure(&sites(&stage.agents[1]))?;
    show::run(screen, &cli, &["apply", "-f", show::path(&file)?, "--yes"]).await?;

    screen.title("Two certificates are ordered once, and served by nginx and HAProxy");
    show::progress(screen, &cli, &CERTIFICATES).await?;
    show::run(screen, &cli, &["lease", "show"]).await?;

    let trust = Trust::Roots(stage.pebble.issuing_root().await?);
    kill_the_leader(screen, stage, &trust).await?;
    hand_over(screen, stage).await
}

/// Kills the leader in the middle of a renewal, while visitors ask both servers.
async fn kill_the_leader(screen: &Screen, stage: &mut Stage, trust: &Trust) -> Result<()> {
    let name = world::server_name(CERTIFICATES[0]);
    let servers = [("nginx", stage.nginx.address()), ("HAProxy", stage.haproxy.address())];
    let before = tls_client::served(servers[0].1, &name, trust).await?.leaf.serial;
    let placed = stage.gate.succeeded(Endpoint::NewOrder);
    screen.title("The leader is killed in the middle of a renewal, while visitors ask");
    let mut visitors = Vec::new();
    for (_, address) in servers {
        visitors.push(Visitor::start(address, &name, trust)?);
    }
    let mut hold = stage.gate.hold(Endpoint::Finalize, Moment::Before);
    let leader = leader(&stage.coordinators).await?;
    let cli = stage.coordinators[leader].cli();
    show::run(screen, &cli, &["cert", "renew", CERTIFICATES[0]]).await?;
    hold.reached(world::PATIENCE).await?;
    screen.step("the order is validated; the leader is about to ask for the certificate");

    let former = stage.coordinators[leader].node().to_owned();
    let killed = Instant::now();
    stage.coordinators[leader].process()?.kill_9()?;
    screen.step(format!("{former} is killed (SIGKILL)"));
    drop(hold);
    let follower = (leader + 1) % COORDINATORS;
    let cli = stage.coordinators[follower].cli();
    let successor = wait::until("another leader", world::PATIENCE, async || {
        let lease = cli.json(&["lease", "show"]).await?;
        match lease["holder"].as_str() {
            Some(holder) if holder != former => Ok((holder.to_owned(), lease["epoch"].clone())),
            _ => bail!("{lease}"),
        }
    })
    .await?;
    let took = killed.elapsed();
    screen.step(format!(
        "{} leads with epoch {}, {:.2} s after the kill",
        successor.0,
        successor.1,
        took.as_secs_f64()
    ));
    cli.wait_for_certificate(CERTIFICATES[0], "generation 2", world::PATIENCE, |shown| {
        world::is_installed(shown, 2)
    })
    .await?;
    show::run(screen, &cli, &["cert", "show", CERTIFICATES[0]]).await?;

    let orders = stage.gate.succeeded(Endpoint::NewOrder) - placed;
    screen.step(format!("orders that the CA made for this renewal: {orders}"));
    ensure!(orders == 1, "there should have been one order");
    for ((server, address), visitor) in servers.into_iter().zip(visitors) {
        let after = tls_client::served(address, &name, trust).await?.leaf.serial;
        ensure!(after != before, "{server} still serves {before}");
        let tally = visitor.stop_after(50).await?;
        if let Some(first) = tally.failures.first() {
            bail!("{server}: {} requests were lost; the first: {first}", tally.failures.len());
        }
        let answered = tally.answered;
        screen.step(format!("{server} serves serial {after}; {answered} requests, none lost"));
    }
    stage.coordinators[leader].run().await?;
    screen.step(format!("{former} is back, and follows"));
    Ok(())
}

/// Asks the leader to hand over.
async fn hand_over(screen: &Screen, stage: &Stage) -> Result<()> {
    screen.title("A hand-over that was asked for, through a coordinator that does not lead");
    let leader = leader(&stage.coordinators).await?;
    let cli = stage.coordinators[(leader + 1) % COORDINATORS].cli();
    show::run(screen, &cli, &["lease", "transfer"]).await?;
    show::run(screen, &cli, &["status"]).await
}

/// Which coordinator leads.
async fn leader(coordinators: &[Coordinator]) -> Result<usize> {
    wait::until("a leader", world::PATIENCE, async || {
        let lease = coordinators[0].cli().json(&["lease", "show"]).await?;
        let holder = lease["holder"].as_str().unwrap_or_default();
        coordinators
            .iter()
            .position(|coordinator| coordinator.node() == holder)
            .with_context(|| format!("nobody known leads: {lease}"))
    })
    .await
}

async fn clean_up(screen: &Screen, mut stage: Stage) -> Result<()> {
    for agent in &mut stage.agents {
        agent.process()?.stop(wait::SOON).await.context("an agent did not end")?;
    }
    for coordinator in &mut stage.coordinators {
        let stopped = coordinator.process()?.stop(wait::SOON).await;
        stopped.with_context(|| format!("{} did not end", coordinator.node()))?;
    }
    drop(stage);
    screen.step("all stopped, all files removed");
    Ok(())
}
