//! One coordinator on the embedded store: from nothing to two served certificates, then a renewal
//! under load.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::{Agent, Service};
use chancery_tests::cli::Cli;
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::nginx::{Nginx, Site};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::tls_client::{self, Trust, Visitor};
use chancery_tests::{ports, tools, wait, world};

use crate::screen::Screen;
use crate::{keep, show};

/// All that runs in the demo. Dropped from the top: those who ask before those who answer.
struct Stage {
    agent: Agent,
    coordinator: Coordinator,
    nginx: Nginx,
    pebble: Pebble,
    scene: Scene,
}

const CERTIFICATES: [&str; 2] = ["www", "api"];

pub(crate) async fn play(screen: &Screen, keep: bool) -> Result<()> {
    let stage = set_up(screen).await?;
    if let Err(error) = perform(screen, &stage).await {
        screen.logs(stage.scene.path());
        return Err(error);
    }
    if keep { leave_running(screen, stage) } else { clean_up(screen, stage).await }
}

/// Starts everything that is there before the first certificate.
async fn set_up(screen: &Screen) -> Result<Stage> {
    let scene = Scene::new()?;
    let http01 = ports::free()?;
    let mut options = pebble::Options::new(http01);
    options.refused_nonces = 5;
    let pebble = Pebble::start(&scene.folder("pebble")?, &options).await?;
    screen.step(format!("Pebble, an ACME certificate authority, at {}", pebble.directory()));
    let nginx = Nginx::start(&scene.folder("nginx")?, &[]).await?;
    screen.step("nginx, still without any certificate");

    let options = coordinator::Options::new(http01);
    let coordinator = Coordinator::start(&scene.folder("coordinator")?, options).await?;
    screen.step(format!("a coordinator; metrics at http://{}/metrics", coordinator.http_address()));
    screen.command("chancery agent token create --name web-1 --label role=web");
    let token = coordinator.cli().token("web-1", &["role=web"]).await?;
    let service = Service {
        name: "nginx".to_owned(),
        test: nginx.test_command(),
        reload: nginx.reload_command(),
        probe: Some(nginx.address()),
    };
    let addresses = [coordinator.agents_address()];
    let mut agent = Agent::prepare(&scene.folder("agent")?, "web-1", &addresses, &[service])?;
    agent.join(&token).await?.success().context("the agent could not join")?;
    agent.run()?;
    screen.step("an agent, joined with that token; it looks after nginx");
    Ok(Stage { agent, coordinator, nginx, pebble, scene })
}

/// What the demo is about.
async fn perform(screen: &Screen, stage: &Stage) -> Result<()> {
    let cli = stage.coordinator.cli();
    let declaration = world::declaration(
        &stage.pebble.directory(),
        stage.pebble.https_root_path(),
        &CERTIFICATES,
    )?;
    let file = stage.scene.path().join("fleet.toml");
    fs::write(&file, &declaration)?;
    let sites: Vec<Site> = CERTIFICATES
        .iter()
        .map(|name| Site::installed(&world::server_name(name), &stage.agent.installed(name)))
        .collect();
    stage.nginx.configure(&sites)?;
    screen.title("Two certificates are declared");
    screen.text(&declaration);
    show::run(screen, &cli, &["apply", "-f", show::path(&file)?, "--yes"]).await?;

    screen.title("They are ordered, validated, issued, installed and probed");
    show::progress(screen, &cli, &CERTIFICATES).await?;
    show::run(screen, &cli, &["status"]).await?;
    show::run(screen, &cli, &["cert", "show", CERTIFICATES[0]]).await?;

    screen.title("What a TLS client sees that trusts Pebble's root and nothing else");
    let trust = Trust::Roots(stage.pebble.issuing_root().await?);
    for name in CERTIFICATES.map(world::server_name) {
        let served = tls_client::served(stage.nginx.address(), &name, &trust).await?;
        show::chain(screen, &name, &served)?;
    }
    renew(screen, stage, &cli, &trust).await
}

/// Renews one certificate while a visitor asks for it without pause.
async fn renew(screen: &Screen, stage: &Stage, cli: &Cli, trust: &Trust) -> Result<()> {
    let (certificate, address) = (CERTIFICATES[0], stage.nginx.address());
    let name = world::server_name(certificate);
    let before = tls_client::served(address, &name, trust).await?;
    screen.title("A renewal, while a visitor asks nginx again and again");
    let visitor = Visitor::start(address, &name, trust)?;
    show::run(screen, cli, &["cert", "renew", certificate, "--wait"]).await?;
    let after = tls_client::served(address, &name, trust).await?;
    ensure!(after.leaf.serial != before.leaf.serial, "nginx still serves {}", before.leaf.serial);
    let tally = visitor.stop_after(50).await?;
    screen.text(&format!(
        "  serial before  {}\n  serial after   {}",
        before.leaf.serial, after.leaf.serial
    ));
    for (serial, count) in &tally.serials {
        screen.text(&format!("  {count:>6} requests were answered with {serial}"));
    }
    if let Some(first) = tally.failures.first() {
        anyhow::bail!("{} requests were lost; the first: {first}", tally.failures.len());
    }
    screen.step(format!("{} requests, none lost", tally.answered));
    Ok(())
}

async fn clean_up(screen: &Screen, mut stage: Stage) -> Result<()> {
    stage.agent.process()?.stop(wait::SOON).await.context("the agent did not end")?;
    stage.coordinator.process()?.stop(wait::SOON).await.context("the coordinator did not end")?;
    drop(stage);
    screen.step("all stopped, all files removed");
    Ok(())
}

/// Lets everything run on, and says how to use and how to end it.
fn leave_running(screen: &Screen, mut stage: Stage) -> Result<()> {
    let mut ids = stage.pebble.leave_running().to_vec();
    let processes = [stage.agent.process()?, stage.coordinator.process()?, stage.nginx.process()];
    for process in processes {
        process.leave_running();
        ids.push(process.id());
    }
    let socket = stage.coordinator.socket();
    let address = stage.nginx.address();
    let folder = stage.scene.keep();
    let stop = keep::stop_script(&folder, &ids)?;
    let chancery = tools::binary("chancery")?;
    screen.title("It runs on");
    screen.text(&format!(
        "  Ask it      export CHANCERY_SOCKET={}\n              {} status\n  \
         Visit it    https://{address} as {}\n  Files       {}\n  Stop it     sh {}",
        socket.display(),
        chancery.display(),
        CERTIFICATES.map(world::server_name).join(" or "),
        folder.display(),
        stop.display()
    ));
    Ok(())
}
