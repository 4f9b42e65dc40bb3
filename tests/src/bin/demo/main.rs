//! `cargo xtask demo`: what Chancery does, seen working. Everything is real and on loopback:
//! Pebble as the certificate authority, the store, coordinators, agents, and web servers that
//! answer a visitor all the time.

mod ha;
mod keep;
mod one;
mod screen;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::screen::Screen;

/// From nothing to a served and renewed certificate, on this machine
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Leave everything running afterwards
    #[arg(long)]
    keep: bool,
    /// Three coordinators on a cluster of three servers, and a leader that is killed
    #[arg(long)]
    ha: bool,
    /// The store of the three
    #[arg(long, value_enum, default_value_t = ha::Kind::Etcd, requires = "ha")]
    store: ha::Kind,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chancery_shared::tls::install_crypto();
    let screen = Screen::new();
    match run(&screen, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whatever ends it, the stage is dropped before this returns, and with it all processes and
/// files of the demo.
fn run(screen: &Screen, arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            done = play(screen, arguments) => done,
            _ = interrupt.recv() => anyhow::bail!("interrupted; everything is cleaned up"),
            _ = terminate.recv() => anyhow::bail!("told to end; everything is cleaned up"),
            _ = hang_up.recv() => anyhow::bail!("the terminal is gone"),
        }
    })
}

async fn play(screen: &Screen, arguments: &Arguments) -> Result<()> {
    if arguments.ha {
        ha::play(screen, arguments.store, arguments.keep).await
    } else {
        one::play(screen, arguments.keep).await
    }
}
