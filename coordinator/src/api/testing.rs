//! A coordinator with everything that serves, for tests: a store in memory, the lease, the internal
//! CA, and a real TLS listener on the loopback interface.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chancery_proto::v1::{
    AgentInfo, CreateTokenRequest, JoinRequest, WatchRequest, WatchResponse,
    admin_service_client::AdminServiceClient, agent_service_client::AgentServiceClient,
    enrolment_service_client::EnrolmentServiceClient, watch_response,
};
use chancery_shared::{
    clock::{SharedClock, SystemClock},
    key_type::KeyType,
    name::{CertName, Labels},
    number::{Generation, Revision},
    tls,
    x509::{Facts, Fingerprint},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};

use super::{Api, Parts, Socket, SocketOptions, serve_agents, serve_operators};
use crate::{
    authority::{self, Authority},
    election::{Leadership, Transfers, testing::lead_until},
    events::{self, Events},
    members::Peers,
    metrics::Metrics,
    mirror::{Health, Mirror, View},
    record::{
        self, Bundle, CertificateSpec, CertificateState, Chain, Event, EventKind, Instance, Issued,
        Member, Record, key,
    },
    renewal_info::AskNow,
    seal::{self, KeyFile, Sealer},
    status::{About, Presence, Status as ReadModel},
    store::{
        Batch, Campaign, Candidate, Entry, Error, Fence, Snapshot, Store, Watch,
        memory::MemoryStore,
    },
};

/// A coordinator that serves, and leads.
pub(crate) struct Fleet {
    pub(crate) store: Arc<Flaky>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) clock: SharedClock,
    pub(crate) sealer: Sealer,
    pub(crate) authority: Arc<Authority>,
    pub(crate) status: Arc<ReadModel>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
    pub(crate) leading: watch::Sender<Option<Leadership>>,
    pub(crate) leadership: Leadership,
    pub(crate) transfers: Transfers,
    pub(crate) api: Arc<Api>,
    pub(crate) address: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) directory: tempfile::TempDir,
    key_path: PathBuf,
    instance: Instance,
    pub(crate) peers: Arc<Peers>,
    pub(crate) server: JoinHandle<Result<(), super::Error>>,
    _lease: DropGuard,
    _stop: DropGuard,
}

