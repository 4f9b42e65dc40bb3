//! A CA in this process that does what a test tells it to, and all that orders need beside it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chancery_shared::{
    clock::{Clock, Monotonic, SharedClock, SystemClock},
    key_type::KeyType,
    name::{CertName, Labels},
    number::{Generation, Revision},
    x509,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Options, Orders, Outcome, Outside, Parts, Refuses, Tries,
    ca::{Busy, Fault},
};
use crate::{
    election::{Leadership, testing::lead},
    events::{self, Events},
    members::Peers,
    metrics::Metrics,
    mirror::Mirror,
    record::{
        self, CertificateSpec, CertificateState, Deployment, DeploymentState, IssuerSpec, Record,
        key,
    },
    seal::{KeyFile, Sealer, bootstrap},
    store::{Batch, Store as _, memory::MemoryStore},
};

/// Where the CA named `host` is.
pub(crate) fn directory(host: &str) -> String {
    format!("https://{host}/directory")
}

/// What a fake CA does.
pub(crate) struct FakeCa {
    /// Whether it cannot be reached at all.
    pub(crate) dead: AtomicBool,
    /// Connections that were tried while it was dead.
    pub(crate) refused: AtomicUsize,
    /// How newOrder is refused, and who is waited for; once for each.
    pub(crate) busy: Mutex<Vec<(String, Duration)>>,
    /// Each newOrder takes one of these.
    pub(crate) gate: Semaphore,
    /// newOrder requests that have come, and that were answered.
    pub(crate) asked: AtomicUsize,
    pub(crate) placed: AtomicUsize,
    /// Token of the first challenge of every order; the others have theirs after it.
    pub(crate) token: Mutex<String>,
    /// Whether all challenges of an order have that.
    pub(crate) repeats_token: AtomicBool,
    /// What all authorizations are for, instead of what was ordered.
    pub(crate) authorizes: Mutex<Option<String>>,
    /// How often the issuing certificate stands in a chain.
    pub(crate) repeat_issuer: AtomicUsize,
    /// Whether what it issues has expired.
    pub(crate) expired: AtomicBool,
    /// Paths that were asked for.
    pub(crate) paths: Mutex<Vec<String>>,
    /// The kind of request of which the next one gets stuck.
    stall: Mutex<Option<(&'static str, Moment)>>,
    stalled: Semaphore,
    released: Semaphore,
    state: Mutex<BTreeMap<usize, FakeOrder>>,
}

#[derive(Clone)]
struct FakeOrder {
    names: Vec<String>,
    status: &'static str,
    chain: String,
}

impl Default for FakeCa {
    fn default() -> Self {
        Self {
            dead: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            busy: Mutex::default(),
            gate: Semaphore::new(1_000),
            asked: AtomicUsize::new(0),
            placed: AtomicUsize::new(0),
            token: Mutex::new("a_token_of_enough_entropy-1".to_owned()),
            repeats_token: AtomicBool::new(false),
            authorizes: Mutex::default(),
            repeat_issuer: AtomicUsize::new(1),
            expired: AtomicBool::new(false),
            paths: Mutex::default(),
            stall: Mutex::default(),
            stalled: Semaphore::new(0),
            released: Semaphore::new(0),
            state: Mutex::default(),
        }
    }
}

/// When a request gets stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before the CA has done anything.
    Before,
    /// When it has, but nobody has seen the answer.
    After,
}

impl FakeCa {
    /// Has the next request of this kind get stuck.
    pub(crate) fn stall(&self, request: &'static str, moment: Moment) {
        *self.stall.lock().unwrap() = Some((request, moment));
    }

    /// Resolves once it has.
    pub(crate) async fn stalled(&self) {
        self.stalled.acquire().await.unwrap().forget();
    }

    /// Lets it go on.
    pub(crate) fn release(&self) {
        self.released.add_permits(1);
    }

    /// How many requests have come.
    pub(crate) fn asked_paths(&self) -> usize {
        self.paths.lock().unwrap().len()
    }

