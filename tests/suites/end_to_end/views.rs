//! The same truth in every table, document and metric.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::cli::Cli;
use chancery_tests::world::World;
use chancery_tests::{scene, tls_client, wait};
use http::StatusCode;
use serde_json::Value;

use crate::look::{AGENT, metric, renew, wait_for_agent, wait_for_state, world_with};

/// The rows of a table, each as its words, without the head.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn tables_documents_and_metrics_tell_the_same() {
    scene::play(async |scene| {
        let world = world_with(scene, &["www", "api"]).await?;
        let cli = world.cli();
        let address = [world.coordinator.agents_address()];
        // One that has joined and does nothing, and one that is away.
        let idle = Agent::prepare(&scene.folder("idle")?, "idle", &address, &[])?;
        idle.join(&cli.token("idle", &["role=idle"]).await?).await?.success()?;
        let mut away = Agent::prepare(&scene.folder("away")?, "away", &address, &[])?;
        away.join(&cli.token("away", &["role=web"]).await?).await?.success()?;
        away.run()?;
        for name in ["www", "api"] {
            wait_for_state(&cli, name, "away", "installed").await?;
        }
        away.process()?.stop(wait::SOON).await?;
        wait_for_agent(&cli, "away", "disconnected").await?;
        world.nginx.spoil_config()?;
        let generation = renew(&cli, "www").await?;
        wait_for_state(&cli, "www", AGENT, "test-failed").await?;

        let listed = cli.json(&["cert", "list"]).await?;
        let table = cli.text(&["cert", "list"]).await?;
        let certificates = listed["certificates"].as_array().context("no list")?;
        ensure!(certificates.len() == 2 && rows(&table).len() == 2, "{listed} {table}");
        for (document, row) in certificates.iter().zip(rows(&table)) {
            ensure!(
                row[0] == document["name"] && row[1] == document["state"],
                "{document} {row:?}"
            );
            let agents =
                format!("{}/{}", document["agents_installed"], document["agents_entitled"]);
            ensure!(row.contains(&agents.as_str()), "{document} {row:?}");
            ensure!(row.last().is_some_and(|last| document["issuer"] == *last), "{row:?}");
            let one = cli.certificate(row[0]).await?;
            for field in ["state", "generation", "not_after", "agents_installed"] {
                ensure!(one[field] == document[field], "{field}: {one} {document}");
            }
            check_certificate_metrics(&world, document).await?;
        }
        let listed = cli.json(&["agent", "list"]).await?;
        let table = cli.text(&["agent", "list"]).await?;
        let agents = listed["agents"].as_array().context("no list")?;
        ensure!(agents.len() == 3 && rows(&table).len() == 3, "{listed} {table}");
        let mut states = BTreeMap::from([("joined", 0), ("connected", 0), ("disconnected", 0)]);
        for (document, row) in agents.iter().zip(rows(&table)) {
            ensure!(
                row[0] == document["name"] && row[1] == document["state"],
                "{document} {row:?}"
            );
            let installed = format!("{}/{}", document["installed"], document["certificates"]);
            ensure!(row.contains(&installed.as_str()), "{document} {row:?}");
            *states.entry(row[1]).or_default() += 1;
        }
        ensure!(states.values().all(|count| *count == 1), "{states:?}");
        for (state, count) in states {
            let series = format!("chancery_agents{{state={state:?}}}");
            ensure!(
                metric(&world.coordinator, &series).await? == Some(f64::from(count)),
                "{series}"
            );
        }
        // An agent may report between two looks: they have to agree at some moment.
        wait::until("one status", wait::SOON, async || check_status(&world).await).await?;
        check_metrics(&world).await?;

        world.nginx.configure(&world.sites(&["www", "api"]))?;
        away.run()?;
        world.wait_until_installed("www", generation).await?;
        Ok(())
    });
}

async fn check_certificate_metrics(world: &World, document: &Value) -> Result<()> {
    let labels = format!("{{certificate={}}}", document["name"]);
    let end: jiff::Timestamp = document["not_after"].as_str().context("no end")?.parse()?;
    for (family, wanted) in [
        ("chancery_certificate_not_after_timestamp_seconds", end.as_second().to_string()),
        ("chancery_certificate_generation", document["generation"].to_string()),
    ] {
        let series = format!("{family}{labels}");
        let value = metric(&world.coordinator, &series).await?.with_context(|| series.clone())?;
        ensure!(format!("{value:.0}") == wanted, "{series} is {value}, not {wanted}");
    }
    Ok(())
}

