//! What operators do and see: who gets what, agents that go and come back, waiting for a renewal,
//! new data keys, deleted certificates, and the story that is told of all that.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::gate::{Endpoint, Moment};
use chancery_tests::process::Said;
use chancery_tests::world::{Options, PATIENCE, World, is_installed};
use chancery_tests::{scene, wait};
use http::StatusCode;
use serde_json::Value;

use crate::center::certificate;
use crate::look::{
    AGENT, connections, metric, must_be_installed, renew, story, tree, wait_for_connection,
    wait_for_metric, wait_for_state, wait_until_issued, wait_until_served, world_with,
};

#[test]
fn labels_decide_who_has_a_certificate_and_can_be_changed() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let cli = world.cli();
        let address = [world.coordinator.agents_address()];
        let mut other = Agent::prepare(&scene.folder("db-1")?, "db-1", &address, &[])?;
        other.join(&cli.token("db-1", &["role=db"]).await?).await?.success()?;
        other.run()?;
        let declared = |www: &str| -> Result<String> {
            let labels = |role: &str| format!("labels = {{ role = {role:?} }}");
            Ok(world.declaration(&[])?
                + &certificate("www", "pebble", &labels(www))
                + &certificate("db", "pebble", &labels("db")))
        };
        world.nginx.configure(&world.sites(&["www"]))?;
        let [web, db] = [declared("web")?, declared("db")?];
        cli.apply(scene.path(), &web).await?;
        for name in ["www", "db"] {
            world.wait_until_installed(name, 1).await?;
        }
        let stable = world.agent.installed("www");
        let mine = must_be_installed(&stable)?;
        must_be_installed(&other.installed("db"))?;
        ensure!(!world.agent.installed("db").exists() && !other.installed("www").exists());
        let files = tree(&world.agent.install_dir())?;
        let reloads = world.commands.reloads();

        // Taken from one, given to the other.
        cli.apply(scene.path(), &db).await?;
        let gone = wait_for_state(&cli, "www", AGENT, "withdrawn").await?;
        ensure!(gone["installed_generation"] == 1, "{gone}");
        wait_for_state(&cli, "www", "db-1", "installed").await?;
        ensure!(must_be_installed(&other.installed("www"))? == mine, "another one was given");
        ensure!(tree(&world.agent.install_dir())? == files, "its files were touched");
        let cached = world.agent.state_dir().join("bundles/www.bundle");
        ensure!(!cached.exists(), "{} holds the key still", cached.display());
        wait_until_served(&world.nginx, "www", &mine.serial).await?;
        let shown = cli.certificate("www").await?;
        ensure!(shown["agents_entitled"] == 1 && shown["agents_installed"] == 1, "{shown}");
        let shown = cli.json(&["agent", "show", AGENT]).await?;
        ensure!(shown["entitled"] == serde_json::json!([]), "{shown}");
        ensure!(cli.run(&["status"]).await?.status.code() == Some(0), "a withdrawal is no problem");
        // What it is renewed to is none of its business any more.
        let generation = renew(&cli, "www").await?;
        world.wait_until_installed("www", generation).await?;
        ensure!(must_be_installed(&stable)? == mine, "it got what was withdrawn from it");

        // And given back: now it is behind.
        cli.apply(scene.path(), &web).await?;
        let shown = world.wait_until_installed("www", generation).await?;
        let serial = shown["serial"].as_str().context("no serial")?;
        wait_until_served(&world.nginx, "www", serial).await?;
        wait_for_state(&cli, "www", "db-1", "withdrawn").await?;
        ensure!(world.commands.reloads() == reloads + 1, "{} reloads", world.commands.reloads());
        world.agent.process()?.must_run()
    });
}

