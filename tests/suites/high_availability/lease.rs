//! The lease on three coordinators: it goes where an operator wants it, one that slept over its end
//! does nothing any more, and without the store all stay up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::coordinator::Coordinator;
use chancery_tests::gate::{Endpoint, Moment};
use chancery_tests::ha::cluster::Kind;
use chancery_tests::ha::world::{Leader, Options, World};
use chancery_tests::scene::{self, Scene};
use chancery_tests::world::PATIENCE;
use chancery_tests::{tls_client, wait};

async fn start(scene: &Scene, agents: usize, lease_ttl_secs: u64) -> Result<World> {
    let mut options = Options::new(Kind::Etcd);
    options.agents = agents;
    options.lease_ttl_secs = lease_ttl_secs;
    options.clocks = false;
    World::start(scene, options).await
}

/// A coordinator that is not this one, and another one beside.
fn others(leader: Leader) -> (usize, usize) {
    ((leader.coordinator + 1) % 3, (leader.coordinator + 2) % 3)
}

#[test]
fn the_lease_goes_where_an_operator_wants_it() {
    scene::play(async |scene| {
        let world = start(scene, 0, 5).await?;
        for round in 0..3 {
            let leader = world.wait_for_leader(|_| true).await?;
            let (to, at) = others(leader);
            let name = format!("node-{to}");
            // Any coordinator may be asked.
            let cli = world.cli(if round == 0 { leader.coordinator } else { at });
            let told = cli.json(&["lease", "transfer", "--to", &name]).await?;
            ensure!(told["holder"] == *name && told["transferred"] == true, "{told}");
            ensure!(told["from_epoch"].as_u64() == Some(leader.epoch), "{told}");
            let vacant = told["vacant_seconds"].as_f64().context("no time")?;
            ensure!(vacant < 0.5, "nobody led for {vacant} s");
            let next = world.wait_for_leader(|now| now.epoch > leader.epoch).await?;
            ensure!(next.coordinator == to, "{next:?}");
            everybody_agrees(&world, next).await?;
        }
        let leader = world.wait_for_leader(|_| true).await?;
        let told = world.cli(0).json(&["lease", "transfer"]).await?;
        ensure!(told["holder"] != *format!("node-{}", leader.coordinator), "{told}");
        what_is_refused(&world).await
    });
}

