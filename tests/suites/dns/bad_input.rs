//! What is wrong is told in one message with what to do about it.

use anyhow::{Result, ensure};
use chancery_tests::dns::{Bind, TsigKey};
use chancery_tests::scene::{self, Scene};
use chancery_tests::{process, wait};

use crate::stage::{Stage, certificate, rfc2136};

const ZONE: &str = "chancery.example";

async fn bind(scene: &Scene) -> Result<Bind> {
    let more = "_acme-challenge.loop CNAME a\na CNAME b\nb CNAME _acme-challenge.loop\n";
    Bind::start(&scene.folder("bind")?, &[(ZONE, more)]).await
}

/// Declares a certificate for one name with one provider; all words must be in what the operator reads.
async fn tells(
    scene: &Scene,
    bind: &Bind,
    provider: &str,
    identifier: &str,
    words: &[&str],
) -> Result<()> {
    let stage = Stage::start(scene, bind.address(), provider).await?;
    stage.declare("www", &[identifier], "").await?;
    let told = stage.wait_until_failed("www").await?;
    for word in words {
        ensure!(told.contains(word), "{word:?} is not in {told}");
    }
    Ok(())
}

#[test]
fn a_key_with_another_secret_is_told_as_that() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let secret = TsigKey::new("wrong").secret;
        let key = TsigKey { secret: secret.clone(), ..bind.key().clone() }.write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
        let path = key.display().to_string();
        let words = ["DNS provider bind", "does not accept the TSIG key", &path];
        tells(scene, &bind, &provider, "www.chancery.example", &words).await?;
        let log = std::fs::read_to_string(scene.path().join("coordinator/coordinator.log"))?;
        ensure!(!log.contains(&secret), "the secret is in the log");
        Ok(())
    });
}

#[test]
fn a_key_without_a_right_is_told_as_that() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let key = TsigKey::new("other").write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
        let words = ["does not let the TSIG key", "update-policy"];
        tells(scene, &bind, &provider, "www.chancery.example", &words).await
    });
}

#[test]
fn a_circle_of_cnames_is_told_as_that() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]);
        let words = ["circle", "_acme-challenge.loop.chancery.example -> a.chancery.example"];
        tells(scene, &bind, &provider, "loop.chancery.example", &words).await
    });
}

#[test]
fn a_name_that_no_provider_has_is_told_as_that() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &["else.example"]);
        let words = ["no DNS provider is responsible", "bind for else.example", "[dns.NAME]"];
        tells(scene, &bind, &provider, "www.chancery.example", &words).await
    });
}

#[test]
fn a_zone_that_is_not_delegated_is_told_as_that() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let key = bind.key().write(scene.path())?;
        let provider = rfc2136("bind", bind.address(), &key, &["sub.chancery.example"]);
        let words = ["no zone for", "sub.chancery.example", "delegated"];
        tells(scene, &bind, &provider, "www.sub.chancery.example", &words).await
    });
}

#[test]
fn a_server_that_never_gets_the_value_is_named() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let other = Bind::start(&scene.folder("other")?, &[(ZONE, "")]).await?;
        let key = bind.key().write(scene.path())?;
        let both = format!("name_servers = [\"{}\", \"{}\"]", bind.address(), other.address());
        let one = format!("name_servers = [\"{}\"]", bind.address());
        let provider = rfc2136("bind", bind.address(), &key, &[ZONE]).replace(&one, &both);
        let stage = Stage::prepare(scene, bind.address(), &provider, |options| {
            options.more = options.more.replace("\"20s\"", "\"2s\"");
        });
        let mut stage = stage.await?;
        stage.coordinator.run().await?;
        stage.declare("www", &["www.chancery.example"], "").await?;
        let told = stage.wait_until_failed("www").await?;
        let server = format!("{} has no TXT there", other.address());
        for word in [&server, "dns01.propagation_deadline"] {
            ensure!(told.contains(word), "{word:?} is not in {told}");
        }
        // The CA was not told, and the value is gone again after the order.
        ensure!(stage.gate.count(chancery_tests::gate::Endpoint::Challenge) == 0, "told too early");
        stage.wait_until_txt("_acme-challenge.www.chancery.example", &[]).await
    });
}

#[test]
fn a_wildcard_without_dns_01_is_refused_at_once() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let stage = Stage::start(scene, bind.address(), "").await?;
        let text = certificate("www", &["*.chancery.example"], "")
            .replace("challenges = [\"dns-01\"]", "challenges = [\"http-01\"]");
        let file = scene.path().join("wild.toml");
        std::fs::write(&file, stage.document(&text)?)?;
        let file = file.display().to_string();
        let said = stage.coordinator.cli().run(&["apply", "-f", &file, "--yes"]).await?;
        ensure!(!said.status.success(), "{said:?}");
        ensure!(said.err.contains("add \"dns-01\" to its challenges"), "{}", said.err);
        Ok(())
    });
}

#[test]
fn a_provider_that_cannot_be_used_stops_the_start_with_a_reason() {
    scene::play(async |scene| {
        let bind = bind(scene).await?;
        let missing = scene.path().join("missing.key");
        let providers = rfc2136("bind", bind.address(), &missing, &[ZONE])
            + "\n[dns.hook]\nkind = \"exec\"\ncommand = \"hook\"\n";
        let stage = Stage::prepare(scene, bind.address(), &providers, |_| {}).await?;
        for word in ["check", "run"] {
            let mut command = stage.coordinator.command(word)?;
            let said = process::run(&mut command, wait::SOON).await?;
            ensure!(said.status.code() == Some(2), "{said:?}");
            for word in ["dns.bind: ", "missing.key cannot be read", "dns.hook: command"] {
                ensure!(said.err.contains(word), "{word:?} is not in {}", said.err);
            }
        }
        Ok(())
    });
}
