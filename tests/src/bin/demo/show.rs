//! The parts of the demo that only look, and run commands for people to read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_shared::x509::Facts;
use chancery_tests::cli::Cli;
use chancery_tests::tls_client::Served;
use chancery_tests::{wait, world};

use crate::screen::Screen;

/// Tells each change in the states of certificates until all are installed and served.
pub(crate) async fn progress(screen: &Screen, cli: &Cli, certificates: &[&str]) -> Result<()> {
    let mut told: BTreeMap<&str, String> = BTreeMap::new();
    wait::until("all certificates to be served", world::PATIENCE, async || {
        let mut missing = Vec::new();
        for name in certificates {
            let shown = cli.certificate(name).await?;
            let now = in_words(&shown);
            if told.get(name) != Some(&now) {
                screen.step(format!("{name:<4} {now}"));
                told.insert(name, now);
            }
            if !world::is_installed(&shown, 1) {
                missing.push(*name);
            }
        }
        if !missing.is_empty() {
            bail!("not yet: {}", missing.join(", "));
        }
        Ok(())
    })
    .await
}

/// Where a certificate stands, on one line.
fn in_words(shown: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut words = text(&shown["state"]);
    if let Some(stage) = shown["order"]["stage"].as_str() {
        words = format!("{words}: order {stage}");
    }
    for deployment in shown["deployments"].as_array().into_iter().flatten() {
        let (agent, state) = (text(&deployment["agent"]), text(&deployment["state"]));
        if !state.is_empty() {
            words = format!("{words}; {agent}: {state}");
        }
    }
    match shown["last_error"].as_str() {
        Some(error) => format!("{words} ({error})"),
        None => words,
    }
}

/// The chain that a server showed.
pub(crate) fn chain(screen: &Screen, name: &str, served: &Served) -> Result<()> {
    screen.text(&format!("\n{name}"));
    for (depth, certificate) in served.chain.iter().enumerate() {
        let facts = Facts::of(certificate)?;
        let names = match facts.dns_names.as_slice() {
            [] => "an intermediate".to_owned(),
            names => names.join(", "),
        };
        screen.text(&format!(
            "  {depth}  {names}\n     serial {}, issued by {}\n     valid from {} to {}",
            facts.serial, facts.issuer, facts.not_before, facts.not_after
        ));
    }
    Ok(())
}

/// Runs a command of the CLI for people to read.
pub(crate) async fn run(screen: &Screen, cli: &Cli, words: &[&str]) -> Result<()> {
    screen.command(&format!("chancery {}", words.join(" ")));
    let mut command = tokio::process::Command::from(cli.command(words)?);
    let status = command.stdin(std::process::Stdio::null()).kill_on_drop(true).status().await?;
    ensure!(status.success(), "chancery {} failed ({status})", words.join(" "));
    Ok(())
}

/// A path as a word of a command.
pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the folder for temporary files has a name that is not text")
}
