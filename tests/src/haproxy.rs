//! HAProxy on loopback, as the user who runs the tests, with its files in one folder.
//!
//! It reads a certificate and its key from one file. The scripts that test and reload it put that
//! file together from the two that an agent installs, as operators of HAProxy do.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::nginx::Site;
use crate::process::{self, Process};
use crate::tls_client::{self, Served, Trust};
use crate::{ports, tools, wait};

/// A running HAProxy.
pub struct Haproxy {
    process: Process,
    folder: PathBuf,
    tls: SocketAddr,
    plain: SocketAddr,
    program: PathBuf,
}

impl Haproxy {
    /// Starts it with its files in `folder`, and waits until it answers. Without sites it only
    /// answers plain HTTP; sites that are added later come with the next reload.
    pub async fn start(folder: &Path, sites: &[Site]) -> Result<Self> {
        let program = tools::tool("haproxy")?;
        let (tls, plain) = (ports::free()?, ports::free()?);
        fs::create_dir_all(folder.join("pem"))?;
        configure(folder, &program, tls, plain, sites)?;
        process::run(&mut Command::new(folder.join("test.sh")), wait::SOON).await?.success()?;
        let mut command = Command::new(&program);
        // A master process that stays in the foreground, and starts new workers when reloaded.
        command.args(["-W", "-f"]).arg(folder.join("haproxy.cfg"));
        let process = Process::start("haproxy", folder, &mut command)?;
        fs::write(folder.join("master.pid"), process.id().to_string())?;
        let mut haproxy = Self { process, folder: folder.to_owned(), tls, plain, program };
        haproxy.wait_until_ready().await?;
        Ok(haproxy)
    }

    /// Where it serves TLS, once it has sites.
    pub fn address(&self) -> SocketAddr {
        self.tls
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("haproxy.cfg")
    }

    /// Writes the configuration anew. It holds from the next reload.
    pub fn configure(&self, sites: &[Site]) -> Result<()> {
        configure(&self.folder, &self.program, self.tls, self.plain, sites)
    }

    /// The command that tests the configuration with the files as they are installed.
    pub fn test_command(&self) -> Vec<String> {
        vec![self.folder.join("test.sh").display().to_string()]
    }

    /// The command that makes it load the configuration and the certificates again.
    pub fn reload_command(&self) -> Vec<String> {
        vec![self.folder.join("reload.sh").display().to_string()]
    }

    /// Loads the configuration again.
    pub async fn reload(&self) -> Result<()> {
        let mut command = Command::new(self.folder.join("reload.sh"));
        process::run(&mut command, wait::SOON).await?.success()?;
        Ok(())
    }

    /// What it serves for a name.
    pub async fn served(&self, name: &str) -> Result<Served> {
        tls_client::served(self.tls, name, &Trust::Anybody).await
    }

    /// The process, to stop or pause it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let plain = self.plain;
        self.process
            .wait_until("HAProxy to answer", wait::SOON, async || {
                tokio::net::TcpStream::connect(plain).await?;
                Ok(())
            })
            .await
    }
}

/// Writes the configuration and the scripts for these sites.
fn configure(
    folder: &Path,
    program: &Path,
    tls: SocketAddr,
    plain: SocketAddr,
    sites: &[Site],
) -> Result<()> {
    let base = folder.display();
    let config = folder.join("haproxy.cfg");
    let mut text = format!(
        "global\n  log stderr format raw daemon notice\ndefaults\n  mode http\n  \
         timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n\
         frontend web\n  bind {plain}\n"
    );
    if !sites.is_empty() {
        writeln!(text, "  bind {tls} ssl crt {base}/pem/")?;
    }
    text.push_str("  http-request return status 200 content-type text/plain string ok\n");
    fs::write(&config, text).context("haproxy.cfg cannot be written")?;

    let mut combine = "#!/bin/sh\nset -e\n".to_owned();
    for (index, site) in sites.iter().enumerate() {
        let (certificate, key) = (site.certificate.display(), site.key.display());
        // In one step: HAProxy may be reading it.
        writeln!(
            combine,
            "cat '{certificate}' '{key}' > '{base}/site-{index}.new'\n\
             mv '{base}/site-{index}.new' '{base}/pem/site-{index}.pem'"
        )?;
    }
    let check = format!("{combine}exec '{}' -c -q -f '{}'\n", program.display(), config.display());
    let reload = format!("{combine}kill -USR2 \"$(cat '{base}/master.pid')\"\n");
    for (name, script) in [("test.sh", check), ("reload.sh", reload)] {
        let path = folder.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
