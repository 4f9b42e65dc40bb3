//! `cargo xtask demo`: from nothing to two served certificates, then a renewal under load.
//!
//! Everything is real and on loopback: Pebble as the certificate authority, a coordinator on
//! the embedded store, an agent, and an nginx that answers a visitor all the time.

mod screen;
mod show;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::agent::{Agent, Service};
use chancery_tests::cli::Cli;
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::nginx::{Nginx, Site};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::tls_client::{self, Trust, Visitor};
use chancery_tests::{ports, tools, wait, world};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::screen::Screen;

/// From nothing to a served and renewed certificate, on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Leave everything running afterwards
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chancery_shared::tls::install_crypto();
    let screen = Screen::new();
    match run(&screen, arguments.keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whatever ends it, the stage is dropped before this returns, and with it all processes and
/// files of the demo.
fn run(screen: &Screen, keep: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            done = play(screen, keep) => done,
            _ = interrupt.recv() => anyhow::bail!("interrupted; everything is cleaned up"),
            _ = terminate.recv() => anyhow::bail!("told to end; everything is cleaned up"),
            _ = hang_up.recv() => anyhow::bail!("the terminal is gone"),
        }
    })
}

/// All that runs in the demo. Dropped from the top: those who ask before those who answer.
struct Stage {
    agent: Agent,
    coordinator: Coordinator,
    nginx: Nginx,
    pebble: Pebble,
    scene: Scene,
}

const CERTIFICATES: [&str; 2] = ["www", "api"];

async fn play(screen: &Screen, keep: bool) -> Result<()> {
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
    pass_through(screen, &cli, &["apply", "-f", path(&file)?, "--yes"]).await?;

    screen.title("They are ordered, validated, issued, installed and probed");
    show::progress(screen, &cli, &CERTIFICATES).await?;
    pass_through(screen, &cli, &["status"]).await?;
    pass_through(screen, &cli, &["cert", "show", CERTIFICATES[0]]).await?;

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
    pass_through(screen, cli, &["cert", "renew", certificate, "--wait"]).await?;
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

/// Runs a command of the CLI for people to read.
async fn pass_through(screen: &Screen, cli: &Cli, words: &[&str]) -> Result<()> {
    screen.command(&format!("chancery {}", words.join(" ")));
    let mut command = tokio::process::Command::from(cli.command(words)?);
    let status = command.stdin(std::process::Stdio::null()).kill_on_drop(true).status().await?;
    ensure!(status.success(), "chancery {} failed ({status})", words.join(" "));
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
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let stop = folder.join("stop.sh");
    let ids = ids.join(" ");
    // They still write while they end, so the files go last.
    let script = format!(
        "kill {ids} 2>/dev/null\n\
         for id in {ids}; do while kill -0 $id 2>/dev/null; do sleep 0.1; done; done\n\
         rm -rf '{}'\n",
        folder.display()
    );
    fs::write(&stop, script)?;
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

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the folder for temporary files has a name that is not text")
}
