//! What stands between a new certificate on disk and one that is served: the test, the reload,
//! the look at what is served; and the way back when one of them fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::authority::Authority;
use chancery_tests::nginx::Site;
use chancery_tests::scene;
use chancery_tests::wait;
use chancery_tests::world::{Options, PATIENCE, World, server_name};
use serde_json::Value;

use crate::center::certificate;
use crate::look::{
    AGENT, ServiceText, counts, metric, must_be_installed, nginx_service, reconfigure, renew,
    story, text, wait_for_message, wait_for_metric, wait_for_state, wait_until_issued,
    wait_until_served, world_with,
};

/// What `agent show` says of one certificate, and of one service.
async fn shown(world: &World, certificate: &str, service: &str) -> Result<(Value, Value)> {
    let agent = world.cli().json(&["agent", "show", AGENT]).await?;
    let find = |list: &str, key: &str, name: &str| {
        let all = agent[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().find(|entry| entry[key] == name).cloned();
        found.with_context(|| format!("no {name} in {agent}"))
    };
    Ok((find("deployments", "certificate", certificate)?, find("services", "service", service)?))
}

#[test]
fn a_configuration_broken_by_somebody_else_keeps_the_old_one_until_it_is_repaired() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let cli = world.cli();
        let stable = world.agent.installed("www");
        let before = must_be_installed(&stable)?;
        let (reloads, process) = (world.commands.reloads(), world.agent.process()?.id());
        ensure!(cli.run(&["status"]).await?.status.code() == Some(0), "not well from the start");

        world.nginx.spoil_config()?;
        let generation = renew(&cli, "www").await?;
        let failed = wait_for_state(&cli, "www", AGENT, "test-failed").await?;
        ensure!(text(&failed, "message").contains("no_such_directive"), "{failed}");
        ensure!(failed["delivered_generation"] == generation, "{failed}");
        ensure!(failed["served_generation"] == 1, "{failed}");
        ensure!(must_be_installed(&stable)? == before, "something was switched");

        // Each further attempt tests first, and switches nothing.
        let tests = world.commands.tests();
        wait::until_true("two more tests", PATIENCE, || world.commands.tests() >= tests + 2)
            .await?;
        wait_for_message(&cli, "www", AGENT, "with the files as they are").await?;
        ensure!(must_be_installed(&stable)? == before, "something was switched");
        ensure!(world.commands.reloads() == reloads, "nginx was reloaded");
        wait_until_served(&world.nginx, "www", &before.serial).await?;

        let (deployment, service) = shown(&world, "www", "nginx").await?;
        ensure!(deployment["state"] == "test-failed", "{deployment}");
        ensure!(text(&deployment, "message").contains("no_such_directive"), "{deployment}");
        ensure!(service["healthy"] == false, "{service}");
        ensure!(text(&service, "message").contains("no_such_directive"), "{service}");
        let table = cli.text(&["agent", "show", AGENT]).await?;
        ensure!(table.contains("test-failed") && table.contains("no_such_directive"), "{table}");
        let status = cli.run(&["status"]).await?;
        ensure!(status.status.code() == Some(10), "{status:?}");
        ensure!(
            status.out.contains(AGENT) && status.out.contains("no_such_directive"),
            "{status:?}"
        );
        let coordinator = &world.coordinator;
        let series = "chancery_deployments{state=\"test-failed\"}";
        ensure!(metric(coordinator, series).await? == Some(1.0), "{series}");
        let failing = "chancery_deployment_failing\
                       {agent=\"web-1\",certificate=\"www\",state=\"test-failed\"}";
        ensure!(metric(coordinator, failing).await? == Some(1.0), "{failing}");

        world.nginx.configure(&world.sites(&["www"]))?;
        let shown = world.wait_until_installed("www", generation).await?;
        wait_until_served(&world.nginx, "www", text(&shown, "serial")).await?;
        ensure!(world.agent.process()?.id() == process, "it was restarted");
        world.agent.process()?.must_run()?;
        wait_for_metric(coordinator, series, Some(0.0)).await?;
        wait_for_metric(coordinator, failing, None).await?;
        ensure!(cli.run(&["status"]).await?.status.code() == Some(0), "not well in the end");
        Ok(())
    });
}

