//! A site for tests: folders, a service that really speaks TLS, and an agent's engine.
//!
//! The service keeps what it has loaded in a folder of its own; its reload command copies
//! the installed files there, as a server reads them into memory. Its commands are shell
//! scripts that write down each call, and fail while a file says so.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chancery_proto::v1::{DeploymentReport, DeploymentState, ServiceReport};
use chancery_shared::{clock::SystemClock, tls};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    engine::{Engine, Event},
    report::Snapshot,
    service::ThisHost,
};

/// Folders and services of one machine.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    listening: Vec<JoinHandle<()>>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), listening: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Configuration for a service of this name, which is started.
    pub(crate) async fn service(&mut self, name: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let loaded = self.path(&format!("{name}.loaded"));
        self.listening.push(tokio::spawn(serve(listener, loaded)));
        let dir = self.dir.path().display();
        format!(
            r#"
[[service]]
name = "{name}"
test = ["sh", "-c", "cd {dir}; echo {name} test $(readlink certs/web) >> calls; echo checking; [ ! -e {name}.broken ]"]
reload = ["sh", "-c", """cd {dir}; echo {name} reload >> calls
    [ ! -e {name}.stuck ] || exit 7
    mkdir -p {name}.loaded
    for c in certs/*; do
        [ ! -e $c/privkey.pem ] || [ -e {name}.ignores-$(basename $c) ] || \
            {{ rm -rf {name}.loaded/$(basename $c); cp -rL $c {name}.loaded/; }}
    done"""]
probe = {{ address = "{address}", timeout = "300ms" }}
"#
        )
    }

    /// A whole configuration; `install` is the content of its section.
    pub(crate) fn config(&self, install: &str, services: &str) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            r#"
coordinators = ["127.0.0.1:1"]
state_dir = "{dir}/state"
[install]
dir = "{dir}/certs"
settle = "20ms"
{install}
[retry]
first = "30ms"
most = "60ms"
{services}
"#
        );
        Config::parse(Path::new("agent.toml"), &text).unwrap()
    }

    /// The calls that the services' commands wrote down since last asked.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().map(str::to_owned).collect()
    }

    /// Creates or removes a file that makes something fail.
    pub(crate) fn set(&self, name: &str, on: bool) {
        if on {
            fs::write(self.path(name), "").unwrap();
        } else {
            fs::remove_file(self.path(name)).unwrap();
        }
    }

    /// Where the stable path of a certificate points to.
    pub(crate) fn link(&self, certificate: &str) -> Option<String> {
        let target = fs::read_link(self.path("certs").join(certificate)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

/// Serves `<loaded>/<first label of the SNI>`.
async fn serve(listener: TcpListener, loaded: PathBuf) {
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Loaded(loaded)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        // A client may hang up at any time.
        tokio::spawn(acceptor.accept(tcp));
    }
}

#[derive(Debug)]
struct Loaded(PathBuf);

impl ResolvesServerCert for Loaded {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let dir = self.0.join(hello.server_name()?.split('.').next()?);
        let chain = CertificateDer::pem_file_iter(dir.join("fullchain.pem")).ok()?;
        let chain = chain.collect::<Result<Vec<_>, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_file(dir.join("privkey.pem")).ok()?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }
}

/// A running engine, with the test in the place of a coordinator.
pub(crate) struct Running {
    pub(crate) events: mpsc::Sender<Event>,
    published: watch::Receiver<Arc<Snapshot>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(config: Config) -> Self {
        let (engine, published) =
            Engine::open(Arc::new(config), SystemClock::shared(), Arc::new(ThisHost)).unwrap();
        let (events, received) = mpsc::channel(100);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(received, stop.clone()));
        Self { events, published, stop, task }
    }

    /// Sends bundles as the coordinator does at the start of a stream.
    pub(crate) async fn sync(&self, bundles: &[chancery_proto::v1::Bundle]) {
        self.events.send(Event::Connected).await.unwrap();
        for bundle in bundles {
            self.send(bundle.clone()).await;
        }
        self.events.send(Event::Synced).await.unwrap();
    }

    pub(crate) async fn send(&self, bundle: chancery_proto::v1::Bundle) {
        self.events.send(Event::Bundle(Box::new(bundle))).await.unwrap();
    }

    /// Waits for a report that is as expected.
    pub(crate) async fn until(&self, expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut published = self.published.clone();
        let waiting = published.wait_for(|snapshot| expected(snapshot));
        match timeout(Duration::from_secs(30), waiting).await {
            Ok(snapshot) => snapshot.unwrap().clone(),
            Err(late) => panic!("{late}; reported: {:#?}", self.published.borrow().report),
        }
    }

    /// Waits until a certificate is in a state.
    pub(crate) async fn until_state(
        &self,
        certificate: &str,
        state: DeploymentState,
    ) -> DeploymentReport {
        let found = |snapshot: &Snapshot| {
            let found = deployment(snapshot, certificate);
            found.is_some_and(|deployment| deployment.state() == state)
        };
        let snapshot = self.until(found).await;
        deployment(&snapshot, certificate).unwrap().clone()
    }

    pub(crate) fn service(&self, name: &str) -> Option<ServiceReport> {
        let report = self.published.borrow().report.clone();
        report.services.into_iter().find(|service| service.service == name)
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn deployment<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a DeploymentReport> {
    snapshot.report.deployments.iter().find(|deployment| deployment.certificate == name)
}
