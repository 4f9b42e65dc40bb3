//! Knot DNS, as a primary server that takes updates (RFC 2136) with a TSIG key.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{TsigKey, txt, zone_file};
use crate::process::Process;
use crate::{ports, tools, wait};

/// A running `knotd`.
pub struct Knot {
    _process: Process,
    address: SocketAddr,
    key: TsigKey,
}

impl Knot {
    /// Starts it with these zones, whose TXT records the key `chancery` may change.
    pub async fn start(folder: &Path, zones: &[&str]) -> Result<Self> {
        let address = ports::free()?;
        let key = TsigKey::new("chancery");
        let shown = folder.display();
        let mut config = format!(
            "server:\n  rundir: \"{shown}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  \
             tcp-workers: 1\n  background-workers: 1\n\
             log:\n  - target: stderr\n    any: info\n\
             database:\n  storage: \"{shown}\"\n\
             key:\n  - id: {name}\n    algorithm: hmac-sha256\n    secret: {secret}\n\
             acl:\n  - id: proofs\n    key: {name}\n    action: update\n    update-type: [TXT]\n\
             zone:\n",
            port = address.port(),
            name = key.name,
            secret = key.secret,
        );
        for zone in zones {
            fs::write(folder.join(format!("{zone}.zone")), zone_file(zone, ""))?;
            writeln!(
                config,
                "  - domain: {zone}\n    storage: \"{shown}\"\n    file: {zone}.zone\n    \
                 acl: proofs\n    zonefile-sync: -1\n    journal-content: changes"
            )?;
        }
        let path = folder.join("knot.conf");
        fs::write(&path, config)?;
        let mut command = Command::new(tools::tool("knotd")?);
        command.arg("-c").arg(&path);
        let mut process = Process::start("knotd", folder, &mut command)?;
        let first = zones.first().copied().unwrap_or_default();
        process
            .wait_until("Knot's first answer", wait::SOON, async || txt(address, first).await)
            .await?;
        Ok(Self { _process: process, address, key })
    }

    /// Where it answers, and takes updates.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that may change the zones.
    pub fn key(&self) -> &TsigKey {
        &self.key
    }
}
