//! dns-persist-01: Pebble looks for records that an operator has set in BIND, and so does the coordinator
//! before it. Pebble is of version 01 of the draft; the hashes of version 02 are left to unit tests.

use anyhow::{Result, ensure};
use chancery_tests::dns::{Bind, TsigKey};
use chancery_tests::gate::Endpoint;
use chancery_tests::pebble::CAA_IDENTITY;
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use serde_json::Value;

use crate::stage::{Stage, certificate, rfc2136};

const ZONE: &str = "chancery.example";
const NAME: &str = "_validation-persist.chancery.example";

/// The provider is there to tell where the zone is served. Its key may change nothing.
async fn with_bind(scene: &Scene) -> Result<(Bind, Stage)> {
    let bind = Bind::start(&scene.folder("bind")?, &[(ZONE, "")]).await?;
    let key = TsigKey::new("other").write(scene.path())?;
    let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
    let stage = Stage::start(scene, bind.address(), &provider).await?;
    Ok((bind, stage))
}

/// What `issuer dns-record` prints, with its exit code.
async fn records(stage: &Stage, more: &[&str]) -> Result<(Option<i32>, Value)> {
    let words = [&["-o", "json", "issuer", "dns-record", "pebble"], more].concat();
    let said = stage.coordinator.cli().run(&words).await?;
    let shown = serde_json::from_str(&said.out).unwrap_or_default();
    Ok((said.status.code(), shown))
}

async fn account(stage: &Stage) -> Result<String> {
    wait::until("an account", wait::SOON, async || {
        let shown = stage.coordinator.cli().json(&["issuer", "show", "pebble"]).await?;
        ensure!(shown["account"]["state"] == "valid", "{shown}");
        anyhow::Ok(shown["account"]["url"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

#[test]
fn a_record_that_was_set_once_proves_a_name_and_its_wildcard() {
    scene::play(async |scene| {
        let (bind, mut stage) = with_bind(scene).await?;
        let cli = stage.coordinator.cli();
        stage.apply("").await?;
        let none = cli.run(&["issuer", "dns-record", "pebble", "--identifier", ZONE]).await?;
        ensure!(none.err.contains("issuer account create pebble"), "{none:?}");
        cli.run(&["issuer", "account", "create", "pebble"]).await?;
        let url = account(&stage).await?;
        let value = format!("{CAA_IDENTITY}; accounturi={url}");
        let (code, shown) = records(&stage, &["--identifier", ZONE]).await?;
        ensure!(code == Some(0) && shown["records"][0]["value"] == *value, "{shown}");

        let own = certificate("www", &[ZONE, "*.chancery.example"], "")
            .replace("[\"dns-01\"]", "[\"dns-persist-01\"]");
        stage.apply(&own).await?;
        let wanted = format!("{value}; policy=wildcard");
        let told = stage.wait_until_failed("www").await?;
        ensure!(told.contains(NAME) && told.contains(&value), "{told}");
        let other = "other.example; accounturi=https://other.example/1";
        let steps: [(&[&str], &str); 3] = [
            (&[], "no TXT record"),
            (&[other], "for this CA"),
            (&[other, &value], "policy=wildcard"),
        ];
        for (set, expected) in steps {
            bind.set_txt(NAME, set).await?;
            let (code, shown) = records(&stage, &["--check"]).await?;
            ensure!(code == Some(1) && shown["records"][0]["value"] == *wanted, "{shown}");
            let missing = shown["records"][0]["missing"].to_string();
            ensure!(missing.contains(expected), "{expected}: {shown}");
        }
        bind.set_txt(NAME, &[other, &wanted]).await?;
        let (code, shown) = records(&stage, &["--check"]).await?;
        ensure!(code == Some(0) && shown["records"][0]["in_place"] == true, "{shown}");

        // It dies with its choice in the journal, where its next life finds it.
        stage.coordinator.process()?.kill_9()?;
        stage.coordinator.set_failpoints("order::presented=return");
        stage.coordinator.run().await?;
        let orders = stage.gate.count(Endpoint::NewOrder);
        cli.run(&["cert", "renew", "www"]).await?;
        stage.coordinator.process()?.wait_for_end(wait::SOON).await?;
        stage.coordinator.set_failpoints("");
        stage.coordinator.run().await?;
        stage.wait_until_issued("www", 1).await?;
        ensure!(stage.gate.count(Endpoint::NewOrder) == orders + 1, "{:?}", stage.gate.orders());
        let left = bind.txt(NAME).await?;
        ensure!(left == [other, &wanted], "{left:?}");
        Ok(())
    });
}

#[test]
fn a_name_without_its_record_is_proved_by_the_next_challenge() {
    scene::play(async |scene| {
        let (_bind, stage) = with_bind(scene).await?;
        let own = certificate("www", &["www.chancery.example"], "")
            .replace("[\"dns-01\"]", "[\"dns-persist-01\", \"http-01\"]");
        stage.apply(&own).await?;
        stage.wait_until_issued("www", 1).await?;
        Ok(())
    });
}
