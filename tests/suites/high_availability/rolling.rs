//! All coordinators are restarted, one after the other, under many connected agents.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::ha::cluster::Kind;
use chancery_tests::ha::world::{Installed, Options, World};
use chancery_tests::{scene, wait};

#[test]
fn a_rolling_restart_under_200_agents_costs_none_an_update() {
    scene::play(async |scene| {
        let mut options = Options::new(Kind::Etcd);
        options.lease_ttl_secs = 5;
        options.agents = 200;
        options.clocks = false;
        "warn".clone_into(&mut options.log);
        let mut world = World::start(scene, options).await?;
        world.declare(&[CERTIFICATE.to_owned()]).await?;
        let mut newest = world.wait_until_everywhere(CERTIFICATE, 1).await?;
        for number in 0..world.coordinators.len() {
            let process = world.coordinators[number].process()?;
            process.terminate()?;
            // Issued while its agents look for another one.
            newest = renew(&world, newest).await?;
            let ended = world.coordinators[number].process()?.wait_for_end(wait::SOON).await?;
            ensure!(ended.success(), "node-{number} ended with {ended}");
            world.coordinators[number].run().await?;
            newest = world.wait_until_everywhere(CERTIFICATE, newest).await?;
        }
        for agent in &mut world.agents {
            agent.process()?.must_run()?;
            let installed = Installed::on(agent, CERTIFICATE)?;
            ensure!(installed.generation == newest, "{}: {installed:?}", agent.name());
        }
        Ok(())
    });
}

/// Asks whoever leads for a renewal, and returns the generation that it will be.
async fn renew(world: &World, newest: u64) -> Result<u64> {
    wait::until("a renewal to be taken", wait::SOON, async || {
        let leader = world.leader().await.context("nobody leads")?;
        world.cli(leader.coordinator).text(&["cert", "renew", CERTIFICATE]).await?;
        Ok::<_, anyhow::Error>(newest + 1)
    })
    .await
}

const CERTIFICATE: &str = "www";
