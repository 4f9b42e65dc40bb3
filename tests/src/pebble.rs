//! Pebble, the ACME server for tests, with a DNS server for which every name is this machine.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use chancery_shared::x509::Facts;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use crate::authority::Authority;
use crate::process::Process;
use crate::tls_client::{self, Trust};
use crate::{ports, tools, wait};

/// How Pebble is to behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it looks for HTTP-01 answers, on this machine.
    pub http01: SocketAddr,
    /// Where it looks for TLS-ALPN-01 answers, on this machine; nobody is there by default.
    pub tls_alpn01: Option<SocketAddr>,
    /// Takes every challenge as met. For benchmarks.
    pub always_valid: bool,
    /// How many of a hundred good nonces it refuses.
    pub refused_nonces: u8,
    /// How long its certificates live, in seconds.
    pub validity_secs: u64,
    /// What it says in Retry-After while an authorization or an order is being worked on, in
    /// seconds.
    pub retry_after_secs: u32,
    /// The DNS server that it asks; without, one for which every name is this machine.
    pub dns: Option<SocketAddr>,
    /// Key ids and HMAC keys, in base64url, of the external accounts that it knows. With any it
    /// makes no account without one.
    pub external_accounts: Vec<(String, String)>,
    /// Further profiles beside `default`, and how long certificates live under each, in seconds.
    pub profiles: Vec<(String, u64)>,
    /// Further environment variables, such as `PEBBLE_CHAIN_LENGTH`.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Validates over HTTP-01 at this address, refuses no nonce, issues for 90 days.
    pub fn new(http01: SocketAddr) -> Self {
        Self {
            http01,
            tls_alpn01: None,
            always_valid: false,
            refused_nonces: 0,
            validity_secs: 90 * 24 * 3600,
            retry_after_secs: 1,
            dns: None,
            external_accounts: Vec::new(),
            profiles: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// The name that it goes by in records for dns-persist-01.
pub const CAA_IDENTITY: &str = "pebble.example";

/// A running Pebble.
pub struct Pebble {
    acme: Process,
    dns: Process,
    address: SocketAddr,
    management: SocketAddr,
    root: Authority,
    root_path: PathBuf,
}

impl Pebble {
    /// Starts it with its files in `folder`, and waits until it answers.
    pub async fn start(folder: &Path, options: &Options) -> Result<Self> {
        let (address, management) = (ports::free()?, ports::free()?);
        let (dns, dns_address) = start_dns(folder)?;
        let root = Authority::new()?;
        let root_path = folder.join("pebble-root.pem");
        fs::write(&root_path, root.root_pem())?;
        let (certificate, key) =
            root.issue(&["localhost", "127.0.0.1"])?.write(folder, "pebble")?;
        let config = json!({ "pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": options.http01.port(),
            "tlsPort": options.tls_alpn01.map_or_else(ports::free, Ok)?.port(),
            "ocspResponderURL": "",
            "caaIdentities": [CAA_IDENTITY],
            "externalAccountBindingRequired": !options.external_accounts.is_empty(),
            "externalAccountMACKeys":
                options.external_accounts.iter().cloned().collect::<BTreeMap<_, _>>(),
            "retryAfter": {
                "authz": options.retry_after_secs,
                "order": options.retry_after_secs,
            },
            "keyAlgorithm": "ecdsa",
            "profiles": profiles(options),
        }});
        let config_path = folder.join("pebble.json");
        fs::write(&config_path, serde_json::to_vec_pretty(&config)?)?;
        let mut command = Command::new(tools::tool("pebble")?);
        command
            .args(["-dnsserver", &options.dns.unwrap_or(dns_address).to_string(), "-config"])
            .arg(&config_path)
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", options.refused_nonces.to_string());
        if options.always_valid {
            command.env("PEBBLE_VA_ALWAYS_VALID", "1");
        }
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        let acme = Process::start("pebble", folder, &mut command)?;
        let mut pebble = Self { acme, dns, address, management, root, root_path };
        pebble.wait_until_ready().await?;
        Ok(pebble)
    }

    /// Where it serves ACME.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The root that signed the certificate of its HTTPS. Not what it issues with.
    pub fn https_root(&self) -> &Authority {
        &self.root
    }

    /// The file with that root, in PEM.
    pub fn https_root_path(&self) -> &Path {
        &self.root_path
    }

    /// The roots of the certificates that it issues, in PEM.
    pub async fn issuing_root(&self) -> Result<String> {
        self.manage("/roots/0").await
    }

    /// The common names of its roots, the default one first.
    pub async fn root_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        while let Ok(pem) = self.manage(&format!("/roots/{}", names.len())).await {
            let root = CertificateDer::from_pem_slice(pem.as_bytes())?;
            names.push(Facts::of(&root)?.issuer);
        }
        ensure!(!names.is_empty(), "Pebble has no root");
        Ok(names)
    }

    /// What it knows of a certificate with this serial number, hexadecimal: `Status`, `Reason` and
    /// `RevokedAt`.
    pub async fn certificate_status(&self, serial: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.manage(&format!("/cert-status-by-serial/{serial}")).await?)?)
    }

    /// Sets what ARI says (RFC 9773) for the certificate in this PEM: the JSON of a
    /// renewal info.
    pub async fn set_renewal_info(
        &self,
        certificate_pem: &str,
        renewal_info: &serde_json::Value,
    ) -> Result<()> {
        let body = json!({
            "certificate": certificate_pem,
            "ariResponse": renewal_info.to_string(),
        });
        let config = self.client()?;
        let path = "/set-renewal-info/";
        let (status, body) =
            tls_client::post(self.management, "127.0.0.1", path, body.to_string(), config).await?;
        ensure!(status.is_success(), "Pebble took no renewal info: {status} {body}");
        Ok(())
    }

    /// What it printed: every request is in it.
    pub fn log(&self) -> String {
        self.acme.log()
    }

    /// The process, to stop or pause it. What it knew is gone when it ends.
    pub fn process(&mut self) -> &mut Process {
        &mut self.acme
    }

    /// Lets it run on after this program has ended.
    pub fn leave_running(&mut self) -> [u32; 2] {
        self.acme.leave_running();
        self.dns.leave_running();
        [self.acme.id(), self.dns.id()]
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        self.dns.must_run()?;
        let config = self.client()?;
        let address = self.address;
        self.acme
            .wait_until("Pebble's directory", wait::SOON, async || {
                let (status, body) =
                    tls_client::get(address, "127.0.0.1", "/dir", config.clone()).await?;
                ensure!(status.is_success() && body.contains("newOrder"), "{status} {body}");
                Ok(())
            })
            .await
    }

    async fn manage(&self, path: &str) -> Result<String> {
        let (status, body) =
            tls_client::get(self.management, "127.0.0.1", path, self.client()?).await?;
        ensure!(status.is_success(), "Pebble's {path}: {status} {body}");
        Ok(body)
    }

    fn client(&self) -> Result<std::sync::Arc<rustls::ClientConfig>> {
        tls_client::client_config(&Trust::Roots(self.root.root_pem()))
    }
}

fn profiles(options: &Options) -> BTreeMap<String, serde_json::Value> {
    let default = ("default".to_owned(), options.validity_secs);
    let all = options.profiles.iter().cloned().chain([default]);
    all.map(|(name, secs)| (name, json!({ "description": "for tests", "validityPeriod": secs })))
        .collect()
}

/// A DNS server that answers every question for an address with 127.0.0.1.
fn start_dns(folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = ports::free()?;
    let management = ports::free()?;
    let mut command = Command::new(tools::tool("pebble-challtestsrv")?);
    command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
    command.args(["-dnsserver", &address.to_string(), "-management", &management.to_string()]);
    // It answers no challenges: our coordinator does.
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
    let process = Process::start("dns", folder, &mut command)
        .context("the DNS server of the tests did not start")?;
    Ok((process, address))
}
