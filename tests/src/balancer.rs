//! HAProxy as a load balancer in front of several coordinators: a CA asks one address for the
//! answers to HTTP-01 challenges, whichever coordinator is alive.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::Process;
use crate::{tools, wait};

/// A running balancer.
pub struct Balancer {
    process: Process,
}

impl Balancer {
    /// Starts it, and waits until it listens. A request goes to the next server when one cannot
    /// be reached, or does not know the answer yet.
    pub async fn start(folder: &Path, listen: SocketAddr, servers: &[SocketAddr]) -> Result<Self> {
        let config = folder.join("balancer.cfg");
        let mut text = format!(
            "global\n  log stderr format raw daemon notice\ndefaults\n  mode http\n  \
             timeout connect 1s\n  timeout client 10s\n  timeout server 5s\n  retries 3\n  \
             option redispatch 1\n  retry-on conn-failure empty-response response-timeout 404\n\
             frontend http01\n  bind {listen}\n  default_backend coordinators\n\
             backend coordinators\n  balance roundrobin\n"
        );
        for (number, server) in servers.iter().enumerate() {
            writeln!(text, "  server coordinator-{} {server} check inter 500ms", number + 1)?;
        }
        fs::write(&config, text).context("balancer.cfg cannot be written")?;
        let mut command = Command::new(tools::tool("haproxy")?);
        command.args(["-db", "-f"]).arg(&config);
        let mut process = Process::start("balancer", folder, &mut command)?;
        process
            .wait_until("the balancer to listen", wait::SOON, async || {
                tokio::net::TcpStream::connect(listen).await?;
                Ok(())
            })
            .await?;
        Ok(Self { process })
    }

    /// The process, to stop or pause it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
