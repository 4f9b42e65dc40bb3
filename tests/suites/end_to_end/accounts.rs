//! An account gets another key, or is given up, whatever dies in between.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::Endpoint;
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::PATIENCE;
use serde_json::Value;

use crate::center::{Center, Options, count};

/// A coordinator with an account that has issued `www`.
async fn with_account(scene: &Scene) -> Result<Center> {
    let center = Center::start(scene).await?;
    center.declare(&["www"]).await?;
    center.wait_until_issued("www", 1).await?;
    Ok(center)
}

/// Waits until the last change of the account has ended, and returns the account.
async fn changed(center: &Center) -> Result<Value> {
    wait::until("the end of the change", PATIENCE, async || {
        let shown = center.cli().json(&["issuer", "show", "pebble"]).await?;
        ensure!(shown["account"]["change"]["state"] == "done", "{shown}");
        Ok(shown["account"].clone())
    })
    .await
}

async fn renewed(center: &Center, generation: u64) -> Result<()> {
    center.cli().text(&["cert", "renew", "www"]).await?;
    center.wait_until_issued("www", generation).await?;
    Ok(())
}

#[test]
fn an_account_gets_another_key_and_stays_the_same_account() {
    scene::play(async |scene| {
        let center = with_account(scene).await?;
        let before = center.cli().json(&["issuer", "show", "pebble"]).await?;
        ensure!(before["account"]["state"] == "valid" && before["issued"] == 1, "{before}");
        let rolled = center.cli().json(&["issuer", "account", "roll", "pebble"]).await?;
        ensure!(rolled["account"]["change"]["state"] == "done", "{rolled}");
        ensure!(rolled["account"]["url"] == before["account"]["url"], "{rolled}");
        renewed(&center, 2).await?;
        ensure!(center.gate.succeeded(Endpoint::KeyChange) == 1, "{:?}", center.gate.seen());
        ensure!(center.gate.count(Endpoint::NewAccount) == 1, "{:?}", center.gate.seen());
        let events = center.events("pebble").await?;
        ensure!(count(&events, "account.changed") == 1, "{events:?}");
        // With another one after that.
        center.cli().text(&["issuer", "account", "roll", "pebble"]).await?;
        renewed(&center, 3).await
    });
}

#[test]
fn after_a_crash_it_is_found_out_which_key_the_ca_knows() {
    scene::play(async |scene| {
        let mut center = with_account(scene).await?;
        let mut generation = 1;
        for (point, changes) in [("account::next-key", 1), ("account::rolled", 2)] {
            center.coordinator.process()?.kill_9()?;
            center.coordinator.set_failpoints(&format!("{point}=return"));
            center.coordinator.run().await?;
            // It dies while this waits.
            center.cli().run(&["issuer", "account", "roll", "pebble"]).await?;
            center.coordinator.process()?.wait_for_end(PATIENCE).await?;
            center.coordinator.set_failpoints("");
            center.coordinator.run().await?;
            changed(&center).await.context(point)?;
            generation += 1;
            renewed(&center, generation).await.context(point)?;
            let done = center.gate.succeeded(Endpoint::KeyChange);
            ensure!(done == changes, "{point}: {done} changes: {:?}", center.gate.seen());
        }
        let log = center.cli().json(&["issuer", "show", "pebble"]).await?;
        ensure!(log["account"]["state"] == "valid", "{log}");
        Ok(())
    });
}

#[test]
fn a_deactivated_account_orders_nothing_until_there_is_another() {
    scene::play(async |scene| {
        let mut center = with_account(scene).await?;
        let former = center.cli().json(&["issuer", "show", "pebble"]).await?;
        center.coordinator.process()?.kill_9()?;
        center.coordinator.set_failpoints("account::deactivated=return");
        center.coordinator.run().await?;
        center.cli().run(&["issuer", "account", "deactivate", "pebble", "--yes"]).await?;
        center.coordinator.process()?.wait_for_end(PATIENCE).await?;
        center.coordinator.set_failpoints("");
        center.coordinator.run().await?;
        let account = changed(&center).await?;
        ensure!(account["state"] == "deactivated", "{account}");

        let orders = center.gate.count(Endpoint::NewOrder);
        center.cli().text(&["cert", "renew", "www"]).await?;
        center
            .cli()
            .wait_for_certificate("www", "the failure", PATIENCE, |shown| {
                let told = shown["last_error"].as_str().unwrap_or_default();
                told.contains("issuer account create pebble")
            })
            .await?;
        ensure!(center.gate.count(Endpoint::NewOrder) == orders, "{:?}", center.gate.orders());
        let rolled = center.cli().run(&["issuer", "account", "roll", "pebble"]).await?;
        ensure!(rolled.status.code() == Some(5), "{rolled:?}");
        let checked = center.cli().run(&["issuer", "check", "pebble"]).await?;
        ensure!(checked.status.code() == Some(1), "{checked:?}");

        center.cli().text(&["issuer", "account", "create", "pebble"]).await?;
        renewed(&center, 2).await?;
        let shown = center.cli().json(&["issuer", "show", "pebble"]).await?;
        ensure!(shown["account"]["state"] == "valid", "{shown}");
        ensure!(shown["account"]["url"] != former["account"]["url"], "{shown}");
        Ok(())
    });
}

#[test]
fn a_check_tells_what_the_ca_offers_and_what_is_in_the_way() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        options.pebble.profiles = vec![("shortlived".to_owned(), 6 * 24 * 3600)];
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        center.declare(&["www"]).await?;
        let check = center.cli().json(&["issuer", "check", "pebble"]).await?;
        ensure!(
            check["reachable"] == true && check["problems"] == serde_json::json!([]),
            "{check}"
        );
        ensure!(check["profiles"]["shortlived"] == "for tests", "{check}");
        let toml = center.declaration(&[])?.replace("[[issuer]]", "[[issuer]]\nprofile = \"none\"");
        center.apply(&toml).await?;
        let said = center.cli().run(&["issuer", "check", "pebble"]).await?;
        ensure!(said.status.code() == Some(1), "{said:?}");
        ensure!(said.out.contains("it offers default, shortlived"), "{said:?}");
        Ok(())
    });
}
