//! The agent without its coordinator, without room on its disk, without a second: it goes on with
//! what it has, and comes back by itself.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::process;
use chancery_tests::scene;
use chancery_tests::wait;
use chancery_tests::world::{Options, PATIENCE, World};
use chancery_tests::{ports, world};
use tokio::time::Instant;

use crate::center::{self, Center};
use crate::look::{
    AGENT, ServiceText, connections, must_be_installed, renew, story, wait_for_agent,
    wait_for_connection, wait_for_state, wait_until_issued, wait_until_served,
};

#[test]
fn without_a_coordinator_the_agent_goes_on_from_its_disk_and_reports_later() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        world.declare(&["www"]).await?;
        world.wait_until_installed("www", 1).await?;
        let cli = world.cli();
        world.nginx.spoil_config()?;
        let generation = renew(&cli, "www").await?;
        let serial = wait_until_issued(&cli, "www", generation).await?;
        wait_for_state(&cli, "www", AGENT, "test-failed").await?;

        world.coordinator.process()?.kill_9()?;
        world.agent.process()?.kill_9()?;
        world.agent.run()?;
        let log = "no coordinator can be used; going on with what is on disk";
        world.agent.process()?.wait_for_log(log, wait::SOON).await?;
        world.nginx.configure(&world.sites(&["www"]))?;
        wait_until_served(&world.nginx, "www", &serial).await?;
        ensure!(must_be_installed(&world.agent.installed("www"))?.serial == serial);

        let before = connections(&world.agent)?;
        world.coordinator.run().await?;
        wait_for_connection(&world.agent, before).await?;
        let shown = world.wait_until_installed("www", generation).await?;
        let deployment = &shown["deployments"][0];
        ensure!(deployment["served_generation"] == generation, "{shown}");
        ensure!(deployment["message"].is_null(), "{shown}");
        let shown = wait_for_agent(&cli, AGENT, "connected").await?;
        ensure!(shown["services"][0]["healthy"] == true, "{shown}");
        let told = story(&cli, "www").await?;
        ensure!(told.last().is_some_and(|kind| kind == "deployment.installed"), "{told:?}");
        world.agent.process()?.must_run()
    });
}

#[test]
fn a_second_agent_with_the_same_state_folder_is_refused() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let mut agent = joined(&center, &scene.folder("agent")?).await?;
        agent.run()?;
        wait_for_agent(&center.cli(), AGENT, "connected").await?;
        for word in ["run", "join"] {
            let mut command = agent.command(word)?;
            command.env("CHANCERY_JOIN_TOKEN", center.cli().token("other", &[]).await?);
            let said = process::run(&mut command, wait::SOON).await?;
            ensure!(said.status.code() == Some(4), "{word}: {said:?}");
            let lock = agent.state_dir().join("lock").display().to_string();
            ensure!(said.err.contains(&lock) && said.err.contains("stop the agent"), "{said:?}");
        }
        // The first one is as good as before, and its successor after kill -9 as well.
        agent.process()?.must_run()?;
        agent.process()?.kill_9()?;
        let before = connections(&agent)?;
        agent.run()?;
        wait_for_connection(&agent, before).await?;
        center.coordinator.process()?.must_run()
    });
}

/// The agent `web-1`, joined, without a service.
async fn joined(center: &Center, folder: &Path) -> Result<Agent> {
    let agent = Agent::prepare(folder, AGENT, &[center.coordinator.agents_address()], &[])?;
    let token = center.cli().token(AGENT, &["role=web"]).await?;
    agent.join(&token).await?.success()?;
    Ok(agent)
}