#[test]
fn a_service_that_serves_something_else_is_caught_and_everything_goes_back() {
    scene::play(async |scene| {
        let mut world = world_with(scene, &["www"]).await?;
        let more = nginx_service(&world, &[]);
        reconfigure(&mut world, &more).await?;
        let cli = world.cli();
        let stable = world.agent.installed("www");
        let before = must_be_installed(&stable)?;
        // Somebody has made nginx serve a copy.
        let copy = scene.folder("copy")?;
        for file in ["fullchain.pem", "privkey.pem"] {
            fs::copy(stable.join(file), copy.join(file))?;
        }
        world.nginx.configure(&[Site::installed(&server_name("www"), &copy)])?;
        let reloads = world.commands.reloads();

        let generation = renew(&cli, "www").await?;
        let failed = wait_for_state(&cli, "www", AGENT, "probe-failed").await?;
        let message = text(&failed, "message");
        for words in [
            before.serial.as_str(),
            "another certificate is served",
            "the former files are back",
            &world.nginx.address().to_string(),
            &stable.display().to_string(),
        ] {
            ensure!(message.contains(words), "{words:?} is not in {message:?}");
        }
        ensure!(failed["served_generation"] == 1, "{failed}");
        let (deployment, service) = shown(&world, "www", "nginx").await?;
        ensure!(deployment["state"] == "probe-failed", "{deployment}");
        ensure!(service["healthy"] == false, "{service}");
        // It is tried again and again, and each time all goes back; a generation that is just
        // being tried may stand there, too.
        wait::until("the former generation on disk", PATIENCE, async || {
            ensure!(must_be_installed(&stable)? == before, "not yet");
            Ok(())
        })
        .await?;
        ensure!(world.commands.reloads() >= reloads + 2, "nginx was not told to go back");
        wait_until_served(&world.nginx, "www", &before.serial).await?;

        world.nginx.configure(&world.sites(&["www"]))?;
        let shown = world.wait_until_installed("www", generation).await?;
        wait_until_served(&world.nginx, "www", text(&shown, "serial")).await?;
        let told = story(&cli, "www").await?;
        ensure!(told.iter().any(|kind| kind == "deployment.failed"), "{told:?}");
        ensure!(told.last().is_some_and(|kind| kind == "deployment.installed"), "{told:?}");
        Ok(())
    });
}

#[test]
fn many_certificates_at_once_cost_one_test_and_one_reload() {
    scene::play(async |scene| {
        let mut world = World::prepare(scene, Options::new()?).await?;
        world.coordinator.run().await?;
        let cli = world.cli();
        let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (early, late) = names.split_at(10);
        world.nginx.configure(&world.sites(early))?;
        let first = world.declaration(early)?;
        let declared = |labels: &str| {
            late.iter()
                .fold(first.clone(), |toml, name| toml + &certificate(name, "pebble", labels))
        };
        cli.apply(scene.path(), &declared("labels = { role = \"nobody\" }")).await?;
        for name in &names {
            wait_until_issued(&cli, name, 1).await?;
        }

        // All there are for an agent that has just come.
        world.join().await?;
        world.agent.run()?;
        check_served(&world, early, 1).await?;
        ensure!(counts(&world) == (1, 1), "tests and reloads: {:?}", counts(&world));

        // Ten more for one that is connected.
        world.nginx.configure(&world.sites(&names))?;
        cli.apply(scene.path(), &declared("labels = { role = \"web\" }")).await?;
        check_served(&world, &names, 1).await?;
        ensure!(counts(&world) == (2, 2), "tests and reloads: {:?}", counts(&world));

        // Twenty renewed while it was away.
        world.agent.process()?.stop(wait::SOON).await?;
        for name in &names {
            renew(&cli, name).await?;
        }
        for name in &names {
            wait_until_issued(&cli, name, 2).await?;
        }
        world.agent.run()?;
        check_served(&world, &names, 2).await?;
        ensure!(counts(&world) == (3, 3), "tests and reloads: {:?}", counts(&world));
        Ok(())
    });
}

async fn check_served(world: &World, certificates: &[&str], generation: u64) -> Result<()> {
    for name in certificates {
        let shown = world.wait_until_installed(name, generation).await?;
        wait_until_served(&world.nginx, name, text(&shown, "serial")).await?;
    }
    Ok(())
}

#[test]
fn one_certificate_that_is_not_served_does_not_keep_the_others() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let more = nginx_service(&world, &[]);
        reconfigure(&mut world, &more).await?;
        let cli = world.cli();
        let names = ["a", "b", "c"];
        let wrong = Authority::new()?.issue(&[&server_name("c")])?;
        let (certificate, key) = wrong.write(scene.path(), "wrong")?;
        let mut sites = world.sites(&["a", "b"]);
        sites.push(Site { names: vec![server_name("c")], certificate, key });
        world.nginx.configure(&sites)?;
        cli.apply(scene.path(), &world.declaration(&names)?).await?;

        for generation in [1, 2] {
            check_served(&world, &["a", "b"], generation).await?;
            let what = format!("c to fail with generation {generation}");
            let failed = cli.wait_for_certificate("c", &what, PATIENCE, |shown| {
                let deployment = &shown["deployments"][0];
                deployment["state"] == "probe-failed"
                    && deployment["delivered_generation"] == generation
            });
            let failed = failed.await?;
            let message = text(&failed["deployments"][0], "message");
            ensure!(message.contains("another certificate is served"), "{message}");
            if generation == 1 {
                for name in names {
                    renew(&cli, name).await?;
                }
            }
        }
        world.nginx.configure(&world.sites(&names))?;
        check_served(&world, &names, 2).await
    });
}