async fn check_status(world: &World) -> Result<()> {
    let cli = world.cli();
    let document = cli.json(&["status"]).await?;
    let said = cli.run(&["status"]).await?;
    ensure!(said.status.code() == Some(10) && document["healthy"] == false, "{said:?} {document}");
    let number = |of: &str, what: &str| document[of][what].as_u64().unwrap_or(u64::MAX);
    for line in [
        format!("{} of {} connected", number("agents", "connected"), number("agents", "total")),
        format!(
            "{} of {} installed, {} in progress, {} failed",
            number("deployments", "installed"),
            number("deployments", "total"),
            number("deployments", "in_progress"),
            number("deployments", "failed"),
        ),
        format!(
            "{}: {} valid, {} pending, {} failing, {} expired",
            number("certificates", "total"),
            number("certificates", "valid"),
            number("certificates", "pending"),
            number("certificates", "failing"),
            number("certificates", "expired"),
        ),
    ] {
        ensure!(said.out.contains(&line), "{line:?} is not in {}", said.out);
    }
    for problem in document["problems"].as_array().context("no problems")? {
        let problem = problem.as_str().context("not a text")?;
        ensure!(said.out.contains(problem), "{problem:?} is not in {}", said.out);
    }
    let lease = cli.json(&["lease", "show"]).await?;
    ensure!(lease["held"] == true && lease["is_self"] == true, "{lease}");
    ensure!(lease["epoch"] == document["lease"]["epoch"], "{lease} {document}");
    let table = cli.text(&["lease", "show"]).await?;
    ensure!(table.contains("node-1") && table.contains(&lease["epoch"].to_string()), "{table}");
    Ok(())
}

async fn check_metrics(world: &World) -> Result<()> {
    let document = world.cli().json(&["status"]).await?;
    let count = |value: &Value| value.as_u64().unwrap_or(u64::MAX).to_string();
    for (series, wanted) in [
        ("chancery_certificates", count(&document["certificates"]["total"])),
        ("chancery_certificates_due", "0".to_owned()),
        ("chancery_certificates_failing", "0".to_owned()),
        ("chancery_orders_running", count(&document["certificates"]["orders_running"])),
        ("chancery_orders_total{issuer=\"pebble\",outcome=\"issued\"}", "3".to_owned()),
        ("chancery_lease_held", "1".to_owned()),
        ("chancery_lease_epoch", count(&document["lease"]["epoch"])),
        ("chancery_deployments{state=\"test-failed\"}", "1".to_owned()),
        ("chancery_deployments{state=\"installed\"}", "3".to_owned()),
        ("chancery_deployments{state=\"withdrawn\"}", "0".to_owned()),
        ("chancery_store_followed", "1".to_owned()),
    ] {
        let value = metric(&world.coordinator, series).await?.with_context(|| series.to_owned())?;
        ensure!(format!("{value:.0}") == wanted, "{series} is {value}, not {wanted}");
    }
    let remaining = metric(&world.coordinator, "chancery_lease_remaining_seconds").await?;
    ensure!(remaining.is_some_and(|left| left > 0.0 && left <= 5.0), "{remaining:?}");
    let metrics = world.coordinator.metrics().await?;
    ensure!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
    for path in ["/livez", "/readyz"] {
        let (status, body) = tls_client::get_plain(world.coordinator.http_address(), path).await?;
        ensure!(status == StatusCode::OK, "{path}: {status} {body}");
    }
    let nowhere = tls_client::get_plain(world.coordinator.http_address(), "/").await?.0;
    ensure!(nowhere == StatusCode::NOT_FOUND, "{nowhere}");
    Ok(())
}

#[test]
fn completions_need_no_coordinator_and_know_every_command() {
    scene::play(async |scene| {
        let cli = Cli::new(&scene.path().join("no.sock"));
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = cli.text(&["completions", shell]).await?;
            for word in ["status", "apply", "renew", "token", "prune", "rotate"] {
                ensure!(script.contains(word), "{word} is not in the script for {shell}");
            }
        }
        let said = cli.run(&["status"]).await?;
        ensure!(said.status.code() == Some(3) && said.err.contains("no.sock"), "{said:?}");
        Ok(())
    });
}