#[test]
fn told_to_end_it_ends_at_once() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let folder = scene.folder("agent")?;
        let mut agent = joined(&center, &folder).await?;
        agent.run()?;
        wait_for_agent(&center.cli(), AGENT, "connected").await?;
        ends_within(&mut agent, Duration::from_secs(2)).await?;
        wait_for_agent(&center.cli(), AGENT, "disconnected").await?;

        // In the middle of a reload that never ends, and that does not outlive it.
        let hangs = hanging_command(&folder)?;
        let service = ServiceText {
            name: "hangs",
            certificates: &[],
            test: Path::new("true"),
            reload: &hangs,
            probe: None,
            timeout: Duration::from_mins(10),
        };
        agent.write_config(&[center.coordinator.agents_address()], &[], &service.toml())?;
        agent.run()?;
        center.declare(&["www"]).await?;
        let pid = wait::until("the reload", PATIENCE, async || {
            let text = fs::read_to_string(folder.join("pid"))?;
            Ok::<u32, anyhow::Error>(text.trim().parse()?)
        })
        .await?;
        ends_within(&mut agent, Duration::from_secs(6)).await?;
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        wait::until_true("the end of the reload", wait::SOON, || !runs()).await?;

        // Without any coordinator, too.
        agent.write_config(&[center.coordinator.agents_address()], &[], "")?;
        center.coordinator.process()?.kill_9()?;
        agent.run()?;
        agent.process()?.wait_for_log("going on with what is on disk", wait::SOON).await?;
        ends_within(&mut agent, Duration::from_secs(2)).await
    });
}