/// All say the same, and the holder has confirmed it.
async fn everybody_agrees(world: &World, leader: Leader) -> Result<()> {
    let holder = format!("node-{}", leader.coordinator);
    for coordinator in &world.coordinators {
        let what = format!("{} to know who leads", coordinator.node());
        wait::until(&what, wait::SOON, async || {
            let lease = coordinator.cli().json(&["lease", "show"]).await?;
            ensure!(lease["holder"] == *holder && lease["confirmed"] == true, "{lease}");
            ensure!(lease["epoch"].as_u64() == Some(leader.epoch), "{lease}");
            ensure!(lease["remaining_seconds"].as_f64().is_some_and(|left| left > 0.0), "{lease}");
            let status = coordinator.cli().json(&["status"]).await?;
            let members = status["members"].as_array().context("no members")?;
            let leads = members.iter().filter(|member| member["role"] == "leader");
            ensure!(members.len() == 3 && leads.count() == 1, "{status}");
            ensure!(members.iter().all(|member| member["reachable"] == true), "{status}");
            ensure!(status["store"]["endpoints"].as_array().is_some_and(|e| e.len() == 3));
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    Ok(())
}

async fn what_is_refused(world: &World) -> Result<()> {
    let leader = world.wait_for_leader(|_| true).await?;
    let cli = world.cli(leader.coordinator);
    let said = cli.run(&["lease", "transfer", "--to", "node-9"]).await?;
    ensure!(said.status.code() == Some(4), "{said:?}");
    let name = format!("node-{}", leader.coordinator);
    let said = cli.run(&["lease", "transfer", "--to", &name]).await?;
    ensure!(said.status.success() && said.out.contains("leads already"), "{said:?}");
    let now = world.leader().await;
    ensure!(now == Some(leader), "{now:?} leads instead of {leader:?}");

    // Two at once: one does it, the other finds that it is done, or that another term has begun.
    let (to, at) = others(leader);
    let (one, two) = (format!("node-{to}"), format!("node-{at}"));
    let (first, second) = tokio::join!(
        async { world.cli(to).run(&["lease", "transfer", "--to", &one]).await },
        async { world.cli(at).run(&["lease", "transfer", "--to", &two]).await },
    );
    let codes = [first?.status.code(), second?.status.code()];
    ensure!(codes.contains(&Some(0)), "{codes:?}");
    ensure!(codes.iter().all(|code| matches!(code, Some(0 | 1 | 5))), "{codes:?}");
    world.wait_for_leader(|now| now.epoch > leader.epoch).await.map(drop)
}

#[test]
fn a_nominee_that_is_dead_costs_seconds_and_another_leads() {
    scene::play(async |scene| {
        let mut world = start(scene, 0, 5).await?;
        let leader = world.wait_for_leader(|_| true).await?;
        let (to, at) = others(leader);
        // Its record lives on for as long as the lease that it is bound to.
        world.coordinators[to].process()?.kill_9()?;
        let name = format!("node-{to}");
        let said = world.cli(leader.coordinator).run(&["lease", "transfer", "--to", &name]).await?;
        ensure!(said.status.code() == Some(1), "{said:?}");
        ensure!(said.err.contains(&format!("not {name}")), "{said:?}");
        let next = world.wait_for_leader(|now| now.epoch > leader.epoch).await?;
        ensure!(next.coordinator == at, "{next:?}");
        Ok(())
    });
}

#[test]
fn one_that_slept_over_the_end_of_its_lease_asks_no_ca_and_writes_nothing() {
    scene::play(async |scene| {
        let mut world = start(scene, 0, 2).await?;
        let leader = world.wait_for_leader(|_| true).await?;
        // In the middle of an order: the CA is about to sign.
        let mut hold = world.gate.hold(Endpoint::Finalize, Moment::Before);
        world.declare(&["web".to_owned()]).await?;
        hold.reached(wait::SOON).await?;
        world.coordinators[leader.coordinator].process()?.pause()?;
        let next = world.wait_for_leader(|now| now.epoch > leader.epoch).await?;
        let cli = world.cli(next.coordinator);
        cli.wait_for_certificate("web", "the issue", PATIENCE, |shown| shown["generation"] == 1)
            .await?;
        let asked = world.gate.seen().len();
        ensure!(world.gate.orders().len() == 1, "the successor went on with the same order");

        world.coordinators[leader.coordinator].process()?.resume()?;
        hold.release();
        let woken = &world.coordinators[leader.coordinator];
        wait::until("the one that slept to know better", wait::SOON, async || {
            let metrics = woken.metrics().await?;
            let line = "chancery_lease_step_downs_total{reason=";
            ensure!(metrics.lines().any(|found| found.starts_with(line)), "{metrics}");
            let lease = woken.cli().json(&["lease", "show"]).await?;
            ensure!(lease["epoch"].as_u64() == Some(next.epoch), "{lease}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        // Long enough for whatever it might still want to do.
        tokio::time::sleep(QUIET).await;
        let seen = world.gate.seen();
        ensure!(seen.len() == asked, "it asked for {:?}", &seen[asked..]);
        let shown = cli.certificate("web").await?;
        ensure!(shown["generation"] == 1 && shown["failures"] == 0, "{shown}");
        let events = cli.json(&["event", "list"]).await?;
        let of_order = events["events"].as_array().context("no events")?.iter();
        let late = of_order.filter(|event| event["kind"] == "order.failed").count();
        ensure!(late == 0, "{events}");
        Ok(())
    });
}

#[test]
fn without_the_store_all_stay_up_and_come_back_by_themselves() {
    scene::play(async |scene| {
        let mut world = start(scene, 1, 2).await?;
        world.declare(&["web".to_owned()]).await?;
        world.wait_until_everywhere("web", 1).await?;
        let before = world.wait_for_leader(|_| true).await?;
        for member in 0..3 {
            world.cluster.kill_9(member)?;
        }
        for coordinator in &world.coordinators {
            lost(coordinator).await?;
        }
        let connected = connected(&world).await?;
        ensure!(connected == 1, "the agent is connected to {connected} coordinators");
        for coordinator in &world.coordinators {
            // The default gives the store's servers time for an election of their own.
            let what = format!("{} not to be ready", coordinator.node());
            wait::until(&what, wait::SOON, async || {
                let (status, body) = ready(coordinator, "").await?;
                ensure!(status == 503, "{status} {body}");
                Ok::<_, anyhow::Error>(())
            })
            .await?;
            let (status, body) = ready(coordinator, "?max_age=never").await?;
            ensure!(status == 200, "{status} {body}");
        }
        for member in 0..3 {
            world.cluster.restart(member)?;
        }
        world.cluster.wait_until_healthy().await?;
        world.wait_for_leader(|now| now.epoch > before.epoch).await?;
        for coordinator in &mut world.coordinators {
            coordinator.process()?.must_run().context("it has not lived through it")?;
        }
        for coordinator in &world.coordinators {
            wait::until("all to follow again", wait::SOON, async || {
                let (status, body) = ready(coordinator, "?max_age=0s").await?;
                ensure!(status == 200, "{status} {body}");
                Ok::<_, anyhow::Error>(())
            })
            .await?;
        }
        world.declare(&["web".to_owned(), "mail".to_owned()]).await?;
        world.wait_until_everywhere("mail", 1).await.map(drop)
    });
}

/// Waits until a coordinator says that it has lost the store.
async fn lost(coordinator: &Coordinator) -> Result<()> {
    let what = format!("{} to notice", coordinator.node());
    wait::until(&what, wait::SOON, async || {
        let (status, body) = ready(coordinator, "?max_age=0s").await?;
        ensure!(status == 503 && body.contains("serving agents what was last known"), "{body}");
        let metrics = coordinator.metrics().await?;
        ensure!(metrics.contains("\nchancery_store_followed 0\n"), "{metrics}");
        ensure!(metrics.contains("\nchancery_lease_held 0\n"), "{metrics}");
        Ok(())
    })
    .await
}

async fn ready(coordinator: &Coordinator, query: &str) -> Result<(u16, String)> {
    let path = format!("/readyz{query}");
    let (status, body) = tls_client::get_plain(coordinator.http_address(), &path).await?;
    Ok((status.as_u16(), body))
}

/// To how many coordinators the agent is connected.
async fn connected(world: &World) -> Result<usize> {
    let mut connected = 0;
    for coordinator in &world.coordinators {
        let metrics = coordinator.metrics().await?;
        connected += usize::from(metrics.contains("\nchancery_agents_connected 1\n"));
    }
    Ok(connected)
}

/// Several times what an order's next step would take.
const QUIET: Duration = Duration::from_secs(3);
