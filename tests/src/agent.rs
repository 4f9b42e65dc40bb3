//! A real agent.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{self, Process, Said};
use crate::{tools, wait};

/// A service that an agent looks after.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The command that tests its configuration.
    pub test: Vec<String>,
    /// The command that makes it read its files again.
    pub reload: Vec<String>,
    /// Where it is asked what it serves.
    pub probe: Option<SocketAddr>,
}

/// An agent, running or not. What it stored and installed stays in its folder.
#[derive(Debug)]
pub struct Agent {
    name: String,
    folder: PathBuf,
    failpoints: String,
    log: String,
    process: Option<Process>,
}

impl Agent {
    /// Writes the configuration of an agent with its files in `folder`.
    pub fn prepare(
        folder: &Path,
        name: &str,
        coordinators: &[SocketAddr],
        services: &[Service],
    ) -> Result<Self> {
        let agent = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            failpoints: String::new(),
            log: "info,chancery_agent=debug".to_owned(),
            process: None,
        };
        agent.write_config(coordinators, services, "")?;
        Ok(agent)
    }

    /// Writes the configuration anew, with more TOML at its end.
    pub fn write_config(
        &self,
        coordinators: &[SocketAddr],
        services: &[Service],
        more: &str,
    ) -> Result<()> {
        let addresses: Vec<String> = coordinators.iter().map(SocketAddr::to_string).collect();
        let mut text = format!(
            "coordinators = {addresses:?}\nstate_dir = \"{}\"\n\n[install]\ndir = \"{}\"\n",
            self.state_dir().display(),
            self.install_dir().display(),
        );
        // A failed deployment is tried again soon: tests wait for that.
        text.push_str("\n[retry]\nfirst = \"200ms\"\nmost = \"2s\"\n");
        text.push_str("\n[log]\nformat = \"human\"\n");
        for service in services {
            writeln!(
                text,
                "\n[[service]]\nname = {:?}\ntest = {:?}\nreload = {:?}",
                service.name, service.test, service.reload
            )?;
            match service.probe {
                Some(address) => writeln!(text, "probe = {{ address = \"{address}\" }}")?,
                None => writeln!(text, "probe = false")?,
            }
        }
        text.push_str(more);
        fs::write(self.config(), text).context("agent.toml cannot be written")
    }

    /// Joins with a token. Returns what it said, however it ended.
    pub async fn join(&self, token: &str) -> Result<Said> {
        let file = self.folder.join("token");
        fs::write(&file, token)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let mut command = self.command("join")?;
        command.arg("--token-file").arg(&file);
        process::run(&mut command, wait::SOON).await
    }

    /// Starts it. It needs no waiting for: what it does is seen at the coordinator.
    pub fn run(&mut self) -> Result<()> {
        let mut command = self.command("run")?;
        if !self.failpoints.is_empty() {
            command.env("FAILPOINTS", &self.failpoints);
        }
        self.process = Some(Process::start("agent", &self.folder, &mut command)?);
        Ok(())
    }

    /// Where it is to die from its next start; empty for nowhere.
    pub fn set_failpoints(&mut self, failpoints: &str) {
        failpoints.clone_into(&mut self.failpoints);
    }

    /// What it logs from its next start, as `RUST_LOG` has it.
    pub fn set_log(&mut self, filter: &str) {
        filter.clone_into(&mut self.log);
    }

    /// The command `chancery-agent WORD --config FILE`.
    pub fn command(&self, word: &str) -> Result<Command> {
        let mut command = Command::new(tools::binary("chancery-agent")?);
        command.arg(word).arg("--config").arg(self.config()).env_remove("RUST_LOG");
        command.env("CHANCERY_LOG", &self.log);
        Ok(command)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    /// Where it keeps its identity and its cache.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where it installs.
    pub fn install_dir(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// The stable folder of a certificate.
    pub fn installed(&self, certificate: &str) -> PathBuf {
        self.install_dir().join(certificate)
    }

    /// All that it printed since it was first started.
    pub fn log(&self) -> Result<String> {
        let path = self.folder.join("agent.log");
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent was not started")
    }
}
