//! What the agent does to its files, and what it never does: it touches nothing without need, gives
//! them to whom it was told to, and never goes back to an older generation.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use chancery_tests::scene;
use chancery_tests::world::{PATIENCE, World};
use chancery_tests::{process, wait};

use crate::look::{
    AGENT, check_keys_are_closed, connections, counts, installed, must_be_installed, nginx_service,
    reconfigure, renew, text, tree, wait_for_agent, wait_for_connection, wait_for_message,
    wait_until_served, world_with,
};

#[test]
fn nothing_is_touched_when_nothing_changes() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www", "api"]).await?;
        let cli = world.cli();
        let counts_before = counts(&world);
        // Once it is at rest.
        world.agent.process()?.stop(wait::SOON).await?;
        let files = tree(&world.agent.install_dir())?;
        let state = fs::read_to_string(world.agent.state_dir().join("state.json"))?;
        let untouched = |world: &World, when: &str| -> Result<()> {
            let now = tree(&world.agent.install_dir())?;
            let differing: Vec<_> =
                now.iter().filter(|(path, entry)| files.get(*path) != Some(*entry)).collect();
            ensure!(differing.is_empty() && now.len() == files.len(), "{when}: {differing:?}");
            ensure!(counts(world) == counts_before, "{when}: {:?}", counts(world));
            Ok(())
        };
        let before = connections(&world.agent)?;
        world.agent.run()?;
        wait_for_connection(&world.agent, before).await?;

        cli.apply(scene.path(), &world.declaration(&["www", "api"])?).await?;
        let before = connections(&world.agent)?;
        world.coordinator.process()?.stop(wait::SOON).await?;
        world.coordinator.run().await?;
        wait_for_connection(&world.agent, before).await?;
        let before = connections(&world.agent)?;
        world.coordinator.process()?.kill_9()?;
        world.coordinator.run().await?;
        wait_for_connection(&world.agent, before).await?;
        wait_for_agent(&cli, AGENT, "connected").await?;
        untouched(&world, "after restarts of the coordinator")?;

        // When it has ended, it has done all that it would ever have done.
        world.agent.process()?.stop(wait::SOON).await?;
        untouched(&world, "after a life of the agent")?;
        let state_now = fs::read_to_string(world.agent.state_dir().join("state.json"))?;
        ensure!(state_now == state, "{state}\n{state_now}");
        Ok(())
    });
}

#[test]
fn files_have_the_owner_group_and_mode_that_were_asked_for() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www", "api"]).await?;
        let (own, own_group) =
            (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let stable = world.agent.installed("www");
        check_owner(&stable, own, own_group, 0o600, 0o644)?;
        let serial = must_be_installed(&stable)?.serial;

        // Only root can give files away; anybody can choose a mode.
        let (owner, group) =
            if rustix::process::getuid().is_root() { (NOBODY, NOBODY) } else { (own, own_group) };
        let target = format!(
            "\n[[target]]\ncertificate = \"www\"\nowner = \"{owner}\"\ngroup = \"{group}\"\n\
             \n[[target]]\ncertificate = \"api\"\nmode = \"0400\"\n"
        );
        let more = nginx_service(&world, &[]) + &target;
        let counts_before = counts(&world);
        reconfigure(&mut world, &more).await?;
        wait::until("the files with their new owner", PATIENCE, async || {
            check_owner(&stable, owner, group, 0o640, 0o644)?;
            check_owner(&world.agent.installed("api"), own, own_group, 0o400, 0o400)
        })
        .await?;
        let now = must_be_installed(&stable)?;
        ensure!(now.serial == serial && now.link.ends_with("1.1"), "{now:?}");
        let both = (counts_before.0 + 1, counts_before.1 + 1);
        wait::until_true("one test and one reload", PATIENCE, || counts(&world) == both).await?;
        world.wait_until_installed("www", 1).await?;
        wait_until_served(&world.nginx, "www", &serial).await?;
        // The next generation has them from the start.
        let generation = renew(&world.cli(), "www").await?;
        world.wait_until_installed("www", generation).await?;
        check_owner(&stable, owner, group, 0o640, 0o644)?;
        check_keys_are_closed(&world.agent.install_dir())?;
        check_keys_are_closed(&world.agent.state_dir())?;

        // A key for everybody is refused before anything happens.
        let open = "\n[[target]]\ncertificate = \"www\"\nmode = \"0644\"\n";
        world.agent.write_config(&[world.coordinator.agents_address()], &[], open)?;
        let said = process::run(&mut world.agent.command("check")?, wait::SOON).await?;
        ensure!(said.status.code() == Some(2), "{said:?}");
        ensure!(said.err.contains("target.www.mode") && said.err.contains("0640"), "{said:?}");
        Ok(())
    });
}