    async fn answer_or_stall(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> (StatusCode, String, String) {
        let path = request.uri().path().to_owned();
        let is_kind = |kind: &str| path.trim_matches('/').split('/').next() == Some(kind);
        let stuck = self.stall.lock().unwrap().take_if(|(kind, _)| is_kind(kind));
        let Some((_, moment)) = stuck else { return self.answer(request).await };
        if moment == Moment::Before {
            self.stall_here().await;
            return self.answer(request).await;
        }
        let answer = self.answer(request).await;
        self.stall_here().await;
        answer
    }

    async fn stall_here(&self) {
        self.stalled.add_permits(1);
        self.released.acquire().await.unwrap().forget();
    }

    async fn answer(&self, request: Request<BodyWrapper<Bytes>>) -> (StatusCode, String, String) {
        let host = request.uri().authority().unwrap().to_string();
        let path = request.uri().path().to_owned();
        self.paths.lock().unwrap().push(path.clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let url = |path: &str| format!("https://{host}/{path}");
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let number = segments.get(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let ok = |value: &Value| (StatusCode::OK, String::new(), value.to_string());
        match segments[0] {
            "directory" => ok(&json!({
                "newNonce": url("nonce"), "newAccount": url("new-account"),
                "newOrder": url("new-order"),
            })),
            "new-account" => (StatusCode::CREATED, url("account/1"), "{}".to_owned()),
            "new-order" => {
                self.asked.fetch_add(1, SeqCst);
                self.gate.acquire().await.unwrap().forget();
                let number = self.placed.fetch_add(1, SeqCst) + 1;
                let names = payload(&body)["identifiers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|identifier| identifier["value"].as_str().unwrap().to_owned())
                    .collect();
                let order = FakeOrder { names, status: "pending", chain: String::new() };
                self.state.lock().unwrap().insert(number, order);
                (StatusCode::CREATED, url(&format!("order/{number}")), self.order(&url, number))
            }
            "order" => (StatusCode::OK, String::new(), self.order(&url, number)),
            "authz" => {
                let order = self.state.lock().unwrap()[&number].clone();
                let name = &order.names[segments[2].parse::<usize>().unwrap()];
                let mut token = self.token.lock().unwrap().clone();
                if segments[2] != "0" && !self.repeats_token.load(SeqCst) {
                    token += segments[2];
                }
                let name = self.authorizes.lock().unwrap().clone().unwrap_or(name.clone());
                ok(&json!({
                    "identifier": {"type": "dns", "value": name}, "status": order.status,
                    "challenges": [{"type": "http-01", "url": url(&format!("challenge/{number}")),
                                    "token": token, "status": order.status}],
                }))
            }
            "challenge" => {
                self.state.lock().unwrap().get_mut(&number).unwrap().status = "ready";
                ok(&json!({"type": "http-01", "url": url(&path[1..]), "token": "t",
                           "status": "valid"}))
            }
            "finalize" => {
                let csr = payload(&body)["csr"].as_str().unwrap().to_owned();
                let chain = self.issue(&BASE64_URL_SAFE_NO_PAD.decode(csr).unwrap());
                let mut state = self.state.lock().unwrap();
                let order = state.get_mut(&number).unwrap();
                (order.status, order.chain) = ("valid", chain);
                drop(state);
                (StatusCode::OK, String::new(), self.order(&url, number))
            }
            "cert" => {
                (StatusCode::OK, String::new(), self.state.lock().unwrap()[&number].chain.clone())
            }
            _ => ok(&json!({})),
        }
    }

    fn order(&self, url: &dyn Fn(&str) -> String, number: usize) -> String {
        let order = self.state.lock().unwrap()[&number].clone();
        let authorizations: Vec<_> =
            (0..order.names.len()).map(|i| url(&format!("authz/{number}/{i}"))).collect();
        let mut shown = json!({
            "status": order.status, "authorizations": authorizations, "identifiers": [],
            "finalize": url(&format!("finalize/{number}")),
        });
        if order.status == "valid" {
            shown["certificate"] = url(&format!("cert/{number}")).into();
        }
        shown.to_string()
    }

    fn issue(&self, csr: &[u8]) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyType::EcdsaP256.generate().unwrap();
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let mut csr = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let days = if self.expired.load(SeqCst) { -30 } else { 90 };
        let now = time::OffsetDateTime::from_unix_timestamp(now().as_second()).unwrap();
        csr.params.not_before = now - time::Duration::days(60);
        csr.params.not_after = now + time::Duration::days(days);
        let leaf = csr.signed_by(&issuer).unwrap();
        let repeat = self.repeat_issuer.load(SeqCst);
        let issuers = std::iter::repeat_n(issuer.der().as_ref(), repeat);
        x509::to_pem(std::iter::once(leaf.der().as_ref()).chain(issuers))
    }
}

fn payload(jose: &[u8]) -> Value {
    let jose: Value = serde_json::from_slice(jose).unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(jose["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// Reaches fake CAs by their host.
struct Client(Arc<BTreeMap<&'static str, Arc<FakeCa>>>);

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let host = request.uri().host().unwrap().to_owned();
        let ca = self.0[host.as_str()].clone();
        Box::pin(async move {
            if ca.dead.load(SeqCst) {
                ca.refused.fetch_add(1, SeqCst);
                let fault = Fault::Connection { host, reason: "refused".to_owned(), effect: false };
                return Err(instant_acme::Error::Other(Box::new(fault)));
            }
            if request.uri().path() == "/new-order"
                && let Some((body, wait)) = ca.busy.lock().unwrap().pop()
            {
                ca.refused.fetch_add(1, SeqCst);
                let refuses = Refuses::of_answer(StatusCode::TOO_MANY_REQUESTS, body.as_bytes());
                let busy = Busy { message: body, retry_after: Some(wait), refuses, problem: None };
                return Err(instant_acme::Error::Other(Box::new(busy)));
            }
            let (status, location, body) = ca.answer_or_stall(request).await;
            let response = Response::builder()
                .status(status)
                .header("replay-nonce", "nonce")
                .header("location", location);
            let (parts, ()) = response.body(()).unwrap().into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(body)) })
        })
    }
}

/// Both times are tokio's, so that pausing it pauses, and passes, the wall clock's too.
pub(crate) struct PausedClock {
    wall: Mutex<Timestamp>,
    monotonic: SystemClock,
}

impl PausedClock {
    /// Sets the wall clock forward, as somebody who corrects it, wrongly or not.
    pub(crate) fn jump(&self, by: Duration) {
        *self.wall.lock().unwrap() += by;
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        *self.wall.lock().unwrap() + self.monotonic.monotonic().0
    }

    fn monotonic(&self) -> Monotonic {
        self.monotonic.monotonic()
    }
}

/// A leader with a store in memory, and two CAs: `main` and `spare`.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) clock: SharedClock,
    pub(crate) wall: Arc<PausedClock>,
    pub(crate) leadership: Leadership,
    pub(crate) orders: Arc<Orders>,
    pub(crate) main: Arc<FakeCa>,
    /// Ends the term.
    pub(crate) lease: Option<DropGuard>,
    /// Stops the mirror where it is.
    pub(crate) mirror_stop: CancellationToken,
    pub(crate) sealer: Sealer,
    cas: Arc<BTreeMap<&'static str, Arc<FakeCa>>>,
    _directory: tempfile::TempDir,
    _stop: DropGuard,
}

/// A coordinator that leads after the first.
pub(crate) struct Successor {
    pub(crate) leadership: Leadership,
    pub(crate) orders: Arc<Orders>,
    _lease: DropGuard,
    _stop: DropGuard,
}

fn orders(
    node: &str,
    store: &Arc<MemoryStore>,
    mirror: &Arc<Mirror>,
    sealer: &Sealer,
    clock: &SharedClock,
    cas: &Arc<BTreeMap<&'static str, Arc<FakeCa>>>,
    stop: &CancellationToken,
) -> Arc<Orders> {
    let metrics = Arc::new(Metrics::default());
    let options = events::Options {
        node: node.parse().unwrap(),
        clock: clock.clone(),
        epoch: Box::new(|| chancery_shared::number::Epoch(1)),
        metrics: metrics.clone(),
    };
    let (events, _) = Events::start(store.clone(), options, stop.clone());
    let peers = Peers::new(node.parse().unwrap(), mirror.clone(), sealer.clone(), clock.clone());
    let parts = Parts {
        store: store.clone(),
        mirror: mirror.clone(),
        peers,
        sealer: sealer.clone(),
        events,
        metrics,
        clock: clock.clone(),
    };
    let options = Options { deadline: DEADLINE, retry_first: Duration::from_mins(1) };
    let cas = cas.clone();
    let outside = Outside {
        connect: Arc::new(move |_| Ok(Box::new(Client(cas.clone())))),
        ..Outside::default()
    };
    Arc::new(Orders::new(parts, options, outside))
}

/// How long an order may take in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_mins(10);

impl World {
    pub(crate) async fn new() -> Self {
        let wall = Arc::new(PausedClock { wall: Mutex::new(now()), monotonic: SystemClock::new() });
        let clock: SharedClock = wall.clone();
        let store = MemoryStore::new(clock.clone());
        let directory = tempfile::tempdir().unwrap();
        let key_file = KeyFile::create(&directory.path().join("seal.key")).unwrap();
        let sealer = bootstrap(&*store, &key_file, clock.now()).await.unwrap();
        let mirror_stop = CancellationToken::new();
        let mirror = Mirror::start(store.clone(), mirror_stop.clone()).await.unwrap();
        let (leadership, lease) = lead(store.clone(), clock.clone(), "node-1").await;
        let stop = CancellationToken::new();
        let (main, spare) = (Arc::new(FakeCa::default()), Arc::new(FakeCa::default()));
        let cas = Arc::new(BTreeMap::from([("main", main.clone()), ("spare", spare.clone())]));
        let orders = orders("node-1", &store, &mirror, &sealer, &clock, &cas, &stop);
        let world = Self {
            store,
            mirror,
            clock,
            wall,
            leadership,
            orders,
            main,
            lease: Some(lease),
            mirror_stop,
            sealer,
            cas,
            _directory: directory,
            _stop: stop.drop_guard(),
        };
        world.issuer("main", "main").await;
        world.issuer("spare", "spare").await;
        world
    }