/// A command that writes its process id to `pid`, and hangs.
fn hanging_command(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("hangs");
    let text = format!("#!/bin/sh\necho $$ > {}/pid\nexec sleep 1000\n", folder.display());
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

async fn ends_within(agent: &mut Agent, limit: Duration) -> Result<()> {
    let asked = Instant::now();
    let status = agent.process()?.stop(wait::SOON).await?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(asked.elapsed() < limit, "it took {} ms", asked.elapsed().as_millis());
    Ok(())
}

/// A file system with little room. It goes when it is dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    async fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=128k,mode=0700", "chancery-test"]).arg(path);
        process::run(&mut command, wait::SOON).await?.success().context("no small disk")?;
        Ok(Self { path: path.to_owned() })
    }

    /// Leaves no room at all.
    fn fill(&self) -> Result<()> {
        let full = fs::write(self.filler(), vec![0_u8; 1024 * 1024]);
        let kind = full.err().context("it is larger than it should be")?.kind();
        ensure!(kind == std::io::ErrorKind::StorageFull, "{kind}");
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("nothing fills the disk")
    }

    fn filler(&self) -> PathBuf {
        self.path.join("of-somebody-else")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for an agent may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Whether this test may mount a file system. Said aloud, so that nobody takes it for passed.
#[expect(clippy::print_stderr, reason = "a test that was left out must be seen")]
fn may_mount() -> Result<bool> {
    let root = rustix::process::getuid().is_root();
    ensure!(root || env::var_os("CI").is_none(), "in CI this test must run as root");
    if !root {
        eprintln!(
            "SKIPPED: only root can mount a small disk; run it with `sudo -E cargo xtask test`"
        );
    }
    Ok(root)
}

#[test]
fn a_full_disk_is_told_once_and_costs_nothing() {
    scene::play(async |scene| {
        if !may_mount()? {
            return Ok(());
        }
        let folder = scene.folder("agent")?;
        let (state, certs) = (folder.join("state"), folder.join("certs"));
        let disks = [SmallDisk::mount(&state).await?, SmallDisk::mount(&certs).await?];
        fs::set_permissions(&certs, fs::Permissions::from_mode(0o755))?;
        let mut world = World::start(scene, Options::new()?).await?;
        world.declare(&["www"]).await?;
        world.wait_until_installed("www", 1).await?;
        let cli = world.cli();
        let stable = world.agent.installed("www");
        // Where it works on what it cannot finish.
        let works = [state.join("bundles"), certs.join(".chancery/www")];
        for (disk, work) in disks.iter().zip(&works) {
            let before = must_be_installed(&stable)?;
            let told = told_full(&world)?;
            disk.fill()?;
            let generation = renew(&cli, "www").await?;
            let failed = wait_for_state(&cli, "www", AGENT, "install-failed").await?;
            let message = failed["message"].as_str().unwrap_or_default();
            for words in [&*disk.path.display().to_string(), "No space left", "free some space"] {
                ensure!(message.contains(words), "{words:?} is not in {message:?}");
            }
            let table = cli.text(&["agent", "show", AGENT]).await?;
            ensure!(table.contains("No space left"), "{table}");
            // It tries again, but does not say it again.
            attempts(work, 2).await?;
            ensure!(told_full(&world)? == told + 1, "told {} times", told_full(&world)? - told);
            ensure!(must_be_installed(&stable)? == before, "something was installed");
            let status = world.agent.process()?.stop(wait::SOON).await?;
            ensure!(status.code() == Some(0), "{status}");
            let connected = connections(&world.agent)?;
            world.agent.run()?;
            wait_for_connection(&world.agent, connected).await?;
            wait_for_state(&cli, "www", AGENT, "install-failed").await?;
            ensure!(must_be_installed(&stable)? == before, "something was installed");
            wait_until_served(&world.nginx, "www", &before.serial).await?;

            disk.make_room()?;
            let shown = world.wait_until_installed("www", generation).await?;
            let serial = shown["serial"].as_str().context("no serial")?;
            wait_until_served(&world.nginx, "www", serial).await?;
            world.agent.process()?.must_run()?;
        }
        // The agent ends before its disks go.
        world.agent.process()?.stop(wait::SOON).await?;
        Ok(())
    });
}

/// How often the agent's log tells of a full disk to whom it may concern.
fn told_full(world: &World) -> Result<usize> {
    let log = world.agent.log()?;
    let told = |line: &&str| {
        line.contains("No space left") && (line.contains("WARN") || line.contains("ERROR"))
    };
    Ok(log.lines().filter(told).count())
}

/// Waits for more attempts, each of which makes a file in `folder` and removes it.
async fn attempts(folder: &Path, more: usize) -> Result<()> {
    let changed = || fs::metadata(folder)?.modified();
    for _ in 0..more {
        let before = changed()?;
        wait::until("another attempt", PATIENCE, async || {
            ensure!(changed()? != before, "not yet");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[test]
fn a_broken_configuration_is_told_with_all_its_lines() {
    scene::play(async |scene| {
        let folder = scene.folder("agent")?;
        let somewhere: SocketAddr = ports::free()?;
        let agent = Agent::prepare(&folder, AGENT, &[somewhere], &[])?;
        let good = fs::read_to_string(agent.config())?;
        process::run(&mut agent.command("check")?, wait::SOON).await?.success()?;
        let bad = good
            .replace(&format!("\"{somewhere}\""), "\"nowhere\"")
            .replace("first = \"200ms\"", "first = \"soon\"")
            .replace("format = \"human\"", "format = \"human\"\ncolour = \"red\"")
            + "\n[[service]]\nname = \"nginx\"\npreset = \"ngnix\"\n\
               \n[[target]]\ncertificate = \"WWW\"\n";
        fs::write(agent.config(), bad)?;
        let file = agent.config().display().to_string();
        for word in ["run", "check", "join"] {
            let said = process::run(&mut agent.command(word)?, wait::SOON).await?;
            ensure!(said.status.code() == Some(2), "{said:?}");
            for (key, value) in [
                ("coordinators[0]", "nowhere"),
                ("retry.first", "soon"),
                ("log.colour", "red"),
                ("service.nginx.preset", "ngnix"),
                ("target", "WWW"),
            ] {
                let line = said.err.lines().find(|line| line.contains(key) && line.contains(value));
                let line = line.with_context(|| format!("{key} is not in: {}", said.err))?;
                ensure!(line.starts_with(&format!("{file}:")), "{line}");
            }
            ensure!(said.err.lines().count() == 5, "{}", said.err);
        }
        for (text, words) in [("coordinators = [", "this is not TOML"), ("", "coordinators")] {
            fs::write(agent.config(), text)?;
            let said = process::run(&mut agent.command("run")?, wait::SOON).await?;
            ensure!(said.status.code() == Some(2) && said.err.contains(words), "{said:?}");
        }
        fs::remove_file(agent.config())?;
        let said = process::run(&mut agent.command("run")?, wait::SOON).await?;
        ensure!(said.status.code() == Some(2) && said.err.contains(&file), "{said:?}");
        // Whole, but the agent has never joined.
        fs::write(agent.config(), good)?;
        let said = process::run(&mut agent.command("run")?, wait::SOON).await?;
        ensure!(said.status.code() == Some(2), "{said:?}");
        ensure!(said.err.contains("chancery agent token create"), "{said:?}");
        Ok(())
    });
}

#[test]
fn a_coordinator_that_falls_silent_is_noticed_and_all_is_well_afterwards() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        world.declare(&["www"]).await?;
        world.wait_until_installed("www", 1).await?;
        world.coordinator.process()?.pause()?;
        let log = "the connection to the coordinator";
        world.agent.process()?.wait_for_log(log, SILENCE).await?;
        let before = connections(&world.agent)?;
        world.coordinator.process()?.resume()?;
        wait_for_connection(&world.agent, before).await?;
        let generation = renew(&world.cli(), "www").await?;
        let shown = world.wait_until_installed("www", generation).await?;
        let serial = shown["serial"].as_str().context("no serial")?;
        wait_until_served(&world.nginx, "www", serial).await
    });
}

#[test]
fn an_agent_that_falls_silent_is_noticed_and_goes_on_afterwards() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        world.declare(&["www"]).await?;
        world.wait_until_installed("www", 1).await?;
        let cli = world.cli();
        world.agent.process()?.pause()?;
        let generation = renew(&cli, "www").await?;
        wait::until("the agent to be missed", SILENCE, async || {
            let shown = cli.json(&["agent", "show", AGENT]).await?;
            ensure!(shown["state"] == "disconnected", "{shown}");
            Ok(())
        })
        .await?;
        world.agent.process()?.resume()?;
        world.wait_until_installed("www", generation).await?;
        wait_for_agent(&cli, AGENT, "connected").await?;
        Ok(())
    });
}