/// `nobody` and `nogroup` where they exist; the numbers need no names.
const NOBODY: u32 = 65534;

fn check_owner(stable: &Path, owner: u32, group: u32, key: u32, others: u32) -> Result<()> {
    for (name, mode) in [
        ("privkey.pem", key),
        ("fullchain.pem", others),
        ("cert.pem", others),
        ("chain.pem", others),
    ] {
        let path = stable.join(name);
        let metadata = fs::metadata(&path)?;
        let is = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        ensure!(is == (owner, group, mode), "{} is {is:?}", path.display());
    }
    Ok(())
}

#[test]
fn an_agent_never_goes_back_to_an_older_generation() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let cli = world.cli();
        let stable = world.agent.installed("www");
        let store = world.coordinator.folder().join("store.redb");
        let backup = scene.path().join("backup.redb");
        world.coordinator.process()?.stop(wait::SOON).await?;
        fs::copy(&store, &backup)?;
        world.coordinator.run().await?;
        let generation = renew(&cli, "www").await?;
        world.wait_until_installed("www", generation).await?;
        let newer = must_be_installed(&stable)?;

        // The coordinator is set back, and knows generation 1 only.
        world.coordinator.process()?.kill_9()?;
        fs::copy(&backup, &store)?;
        let before = connections(&world.agent)?;
        world.coordinator.run().await?;
        wait_for_connection(&world.agent, before).await?;
        let what = "the report of the newer generation";
        let shown = cli.wait_for_certificate("www", what, PATIENCE, |shown| {
            shown["deployments"][0]["installed_generation"] == generation
        });
        ensure!(shown.await?["generation"] == 1, "the coordinator was not set back");
        ensure!(must_be_installed(&stable)? == newer, "an older generation was installed");
        let status = cli.run(&["status"]).await?;
        ensure!(status.status.code() == Some(10), "{status:?}");
        ensure!(status.out.contains("the store knows only 1"), "{status:?}");

        // Even an agent that has lost what it was sent takes nothing older.
        world.agent.process()?.stop(wait::SOON).await?;
        fs::remove_dir_all(world.agent.state_dir().join("bundles"))?;
        world.agent.run()?;
        let refused = wait_for_message(&cli, "www", AGENT, "never goes back").await?;
        ensure!(refused["installed_generation"] == generation, "{refused}");
        ensure!(text(&refused, "message").contains("generation 1 was refused"), "{refused}");
        ensure!(installed(&stable)?.as_ref() == Some(&newer), "an older generation was installed");
        wait_until_served(&world.nginx, "www", &newer.serial).await?;

        // The next renewal is newer than anything that any agent has ever had.
        let next = renew(&cli, "www").await?;
        ensure!(next > generation, "generation {next} is in use already");
        let shown = world.wait_until_installed("www", next).await?;
        wait_until_served(&world.nginx, "www", text(&shown, "serial")).await?;
        ensure!(cli.run(&["status"]).await?.status.code() == Some(0), "not well in the end");
        Ok(())
    });
}
