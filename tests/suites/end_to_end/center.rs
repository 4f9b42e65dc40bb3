//! A coordinator with its CA behind a gate, and nobody yet who wants its certificates: what most
//! tests of orders need.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_proto::v1::Bundle;
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_shared::x509::{self, Facts};
use chancery_tests::cli::Cli;
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::gate::{Endpoint, Gate};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::world::{self, PATIENCE, server_name};
use chancery_tests::{ports, tls_client, wait};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::peer::Identity;

/// How a [`Center`] is to run.
pub(crate) struct Options {
    pub(crate) pebble: pebble::Options,
    pub(crate) coordinator: coordinator::Options,
}

/// What stands in front of a coordinator's listener for HTTP-01, as a load balancer may: it keeps
/// the CA waiting while nobody behind it answers. It is gone when it is dropped.
pub(crate) struct Front(JoinHandle<()>);

impl Front {
    /// Passes requests that come to `from` on to `to`.
    pub(crate) async fn open(from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(from).await?;
        Ok(Self(tokio::spawn(async move {
            let mut requests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                requests.spawn(tokio::time::timeout(wait::SOON, pass_on(stream, to)));
            }
        })))
    }
}

/// Passes one request on, again and again until it is answered.
async fn pass_on(mut stream: TcpStream, to: SocketAddr) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "no whole request");
    }
    let head = String::from_utf8(head)?;
    let path = head.split(' ').nth(1).context("no request")?;
    let (status, body) = loop {
        if let Ok(answer) = tls_client::get_plain(to, path).await {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
    Ok(())
}

impl Drop for Front {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Options {
    /// The coordinator answers where Pebble looks; short times.
    pub(crate) fn new() -> Result<Self> {
        let http01 = ports::free()?;
        let mut coordinator = coordinator::Options::new(http01);
        "2s".clone_into(&mut coordinator.lease_ttl);
        Ok(Self { pebble: pebble::Options::new(http01), coordinator })
    }
}

/// A coordinator, and Pebble behind a gate.
pub(crate) struct Center {
    pub(crate) coordinator: Coordinator,
    pub(crate) gate: Gate,
    pub(crate) pebble: Pebble,
    folder: PathBuf,
}

impl Center {
    /// Starts all, with no certificate declared.
    pub(crate) async fn start(scene: &Scene) -> Result<Self> {
        let mut center = Self::prepare(scene, Options::new()?).await?;
        center.coordinator.run().await?;
        Ok(center)
    }

    /// Starts Pebble; the coordinator is ready to be started.
    pub(crate) async fn prepare(scene: &Scene, options: Options) -> Result<Self> {
        Self::prepare_in(scene.path(), options).await
    }

    /// As [`Self::prepare`], for a test with several: with its files in `folder`.
    pub(crate) async fn prepare_in(folder: &Path, options: Options) -> Result<Self> {
        let within = |name: &str| -> Result<PathBuf> {
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder)?;
            Ok(folder)
        };
        let pebble = Pebble::start(&within("pebble")?, &options.pebble).await?;
        let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
        let coordinator =
            Coordinator::prepare(&within("coordinator")?, options.coordinator).await?;
        Ok(Self { coordinator, gate, pebble, folder: folder.to_owned() })
    }

    pub(crate) fn cli(&self) -> Cli {
        self.coordinator.cli()
    }

    /// Declares the issuer `pebble` and certificates of one name each, for `role=web`.
    pub(crate) async fn declare(&self, certificates: &[&str]) -> Result<()> {
        self.apply(&self.declaration(certificates)?).await
    }

    /// What [`Self::declare`] applies.
    pub(crate) fn declaration(&self, certificates: &[&str]) -> Result<String> {
        let roots = self.pebble.https_root_path();
        world::declaration(&self.gate.directory(), roots, certificates)
    }

    /// Applies a file.
    pub(crate) async fn apply(&self, toml: &str) -> Result<()> {
        self.cli().apply(&self.folder, toml).await
    }

    /// Waits until this generation of a certificate, or a later one, has been issued and its
    /// order is over. Returns what `cert show` says then.
    pub(crate) async fn wait_until_issued(&self, name: &str, generation: u64) -> Result<Value> {
        let what = format!("generation {generation}");
        self.cli()
            .wait_for_certificate(name, &what, PATIENCE, |shown| {
                shown["state"] == "valid"
                    && shown["order"].is_null()
                    && shown["generation"].as_u64() >= Some(generation)
            })
            .await
    }

    /// Joins with a token for an agent of this name and these labels.
    pub(crate) async fn join(&self, agent: &str, labels: &[&str]) -> Result<Identity> {
        let token = self.cli().token(agent, labels).await?;
        let joined = Identity::join(self.coordinator.agents_address(), &token).await?;
        joined.with_context(|| format!("agent {agent} could not join"))
    }

    /// Fetches the bundle of a certificate as an agent does, and checks it against its
    /// declaration, its key, Pebble's root and what operators are shown.
    pub(crate) async fn check_bundle(&self, name: &str) -> Result<Bundle> {
        let agent = self.join(&format!("reader-of-{name}"), &["role=web"]).await?;
        let bundles = agent.bundles().await?;
        let bundle = bundles.into_iter().find(|bundle| bundle.certificate == name);
        let bundle = bundle.with_context(|| format!("no bundle of {name} was sent"))?;
        self.check(&bundle, &[&server_name(name)]).await?;
        let shown = self.cli().certificate(name).await?;
        let facts = Facts::of(&CertificateDer::from(bundle.leaf_der.as_ref()))?;
        ensure!(shown["generation"].as_u64() == Some(bundle.generation), "{shown}");
        ensure!(shown["serial"] == facts.serial.as_str(), "{shown}");
        Ok(bundle)
    }

    /// Whether key, chain, names and issuer of a bundle fit together.
    pub(crate) async fn check(&self, bundle: &Bundle, names: &[&str]) -> Result<()> {
        let leaf = CertificateDer::from(bundle.leaf_der.as_ref());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bundle.private_key_der.as_ref()));
        x509::check_key_matches(&leaf, &key)?;
        let facts = Facts::of(&leaf)?;
        ensure!(facts.names().eq(names.iter().copied()), "{facts:?}");
        verify(&leaf, &bundle.chain_der, names[0], &self.pebble.issuing_root().await?)
    }

    /// The epoch of the present term. Waits until there is one.
    pub(crate) async fn epoch(&self) -> Result<u64> {
        wait::until("a leader", wait::SOON, async || {
            let lease = self.cli().json(&["lease", "show"]).await?;
            ensure!(lease["held"] == true, "{lease}");
            lease["epoch"].as_u64().with_context(|| format!("no epoch in {lease}"))
        })
        .await
    }

    /// Events about a certificate or an agent, the newest first.
    pub(crate) async fn events(&self, subject: &str) -> Result<Vec<Event>> {
        let listed =
            self.cli().json(&["event", "list", "-n", "1000", "--subject", subject]).await?;
        Ok(serde_json::from_value(listed["events"].clone())?)
    }

    /// The sum of a metric over all its labels; 0 when there is none.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        sum(&self.coordinator.metrics().await?, name)
    }

    /// Orders that the CA has got and not given up, whatever we know of them.
    pub(crate) fn new_orders(&self) -> usize {
        self.gate.succeeded(Endpoint::NewOrder)
    }

    /// An error unless the coordinator has forgotten all answers to challenges that Pebble ever
    /// asked for.
    pub(crate) async fn check_no_challenge_is_left(&self) -> Result<()> {
        let log = self.pebble.log();
        let tokens: Vec<&str> = log
            .split(CHALLENGE_PATH)
            .skip(1)
            .filter_map(|after| {
                after.split(|c: char| !c.is_alphanumeric() && !"-_".contains(c)).next()
            })
            .collect();
        ensure!(!tokens.is_empty(), "Pebble validated nothing");
        for token in tokens {
            let path = format!("{CHALLENGE_PATH}{token}");
            let (status, body) =
                tls_client::get_plain(self.coordinator.http01_address(), &path).await?;
            ensure!(status == http::StatusCode::NOT_FOUND, "{path}: {status} {body}");
        }
        Ok(())
    }
}

