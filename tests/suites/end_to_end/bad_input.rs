//! Whatever is wrong with a configuration, a key file, a port or a fleet file: one clear
//! message with what it is about and what to do, the right exit code, and nothing lost.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::coordinator::{Coordinator, Options};
use chancery_tests::process::{self, Said};
use chancery_tests::scene::{self, Scene};
use chancery_tests::{ports, wait};

use crate::center::Center;

async fn coordinator(scene: &Scene) -> Result<Coordinator> {
    Coordinator::prepare(&scene.folder("coordinator")?, Options::new(ports::free()?)).await
}

/// Runs `chancery-coordinator WORD` to its end, which must be a refusal with this exit code and
/// all these words. Nothing of it may look like a crash.
async fn refuses(coordinator: &Coordinator, word: &str, code: i32, words: &[&str]) -> Result<Said> {
    let said = process::run(&mut coordinator.command(word)?, wait::SOON).await?;
    is_refusal(&said, code, words)?;
    Ok(said)
}

fn is_refusal(said: &Said, code: i32, words: &[&str]) -> Result<()> {
    ensure!(said.status.code() == Some(code), "{said:?}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not in: {}", said.err);
    }
    ensure!(!said.err.contains("panicked") && !said.err.contains("RUST_BACKTRACE"), "{said:?}");
    Ok(())
}

/// An error unless the coordinator starts and answers.
async fn works(coordinator: &mut Coordinator) -> Result<()> {
    coordinator.run().await?;
    let status = coordinator.cli().json(&["status"]).await?;
    ensure!(status["store"]["healthy"] == true, "{status}");
    coordinator.process()?.stop(wait::SOON).await?;
    Ok(())
}

#[test]
fn a_broken_configuration_is_told_with_all_its_lines() {
    scene::play(async |scene| {
        let mut coordinator = coordinator(scene).await?;
        let path = coordinator.config().display().to_string();
        let good = fs::read_to_string(&path)?;

        fs::write(&path, "node = \"n\"\n[store\n")?;
        for word in ["run", "check", "init"] {
            refuses(&coordinator, word, 2, &[&format!("{path}:2: ")]).await?;
        }
        fs::write(&path, good.replace("[lease]", "[leese]"))?;
        refuses(&coordinator, "run", 2, &["leese: unknown key; known here:", "lease"]).await?;

        let bad = good
            .replace("node = \"node-1\"", "node = \"Node 1\"")
            .replace("concurrency = 8", "concurrency = 0\ncolour = \"red\"")
            .replace("ttl = \"5s\"", "ttl = \"soon\"");
        fs::write(&path, bad)?;
        let all =
            ["node = \"Node 1\"", "orders.concurrency", "orders.colour: unknown", "lease.ttl"];
        for word in ["run", "check"] {
            let said = refuses(&coordinator, word, 2, &all).await?;
            ensure!(said.err.matches(&format!("{path}:")).count() == 4, "{}", said.err);
        }
        fs::remove_file(&path)?;
        refuses(&coordinator, "run", 2, &[&path, "No such file"]).await?;

        fs::write(&path, good)?;
        process::run(&mut coordinator.command("check")?, wait::SOON).await?.success()?;
        works(&mut coordinator).await
    });
}

#[test]
fn without_its_seal_key_nothing_starts_and_nothing_is_lost() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        center.coordinator.process()?.stop(wait::SOON).await?;
        let coordinator = &center.coordinator;
        let path = coordinator.folder().join("seal.key");
        let shown = path.display().to_string();
        let key = fs::read(&path)?;

        fs::remove_file(&path)?;
        refuses(coordinator, "run", 2, &[&shown, "chancery-coordinator init"]).await?;
        write_key(&path, b"chancery-seal-key-v1:AAAA\n", 0o600)?;
        refuses(coordinator, "run", 2, &[&shown, "not a seal key file"]).await?;
        write_key(&path, &key, 0o644)?;
        refuses(coordinator, "run", 2, &[&shown, "0644", "chmod 600"]).await?;
        fs::remove_file(&path)?;
        process::run(&mut coordinator.command("init")?, wait::SOON).await?.success()?;
        let said = refuses(coordinator, "run", 2, &[&shown]).await?;
        ensure!(said.err.contains("another") || said.err.contains("wrong"), "{}", said.err);

        write_key(&path, &key, 0o600)?;
        center.coordinator.run().await?;
        center.check_bundle("www").await?;
        ensure!(center.new_orders() == 1, "{:?}", center.gate.orders());
        Ok(())
    });
}

