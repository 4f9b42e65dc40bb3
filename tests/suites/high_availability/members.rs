//! Three coordinators on etcd, of which any may be asked: by operators, by agents, by the CA.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::coordinator::{Coordinator, Options, Store};
use chancery_tests::etcd::{self, EtcdCluster, Version};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::{self, Scene};
use chancery_tests::world::{PATIENCE, declaration, is_installed};
use chancery_tests::{ports, wait};

/// Three coordinators; the first of them leads.
struct Fleet {
    coordinators: Vec<Coordinator>,
    pebble: Pebble,
    /// Dropped last.
    etcd: EtcdCluster,
}

impl Fleet {
    /// Pebble looks for answers at the third coordinator only.
    async fn start(scene: &Scene) -> Result<Self> {
        let etcd = etcd::Options::new(Version::V3_5, 1);
        let etcd = EtcdCluster::start(&scene.folder("etcd")?, etcd).await?;
        let mut coordinators: Vec<Coordinator> = Vec::new();
        for number in 1..=3 {
            let mut options = Options::new(ports::free()?);
            options.node = format!("node-{number}");
            options.store = Store::Etcd(etcd.endpoints());
            options.seal_key = coordinators.first().map(Coordinator::seal_key);
            let folder = scene.folder(&options.node)?;
            coordinators.push(Coordinator::start(&folder, options).await?);
            if number == 1 {
                wait_for_leader(&coordinators[0], "node-1").await?;
            }
        }
        let options = pebble::Options::new(coordinators[2].http01_address());
        let pebble = Pebble::start(&scene.folder("pebble")?, &options).await?;
        Ok(Self { coordinators, pebble, etcd })
    }
}

async fn wait_for_leader(coordinator: &Coordinator, node: &str) -> Result<()> {
    wait::until("a leader", wait::SOON, async || {
        let lease = coordinator.cli().json(&["lease", "show"]).await?;
        ensure!(lease["held"] == true && lease["holder"] == node, "{lease}");
        Ok(())
    })
    .await
}

#[test]
fn any_coordinator_serves_operators_agents_and_the_ca() {
    scene::play(async |scene| {
        let mut fleet = Fleet::start(scene).await?;
        // All that an operator does, he does at the second.
        let cli = fleet.coordinators[1].cli();
        let files =
            declaration(&fleet.pebble.directory(), fleet.pebble.https_root_path(), &["web"])?;
        cli.apply(scene.path(), &files).await?;
        ensure!(cli.certificate("web").await?["name"] == "web", "it reads what it wrote");
        let token = cli.token("web-1", &["role=web"]).await?;
        // The agent knows the second only, and joins through it.
        let addresses = [fleet.coordinators[1].agents_address()];
        let mut agent = Agent::prepare(&scene.folder("agent")?, "web-1", &addresses, &[])?;
        agent.join(&token).await?.success().context("the agent could not join")?;
        agent.run()?;
        // The answer to the challenge was at the third, before the CA was told to look.
        let installed = |generation| move |shown: &_| is_installed(shown, generation);
        cli.wait_for_certificate("web", "generation 1", PATIENCE, installed(1)).await?;
        let agents = fleet.coordinators[0].cli().json(&["agent", "list"]).await?;
        ensure!(agents["agents"][0]["state"] == "connected", "{agents}");
        wait_for_leader(&fleet.coordinators[2], "node-1").await?;

        // The agent's coordinator dies; the agent has learnt where else it can go.
        fleet.coordinators[1].process()?.kill_9()?;
        let cli = fleet.coordinators[2].cli();
        cli.text(&["cert", "renew", "web"]).await?;
        cli.wait_for_certificate("web", "generation 2", PATIENCE, installed(2)).await?;
        let kept = std::fs::read_to_string(agent.state_dir().join("coordinators"))?;
        for coordinator in &fleet.coordinators {
            let address = coordinator.agents_address().to_string();
            ensure!(kept.contains(&address), "{address} is not remembered: {kept}");
        }
        agent.process()?.must_run()
    });
}

#[test]
fn two_coordinators_of_one_name_do_not_run() {
    scene::play(async |scene| {
        let mut fleet = Fleet::start(scene).await?;
        let mut options = Options::new(ports::free()?);
        options.node = "node-2".to_owned();
        options.store = Store::Etcd(fleet.etcd.endpoints());
        options.seal_key = Some(fleet.coordinators[0].seal_key());
        let mut second = Coordinator::prepare(&scene.folder("second")?, options).await?;
        second.spawn()?;
        let status = second.process()?.wait_for_end(wait::SOON).await?;
        ensure!(status.code() == Some(2), "{status}");
        let log = second.log()?;
        let address = fleet.coordinators[1].agents_address();
        let expected = format!("another coordinator named node-2 is running, at {address}");
        ensure!(log.contains(&expected), "{log}");
        fleet.coordinators[1].process()?.must_run()?;
        // One that was killed is followed at once by one of its name, wherever that runs.
        fleet.coordinators[1].process()?.kill_9()?;
        second.run().await
    });
}