/// An event, as `event list` has it.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) epoch: u64,
}

/// How many events are of this kind.
pub(crate) fn count(events: &[Event], kind: &str) -> usize {
    events.iter().filter(|event| event.kind == kind).count()
}

/// The TOML of a certificate.
pub(crate) fn certificate(name: &str, issuer: &str, more: &str) -> String {
    let mut text = format!("\n[[certificate]]\nname = {name:?}\nissuers = [{issuer:?}]\n");
    if !more.contains("identifiers") {
        let _ = writeln!(text, "identifiers = [{:?}]", server_name(name));
    }
    if !more.contains("labels") {
        text.push_str("labels = { role = \"web\" }\n");
    }
    text.push_str(more);
    text.push('\n');
    text
}

/// Verifies a chain for a name, as a client that trusts only `root_pem` does.
fn verify(
    leaf: &CertificateDer<'_>,
    chain: &[bytes::Bytes],
    name: &str,
    root_pem: &str,
) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes())?)?;
    let provider = chancery_shared::tls::provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let now = u64::try_from(SystemClock::new().now().as_second())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier
        .verify_server_cert(leaf, &chain, &name.to_owned().try_into()?, &[], now)
        .with_context(|| format!("the chain for {name} does not verify"))?;
    Ok(())
}

/// The sum of the samples of a metric in Prometheus' text format.
fn sum(metrics: &str, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if rest.starts_with(['{', ' ']) {
            let value = rest.rsplit(' ').next().unwrap_or_default();
            sum += value.parse::<f64>().with_context(|| format!("not a sample: {line}"))?;
        }
    }
    Ok(sum)
}

const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";