#[test]
fn a_removed_agent_is_cut_off_and_can_join_again_under_its_name() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let cli = world.cli();
        let stable = world.agent.installed("www");
        let before = must_be_installed(&stable)?;
        let counts = (world.commands.tests(), world.commands.reloads());
        let late = cli.token(AGENT, &["role=web"]).await?;

        cli.text(&["agent", "remove", AGENT, "--yes"]).await?;
        let log = "does not accept this agent's identity";
        world.agent.process()?.wait_for_log(log, wait::SOON).await?;
        ensure!(cli.run(&["agent", "show", AGENT]).await?.status.code() == Some(4));
        ensure!(cli.run(&["agent", "remove", AGENT, "--yes"]).await?.status.code() == Some(4));
        let shown = cli.certificate("www").await?;
        ensure!(shown["deployments"] == serde_json::json!([]), "{shown}");
        ensure!(shown["agents_entitled"] == 0, "{shown}");
        // It keeps what it has, and gets nothing more.
        let generation = renew(&cli, "www").await?;
        let serial = wait_until_issued(&cli, "www", generation).await?;
        ensure!(must_be_installed(&stable)? == before, "it got what it should not");
        world.agent.process()?.must_run()?;
        world.agent.process()?.stop(wait::SOON).await?;

        // A token that was made before the removal is worth nothing, a new one is.
        let refused = world.agent.join(&late).await?;
        ensure!(refused.status.code() == Some(3), "{refused:?}");
        world.join().await?;
        world.agent.run()?;
        world.wait_until_installed("www", generation).await?;
        wait_until_served(&world.nginx, "www", &serial).await?;
        let counts_now = (world.commands.tests(), world.commands.reloads());
        ensure!(counts_now == (counts.0 + 1, counts.1 + 1), "{counts:?} {counts_now:?}");
        let told = story(&cli, AGENT).await?;
        let about_joining: Vec<_> = told
            .iter()
            .map(String::as_str)
            .filter(|kind| ["agent.joined", "agent.removed"].contains(kind))
            .collect();
        ensure!(about_joining == ["agent.joined", "agent.removed", "agent.joined"], "{told:?}");
        Ok(())
    });
}

/// What `cert renew --wait` said, line by line, and how it ended.
async fn waited(world: &World, timeout: &str) -> Result<(Said, Vec<Value>)> {
    let words = ["-o", "json", "cert", "renew", "www", "--wait", "--timeout", timeout];
    let said = world.cli().run(&words).await?;
    let lines = said.out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let lines = lines.with_context(|| said.out.clone())?;
    ensure!(!lines.is_empty(), "{said:?}");
    let (last, others) = lines.split_last().context("nothing")?;
    ensure!(others.iter().all(|line| line["outcome"] == "running"), "{others:?}");
    ensure!(last["outcome"] != "running", "{last}");
    Ok((said, lines))
}

#[test]
fn waiting_for_a_renewal_ends_with_what_is_served() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let (said, lines) = waited(&world, "25s").await?;
        ensure!(said.status.code() == Some(0), "{said:?}");
        let last = lines.last().context("nothing")?;
        ensure!(last["outcome"] == "installed" && last["wanted_generation"] == 2, "{last}");
        let shown = &last["certificate"];
        ensure!(shown["generation"] == 2 && is_installed(shown, 2), "{last}");
        ensure!(shown["deployments"][0]["served_generation"] == 2, "{last}");
        let serial = shown["serial"].as_str().context("no serial")?;
        wait_until_served(&world.nginx, "www", serial).await?;
        // An order was seen in between.
        let stage = |line: &Value| line["certificate"]["order"]["stage"].is_string();
        ensure!(lines.iter().any(stage), "{lines:?}");
        let table = world.cli().text(&["cert", "renew", "www", "--wait"]).await?;
        ensure!(table.contains("serves generation 3"), "{table}");

        world.nginx.spoil_config()?;
        let (said, lines) = waited(&world, "25s").await?;
        let last = lines.last().context("nothing")?;
        ensure!(said.status.code() == Some(1) && last["outcome"] == "failed", "{said:?}");
        ensure!(
            last["message"].as_str().is_some_and(|m| m.contains("no_such_directive")),
            "{last}"
        );
        world.nginx.configure(&world.sites(&["www"]))?;
        world.wait_until_installed("www", 4).await?;

        world.agent.process()?.stop(wait::SOON).await?;
        let (said, lines) = waited(&world, "2s").await?;
        let last = lines.last().context("nothing")?;
        ensure!(said.status.code() == Some(6) && last["outcome"] == "timed-out", "{said:?}");
        world.agent.run()?;
        world.wait_until_installed("www", 5).await?;
        Ok(())
    });
}

