//! PowerDNS with its HTTP API, with LMDB behind it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{txt, zone_file};
use crate::process::{self, Process};
use crate::{ports, tools, wait};

/// A running `pdns_server`.
pub struct PowerDns {
    _process: Process,
    address: SocketAddr,
    api: SocketAddr,
}

/// The key of its API.
pub const API_KEY: &str = "the-key-of-the-api";

impl PowerDns {
    /// Starts it with these zones.
    pub async fn start(folder: &Path, zones: &[&str]) -> Result<Self> {
        let (address, api) = (ports::free()?, ports::free()?);
        let shown = folder.display();
        let backend = tools::library("liblmdbbackend.so")?;
        let config = format!(
            "launch=lmdb\nload-modules={}\nlmdb-filename={shown}/pdns.lmdb\n\
             socket-dir={shown}\nlocal-address=127.0.0.1\nlocal-port={}\nguardian=no\ndaemon=no\n\
             api=yes\napi-key={API_KEY}\nwebserver=yes\nwebserver-address=127.0.0.1\n\
             webserver-port={}\nwebserver-allow-from=127.0.0.1\ncache-ttl=0\nquery-cache-ttl=0\n\
             negquery-cache-ttl=0\nzone-cache-refresh-interval=0\n",
            backend.canonicalize()?.display(),
            address.port(),
            api.port(),
        );
        fs::write(folder.join("pdns.conf"), config)?;
        let config_dir = format!("--config-dir={shown}");
        for zone in zones {
            let file = folder.join(format!("{zone}.zone"));
            fs::write(&file, zone_file(zone, ""))?;
            let mut command = Command::new(tools::tool("pdnsutil")?);
            command.arg(&config_dir).args(["load-zone", zone]).arg(&file);
            process::run(&mut command, wait::SOON).await?.success()?;
        }
        let mut command = Command::new(tools::tool("pdns_server")?);
        command.arg(&config_dir);
        let mut process = Process::start("pdns", folder, &mut command)?;
        let first = zones.first().copied().unwrap_or_default();
        process
            .wait_until("PowerDNS's first answer", wait::SOON, async || txt(address, first).await)
            .await?;
        Ok(Self { _process: process, address, api })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its API.
    pub fn url(&self) -> String {
        format!("http://{}", self.api)
    }
}
