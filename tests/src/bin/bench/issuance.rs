//! Many certificates at once, beside lego.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::{ports, usage, wait, world};
use tokio::time::Instant;

use crate::lego::{self, Took};
use crate::report::{self, Report, Row};

const CERTIFICATES: u32 = 200;

/// Each side has a Pebble of its own, fresh, that takes every challenge as met.
pub(crate) async fn measure() -> Result<Report> {
    let scene = Scene::new()?;
    report::progress(&format!("{CERTIFICATES} certificates by lego"));
    let peer = lego(&scene).await?;
    report::progress(&format!("they took {:.1} s; now by Chancery", peer.time.as_secs_f64()));
    let ours = chancery(&scene).await?;
    let count = f64::from(CERTIFICATES);
    let rate = |took: &Took| count / took.time.as_secs_f64();
    let cpu = |took: &Took| took.cpu.as_secs_f64() * 1000.0 / count;
    let rows = vec![
        Row::new("certificates per second", "1/s", rate(&ours))
            .beside("lego", rate(&peer))
            .target("at least 5x"),
        Row::new("client CPU per certificate", "ms", cpu(&ours))
            .beside("lego", cpu(&peer))
            .target("at most 0.2x"),
    ];
    let about = format!(
        "{CERTIFICATES} certificates from Pebble (always valid, no sleep), lego with {} processes",
        lego::PROCESSES
    );
    Ok(Report::new("issuance", about, rows))
}

async fn start_pebble(scene: &Scene, name: &str, http01: std::net::SocketAddr) -> Result<Pebble> {
    let mut options = pebble::Options::new(http01);
    options.always_valid = true;
    // Every order has an authorization of its own to do, on both sides.
    options.environment = vec![("PEBBLE_AUTHZREUSE".to_owned(), "0".to_owned())];
    Pebble::start(&scene.folder(name)?, &options).await
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("c{number:04}")).collect()
}

async fn chancery(scene: &Scene) -> Result<Took> {
    let http01 = ports::free()?;
    let pebble = start_pebble(scene, "pebble-chancery", http01).await?;
    let mut options = coordinator::Options::new(http01);
    "warn".clone_into(&mut options.log);
    // What a coordinator does by default; the tests' own default is smaller.
    options.concurrency = 32;
    let mut coordinator = Coordinator::start(&scene.folder("coordinator")?, options).await?;
    let cli = coordinator.cli();
    // The first certificate makes the account, which is not counted on either side.
    let declare = |count: u32| {
        let names = names(count);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        world::declaration(&pebble.directory(), pebble.https_root_path(), &names)
    };
    cli.apply(scene.path(), &declare(1)?).await?;
    wait_for_valid(&mut coordinator, 1).await?;

    let process = coordinator.process()?.id();
    let (start, cpu) = (Instant::now(), usage::cpu(process)?);
    cli.apply(scene.path(), &declare(CERTIFICATES + 1)?).await?;
    wait_for_valid(&mut coordinator, CERTIFICATES + 1).await?;
    Ok(Took { time: start.elapsed(), cpu: usage::cpu(process)?.saturating_sub(cpu) })
}

async fn wait_for_valid(coordinator: &mut Coordinator, wanted: u32) -> Result<()> {
    let cli = coordinator.cli();
    let what = format!("{wanted} certificates");
    wait::until(&what, Duration::from_mins(5), async || {
        let status = cli.json(&["status"]).await?;
        let valid = status["certificates"]["valid"].as_u64().context("no count")?;
        ensure!(valid >= u64::from(wanted), "{valid} are valid");
        Ok(())
    })
    .await
}

async fn lego(scene: &Scene) -> Result<Took> {
    let pebble = start_pebble(scene, "pebble-lego", ports::free()?).await?;
    let names = names(CERTIFICATES).iter().map(|name| world::server_name(name)).collect();
    lego::issue(scene.path(), &pebble, names).await
}
