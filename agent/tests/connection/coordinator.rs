//! A coordinator that does what a test tells it to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chancery_proto::v1::{
    JoinRequest, JoinResponse, ReportRequest, ReportResponse, RotateIdentityRequest,
    RotateIdentityResponse, WatchRequest, WatchResponse,
    agent_service_server::{AgentService, AgentServiceServer},
    enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
    watch_response::Event,
};
use chancery_shared::{
    clock::{Clock as _, SystemClock},
    join_token::JoinToken,
    tls,
    x509::Fingerprint,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::Server};

/// The internal CA of a fleet.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A token of this fleet.
    pub(crate) fn token(&self) -> JoinToken {
        JoinToken::generate(Fingerprint::of(&self.root()))
    }

    fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// An identity for the key in a signing request, whose two hours began `age` ago.
    fn identity(&self, csr: &[u8], age: Duration) -> Vec<Vec<u8>> {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemClock::new().now().as_second();
        let now = time::OffsetDateTime::from_unix_timestamp(now).unwrap();
        csr.params.not_before = now - age;
        csr.params.not_after = csr.params.not_before + Duration::from_hours(2);
        let leaf = csr.signed_by(&self.0).unwrap();
        vec![leaf.der().to_vec(), self.root().to_vec()]
    }

    /// TLS of a coordinator: asks for an identity, but does not insist.
    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([tls::COORDINATOR_NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(self.root()).unwrap();
        let provider = tls::provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf, self.root()], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// What the coordinator was asked, and what it is to say.
#[derive(Default)]
pub(crate) struct Script {
    /// The token that may be used.
    pub(crate) token: String,
    /// How old new identities pretend to be.
    pub(crate) age: Duration,
    /// What every call with an identity gets instead of an answer.
    pub(crate) refusal: Option<Status>,
    /// What a stream begins with.
    pub(crate) first: Vec<WatchResponse>,
    pub(crate) joins: Vec<JoinRequest>,
    pub(crate) rotations: usize,
    pub(crate) reports: Vec<ReportRequest>,
    /// Each watch with the leaf of the identity that was used.
    pub(crate) watches: Vec<(WatchRequest, Vec<u8>)>,
    pub(crate) streams: Vec<mpsc::Sender<Result<WatchResponse, Status>>>,
}

/// A coordinator, listening until it is dropped.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    serving: JoinHandle<()>,
}

impl Coordinator {
    /// Starts one on a free port; `port` 0 lets the system choose.
    pub(crate) async fn start(authority: &Arc<Authority>, port: u16, script: Script) -> Self {
        let listener = listen(port).await;
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let service = Service { authority: authority.clone(), script: script.clone() };
        let acceptor = TlsAcceptor::from(Arc::new(authority.server()));
        let (connections, incoming) = mpsc::channel(16);
        let accepting = AbortOnDrop(tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(tcp).await {
                    let _ = connections.send(Ok::<_, std::io::Error>(stream)).await;
                }
            }
        }));
        let serving = tokio::spawn(async move {
            let _accepting = accepting;
            Server::builder()
                .add_service(EnrolmentServiceServer::new(service.clone()))
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .unwrap();
        });
        Self { address, script, serving }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Sends something on all open streams.
    pub(crate) async fn send(&self, revision: u64, event: Event) {
        let streams = self.script().streams.clone();
        for stream in streams {
            let _ = stream.send(Ok(response(revision, event.clone()))).await;
        }
    }

    /// Ends all streams.
    pub(crate) async fn cut(&self, status: Status) {
        let streams = std::mem::take(&mut self.script().streams);
        for stream in streams {
            let _ = stream.send(Err(status.clone())).await;
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Listens as soon as a coordinator that has just been dropped has let go of the port.
async fn listen(port: u16) -> TcpListener {
    let listening = async {
        loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), listening).await.expect("the port is free")
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn response(revision: u64, event: Event) -> WatchResponse {
    WatchResponse { revision, event: Some(event) }
}

/// The leaf of the identity that a request was made with.
fn peer<T>(request: &Request<T>) -> Option<Vec<u8>> {
    Some(request.peer_certs()?.first()?.to_vec())
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    script: Arc<Mutex<Script>>,
}

impl Service {
    fn script<T>(&self, request: &Request<T>) -> Result<MutexGuard<'_, Script>, Status> {
        let script = self.script.lock().unwrap();
        if peer(request).is_none() {
            return Err(Status::unauthenticated("no identity certificate"));
        }
        script.refusal.clone().map_or(Ok(script), Err)
    }
}

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        let good = request.token == script.token;
        let chain_der = self.authority.identity(&request.csr_der, script.age);
        script.joins.push(request);
        if good {
            Ok(Response::new(JoinResponse { agent: "web-1".to_owned(), chain_der }))
        } else {
            Err(Status::unauthenticated("the join token is not known"))
        }
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let leaf = peer(&request).unwrap_or_default();
        let mut script = self.script(&request)?;
        script.watches.push((request.into_inner(), leaf));
        let (sender, receiver) = mpsc::channel(64);
        for message in &script.first {
            sender.try_send(Ok(message.clone())).unwrap();
        }
        script.streams.push(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let mut script = self.script(&request)?;
        script.reports.push(request.into_inner());
        Ok(Response::new(ReportResponse {}))
    }

    async fn rotate_identity(
        &self,
        request: Request<RotateIdentityRequest>,
    ) -> Result<Response<RotateIdentityResponse>, Status> {
        let mut script = self.script(&request)?;
        script.rotations += 1;
        let chain_der = self.authority.identity(&request.into_inner().csr_der, Duration::ZERO);
        Ok(Response::new(RotateIdentityResponse { chain_der }))
    }
}
