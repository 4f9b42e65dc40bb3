//! What a CA wants to know before it issues, and what can be chosen when it does.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::{Endpoint, Gate};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::{PATIENCE, server_name};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::center::{Center, Options, certificate, count};

/// The issuer `pebble`, with these lines more.
fn issuer(center: &Center, more: &str) -> String {
    named(("pebble", &center.gate, &center.pebble), more)
}

fn named((name, gate, pebble): (&str, &Gate, &Pebble), more: &str) -> String {
    format!(
        "[[issuer]]\nname = {name:?}\ndirectory = {:?}\ntrust_roots = \"{}\"\n{more}\n",
        gate.directory(),
        pebble.https_root_path().display()
    )
}

/// A coordinator that has been started.
async fn start(scene: &Scene, pebble: impl FnOnce(&mut pebble::Options)) -> Result<Center> {
    let mut options = Options::new()?;
    pebble(&mut options.pebble);
    let mut center = Center::prepare(scene, options).await?;
    center.coordinator.run().await?;
    Ok(center)
}

/// Waits until the order of a certificate has failed, and returns why.
async fn failure(center: &Center, name: &str) -> Result<String> {
    let failed = |shown: &Value| shown["failures"].as_u64() > Some(0) && shown["order"].is_null();
    let shown = center.cli().wait_for_certificate(name, "the failure", PATIENCE, failed).await?;
    Ok(shown["last_error"].as_str().context("no error")?.to_owned())
}

const HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
const OTHER_KEY: &str = "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH";

/// The binding of an account, with its key in a file beside the declaration.
fn binding(folder: &Path, key_id: &str, key: &str) -> Result<String> {
    std::fs::write(folder.join("hmac.key"), format!("{key}\n"))?;
    Ok(format!("external_account = {{ key_id = {key_id:?}, hmac_key_file = \"hmac.key\" }}"))
}

#[test]
fn an_account_is_bound_to_an_external_one_or_the_remedy_is_told() {
    scene::play(async |scene| {
        let known = vec![("kid-1".to_owned(), HMAC_KEY.to_owned())];
        let center = start(scene, |pebble| pebble.external_accounts = known).await?;
        let www = certificate("www", "pebble", "");
        center.apply(&format!("{}{www}", issuer(&center, ""))).await?;
        let told = failure(&center, "www").await?;
        ensure!(told.contains("hmac_key_file"), "{told}");

        let try_again = async |bound: &str| -> Result<()> {
            center.apply(&format!("{}{www}", issuer(&center, bound))).await?;
            center.cli().text(&["cert", "renew", "www"]).await?;
            Ok(())
        };
        try_again(&binding(scene.path(), "kid-1", OTHER_KEY)?).await?;
        let said = wait::until("the refusal", PATIENCE, async || {
            let told = failure(&center, "www").await?;
            ensure!(told.contains("key id kid-1"), "{told}");
            Ok(told)
        })
        .await?;
        ensure!(!said.contains(OTHER_KEY) && said.contains("get a new one"), "{said}");

        try_again(&binding(scene.path(), "kid-1", HMAC_KEY)?).await?;
        center.wait_until_issued("www", 1).await?;
        center.check_bundle("www").await?;
        // What has not changed is not shown as a change, although it is sealed afresh each time.
        let file = scene.path().join("fleet.toml").display().to_string();
        let again = center.cli().json(&["apply", "-f", &file, "--dry-run"]).await?;
        ensure!(again["changes"] == serde_json::json!([]), "{again}");
        Ok(())
    });
}