#[test]
fn a_new_data_key_takes_over_while_orders_are_under_way() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let cli = world.cli();
        let names = ["c0", "c1", "c2", "c3", "c4", "c5"];
        let (early, late) = names.split_at(3);
        world.declare(early).await?;
        for name in early {
            world.wait_until_installed(name, 1).await?;
        }
        let before = cli.json(&["seal", "show"]).await?;
        ensure!(before["active_key"] == 1, "{before}");
        ensure!(records(&before, 1) > 0, "{before}");

        let mut held = world.gate.hold(Endpoint::Finalize, Moment::Before);
        world.nginx.configure(&world.sites(&names))?;
        cli.apply(scene.path(), &world.declaration(&names)?).await?;
        held.reached(PATIENCE).await?;
        let rotated = cli.json(&["seal", "rotate"]).await?;
        ensure!(rotated["active_key"] == 2, "{rotated}");
        held.release();
        for name in late {
            world.wait_until_installed(name, 1).await?;
        }
        wait::until("every record under the new key", PATIENCE, async || {
            let shown = cli.json(&["seal", "show"]).await?;
            ensure!(records(&shown, 1) == 0 && records(&shown, 2) > 0, "{shown}");
            Ok(())
        })
        .await?;

        // Another life of the coordinator opens all of it: bundles for an agent that has lost
        // its own, the CA's account, the key of the internal CA.
        world.agent.process()?.stop(wait::SOON).await?;
        fs::remove_dir_all(world.agent.state_dir().join("bundles"))?;
        world.coordinator.process()?.kill_9()?;
        world.coordinator.run().await?;
        world.agent.run()?;
        for name in names {
            let generation = renew(&cli, name).await?;
            let shown = world.wait_until_installed(name, generation).await?;
            let serial = shown["serial"].as_str().context("no serial")?;
            wait_until_served(&world.nginx, name, serial).await?;
        }
        let accounts = world.gate.seen().into_iter().filter(|seen| {
            seen.endpoint == Endpoint::NewAccount && seen.status == Some(StatusCode::CREATED)
        });
        ensure!(accounts.count() == 1, "the account was lost");
        let token = cli.token("web-2", &["role=web"]).await?;
        let address = [world.coordinator.agents_address()];
        let mut second = Agent::prepare(&scene.folder("web-2")?, "web-2", &address, &[])?;
        second.join(&token).await?.success()?;
        second.run()?;
        wait_for_state(&cli, "c0", "web-2", "installed").await?;
        let first = must_be_installed(&world.agent.installed("c0"))?.serial;
        ensure!(must_be_installed(&second.installed("c0"))?.serial == first);
        Ok(())
    });
}