impl Fleet {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        tls::install_crypto();
        let clock = SystemClock::shared();
        let inner = MemoryStore::new(clock.clone());
        let directory = tempfile::tempdir().unwrap();
        let key_path = directory.path().join("seal.key");
        KeyFile::create(&key_path).unwrap();
        let (leadership, transfers, lease) =
            lead_until(inner.clone(), clock.clone(), "node-1").await;
        let leading = watch::Sender::new(Some(leadership.clone()));
        let terms = (leading, leadership, transfers);
        Self::assemble("node-1", inner, directory, &key_path, terms, lease).await
    }

    /// Starts another one on the same store, which does not lead. Both are registered.
    pub(crate) async fn follower(&self, node: &str) -> Self {
        let leading = watch::Sender::new(None);
        let follower = Self::assemble(
            node,
            self.store.inner.clone(),
            tempfile::tempdir().unwrap(),
            &self.key_path,
            (leading, self.leadership.clone(), self.transfers.clone()),
            CancellationToken::new().drop_guard(),
        )
        .await;
        self.register().await;
        let registered = follower.register().await;
        self.mirror.wait_for(registered).await;
        follower
    }

    /// Lets the others know of it.
    async fn register(&self) -> Revision {
        let about = self.status.about();
        let member = Member {
            node: about.node.clone(),
            instance: self.instance,
            version: about.version.to_owned(),
            address: self.address.clone(),
            http: String::new(),
            started_at: self.clock.now(),
        };
        self.put(key::member(&about.node), &member).await
    }

    async fn assemble(
        node: &str,
        inner: Arc<MemoryStore>,
        directory: tempfile::TempDir,
        key_path: &Path,
        terms: (watch::Sender<Option<Leadership>>, Leadership, Transfers),
        lease: DropGuard,
    ) -> Self {
        let (leading, leadership, transfers) = terms;
        let clock = SystemClock::shared();
        let store = Arc::new(Flaky {
            inner,
            down: AtomicBool::new(false),
            faster: Mutex::default(),
            watches: Mutex::default(),
        });
        let key_file = KeyFile::load(key_path).unwrap();
        let sealer = seal::bootstrap(&*store, &key_file, clock.now()).await.unwrap();
        let shutdown = CancellationToken::new();
        let mirror = Mirror::start(store.clone(), shutdown.clone()).await.unwrap();
        authority::ensure(&*store, &leadership, &sealer, &clock).await.unwrap();
        let options = authority::Options::default();
        let authority = authority::load(&mirror, &sealer, clock.clone(), options).await.unwrap();
        let metrics = Arc::new(Metrics::default());
        let (events, _writer) = Events::start(
            store.clone(),
            events::Options {
                node: node.parse().unwrap(),
                clock: clock.clone(),
                epoch: Box::new(|| chancery_shared::number::Epoch(1)),
                metrics: metrics.clone(),
            },
            shutdown.clone(),
        );
        let about = About { node: node.parse().unwrap(), store: "memory", version: "1.2.3" };
        let presence = Presence::new(clock.clone());
        let status =
            ReadModel::new(about, mirror.clone(), leading.subscribe(), presence, clock.clone());
        let instance = Instance::random();
        let node = node.parse().unwrap();
        let peers = Peers::new(node, mirror.clone(), sealer.clone(), clock.clone());
        let api = Api::new(Parts {
            store: store.clone(),
            mirror: mirror.clone(),
            sealer: sealer.clone(),
            status: status.clone(),
            leadership: leading.subscribe(),
            peers: peers.clone(),
            instance,
            transfers: transfers.clone(),
            ask_now: AskNow::default(),
            dns01: None,
            events: events.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server =
            tokio::spawn(serve_agents(api.clone(), authority.clone(), listener, shutdown.clone()));
        Self {
            store,
            mirror,
            clock,
            sealer,
            authority,
            status,
            metrics,
            events,
            leading,
            leadership,
            transfers,
            api,
            address,
            shutdown: shutdown.clone(),
            directory,
            key_path: key_path.to_owned(),
            instance,
            peers,
            server,
            _lease: lease,
            _stop: shutdown.drop_guard(),
        }
    }

    /// Commits and waits until the mirror shows it.
    pub(crate) async fn commit(&self, batch: Batch) -> Revision {
        let revision = self.store.commit(batch).await.unwrap();
        self.mirror.wait_for(revision).await;
        revision
    }

    /// Writes one record.
    pub(crate) async fn put<T: Record>(&self, key: impl Into<String>, record: &T) -> Revision {
        self.commit(Batch::unfenced().put(key, record::encode(record))).await
    }

    /// Declares a certificate for agents with these labels.
    pub(crate) async fn declare(&self, name: &str, labels: &[&str]) -> CertName {
        let spec = spec(name, labels);
        self.put(key::certificate(&spec.name), &spec).await;
        spec.name
    }

    /// Stores a bundle of a certificate. Returns its end-entity certificate and key.
    pub(crate) async fn issue(&self, name: &CertName, generation: u64) -> (Vec<u8>, Vec<u8>) {
        let generation = Generation(generation);
        let (leaf, key, issuer) = certificate(&format!("{name}.example.org"));
        let facts = Facts::of(&leaf).unwrap();
        let identifiers = vec![format!("{name}.example.org").parse().unwrap()];
        let context = seal::Context { kind: "bundle", name: name.as_str(), generation };
        let bundle = Bundle {
            issuer: None,
            certificate: name.clone(),
            generation,
            leaf: leaf.clone(),
            chain: vec![Fingerprint::of(&issuer)],
            key: self.sealer.seal(&context, &key),
            identifiers: identifiers.clone(),
        };
        let state = CertificateState {
            generation,
            issued: Some(Issued {
                serial: facts.serial,
                fingerprint: Fingerprint::of(&leaf),
                not_before: facts.not_before,
                not_after: facts.not_after,
                issuer: "test".parse().unwrap(),
                issued_by: facts.issuer,
                identifiers,
                key_type: KeyType::EcdsaP256,
                profile: None,
                stored_at: self.clock.now(),
            }),
            ..CertificateState::default()
        };
        let batch = Batch::unfenced()
            .put(key::chain(&Fingerprint::of(&issuer)), record::encode(&Chain { der: issuer }))
            .put(key::bundle(name, generation), record::encode(&bundle))
            .put(key::state(name), record::encode(&state));
        self.commit(batch).await;
        (leaf, key)
    }

    /// Makes a join token as an operator does.
    pub(crate) async fn token(&self, agent: &str, labels: &[&str]) -> String {
        let labels = Labels::parse(labels.iter().copied()).unwrap();
        let request =
            CreateTokenRequest { agent: agent.to_owned(), labels: labels.to_map(), ttl: None };
        self.admin().await.create_token(request).await.unwrap().into_inner().token
    }

    /// An agent that has joined.
    pub(crate) async fn join(&self, name: &str, labels: &[&str]) -> TestAgent {
        let token = self.token(name, labels).await;
        let key = KeyType::EcdsaP256.generate().unwrap();
        let chain = self.try_join(&token, &key).await.unwrap();
        TestAgent { key, chain }
    }

    /// Uses a token.
    pub(crate) async fn try_join(
        &self,
        token: &str,
        key: &rcgen::KeyPair,
    ) -> Result<Vec<Bytes>, Status> {
        let request =
            JoinRequest { token: token.to_owned(), csr_der: csr(key), info: Some(info()) };
        let mut client = EnrolmentServiceClient::new(self.stranger().await);
        Ok(client
            .join(request)
            .await?
            .into_inner()
            .chain_der
            .into_iter()
            .map(Bytes::from)
            .collect())
    }

    /// A channel without a client certificate.
    pub(crate) async fn stranger(&self) -> Channel {
        let config = tls::joining_client(self.authority.fingerprint()).unwrap();
        tls::connect(&self.address, Arc::new(config)).await.unwrap()
    }

    /// A channel with a client certificate.
    pub(crate) async fn channel(&self, agent: &TestAgent) -> Channel {
        let chain = agent.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivateKeyDer::try_from(agent.key.serialize_der()).unwrap();
        let root = self.authority.certificate().clone();
        let config = tls::identified_client(root, chain, key).unwrap();
        tls::connect(&self.address, Arc::new(config)).await.unwrap()
    }

    /// The service for agents, as `agent`.
    pub(crate) async fn agent(&self, agent: &TestAgent) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel(agent).await)
    }

    /// The operators' service, on its socket.
    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        let path = self.directory.path().join("admin.sock");
        if !path.exists() {
            let socket = Socket::bind(&SocketOptions { path: path.clone(), group: None }).unwrap();
            tokio::spawn(serve_operators(self.api.clone(), socket, self.shutdown.clone()));
        }
        admin_client(&path).await
    }

    /// An open stream of `agent`.
    pub(crate) async fn watch(
        &self,
        agent: &TestAgent,
        request: WatchRequest,
    ) -> tonic::Streaming<WatchResponse> {
        self.agent(agent).await.watch(request).await.unwrap().into_inner()
    }

    /// Takes the store away, with the mirror's watch, and waits until the mirror has noticed.
    pub(crate) async fn lose_store(&self) {
        self.store.set_down(true);
        std::mem::take(&mut *self.store.watches.lock().unwrap()).cancel();
        let lost = async {
            while self.mirror.health() == Health::Following {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, lost).await.expect("the mirror notices");
    }

    /// Waits until something holds for the mirror's view.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&View) -> Option<T>) -> T {
        let mut touched = self.mirror.touched();
        let looking = async {
            loop {
                let found = look(&self.mirror.read());
                if let Some(found) = found {
                    return found;
                }
                // Lagging is as good a reason to look again.
                let _ = touched.recv().await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("{what} did not come to be"))
    }

    /// Waits for an event of this kind whose message has `part` in it.
    pub(crate) async fn event(&self, kind: EventKind, part: &str) -> Arc<Event> {
        self.until(&format!("an event {} with {part:?}", kind.code()), |view| {
            let mut events = view.events.values();
            events.find(|event| event.kind == kind && event.message.contains(part)).cloned()
        })
        .await
    }
}