    /// Ends the term, and waits until another coordinator leads over the same store.
    pub(crate) async fn successor(&mut self, node: &str) -> Successor {
        drop(self.lease.take());
        let stop = CancellationToken::new();
        let mirror = Mirror::start(self.store.clone(), stop.clone()).await.unwrap();
        let (leadership, lease) = lead(self.store.clone(), self.clock.clone(), node).await;
        let orders =
            orders(node, &self.store, &mirror, &self.sealer, &self.clock, &self.cas, &stop);
        Successor { leadership, orders, _lease: lease, _stop: stop.drop_guard() }
    }

    pub(crate) async fn put<T: Record>(&self, key: impl Into<String>, record: &T) -> Revision {
        self.commit(Batch::unfenced().put(key, record::encode(record))).await
    }

    /// Commits, and waits for the mirror unless that is stopped.
    pub(crate) async fn commit(&self, batch: Batch) -> Revision {
        let revision = self.store.commit(batch).await.unwrap();
        if !self.mirror_stop.is_cancelled() {
            self.mirror.wait_for(revision).await;
        }
        revision
    }

    pub(crate) async fn issuer(&self, name: &str, host: &str) {
        self.limited(name, host, &[]).await;
    }

    /// Declares an issuer with limits.
    pub(crate) async fn limited(&self, name: &str, host: &str, limits: &[(&str, &str)]) {
        let limits = limits.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let issuer = IssuerSpec {
            name: name.parse().unwrap(),
            directory: directory(host),
            external_account: None,
            profile: None,
            preferred_chain: None,
            contacts: Vec::new(),
            trust_roots_pem: String::new(),
            limits: limits.collect(),
        };
        self.put(key::issuer(&issuer.name), &issuer).await;
    }