/// A service without a server: its commands do what a file says.
struct Puppet {
    folder: PathBuf,
}

impl Puppet {
    fn new(folder: PathBuf) -> Result<Self> {
        let puppet = Self { folder };
        for name in ["test", "reload"] {
            let path = puppet.path(name);
            let base = puppet.folder.display();
            let script =
                format!("#!/bin/sh\necho run >> {base}/{name}.count\n. {base}/{name}.does\n");
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            puppet.does(name, "exit 0")?;
        }
        Ok(puppet)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn does(&self, name: &str, script: &str) -> Result<()> {
        // In one step, for it may be read just now.
        let new = self.path("new");
        fs::write(&new, script)?;
        fs::rename(new, self.path(&format!("{name}.does")))?;
        Ok(())
    }

    fn count(&self, name: &str) -> usize {
        let path = self.path(&format!("{name}.count"));
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    }

    fn service(&self, certificates: &[&str]) -> String {
        let (test, reload) = (self.path("test"), self.path("reload"));
        let timeout = Duration::from_secs(1);
        let service = ServiceText {
            name: "puppet",
            certificates,
            test: &test,
            reload: &reload,
            probe: None,
            timeout,
        };
        service.toml()
    }
}

#[test]
fn a_reload_that_fails_or_hangs_goes_back_and_holds_up_nobody_else() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let puppet = Puppet::new(scene.folder("puppet")?)?;
        let more = nginx_service(&world, &["www"]) + &puppet.service(&["mail"]);
        reconfigure(&mut world, &more).await?;
        let cli = world.cli();
        world.nginx.configure(&world.sites(&["www"]))?;
        cli.apply(scene.path(), &world.declaration(&["www", "mail"])?).await?;
        for name in ["www", "mail"] {
            world.wait_until_installed(name, 1).await?;
        }
        let stable = world.agent.installed("mail");
        let former = must_be_installed(&stable)?;

        for (generation, does, words) in [
            (2, "echo cannot bind to port 25 >&2; exit 3", "cannot bind to port 25"),
            (3, "exec sleep 1000", "did not end within 1s"),
        ] {
            puppet.does("reload", does)?;
            let reloads = puppet.count("reload");
            for name in ["mail", "www"] {
                renew(&cli, name).await?;
            }
            let failed = wait_for_message(&cli, "mail", AGENT, words).await?;
            ensure!(failed["state"] == "reload-failed", "{failed}");
            ensure!(failed["served_generation"] == 1, "{failed}");
            ensure!(text(&failed, "message").contains("the former files are back"), "{failed}");
            ensure!(puppet.count("reload") >= reloads + 2, "it was not told to go back");
            wait::until("the former generation on disk", PATIENCE, async || {
                ensure!(must_be_installed(&stable)? == former, "not yet");
                Ok(())
            })
            .await?;
            // Others go on meanwhile.
            check_served(&world, &["www"], generation).await?;
            let (_, nginx) = shown(&world, "www", "nginx").await?;
            let (_, puppet) = shown(&world, "mail", "puppet").await?;
            ensure!(nginx["healthy"] == true && puppet["healthy"] == false, "{nginx} {puppet}");
            ensure!(text(&puppet, "message").contains(words), "{puppet}");
        }
        puppet.does("reload", "exit 0")?;
        world.wait_until_installed("mail", 3).await?;
        let (_, healthy) = shown(&world, "mail", "puppet").await?;
        ensure!(healthy["healthy"] == true, "{healthy}");
        Ok(())
    });
}

#[test]
fn hooks_get_what_certbot_gives_them() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let puppet = Puppet::new(scene.folder("puppet")?)?;
        puppet.does("reload", "env > \"${0}.env\"")?;
        reconfigure(&mut world, &puppet.service(&[])).await?;
        world.cli().apply(scene.path(), &world.declaration(&["www"])?).await?;
        world.wait_until_installed("www", 1).await?;
        let environment = fs::read_to_string(puppet.path("reload.env"))?;
        let lineage = world.agent.installed("www").display().to_string();
        for line in [
            format!("RENEWED_LINEAGE={lineage}"),
            format!("RENEWED_DOMAINS={}", server_name("www")),
        ] {
            ensure!(
                environment.lines().any(|other| other == line),
                "{line} is not in {environment}"
            );
        }
        Ok(())
    });
}
