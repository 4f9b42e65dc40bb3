//! RFC 2136 with TSIG, on BIND and Knot.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::dns::{Bind, Knot};
use chancery_tests::scene::{self, Scene};

use crate::stage::{Stage, certificate, rfc2136};

const ZONE: &str = "chancery.example";

async fn with_bind(scene: &Scene) -> Result<(Bind, Stage)> {
    let bind = Bind::start(&scene.folder("bind")?, &[(ZONE, "")]).await?;
    let key = bind.key().write(scene.path())?;
    let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
    let stage = Stage::start(scene, bind.address(), &provider).await?;
    Ok((bind, stage))
}

#[test]
fn an_apex_and_its_wildcard_are_issued_and_nothing_stays_behind() {
    scene::play(async |scene| {
        let (_bind, stage) = with_bind(scene).await?;
        stage.declare("www", &[ZONE, "*.chancery.example"], "").await?;
        let shown = stage.wait_until_issued("www", 1).await?;
        ensure!(shown["challenges"] == serde_json::json!(["dns-01"]), "{shown}");
        stage.wait_until_txt("_acme-challenge.chancery.example", &[]).await
    });
}

#[test]
fn orders_side_by_side_share_a_name_and_leave_what_is_not_ours() {
    scene::play(async |scene| {
        let name = "_acme-challenge.chancery.example";
        let foreign = "_acme-challenge TXT \"somebody-else\"";
        let bind = Bind::start(&scene.folder("bind")?, &[(ZONE, foreign)]).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
        let stage = Stage::start(scene, bind.address(), &provider).await?;
        let mut all = String::new();
        for i in 0..6 {
            // A CA may give the same authorization to two orders.
            all += &certificate(&format!("c{i}"), &[ZONE, "*.chancery.example"], "");
        }
        stage.apply(&all).await?;
        for i in 0..6 {
            stage.wait_until_issued(&format!("c{i}"), 1).await?;
        }
        stage.wait_until_txt(name, &["somebody-else"]).await
    });
}

#[test]
fn knot_takes_updates_as_well() {
    scene::play(async |scene| {
        let knot = Knot::start(&scene.folder("knot")?, &[ZONE]).await?;
        let key = knot.key().write(scene.path())?;
        let provider = rfc2136("knot", knot.address(), &key, &[ZONE]);
        let stage = Stage::start(scene, knot.address(), &provider).await?;
        stage.declare("www", &["www.chancery.example", "*.chancery.example"], "").await?;
        stage.wait_until_issued("www", 1).await?;
        stage.wait_until_txt("_acme-challenge.www.chancery.example", &[]).await?;
        stage.wait_until_txt("_acme-challenge.chancery.example", &[]).await
    });
}

#[test]
fn a_name_of_the_accounts_own_proves_as_well() {
    scene::play(async |scene| {
        let (_bind, stage) = with_bind(scene).await?;
        let own = certificate("www", &[ZONE, "*.chancery.example"], "")
            .replace("[\"dns-01\"]", "[\"dns-account-01\"]");
        stage.apply(&own).await?;
        let shown = stage.wait_until_issued("www", 1).await?;
        ensure!(shown["challenges"] == serde_json::json!(["dns-account-01"]), "{shown}");
        // The log names it.
        let log = stage.coordinator.log()?;
        let mut words = log.split(|c: char| c.is_whitespace() || c == '"' || c == '=');
        let own = words.find(|word| word.ends_with("._acme-challenge.chancery.example"));
        let own = own.context("no name of the account's own in the log")?;
        ensure!(own.starts_with('_'), "{own}");
        stage.wait_until_txt(own, &[]).await?;
        stage.wait_until_txt("_acme-challenge.chancery.example", &[]).await
    });
}

#[test]
fn a_name_may_prefer_http_where_dns_has_no_provider() {
    scene::play(async |scene| {
        let zones = [(ZONE, ""), ("other.example", "")];
        let bind = Bind::start(&scene.folder("bind")?, &zones).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
        let stage = Stage::start(scene, bind.address(), &provider).await?;
        let both = certificate("www", &["*.chancery.example", "www.other.example"], "")
            .replace("[\"dns-01\"]", "[\"dns-01\", \"http-01\"]");
        stage.apply(&both).await?;
        stage.wait_until_issued("www", 1).await?;
        Ok(())
    });
}