    /// Declares a certificate for two names, to be issued by `issuer`.
    pub(crate) async fn declare(&self, name: &str, issuer: &str) -> CertName {
        let spec = CertificateSpec {
            name: name.parse().unwrap(),
            identifiers: ["a", "b"].map(|n| format!("{n}.{name}.test").parse().unwrap()).to_vec(),
            key_type: KeyType::EcdsaP256,
            reuse_key: false,
            key_ahead: false,
            standby: None,
            profile: None,
            issuers: vec![issuer.parse().unwrap()],
            challenges: Vec::new(),
            labels: Labels::default(),
            renew: None,
        };
        self.put(key::certificate(&spec.name), &spec).await;
        spec.name
    }

    /// Says what an agent says to have.
    pub(crate) async fn delivered(&self, agent: &str, certificate: &CertName, generation: u64) {
        let deployment = Deployment {
            agent: agent.parse().unwrap(),
            certificate: certificate.clone(),
            state: DeploymentState::Delivered,
            delivered: Generation(generation),
            installed: Generation(0),
            served: Generation(0),
            message: String::new(),
            changed_at: now(),
            failures: 0,
        };
        self.put(key::deployment(&deployment.agent, certificate), &deployment).await;
    }

    pub(crate) async fn run(&self, certificate: &CertName, tries: Tries) -> Outcome {
        self.orders.run(&self.leadership, certificate, tries).await
    }

    /// A record as the store has it.
    pub(crate) async fn get<T: Record>(&self, key: &str) -> Option<T> {
        let entry = self.store.get(key).await.unwrap()?;
        Some(record::decode(key, &entry.value).unwrap())
    }

    pub(crate) async fn state(&self, certificate: &CertName) -> CertificateState {
        self.get(&key::state(certificate)).await.unwrap_or_default()
    }

    /// Waits until something holds for a certificate's state.
    pub(crate) async fn until(&self, name: &CertName, holds: impl Fn(&CertificateState) -> bool) {
        let mut touched = self.mirror.touched();
        let waiting = async {
            while !holds(&self.state(name).await) {
                let _ = touched.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_hours(24), waiting).await.expect("it came to be");
    }
}

fn now() -> Timestamp {
    SystemClock::shared().now()
}
