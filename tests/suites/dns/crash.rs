//! The coordinator dies while values stand in the DNS: its next life goes on with the order, or
//! removes what nobody needs any more.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Result, ensure};
use chancery_tests::coordinator::{Coordinator, Options, Store};
use chancery_tests::dns::Bind;
use chancery_tests::etcd::{self, EtcdCluster, Version};
use chancery_tests::gate::{Endpoint, Moment};
use chancery_tests::scene::{self, Scene};
use chancery_tests::world::PATIENCE;
use chancery_tests::{ports, wait};

use crate::stage::{Stage, rfc2136};

const NAME: &str = "_acme-challenge.chancery.example";
/// What somebody else has at that name.
const FOREIGN: &str = "_acme-challenge TXT \"somebody-else\"";

async fn dies_at(scene: &Scene, place: &str) -> Result<()> {
    let bind = Bind::start(&scene.folder("bind")?, &[("chancery.example", FOREIGN)]).await?;
    let key = bind.key().write(scene.path())?;
    let provider = rfc2136("bind", bind.address(), &key, &["chancery.example"]);
    let mut stage = Stage::prepare(scene, bind.address(), &provider, |options| {
        options.failpoints = format!("{place}=return");
    })
    .await?;
    stage.coordinator.run().await?;
    // Held until the declaration is certainly written.
    let mut hold = stage.gate.hold(Endpoint::Directory, Moment::Before);
    stage.declare("www", &["chancery.example", "*.chancery.example"], "").await?;
    hold.reached(wait::SOON).await?;
    hold.release();
    let ended = stage.coordinator.process()?.wait_for_end(wait::SOON).await?;
    ensure!(ended.signal() == Some(9), "{place} ended otherwise: {ended}");
    stage.coordinator.set_failpoints("");
    stage.coordinator.run().await?;
    stage.wait_until_issued("www", 1).await?;
    stage.wait_until_txt(NAME, &["somebody-else"]).await?;
    ensure!(stage.gate.count(Endpoint::NewOrder) == 1, "{:?}", stage.gate.orders());
    Ok(())
}

#[test]
fn killed_before_the_dns_is_touched() {
    scene::play(async |scene| dies_at(scene, "order::presented").await);
}

#[test]
fn killed_with_values_in_the_dns() {
    scene::play(async |scene| dies_at(scene, "order::in-dns").await);
}

#[test]
fn killed_after_the_ca_was_told() {
    scene::play(async |scene| dies_at(scene, "order::told-ready").await);
}

#[test]
fn killed_behind_the_bundle() {
    scene::play(async |scene| dies_at(scene, "order::issued").await);
}

#[test]
fn another_coordinator_goes_on_and_removes_exactly_what_the_dead_leader_has_written() {
    scene::play(async |scene| {
        let bind = Bind::start(&scene.folder("bind")?, &[("chancery.example", FOREIGN)]).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &["chancery.example"]);
        let etcd = etcd::Options::new(Version::V3_5, 1);
        let etcd = EtcdCluster::start(&scene.folder("etcd")?, etcd).await?;
        let mut second = Options::new(ports::free()?);
        let mut stage = Stage::prepare(scene, bind.address(), &provider, |options| {
            options.store = Store::Etcd(etcd.endpoints());
            options.failpoints = "order::in-dns=return".to_owned();
            second.store = options.store.clone();
            second.more = options.more.clone();
        })
        .await?;
        stage.coordinator.run().await?;
        wait::until("a leader", wait::SOON, async || {
            let lease = stage.coordinator.cli().json(&["lease", "show"]).await?;
            ensure!(lease["holder"] == stage.coordinator.node(), "{lease}");
            Ok(())
        })
        .await?;
        second.node = "node-2".to_owned();
        second.seal_key = Some(stage.coordinator.seal_key());
        let second = Coordinator::start(&scene.folder("node-2")?, second).await?;
        let mut hold = stage.gate.hold(Endpoint::Directory, Moment::Before);
        stage.declare("www", &["chancery.example", "*.chancery.example"], "").await?;
        hold.reached(wait::SOON).await?;
        hold.release();
        let ended = stage.coordinator.process()?.wait_for_end(wait::SOON).await?;
        ensure!(ended.signal() == Some(9), "it ended otherwise: {ended}");
        let left = bind.txt(NAME).await?;
        ensure!(left.len() == 3, "the dead leader has written {left:?}");
        let issued = |shown: &serde_json::Value| shown["generation"].as_u64() >= Some(1);
        second.cli().wait_for_certificate("www", "an issue", PATIENCE, issued).await?;
        stage.wait_until_txt(NAME, &["somebody-else"]).await?;
        ensure!(stage.gate.count(Endpoint::NewOrder) == 1, "{:?}", stage.gate.orders());
        Ok(())
    });
}

#[test]
fn what_a_deleted_certificate_has_left_is_removed_by_the_next_life() {
    scene::play(async |scene| {
        let bind = Bind::start(&scene.folder("bind")?, &[("chancery.example", "")]).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &["chancery.example"]);
        let mut stage = Stage::prepare(scene, bind.address(), &provider, |options| {
            options.failpoints = "dns01::remove=return".to_owned();
        })
        .await?;
        stage.coordinator.run().await?;
        // The CA is held before it hears of the challenge: the value stands there.
        let mut hold = stage.gate.hold(Endpoint::Challenge, Moment::Before);
        stage.declare("www", &["chancery.example"], "").await?;
        hold.reached(wait::SOON).await?;
        ensure!(bind.txt(NAME).await?.len() == 1, "nothing is there");
        let file = scene.path().join("empty.toml");
        std::fs::write(&file, stage.document("")?)?;
        let file = file.display().to_string();
        // It may die before it answers: what it dies of is that the certificate is gone.
        stage.coordinator.cli().run(&["apply", "-f", &file, "--prune", "--yes"]).await?;
        let ended = stage.coordinator.process()?.wait_for_end(wait::SOON).await?;
        ensure!(ended.signal() == Some(9), "it ended otherwise: {ended}");
        ensure!(bind.txt(NAME).await?.len() == 1, "it was removed by the first life");
        hold.release();
        stage.coordinator.set_failpoints("");
        stage.coordinator.run().await?;
        stage.wait_until_txt(NAME, &[]).await
    });
}
