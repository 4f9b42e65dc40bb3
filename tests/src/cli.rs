//! The `chancery` command, as an operator or a program runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::{self, Said};
use crate::{tools, wait};

/// Runs `chancery` against one coordinator's socket.
#[derive(Debug, Clone)]
pub struct Cli {
    socket: PathBuf,
}

impl Cli {
    /// For the coordinator with this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The command with these words, to be run as one likes.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(tools::binary("chancery")?);
        command.arg("--socket").arg(&self.socket).args(words);
        Ok(command)
    }

    /// Runs it to its end, however it ends.
    pub async fn run(&self, words: &[&str]) -> Result<Said> {
        process::run(&mut self.command(words)?, wait::SOON).await
    }

    /// Runs it to its end, and returns what it printed. An error when it fails.
    pub async fn text(&self, words: &[&str]) -> Result<String> {
        let said = self.run(words).await?.success();
        Ok(said.with_context(|| format!("chancery {}", words.join(" ")))?.out)
    }

    /// Runs it with `-o json`. `status` may say that something needs attention.
    pub async fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["-o", "json"];
        all.extend(words);
        let said = self.run(&all).await?;
        let said = if said.status.code() == Some(ATTENTION) { Ok(said) } else { said.success() };
        let said = said.with_context(|| format!("chancery {}", words.join(" ")))?;
        serde_json::from_str(&said.out).with_context(|| {
            format!("chancery {} did not print JSON: {}", words.join(" "), said.out)
        })
    }

    /// Makes the desired state what this TOML says.
    pub async fn apply(&self, folder: &Path, toml: &str) -> Result<()> {
        let file = folder.join("fleet.toml");
        std::fs::write(&file, toml)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        let file = file.display().to_string();
        self.text(&["apply", "-f", &file, "--yes"]).await?;
        Ok(())
    }

    /// What `cert show` says.
    pub async fn certificate(&self, name: &str) -> Result<serde_json::Value> {
        self.json(&["cert", "show", name]).await
    }

    /// Waits until `cert show` satisfies a condition; `what` says it in words.
    pub async fn wait_for_certificate(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        wait::until(&format!("{what} of certificate {name}"), deadline, async || {
            let shown = self.certificate(name).await?;
            anyhow::ensure!(condition(&shown), "{shown}");
            Ok(shown)
        })
        .await
    }

    /// A join token for an agent with these labels.
    pub async fn token(&self, agent: &str, labels: &[&str]) -> Result<String> {
        let mut words = vec!["agent", "token", "create", "--name", agent];
        words.extend(labels.iter().flat_map(|label| ["--label", label]));
        Ok(self.text(&words).await?.trim().to_owned())
    }
}

/// The exit code of `status` when something needs attention.
const ATTENTION: i32 = 10;
