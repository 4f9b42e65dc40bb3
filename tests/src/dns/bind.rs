//! BIND, as a primary server that takes updates (RFC 2136) with a TSIG key.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{TsigKey, txt, zone_file};
use crate::process::{self, Process};
use crate::{ports, tools, wait};

/// A running `named`.
pub struct Bind {
    process: Process,
    folder: PathBuf,
    address: SocketAddr,
    key: TsigKey,
}

impl Bind {
    /// Starts it with these zones and more records of each. The key `chancery` may change the TXT records
    /// of all of them, the key `other` none.
    pub async fn start(folder: &Path, zones: &[(&str, &str)]) -> Result<Self> {
        let address = ports::free()?;
        let key = TsigKey::new("chancery");
        let shown = folder.display();
        let mut config = format!(
            "options {{\n directory \"{shown}\"; pid-file none; session-keyfile none;\n \
             listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n \
             recursion yes; allow-recursion {{ 127.0.0.1; }}; dnssec-validation no; notify no;\n}};\n\
             controls {{ }};\nzone \".\" {{ type primary; file \"{shown}/root\"; }};\n{}{}",
            address.port(),
            key.text(),
            TsigKey::new("other").text(),
        );
        // It is the CA's resolver as well, so that it follows CNAME records from one zone to another; there is
        // nothing beside these zones, and nobody else is asked.
        fs::write(
            folder.join("root"),
            "$TTL 60\n@ SOA ns. root. 1 60 60 3600 1\n@ NS ns.\nns. A 127.0.0.1\n",
        )?;
        for (zone, more) in zones {
            fs::write(folder.join(format!("{zone}.zone")), zone_file(zone, more))?;
            writeln!(
                config,
                "zone \"{zone}\" {{ type primary; file \"{shown}/{zone}.zone\"; \
                 update-policy {{ grant chancery zonesub TXT; }}; }};"
            )?;
        }
        let path = folder.join("named.conf");
        fs::write(&path, config)?;
        let mut command = Command::new(tools::tool("named")?);
        command.args(["-g", "-n", "1", "-c"]).arg(&path);
        let mut process = Process::start("named", folder, &mut command)?;
        let first = zones.first().map(|(zone, _)| *zone).unwrap_or_default();
        process
            .wait_until("BIND's first answer", wait::SOON, async || txt(address, first).await)
            .await?;
        let folder = folder.to_owned();
        Ok(Self { process, folder, address, key })
    }

    /// Where it answers, and takes updates.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that may change the zones.
    pub fn key(&self) -> &TsigKey {
        &self.key
    }

    /// The TXT values at a name.
    pub async fn txt(&self, name: &str) -> Result<Vec<String>> {
        txt(self.address, name).await
    }

    /// Makes these the TXT values at a name, as an operator would with `nsupdate`.
    pub async fn set_txt(&self, name: &str, values: &[&str]) -> Result<()> {
        let server = format!("{} {}", self.address.ip(), self.address.port());
        let mut script = format!("server {server}\nupdate delete {name}. TXT\n");
        for value in values {
            writeln!(script, "update add {name}. 60 TXT \"{value}\"")?;
        }
        script.push_str("send\n");
        let path = self.folder.join("nsupdate");
        fs::write(&path, script)?;
        let mut command = Command::new(tools::tool("nsupdate")?);
        command.arg("-k").arg(self.key.write(&self.folder)?).arg(&path);
        process::run(&mut command, wait::SOON).await?.success()?;
        Ok(())
    }

    /// The process, to pause it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
