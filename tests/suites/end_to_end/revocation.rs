//! A certificate is revoked when an operator says so, whatever happens in between, and replaced.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::{Answer, Endpoint};
use chancery_tests::scene;
use chancery_tests::wait;
use chancery_tests::world::PATIENCE;
use serde_json::Value;

use crate::center::{Center, certificate, count};

/// The reason that Pebble has on record, once it has the certificate revoked.
async fn reason(center: &Center, serial: &str) -> Result<u64> {
    wait::until("the revocation", PATIENCE, async || {
        let status = center.pebble.certificate_status(serial).await?;
        ensure!(status["Status"] == "Revoked", "{status}");
        Ok(status["Reason"].as_u64().unwrap_or_default())
    })
    .await
}

fn serial(shown: &Value) -> Result<String> {
    Ok(shown["serial"].as_str().context("no serial")?.to_owned())
}

#[test]
fn the_newest_generation_is_revoked_and_replaced_with_a_fresh_key() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let kept = certificate("www", "pebble", "key = { reuse = true }");
        center.apply(&format!("{}{kept}", center.declaration(&[])?)).await?;
        let first = center.wait_until_issued("www", 1).await?;
        let words = ["cert", "revoke", "www", "--reason", "keyCompromise", "--yes"];
        let revoked = center.cli().json(&words).await?;
        ensure!(revoked["state"] == "revoked" && revoked["generation"] == 1, "{revoked}");
        ensure!(revoked["serial"] == first["serial"], "{revoked}");
        ensure!(reason(&center, &serial(&first)?).await? == 1);
        let second = center.wait_until_issued("www", 2).await?;
        ensure!(second["public_key_sha256"] != first["public_key_sha256"], "the key was kept");
        ensure!(second["revocations"][0]["generation"] == 1, "{second}");
        let events = center.events("www").await?;
        for kind in ["certificate.revocation-requested", "certificate.revoked"] {
            ensure!(count(&events, kind) == 1, "{kind}: {events:?}");
        }

        // Again, or one that is not kept: nothing more happens.
        let again = ["cert", "revoke", "www", "--generation", "1", "--yes"];
        ensure!(center.cli().json(&again).await?["state"] == "revoked");
        let missing = ["cert", "revoke", "www", "--generation", "9", "--yes"];
        let said = center.cli().run(&missing).await?;
        ensure!(said.status.code() == Some(4) && said.err.contains("there are 1, 2"), "{said:?}");
        ensure!(center.gate.count(Endpoint::Revoke) == 1, "{:?}", center.gate.seen());
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn an_older_generation_is_revoked_and_nothing_is_ordered() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        let first = center.wait_until_issued("www", 1).await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        center.wait_until_issued("www", 2).await?;
        let words =
            ["cert", "revoke", "www", "--generation", "1", "--reason", "superseded", "--yes"];
        let revoked = center.cli().json(&words).await?;
        ensure!(revoked["state"] == "revoked" && revoked["replaced"] == false, "{revoked}");
        ensure!(reason(&center, &serial(&first)?).await? == 4);
        let shown = center.cli().certificate("www").await?;
        ensure!(shown["generation"] == 2 && shown["decision_code"] == "lifetime", "{shown}");
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn a_revocation_outlives_a_ca_that_is_away_and_a_coordinator_that_dies() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        let first = center.wait_until_issued("www", 1).await?;
        center.gate.answer(Endpoint::Revoke, 1000, Answer::Cut);
        let said = center.cli().run(&["cert", "revoke", "www", "--yes"]).await?;
        ensure!(said.status.code() == Some(6), "{said:?}");
        // The replacement does not wait for it.
        center.wait_until_issued("www", 2).await?;
        center.coordinator.process()?.kill_9()?;
        center.gate.answer_no_more();
        center.coordinator.set_failpoints("revocation::told=return");
        center.coordinator.run().await?;
        center.coordinator.process()?.wait_for_end(PATIENCE).await?;
        ensure!(reason(&center, &serial(&first)?).await? == 0);
        center.coordinator.set_failpoints("");
        center.coordinator.run().await?;
        // What is revoked already is revoked.
        center
            .cli()
            .wait_for_certificate("www", "the end of the revocation", PATIENCE, |shown| {
                shown["revocations"][0]["state"] == "revoked"
            })
            .await?;
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}