/// How many records a data key seals; none when it is gone.
fn records(shown: &Value, key: u64) -> u64 {
    let keys = shown["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = keys.iter().find(|entry| entry["id"] == key);
    found.and_then(|entry| entry["records"].as_u64()).unwrap_or_default()
}

#[test]
fn what_the_files_no_longer_name_goes_only_when_asked_for() {
    scene::play(async |scene| {
        let world = world_with(scene, &["www", "api"]).await?;
        let cli = world.cli();
        let files = tree(&world.agent.installed("api"))?;
        let file = scene.path().join("fleet.toml").display().to_string();
        let not_after = "chancery_certificate_not_after_timestamp_seconds";
        let series = format!("{not_after}{{certificate=\"api\"}}");
        ensure!(metric(&world.coordinator, &series).await?.is_some(), "no {series}");

        // Left out, it is kept, and named.
        fs::write(&file, world.declaration(&["www"])?)?;
        let plan = cli.json(&["apply", "-f", &file, "--yes"]).await?;
        ensure!(plan["changes"] == serde_json::json!([]), "{plan}");
        ensure!(plan["kept"].to_string().contains("api"), "{plan}");
        let plan = cli.json(&["apply", "-f", &file, "--prune", "--dry-run"]).await?;
        ensure!(plan["applied"] == false, "{plan}");
        let change = &plan["changes"][0];
        ensure!(change["action"] == "delete" && change["name"] == "api", "{plan}");
        ensure!(cli.certificate("api").await?["generation"] == 1, "it is gone already");

        let pruned = cli.json(&["apply", "-f", &file, "--prune", "--yes"]).await?;
        ensure!(pruned["applied"] == true && pruned["changes"] == plan["changes"], "{pruned}");
        ensure!(cli.run(&["cert", "show", "api"]).await?.status.code() == Some(4));
        wait_for_metric(&world.coordinator, &series, None).await?;
        let metrics = world.coordinator.metrics().await?;
        ensure!(!metrics.contains("api"), "it lives on in {metrics}");
        wait::until("the agent to have withdrawn it", PATIENCE, async || {
            let log = world.agent.log()?;
            ensure!(log.contains("withdrawn; its files stay"), "not yet");
            Ok(())
        })
        .await?;
        ensure!(tree(&world.agent.installed("api"))? == files, "its files were touched");
        must_be_installed(&world.agent.installed("api"))?;
        wait::until("no trace of it", PATIENCE, async || {
            let shown = cli.json(&["agent", "show", AGENT]).await?;
            ensure!(!shown.to_string().contains("\"api\""), "{shown}");
            Ok(())
        })
        .await?;
        ensure!(cli.run(&["status"]).await?.status.code() == Some(0));

        // Files that name nothing at all are a mistake.
        fs::write(&file, "")?;
        let said = cli.run(&["apply", "-f", &file, "--prune", "--yes"]).await?;
        ensure!(said.status.code() == Some(2), "{said:?}");
        ensure!(cli.certificate("www").await?["generation"] == 1, "it is gone");

        // Declared again, it goes on where it was: above what agents still have.
        cli.apply(scene.path(), &world.declaration(&["www", "api"])?).await?;
        let shown =
            cli.wait_for_certificate("api", "a new one", PATIENCE, |shown| is_installed(shown, 2));
        let serial = shown.await?["serial"].as_str().context("no serial")?.to_owned();
        wait_until_served(&world.nginx, "api", &serial).await
    });
}

#[test]
fn events_tell_the_story_in_order() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let cli = world.cli();
        let generation = renew(&cli, "www").await?;
        world.wait_until_installed("www", generation).await?;
        world.nginx.spoil_config()?;
        let generation = renew(&cli, "www").await?;
        wait_for_state(&cli, "www", AGENT, "test-failed").await?;
        world.nginx.configure(&world.sites(&["www"]))?;
        world.wait_until_installed("www", generation).await?;
        world.coordinator.process()?.stop(wait::SOON).await?;
        let before = connections(&world.agent)?;
        world.coordinator.run().await?;
        wait_for_connection(&world.agent, before).await?;
        // Written down right after it has happened.
        wait::until("a second leader", PATIENCE, async || {
            let told = story(&cli, "node-1").await?;
            ensure!(told == ["leader.elected", "leader.elected"], "{told:?}");
            Ok(())
        })
        .await?;

        let renewal = ["certificate.renewal-requested", "order.started", "certificate.issued"];
        let mut expected = vec!["config.applied", "order.started", "certificate.issued"];
        expected.push("deployment.installed");
        expected.extend(renewal);
        expected.push("deployment.installed");
        expected.extend(renewal);
        expected.extend(["deployment.failed", "deployment.installed"]);
        let told = story(&cli, "www").await?;
        ensure!(told == expected, "{told:?}");
        let told = story(&cli, AGENT).await?;
        ensure!(told == ["token.created", "agent.joined"], "{told:?}");

        // Newest first, without gaps, in as many looks as one likes.
        let all = cli.json(&["event", "list", "-n", "1000"]).await?;
        let all = all["events"].as_array().context("no events")?;
        let numbers: Vec<u64> = all.iter().filter_map(|event| event["sequence"].as_u64()).collect();
        ensure!(numbers.len() == all.len(), "{all:?}");
        ensure!(numbers.windows(2).all(|pair| pair[0] == pair[1] + 1), "{numbers:?}");
        let mut epochs: Vec<u64> = all.iter().filter_map(|event| event["epoch"].as_u64()).collect();
        epochs.reverse();
        ensure!(epochs.is_sorted() && epochs.last() > epochs.first(), "{epochs:?}");
        let few = cli.json(&["event", "list", "-n", "3"]).await?;
        ensure!(few["events"].as_array().map(Vec::as_slice) == all.get(..3), "{few}");
        let table = cli.text(&["event", "list", "-n", "1000"]).await?;
        for kind in ["order.started", "deployment.failed", "agent.joined"] {
            ensure!(table.contains(kind), "{kind} is not in {table}");
        }
        ensure!(table.contains("no_such_directive"), "{table}");
        Ok(())
    });
}