fn write_key(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[test]
fn init_overwrites_nothing() {
    scene::play(async |scene| {
        let mut coordinator = coordinator(scene).await?;
        let key = coordinator.folder().join("seal.key");
        let before = fs::read(&key)?;
        let shown = key.display().to_string();
        let said = process::run(&mut coordinator.command("init")?, wait::SOON).await?;
        ensure!(!said.status.success() && said.err.contains(&shown), "{said:?}");
        ensure!(fs::read(&key)? == before, "the seal key was replaced");
        let mode = fs::metadata(&key)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        works(&mut coordinator).await
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    scene::play(async |scene| {
        let mut coordinator = coordinator(scene).await?;
        for (key, address) in [
            ("agents.listen", coordinator.agents_address()),
            ("http.listen", coordinator.http_address()),
            ("http01.listen", coordinator.http01_address()),
        ] {
            let taken = TcpListener::bind(address)?;
            let words = [key, &address.to_string(), "in use"];
            let said = refuses(&coordinator, "run", 2, &words).await?;
            ensure!(said.err.matches("in use").count() == 1, "told twice: {}", said.err);
            drop(taken);
        }
        works(&mut coordinator).await
    });
}

#[test]
fn a_store_has_one_coordinator_at_a_time() {
    scene::play(async |scene| {
        let mut first = coordinator(scene).await?;
        first.run().await?;
        let folder = scene.folder("second")?;
        let second = Coordinator::prepare(&folder, Options::new(ports::free()?)).await?;
        let store = |coordinator: &Coordinator| coordinator.folder().join("store.redb");
        let (mine, theirs) = (store(&second), store(&first));
        let config = fs::read_to_string(second.config())?;
        let (mine, theirs) = (mine.display().to_string(), theirs.display().to_string());
        fs::write(second.config(), config.replace(&mine, &theirs))?;
        refuses(&second, "run", 1, &[&theirs, "another"]).await?;
        let status = first.cli().json(&["status"]).await?;
        ensure!(status["store"]["healthy"] == true, "{status}");
        Ok(())
    });
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    scene::play(async |scene| {
        let mut coordinator = coordinator(scene).await?;
        let path = coordinator.config();
        let good = fs::read_to_string(&path)?;
        let store = coordinator.folder().join("store.redb").display().to_string();
        // A file where a folder should be: that stops root, too.
        let blocked = coordinator.folder().join("seal.key").join("store.redb");
        let blocked = blocked.display().to_string();
        fs::write(&path, good.replace(&store, &blocked))?;
        refuses(&coordinator, "run", 1, &[&blocked]).await?;
        let missing = coordinator.folder().join("no/such/folder/store.redb");
        let missing = missing.display().to_string();
        fs::write(&path, good.replace(&store, &missing))?;
        refuses(&coordinator, "run", 1, &[&missing]).await?;

        fs::write(&store, "this is no store")?;
        fs::write(&path, &good)?;
        refuses(&coordinator, "run", 1, &[&store]).await?;
        ensure!(fs::read(&store)? == b"this is no store", "a foreign file was overwritten");
        fs::remove_file(&store)?;
        works(&mut coordinator).await
    });
}

#[test]
fn bad_fleet_files_change_nothing() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let good = center.declaration(&["www"])?;
        let bad = |text: &str| good.replace("identifiers = [\"www.chancery.example\"]", text);
        for (text, code, words) in [
            (
                bad("identifiers = [\"a.example\", \"A.example\"]"),
                2,
                &["fleet.toml:9", "identifiers = \"A.example\"", "stands at", "leave one out"][..],
            ),
            (
                bad("identifiers = [\"-bad-.example\"]"),
                2,
                &["identifiers = \"-bad-.example\"", "not valid"],
            ),
            (
                good.replace("name = \"www\"", "name = \"Web Server\""),
                2,
                &["name = \"Web Server\"", "not valid; use 1 to 63 of a-z"],
            ),
            (
                good.replace("issuers = [\"pebble\"]", "issuers = [\"elsewhere\"]"),
                2,
                &["certificate \"www\": issuer \"elsewhere\" is not declared", "add an [[issuer]]"],
            ),
            (
                bad("identifier = [\"www.chancery.example\"]"),
                2,
                &["identifier: this key is not known; did you mean identifiers?"],
            ),
            ("[[certificate]\n".to_owned(), 2, &["fleet.toml:1: this is not TOML"]),
        ] {
            let file = scene.path().join("fleet.toml");
            fs::write(&file, text)?;
            refused_apply(&center, &file, code, words).await?;
        }
        let missing = scene.path().join("none.toml");
        let words = ["none.toml: there is no such file"];
        refused_apply(&center, &missing, 2, &words).await?;

        let events = center.cli().json(&["event", "list"]).await?.to_string();
        ensure!(events.matches("config.applied").count() == 2, "something was changed: {events}");
        let file = scene.path().join("fleet.toml");
        fs::write(&file, &good)?;
        let file = file.display().to_string();
        let plan = center.cli().json(&["apply", "-f", &file, "--dry-run"]).await?;
        ensure!(plan["changes"] == serde_json::json!([]) && plan["unchanged"] == 2, "{plan}");
        center.check_bundle("www").await?;
        ensure!(center.new_orders() == 1, "{:?}", center.gate.orders());
        Ok(())
    });
}

async fn refused_apply(center: &Center, file: &Path, code: i32, words: &[&str]) -> Result<()> {
    let shown = file.display().to_string();
    let said = center.cli().run(&["apply", "-f", &shown, "--yes"]).await?;
    is_refusal(&said, code, words)
}

#[test]
fn a_name_that_nobody_has_is_told_apart_from_a_coordinator_that_is_not_there() {
    scene::play(async |scene| {
        let mut coordinator = coordinator(scene).await?;
        let socket = coordinator.socket().display().to_string();
        let said = coordinator.cli().run(&["status"]).await?;
        is_refusal(&said, 3, &[&socket, "running"])?;
        coordinator.run().await?;
        let said = coordinator.cli().run(&["cert", "show", "nobody"]).await?;
        is_refusal(&said, 4, &["nobody"])?;
        let said = coordinator.cli().run(&["agent", "remove", "nobody", "--yes"]).await?;
        is_refusal(&said, 4, &["nobody"])?;
        let said = coordinator.cli().run(&["cert", "show", "No Body"]).await?;
        is_refusal(&said, 2, &["No Body", "use 1 to 63 of a-z"])?;
        coordinator.process()?.kill_9()?;
        // The socket's file is still there, and nobody behind it.
        let said = coordinator.cli().run(&["status"]).await?;
        is_refusal(&said, 3, &[&socket, "not running"])?;
        coordinator.run().await.context("the left-over socket is in the way")?;
        Ok(())
    });
}
