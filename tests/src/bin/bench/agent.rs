//! The agent: how big it is, and what it needs while nothing changes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chancery_tests::scene::Scene;
use chancery_tests::world::{Options, World};
use chancery_tests::{tools, usage};

use crate::report::{self, Report, Row};

const WATCHED: Duration = Duration::from_secs(20);

/// An agent with ten certificates installed.
pub(crate) async fn measure() -> Result<Report> {
    let program = tools::binary("chancery-agent")?;
    let size = fs::metadata(&program)
        .with_context(|| format!("{} cannot be read", program.display()))?
        .len();
    let lego = fs::metadata(tools::tool("lego")?)?.len();

    report::progress("an agent with ten certificates");
    let scene = Scene::new()?;
    let mut world = World::start(&scene, Options::new()?).await?;
    let names: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.declare(&names).await?;
    for name in &names {
        world.wait_until_installed(name, 1).await?;
    }
    let process = world.agent.process()?.id();
    report::progress(&format!("watching it for {} s", WATCHED.as_secs()));
    let before = usage::cpu(process)?;
    tokio::time::sleep(WATCHED).await;
    let idle = usage::cpu(process)?.saturating_sub(before);
    let per_hour = idle.as_secs_f64() * 3600.0 / WATCHED.as_secs_f64();
    let rows = vec![
        Row::new("program, stripped", "MB", megabytes(size))
            .beside("lego", megabytes(lego))
            .target("under 10"),
        Row::new("resident while idle", "MB", megabytes(usage::resident(process)?))
            .target("under 10"),
        Row::new("resident at most", "MB", megabytes(usage::resident_peak(process)?)),
        Row::new("CPU while idle", "s/h", per_hour).target("0"),
    ];
    let about = "an agent with ten certificates installed, connected, nothing changing".to_owned();
    Ok(Report::new("agent", about, rows))
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_000_000.0
}