#[test]
fn a_binding_is_sent_once_wherever_the_coordinator_dies() {
    scene::play(async |scene| {
        for point in ["account::binding", "account::bound"] {
            let mut options = Options::new()?;
            options.pebble.external_accounts = vec![("kid-1".to_owned(), HMAC_KEY.to_owned())];
            let folder = scene.folder(&point.replace("::", "-"))?;
            let mut center = Center::prepare_in(&folder, options).await?;
            center.coordinator.set_failpoints(&format!("{point}=return"));
            center.coordinator.run().await?;
            let bound = binding(&folder, "kid-1", HMAC_KEY)?;
            let www = certificate("www", "pebble", "");
            // It may die before it can say that this is written, but not before it is.
            let _ = center.apply(&format!("{}{www}", issuer(&center, &bound))).await;
            center.coordinator.process()?.wait_for_end(PATIENCE).await?;
            center.coordinator.set_failpoints("");
            center.coordinator.run().await?;
            center.wait_until_issued("www", 1).await?;
            let seen = center.gate.seen();
            let bindings = seen.iter().filter(|seen| seen.binds).count();
            ensure!(bindings == 1, "{point}: it was sent {bindings} times: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn contacts_are_told_to_the_ca_when_they_change() {
    scene::play(async |scene| {
        let center = start(scene, |_| {}).await?;
        let declare = async |contact: &str| {
            let contacts = format!("contacts = [\"mailto:{contact}\"]");
            let www = certificate("www", "pebble", "");
            center.apply(&format!("{}{www}", issuer(&center, &contacts))).await
        };
        declare("ops@chancery.example").await?;
        center.wait_until_issued("www", 1).await?;
        // They came with the account.
        ensure!(center.gate.count(Endpoint::Account) == 0, "{:?}", center.gate.seen());
        declare("new@chancery.example").await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        center.wait_until_issued("www", 2).await?;
        ensure!(center.gate.succeeded(Endpoint::Account) == 1, "{:?}", center.gate.seen());
        center.cli().text(&["cert", "renew", "www"]).await?;
        center.wait_until_issued("www", 3).await?;
        ensure!(center.gate.count(Endpoint::Account) == 1, "{:?}", center.gate.seen());
        Ok(())
    });
}

#[test]
fn a_profile_is_asked_for_and_one_that_the_ca_does_not_have_is_refused_before_it_is() {
    scene::play(async |scene| {
        let profiles = vec![("tlsserver".to_owned(), 45 * DAY), ("shortlived".to_owned(), 6 * DAY)];
        let center = start(scene, |pebble| pebble.profiles = profiles).await?;
        let life = async |name: &str, generation: u64| -> Result<u64> {
            let shown = center.wait_until_issued(name, generation).await?;
            let at = |key: &str| -> Result<jiff::Timestamp> {
                Ok(shown[key].as_str().context("no time")?.parse()?)
            };
            let life = at("not_after")?.duration_since(at("not_before")?);
            Ok(u64::try_from(life.as_secs())?.div_ceil(DAY))
        };
        let declare = async |own: &str| {
            let issuer = issuer(&center, "profile = \"tlsserver\"");
            let short = certificate("short", "pebble", own);
            center.apply(&format!("{issuer}{}{short}", certificate("www", "pebble", ""))).await
        };
        declare("profile = \"shortlived\"").await?;
        ensure!(life("www", 1).await? == 45, "not the issuer's profile");
        ensure!(life("short", 1).await? == 6, "not its own profile");

        let orders = center.new_orders();
        declare("profile = \"shortest\"").await?;
        let told = failure(&center, "short").await?;
        ensure!(told.contains("default, shortlived, tlsserver"), "{told}");
        ensure!(center.new_orders() == orders, "it was ordered");
        // Not the one that it has, but one that there is: issued anew at once.
        declare("profile = \"default\"").await?;
        center.cli().text(&["cert", "renew", "short"]).await?;
        ensure!(life("short", 2).await? == 90, "not the profile that was declared last");
        Ok(())
    });
}

#[test]
fn the_chain_under_the_preferred_root_is_taken_if_there_is_one() {
    scene::play(async |scene| {
        let center = start(scene, |pebble| {
            let roots = ("PEBBLE_ALTERNATE_ROOTS".to_owned(), "2".to_owned());
            let length = ("PEBBLE_CHAIN_LENGTH".to_owned(), "2".to_owned());
            pebble.environment.extend([roots, length]);
        })
        .await?;
        let names = center.pebble.root_names().await?;
        ensure!(names.len() == 3, "{names:?}");
        let agent = center.join("web-1", &["role=web"]).await?;
        let mut generation = 0;
        for (preferred, expected) in
            [("Root of Nobody", &names[0]), (&names[2], &names[2]), (&names[0], &names[0])]
        {
            let issuer = issuer(&center, &format!("preferred_chain = {preferred:?}"));
            center.apply(&format!("{issuer}{}", certificate("www", "pebble", ""))).await?;
            if generation > 0 {
                center.cli().text(&["cert", "renew", "www"]).await?;
            }
            generation += 1;
            center.wait_until_issued("www", generation).await?;
            let bundle = agent.bundles().await?.pop().context("no bundle")?;
            ensure!(bundle.generation == generation && bundle.chain_der.len() == 2, "{bundle:?}");
            let last = CertificateDer::from(bundle.chain_der[1].as_ref());
            let top = chancery_shared::x509::Facts::of(&last)?.issuer;
            ensure!(top == *expected, "{top}, not {expected}");
        }
        let events = center.events("www").await?;
        ensure!(count(&events, "certificate.issued") == 3, "{events:?}");
        let remarks = events.iter().filter(|event| event.message.contains("Root of Nobody"));
        ensure!(remarks.count() == 1, "{events:?}");
        ensure!(server_name("www") == "www.chancery.example");
        Ok(())
    });
}

const DAY: u64 = 24 * 3600;
