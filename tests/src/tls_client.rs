//! A TLS client that looks at what is served, and one that never stops asking.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use chancery_shared::x509::{Facts, Fingerprint};
use http::Method;
use http::header::{HOST, USER_AGENT};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{authority, wait};

/// What a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The certificates, the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What stands in the server's own.
    pub leaf: Facts,
    /// SHA-256 of the server's own.
    pub fingerprint: Fingerprint,
}

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Anybody: for looking at what is served.
    Anybody,
    /// Chains that end at these roots, in PEM, for the name that was asked for.
    Roots(String),
}

/// The chain that a server serves for a name, within ten seconds.
pub async fn served(address: SocketAddr, name: &str, trust: &Trust) -> Result<Served> {
    let stream = connect(address, name, client_config(trust)?).await?;
    of(&stream)
}

/// One request over a connection of its own. Returns the status and the body.
pub async fn get(
    address: SocketAddr,
    name: &str,
    path: &str,
    config: Arc<ClientConfig>,
) -> Result<(http::StatusCode, String)> {
    let request = request(Method::GET, path, address, name);
    send(address, name, request.body(Full::default())?, config).await
}

/// One request with a body over a connection of its own. Returns the status and the body.
pub async fn post(
    address: SocketAddr,
    name: &str,
    path: &str,
    body: String,
    config: Arc<ClientConfig>,
) -> Result<(http::StatusCode, String)> {
    let request = request(Method::POST, path, address, name);
    send(address, name, request.body(Full::from(body))?, config).await
}

/// One request without TLS. Returns the status and the body.
pub async fn get_plain(address: SocketAddr, path: &str) -> Result<(http::StatusCode, String)> {
    let name = address.ip().to_string();
    let request = request(Method::GET, path, address, &name).body(Full::default())?;
    let answer = async {
        let stream = TcpStream::connect(address).await.context("no connection")?;
        exchange(stream, request).await
    };
    timeout(TIMEOUT, answer).await.context("no answer within ten seconds")?
}

/// The configuration of a client that speaks HTTP/1.1 and trusts these.
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>> {
    let config = match trust {
        Trust::Roots(pem) => authority::client_config(pem)?,
        Trust::Anybody => {
            let provider = chancery_shared::tls::provider();
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Believer(provider)))
                .with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}

async fn send(
    address: SocketAddr,
    name: &str,
    request: http::Request<Full<Bytes>>,
    config: Arc<ClientConfig>,
) -> Result<(http::StatusCode, String)> {
    let stream = connect(address, name, config).await?;
    timeout(TIMEOUT, exchange(stream, request)).await.context("no answer within ten seconds")?
}

fn request(method: Method, path: &str, address: SocketAddr, name: &str) -> http::request::Builder {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("{name}:{}", address.port()))
        // Pebble refuses clients that do not say who they are.
        .header(USER_AGENT, "chancery-tests")
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<(http::StatusCode, String)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("no HTTP on this connection")?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.context("the request was not answered")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("the answer was cut off")?;
    drop(sender);
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

async fn connect(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).context("not a server name")?;
    let connecting = async {
        let stream = TcpStream::connect(address).await.context("no connection")?;
        TlsConnector::from(config).connect(name, stream).await.context("no TLS handshake")
    };
    timeout(TIMEOUT, connecting)
        .await
        .context("no connection within ten seconds")?
        .with_context(|| format!("{address} does not serve"))
}

fn of(stream: &TlsStream<TcpStream>) -> Result<Served> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Vec<CertificateDer<'static>> =
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let leaf = chain.first().context("the server showed no certificate")?;
    Ok(Served { leaf: Facts::of(leaf)?, fingerprint: Fingerprint::of(leaf), chain })
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// A client that asks again and again until it is told to stop, each time over a new
/// connection, as a stream of visitors would.
#[derive(Debug)]
pub struct Visitor {
    stop: CancellationToken,
    asked: Arc<AtomicU64>,
    task: JoinHandle<Tally>,
}

/// What a [`Visitor`] saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should.
    pub answered: u64,
    /// What went wrong with the others.
    pub failures: Vec<String>,
    /// Serial numbers that were served, with how often.
    pub serials: BTreeMap<String, u64>,
}

impl Visitor {
    /// Begins to ask `address` for `name`, about a hundred times a second at most.
    pub fn start(address: SocketAddr, name: &str, trust: &Trust) -> Result<Self> {
        let stop = CancellationToken::new();
        let (name, config, until) = (name.to_owned(), client_config(trust)?, stop.clone());
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut tally = Tally::default();
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while !until.is_cancelled() {
                pace.tick().await;
                match visit(address, &name, Arc::clone(&config)).await {
                    Ok(serial) => {
                        tally.answered += 1;
                        *tally.serials.entry(serial).or_default() += 1;
                    }
                    Err(error) => tally.failures.push(format!("{error:#}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            tally
        });
        Ok(Self { stop, asked, task })
    }

    /// Stops, and tells what was seen.
    pub async fn stop(self) -> Result<Tally> {
        self.stop.cancel();
        self.task.await.context("the visitor fell over")
    }

    /// Waits until it has asked this often from now on, then stops.
    pub async fn stop_after(self, requests: u64) -> Result<Tally> {
        let until = self.asked.load(Ordering::Relaxed) + requests;
        wait::until_true("more requests of the visitor", wait::SOON, || {
            self.asked.load(Ordering::Relaxed) >= until
        })
        .await?;
        self.stop().await
    }
}

/// One request; returns the serial number that was served.
async fn visit(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Result<String> {
    let stream = connect(address, name, config).await?;
    let serial = of(&stream)?.leaf.serial;
    let request = request(Method::GET, "/", address, name);
    let (status, _) = timeout(TIMEOUT, exchange(stream, request.body(Full::default())?))
        .await
        .context("no answer within ten seconds")??;
    ensure!(status.is_success(), "answered with {status}");
    Ok(serial)
}

/// Accepts every certificate, but checks that the server has its key.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
