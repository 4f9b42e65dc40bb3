//! What tests see of an agent's work: the files as a service reads them, what operators are
//! told, what is measured.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_shared::x509::{self, Facts};
use chancery_tests::agent::Agent;
use chancery_tests::cli::Cli;
use chancery_tests::coordinator::Coordinator;
use chancery_tests::nginx::Nginx;
use chancery_tests::scene::Scene;
use chancery_tests::wait;
use chancery_tests::world::{Options, PATIENCE, World, server_name};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// A whole generation on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    /// What the stable path points to, such as `.chancery/www/7`.
    pub(crate) link: PathBuf,
    /// Serial number of the certificate in it.
    pub(crate) serial: String,
}

/// Reads what an agent has installed as a service does that opens one file after the other: the
/// link is followed once, then key and chain are read. `None` without a stable path; an
/// error unless all that is there belongs together.
pub(crate) fn installed(stable: &Path) -> Result<Option<Installed>> {
    loop {
        let link = match fs::read_link(stable) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("{}: {error}", stable.display()),
        };
        match whole(&stable.parent().context("no parent")?.join(&link)) {
            Ok(serial) => return Ok(Some(Installed { link, serial })),
            // Generations of long ago are removed; who is that late has to look again.
            Err(_) if fs::read_link(stable).is_ok_and(|now| now != link) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What must be installed; an error when nothing is.
pub(crate) fn must_be_installed(stable: &Path) -> Result<Installed> {
    installed(stable)?.with_context(|| format!("{} is not there", stable.display()))
}

/// The serial number of a generation whose files all belong together.
fn whole(folder: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let fullchain = read("fullchain.pem")?;
    let key = PrivateKeyDer::from_pem_slice(read("privkey.pem")?.as_bytes())?;
    let leaf = CertificateDer::from_pem_slice(fullchain.as_bytes())?;
    x509::check_key_matches(&leaf, &key)
        .with_context(|| format!("a mix in {}", folder.display()))?;
    let parts = format!("{}{}", read("cert.pem")?, read("chain.pem")?);
    ensure!(fullchain == parts, "fullchain is not cert and chain in {}", folder.display());
    let mode = fs::metadata(folder.join("privkey.pem"))?.mode();
    ensure!(!is_open(mode), "everybody can read the key in {}: {mode:o}", folder.display());
    Ok(Facts::of(&leaf)?.serial)
}

/// An error if anybody but its owner and its group can read a private key under `folder`, or if
/// there is none at all.
pub(crate) fn check_keys_are_closed(folder: &Path) -> Result<()> {
    let mut keys = 0;
    for (path, entry) in tree(folder)? {
        let text = if entry.is_file { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        if text.windows(KEY.len()).any(|window| window == KEY) {
            ensure!(!is_open(entry.mode), "{} has mode {:o}", path.display(), entry.mode);
            keys += 1;
        }
    }
    ensure!(keys > 0, "there is no key under {}", folder.display());
    Ok(())
}

/// Whether every user may do something with a file of this mode.
fn is_open(mode: u32) -> bool {
    mode & 0o007 != 0
}

/// What tells whether a file was touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    is_file: bool,
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    /// When content, and when anything at all, was changed, in nanoseconds.
    changed: [i128; 2],
}

/// All files, folders and links under `folder`. Links are not followed.
pub(crate) fn tree(folder: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut look = vec![folder.to_owned()];
    while let Some(path) = look.pop() {
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            look.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
        let nanoseconds =
            |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        let entry = Entry {
            is_file: metadata.is_file(),
            inode: metadata.ino(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            changed: [
                nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
                nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            ],
        };
        found.insert(path, entry);
    }
    Ok(found)
}

/// What `cert show` says of a certificate on one agent.
pub(crate) fn deployment<'a>(shown: &'a Value, agent: &str) -> &'a Value {
    let all = shown["deployments"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|deployment| deployment["agent"] == agent).unwrap_or(&Value::Null)
}

/// Waits until a certificate is in a state on an agent. Returns its deployment there.
pub(crate) async fn wait_for_state(
    cli: &Cli,
    certificate: &str,
    agent: &str,
    state: &str,
) -> Result<Value> {
    let what = format!("{state} on {agent}");
    let shown = cli.wait_for_certificate(certificate, &what, PATIENCE, |shown| {
        deployment(shown, agent)["state"] == state
    });
    Ok(deployment(&shown.await?, agent).clone())
}

/// Waits until the message about a certificate on an agent contains some words. Returns its
/// deployment there.
pub(crate) async fn wait_for_message(
    cli: &Cli,
    certificate: &str,
    agent: &str,
    words: &str,
) -> Result<Value> {
    let what = format!("{words:?} on {agent}");
    let shown = cli.wait_for_certificate(certificate, &what, PATIENCE, |shown| {
        deployment(shown, agent)["message"].as_str().is_some_and(|message| message.contains(words))
    });
    Ok(deployment(&shown.await?, agent).clone())
}

/// Waits until an agent is in a state: `connected`, `disconnected` or `joined`.
pub(crate) async fn wait_for_agent(cli: &Cli, agent: &str, state: &str) -> Result<Value> {
    wait::until(&format!("agent {agent} to be {state}"), PATIENCE, async || {
        let shown = cli.json(&["agent", "show", agent]).await?;
        ensure!(shown["state"] == state, "{shown}");
        Ok(shown)
    })
    .await
}

/// How often an agent has been connected and told all differences, over all its lives.
pub(crate) fn connections(agent: &Agent) -> Result<usize> {
    Ok(agent.log()?.matches("connected to ").count())
}

/// Waits until an agent has been connected more often than `before`.
pub(crate) async fn wait_for_connection(agent: &Agent, before: usize) -> Result<()> {
    let what = format!("{} to be connected again", agent.name());
    wait::until(&what, PATIENCE, async || {
        ensure!(connections(agent)? > before, "not yet");
        Ok(())
    })
    .await
}

/// Asks for a renewal. Returns the generation that it becomes.
pub(crate) async fn renew(cli: &Cli, certificate: &str) -> Result<u64> {
    let answer = cli.json(&["cert", "renew", certificate]).await?;
    answer["generation"].as_u64().with_context(|| format!("no generation in {answer}"))
}

/// Waits until a generation of a certificate was issued. Returns its serial number.
pub(crate) async fn wait_until_issued(
    cli: &Cli,
    certificate: &str,
    generation: u64,
) -> Result<String> {
    let what = format!("generation {generation}");
    let shown = cli.wait_for_certificate(certificate, &what, PATIENCE, |shown| {
        shown["generation"].as_u64() >= Some(generation) && shown["order"].is_null()
    });
    Ok(shown.await?["serial"].as_str().context("no serial")?.to_owned())
}

/// Waits until nginx serves a serial number for a certificate. After a reload its former workers
/// may answer for a moment.
pub(crate) async fn wait_until_served(
    nginx: &Nginx,
    certificate: &str,
    serial: &str,
) -> Result<()> {
    wait::until(&format!("nginx to serve {certificate} with {serial}"), PATIENCE, async || {
        let served = nginx.served(&server_name(certificate)).await?;
        ensure!(served.leaf.serial == serial, "it serves {}", served.leaf.serial);
        Ok(())
    })
    .await
}

/// The value of a metric; `series` has its labels. `None` when there is no such series.
pub(crate) async fn metric(coordinator: &Coordinator, series: &str) -> Result<Option<f64>> {
    let metrics = coordinator.metrics().await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().with_context(|| format!("{series} {value}"))).transpose()
}