/// An agent's key and identity.
pub(crate) struct TestAgent {
    pub(crate) key: rcgen::KeyPair,
    pub(crate) chain: Vec<Bytes>,
}

/// A certificate for one name of its own, whose issuer is `test`.
pub(crate) fn spec(name: &str, labels: &[&str]) -> CertificateSpec {
    CertificateSpec {
        name: name.parse().unwrap(),
        identifiers: vec![format!("{name}.example.org").parse().unwrap()],
        key_type: KeyType::EcdsaP256,
        reuse_key: false,
        key_ahead: false,
        standby: None,
        profile: None,
        issuers: vec!["test".parse().unwrap()],
        challenges: Vec::new(),
        labels: Labels::parse(labels.iter().copied()).unwrap(),
        renew: None,
    }
}

/// A CSR by `key`.
pub(crate) fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    // Whatever it asks for, it does not get.
    let params = rcgen::CertificateParams::new(["coordinator.chancery.internal".to_owned()]);
    params.unwrap().serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn info() -> AgentInfo {
    AgentInfo { version: "9.9".to_owned(), hostname: "host".to_owned() }
}

/// An end-entity certificate, its key, and its issuer. DER.
pub(crate) fn certificate(dns: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let ca_key = KeyType::EcdsaP256.generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(params, ca_key).unwrap();
    let key = KeyType::EcdsaP256.generate().unwrap();
    let params = rcgen::CertificateParams::new([dns.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &ca).unwrap();
    (leaf.der().to_vec(), key.serialize_der(), ca.der().to_vec())
}

/// The operators' service on the socket at `path`.
pub(crate) async fn admin_client(path: &Path) -> AdminServiceClient<Channel> {
    let endpoint = tonic::transport::Endpoint::try_from(format!("unix://{}", path.display()));
    AdminServiceClient::new(endpoint.unwrap().connect().await.unwrap())
}

/// The next response; panics if the stream ends or nothing comes.
pub(crate) async fn next(stream: &mut tonic::Streaming<WatchResponse>) -> WatchResponse {
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        let message = message.expect("something is sent").expect("no error");
        let message = message.expect("the stream goes on");
        // Comes whenever somebody comes or goes.
        if !matches!(message.event, Some(watch_response::Event::Coordinators(_))) {
            return message;
        }
    }
}

