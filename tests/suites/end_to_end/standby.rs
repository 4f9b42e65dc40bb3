//! A standby of a second CA, with two real ones: served after one command or by itself, when the first CA is
//! of no help.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::{self, Scene};
use chancery_tests::world::{Options, PATIENCE, World, server_name};
use chancery_tests::{coordinator::Coordinator, tls_client};
use serde_json::Value;

use crate::center::Center;

/// A second CA, which looks for answers where the first does.
async fn another(scene: &Scene, coordinator: &Coordinator) -> Result<Pebble> {
    let options = pebble::Options::new(coordinator.http01_address());
    Pebble::start(&scene.folder("spare")?, &options).await
}

/// The declaration of `www` with the issuer `spare` for its standby.
fn with_standby(declaration: &str, spare: &Pebble) -> String {
    let roots: &Path = spare.https_root_path();
    format!(
        "[[issuer]]\nname = \"spare\"\ndirectory = {:?}\ntrust_roots = \"{}\"\n\n{}standby = \"spare\"\n",
        spare.directory(),
        roots.display(),
        declaration
    )
}

/// Waits until a standby of this issuer is ready; what `cert show` says then.
async fn ready(coordinator: &Coordinator, issuer: &str) -> Result<Value> {
    let condition =
        |shown: &Value| shown["standby"]["ready"] == true && shown["standby"]["issuer"] == *issuer;
    coordinator.cli().wait_for_certificate("www", "a standby", PATIENCE, condition).await
}

#[test]
fn agents_serve_the_standby_after_one_command_although_the_first_ca_is_gone() {
    scene::play(async |scene| {
        let mut world = World::start(scene, Options::new()?).await?;
        let spare = another(scene, &world.coordinator).await?;
        world.nginx.configure(&world.sites(&["www"]))?;
        let toml = with_standby(&world.declaration(&["www"])?, &spare);
        let early = world.cli().run(&["cert", "switch", "www"]).await?;
        ensure!(early.status.code() == Some(4), "{early:?}");
        world.cli().apply(scene.path(), &toml).await?;
        world.wait_until_installed("www", 1).await?;
        let shown = ready(&world.coordinator, "spare").await?;
        let serial = shown["standby"]["serial"].as_str().context("no serial")?.to_owned();
        ensure!(shown["generation"] == 1 && shown["serial"] != *serial, "{shown}");
        ensure!(shown["agents_installed"] == 1, "the standby goes to nobody: {shown}");

        world.pebble.process().kill_9()?;
        let said = world.cli().text(&["cert", "switch", "www", "--wait"]).await?;
        ensure!(said.contains("was switched in"), "{said}");
        let trust = tls_client::Trust::Roots(spare.issuing_root().await?);
        let name = server_name("www");
        let served = tls_client::served(world.nginx.address(), &name, &trust).await?;
        ensure!(served.leaf.serial == serial, "{:?} is served", served.leaf);
        let shown = world.cli().certificate("www").await?;
        ensure!(shown["generation"] == 3 && shown["issuer"] == "spare", "{shown}");
        ensure!(shown["standby"]["ready"] == false, "{shown}");
        let again = world.cli().run(&["cert", "switch", "www"]).await?;
        ensure!(again.status.code() == Some(5) && again.err.contains("not issued"), "{again:?}");
        Ok(())
    });
}

#[test]
fn what_is_revoked_gives_way_to_the_standby_whoever_dies_meanwhile() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let spare = another(scene, &center.coordinator).await?;
        center.apply(&with_standby(&center.declaration(&["www"])?, &spare)).await?;
        let shown = ready(&center.coordinator, "spare").await?;
        let serial = shown["standby"]["serial"].clone();
        let orders = center.new_orders();
        let revoke = ["cert", "revoke", "www", "--reason", "keyCompromise", "--yes"];
        for point in ["standby::before-switch", "standby::switched"] {
            center.coordinator.process()?.kill_9()?;
            center.coordinator.set_failpoints(&format!("{point}=return"));
            center.coordinator.spawn()?;
            if point == "standby::before-switch" {
                center.coordinator.wait_until_ready().await?;
                // It dies while this waits.
                center.cli().run(&revoke).await?;
            }
            center.coordinator.process()?.wait_for_end(PATIENCE).await.context(point)?;
        }
        center.coordinator.set_failpoints("");
        center.coordinator.run().await?;
        let shown = center.wait_until_issued("www", 3).await?;
        ensure!(shown["generation"] == 3 && shown["serial"] == serial, "{shown}");
        // Another one is kept, now of the first CA.
        let shown = ready(&center.coordinator, "pebble").await?;
        ensure!(center.new_orders() == orders + 1, "{:?}", center.gate.orders());
        let number = shown["standby"]["generation"].as_u64().context("no number")?;
        ensure!(number == 4 && shown["generation"] == 3, "{shown}");

        // One that is revoked is replaced, and what is served stays.
        let words = ["cert", "revoke", "www", "--generation", "4", "--yes"];
        let revoked = center.cli().json(&words).await?;
        ensure!(revoked["state"] == "revoked" && revoked["issuer"] == "pebble", "{revoked}");
        let condition = |shown: &Value| {
            shown["standby"]["ready"] == true
                && shown["standby"]["generation"].as_u64() > Some(number)
        };
        let shown = center
            .cli()
            .wait_for_certificate("www", "another standby", PATIENCE, condition)
            .await?;
        ensure!(shown["generation"] == 3 && shown["state"] == "valid", "{shown}");
        Ok(())
    });
}