/// A keep-alive and its time-out are ten seconds each.
const SILENCE: Duration = Duration::from_secs(40);

#[test]
fn an_identity_is_replaced_again_and_again_and_the_old_one_is_refused() {
    scene::play(async |scene| {
        let mut options = center::Options::new()?;
        "10s".clone_into(&mut options.coordinator.identity_lifetime);
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let cli = center.cli();
        let folder = scene.folder("agent")?;
        let mut agent = joined(&center, &folder).await?;
        let stolen = fs::read(agent.state_dir().join("identity.pem"))?;
        agent.run()?;
        let first = wait_for_agent(&cli, AGENT, "connected").await?["identity_serial"].clone();
        let second = replaced(&center, &first).await?;

        // What was copied from the disk before is worth nothing, though its time is not over.
        let address = center.coordinator.agents_address();
        let mut thief = Agent::prepare(&scene.folder("thief")?, "thief", &[address], &[])?;
        fs::create_dir(thief.state_dir())?;
        fs::set_permissions(thief.state_dir(), fs::Permissions::from_mode(0o700))?;
        fs::write(thief.state_dir().join("identity.pem"), stolen)?;
        thief.run()?;
        let log = "does not accept this agent's identity";
        thief.process()?.wait_for_log(log, wait::SOON).await?;
        ensure!(thief.log()?.contains("superseded"), "it was refused for another reason");
        thief.process()?.stop(wait::SOON).await?;

        let third = replaced(&center, &second).await?;
        replaced(&center, &third).await?;
        agent.process()?.must_run()?;
        let log = agent.log()?;
        let trouble = log.lines().find(|line| line.contains(" WARN ") || line.contains("ERROR"));
        ensure!(trouble.is_none(), "{trouble:?}");
        // And it is served all the time.
        center.declare(&["www"]).await?;
        cli.wait_for_certificate("www", "the installation", PATIENCE, |shown| {
            world::is_installed(shown, 1)
        })
        .await?;
        let told = story(&cli, AGENT).await?;
        ensure!(told.iter().filter(|kind| *kind == "agent.rotated").count() >= 3, "{told:?}");
        ensure!(told.iter().any(|kind| kind == "agent.refused"), "{told:?}");
        Ok(())
    });
}

/// Waits until the agent is seen with another identity than this. Returns its serial number.
async fn replaced(center: &Center, former: &serde_json::Value) -> Result<serde_json::Value> {
    wait::until("the next identity", PATIENCE, async || {
        let shown = center.cli().json(&["agent", "show", AGENT]).await?;
        ensure!(shown["identity_serial"] != *former, "{shown}");
        Ok(shown["identity_serial"].clone())
    })
    .await
}