/// The error that ends a stream.
pub(crate) async fn end(stream: &mut tonic::Streaming<WatchResponse>) -> Status {
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    });
    ended.await.expect("the stream ends")
}

/// All responses up to the next `Synced`, in short: `web=3`, `-web`, `synced`.
pub(crate) async fn until_synced(stream: &mut tonic::Streaming<WatchResponse>) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        all.push(short(&next(stream).await));
        if all.last().is_some_and(|last| last == "synced") {
            return all;
        }
    }
}

/// A response in short.
pub(crate) fn short(response: &WatchResponse) -> String {
    match response.event.as_ref().unwrap() {
        watch_response::Event::Bundle(bundle) => {
            format!("{}={}", bundle.certificate, bundle.generation)
        }
        watch_response::Event::Withdrawn(withdrawn) => format!("-{}", withdrawn.certificate),
        watch_response::Event::Synced(_) => "synced".to_owned(),
        watch_response::Event::Coordinators(list) => list.addresses.join(","),
    }
}

/// Labels as a map of the wire.
pub(crate) fn labels(texts: &[&str]) -> BTreeMap<String, String> {
    Labels::parse(texts.iter().copied()).unwrap().to_map()
}

/// A store that can be taken away, and in which others can be faster.
pub(crate) struct Flaky {
    inner: Arc<MemoryStore>,
    down: AtomicBool,
    /// What somebody else commits just before each of the next commits.
    faster: Mutex<Vec<Batch>>,
    /// Cancelled to end open watches.
    watches: Mutex<CancellationToken>,
}

impl Flaky {
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Lets somebody else commit these, each just before one of the next commits.
    pub(crate) fn overtake(&self, batches: Vec<Batch>) {
        *self.faster.lock().unwrap() = batches;
    }

    fn check(&self) -> Result<(), Error> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("it was taken away".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.check()?;
        self.inner.list(prefix).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        self.check()?;
        let faster = self.faster.lock().unwrap().pop();
        if let Some(faster) = faster {
            self.inner.commit(faster).await?;
        }
        self.inner.commit(batch).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.check()?;
        let mut commits = self.inner.watch(prefix, after).await?;
        let over = self.watches.lock().unwrap().clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(over.run_until_cancelled_owned(async move {
            while let Some(commit) = commits.next().await {
                if sender.send(commit).await.is_err() {
                    return;
                }
            }
        }));
        Ok(Watch::new(receiver))
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.inner.campaign(candidate).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.keep_alive(fence).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.resign(fence).await
    }

    async fn register(
        &self,
        registration: &crate::store::Registration,
    ) -> Result<crate::store::Registered, Error> {
        self.inner.register(registration).await
    }

    async fn keep_registered(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.inner.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.inner.deregister(registered).await
    }

    async fn health(&self) -> Result<crate::store::Health, Error> {
        self.inner.health().await
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// Longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