/// Waits until a metric has a value; `None`: until there is no such series.
pub(crate) async fn wait_for_metric(
    coordinator: &Coordinator,
    series: &str,
    wanted: Option<f64>,
) -> Result<()> {
    wait::until(&format!("{series} to be {wanted:?}"), PATIENCE, async || {
        let value = metric(coordinator, series).await?;
        ensure!(value == wanted, "{value:?}");
        Ok(())
    })
    .await
}

/// The kinds of events about a subject, the oldest first.
pub(crate) async fn story(cli: &Cli, subject: &str) -> Result<Vec<String>> {
    let listed = cli.json(&["event", "list", "-n", "1000", "--subject", subject]).await?;
    let events = listed["events"].as_array().context("no events")?;
    Ok(events
        .iter()
        .rev()
        .map(|event| event["kind"].as_str().unwrap_or_default().to_owned())
        .collect())
}

/// A world with these certificates installed.
pub(crate) async fn world_with(scene: &Scene, certificates: &[&str]) -> Result<World> {
    let world = World::start(scene, Options::new()?).await?;
    world.declare(certificates).await?;
    for certificate in certificates {
        world.wait_until_installed(certificate, 1).await?;
    }
    Ok(world)
}

/// Sets what the agent's configuration has beside its coordinator, and starts it anew.
pub(crate) async fn reconfigure(world: &mut World, more: &str) -> Result<()> {
    world.agent.process()?.stop(wait::SOON).await?;
    world.agent.write_config(&[world.coordinator.agents_address()], &[], more)?;
    world.agent.run()
}

/// nginx as the agent's service, for these certificates; empty for all.
pub(crate) fn nginx_service(world: &World, certificates: &[&str]) -> String {
    let service = ServiceText {
        name: "nginx",
        certificates,
        test: &world.commands.test,
        reload: &world.commands.reload,
        probe: Some(world.nginx.address()),
        timeout: PROBE,
    };
    service.toml()
}

/// How often nginx was tested and reloaded.
pub(crate) fn counts(world: &World) -> (usize, usize) {
    (world.commands.tests(), world.commands.reloads())
}

/// A text in a document; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A `[[service]]` of an agent.
#[derive(Debug)]
pub(crate) struct ServiceText<'a> {
    pub(crate) name: &'a str,
    /// Empty for all.
    pub(crate) certificates: &'a [&'a str],
    pub(crate) test: &'a Path,
    pub(crate) reload: &'a Path,
    pub(crate) probe: Option<SocketAddr>,
    /// How long tests, reloads and probes may take.
    pub(crate) timeout: Duration,
}

impl ServiceText<'_> {
    pub(crate) fn toml(&self) -> String {
        let certificates =
            if self.certificates.is_empty() { vec!["*"] } else { self.certificates.to_vec() };
        let timeout = format!("{}ms", self.timeout.as_millis());
        let probe = match self.probe {
            Some(address) => format!("{{ address = \"{address}\", timeout = \"{timeout}\" }}"),
            None => "false".to_owned(),
        };
        format!(
            "\n[[service]]\nname = {:?}\ncertificates = {certificates:?}\ntest = [{:?}]\n\
             test_timeout = {timeout:?}\nreload = [{:?}]\nreload_timeout = {timeout:?}\n\
             probe = {probe}\n",
            self.name,
            self.test.display().to_string(),
            self.reload.display().to_string(),
        )
    }
}

/// The agent of a [`World`].
pub(crate) const AGENT: &str = "web-1";
/// Long enough for nginx to reload on a busy machine, short enough to be waited for.
const PROBE: Duration = Duration::from_secs(2);
const KEY: &[u8] = b"PRIVATE KEY-----";
