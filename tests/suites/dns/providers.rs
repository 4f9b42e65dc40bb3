//! Providers other than RFC 2136.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use chancery_tests::dns::{API_KEY, Bind, PowerDns};
use chancery_tests::scene::{self, Scene};
use chancery_tests::tools;

use crate::stage::Stage;

const ZONE: &str = "chancery.example";

fn powerdns(scene: &Scene, server: &PowerDns, key: &str) -> Result<String> {
    let file = scene.path().join("api.key");
    fs::write(&file, key)?;
    Ok(format!(
        "\n[dns.pdns]\nkind = \"powerdns\"\nurl = \"{}\"\napi_key_file = \"{}\"\n\
         zones = [\"{ZONE}\"]\nname_servers = [\"{}\"]\n",
        server.url(),
        file.display(),
        server.address()
    ))
}

#[test]
fn powerdns_is_changed_through_its_api() {
    scene::play(async |scene| {
        let server = PowerDns::start(&scene.folder("pdns")?, &[ZONE]).await?;
        let provider = powerdns(scene, &server, API_KEY)?;
        let stage = Stage::start(scene, server.address(), &provider).await?;
        stage.declare("www", &[ZONE, "*.chancery.example"], "").await?;
        stage.wait_until_issued("www", 1).await?;
        stage.wait_until_txt("_acme-challenge.chancery.example", &[]).await
    });
}

#[test]
fn powerdns_with_a_wrong_key_is_told_and_a_new_key_needs_no_restart() {
    scene::play(async |scene| {
        let server = PowerDns::start(&scene.folder("pdns")?, &[ZONE]).await?;
        let provider = powerdns(scene, &server, "not-the-key")?;
        let stage = Stage::start(scene, server.address(), &provider).await?;
        stage.declare("www", &["www.chancery.example"], "").await?;
        let told = stage.wait_until_failed("www").await?;
        ensure!(told.contains("does not accept the credentials in"), "{told}");
        fs::write(scene.path().join("api.key"), API_KEY)?;
        stage.wait_until_issued("www", 1).await?;
        Ok(())
    });
}

#[test]
fn a_hook_that_lego_would_call_sets_the_value() {
    scene::play(async |scene| {
        let bind = Bind::start(&scene.folder("bind")?, &[(ZONE, "")]).await?;
        let key = bind.key().write(scene.path())?;
        let script = scene.path().join("hook");
        let text = format!(
            "#!/bin/sh\ncase $1 in present) verb=add ttl=60 ;; *) verb=delete ttl= ;; esac\n\
             printf 'server 127.0.0.1 {}\\nzone {ZONE}\\nupdate %s %s %s TXT %s\\nsend\\n' \
             $verb \"$2\" \"$ttl\" \"$3\" | {} -k {}\n",
            bind.address().port(),
            tools::tool("nsupdate")?.display(),
            key.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let provider = format!(
            "\n[dns.hook]\nkind = \"exec\"\ncommand = \"{}\"\nname_servers = [\"{}\"]\n",
            script.display(),
            bind.address()
        );
        let stage = Stage::start(scene, bind.address(), &provider).await?;
        stage.declare("www", &[ZONE, "*.chancery.example"], "").await?;
        stage.wait_until_issued("www", 1).await?;
        stage.wait_until_txt("_acme-challenge.chancery.example", &[]).await
    });
}
