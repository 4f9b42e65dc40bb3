//! From the commit of a new generation to its installation on one agent.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::scene::Scene;
use chancery_tests::world::{Options, World};
use jiff::Timestamp;

use crate::report::{self, Report, Row};

const RENEWALS: usize = 100;

/// Renews one certificate again and again. Coordinator and agent share a clock here.
pub(crate) async fn measure() -> Result<Report> {
    let scene = Scene::new()?;
    let mut options = Options::new()?;
    options.pebble.always_valid = true;
    "warn".clone_into(&mut options.coordinator.log);
    let world = World::start(&scene, options).await?;
    world.declare(&["www"]).await?;
    let mut shown = world.wait_until_installed("www", 1).await?;
    report::progress(&format!("{RENEWALS} renewals of one certificate"));
    let mut took = Vec::new();
    for _ in 0..RENEWALS {
        let generation = shown["generation"].as_u64().context("no generation")? + 1;
        world.cli().text(&["cert", "renew", "www"]).await?;
        shown = world.wait_until_installed("www", generation).await?;
        let issued = issued_at(&world).await?;
        let installed = time(&shown["deployments"][0]["changed_at"])?;
        took.push(installed.duration_since(issued).as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    ensure!(took[0] > 0.0, "the clocks of coordinator and agent disagree: {took:?}");
    let rows = vec![
        Row::new("median", "ms", took[RENEWALS / 2]),
        Row::new("99 of 100", "ms", took[RENEWALS * 99 / 100 - 1]),
        Row::new("longest", "ms", took[RENEWALS - 1]),
    ];
    let about = format!(
        "{RENEWALS} renewals, from the commit to installed, tested, reloaded and seen served by \
         nginx; the agent waits 100 ms for more to come"
    );
    Ok(Report::new("delivery", about, rows))
}

/// When the newest generation was committed.
async fn issued_at(world: &World) -> Result<Timestamp> {
    let events = world.cli().json(&["event", "list", "--subject", "www"]).await?;
    let events = events["events"].as_array().context("no events")?;
    let issued = events.iter().find(|event| event["kind"] == "certificate.issued");
    time(&issued.context("no event certificate.issued")?["at"])
}

fn time(value: &serde_json::Value) -> Result<Timestamp> {
    value.as_str().context("no time")?.parse().context("not a time")
}
