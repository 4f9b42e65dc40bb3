//! A proxy in front of an ACME server, for tests: it counts what passes, holds requests
//! until a test lets them go, and answers in the server's place with the errors that a real
//! CA gives and Pebble does not.
//!
//! It keeps the `Host` header. Pebble makes its URLs from that, so clients that begin at the
//! gate stay at the gate.

mod request;
mod rules;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::netns::Node;
use crate::ports;

pub use request::{Endpoint, Seen};
pub use rules::{Answer, Hold, Moment};
use rules::{Deed, Rules};

/// A running gate. It closes when it is dropped.
pub struct Gate {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Opens a gate in front of the ACME server at `behind`, whose HTTPS `root` signs for.
    /// The gate's own certificate is signed by it, too.
    pub async fn open(behind: SocketAddr, root: &Authority) -> Result<Self> {
        let listener = TcpListener::bind(ports::free()?).await.context("no port for the gate")?;
        Self::open_at(listener, behind, root)
    }

    /// Opens a gate on a node of a network, so that it can be cut off.
    pub fn open_on(node: &Node, behind: SocketAddr, root: &Authority) -> Result<Self> {
        let listener = node.enter(|| {
            let listener = std::net::TcpListener::bind((node.address(), PORT))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        Self::open_at(TcpListener::from_std(listener)?, behind, root)
    }

    fn open_at(listener: TcpListener, behind: SocketAddr, root: &Authority) -> Result<Self> {
        let address = listener.local_addr()?;
        let certificate = root.issue(&["localhost", "127.0.0.1", &address.ip().to_string()])?;
        let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()?));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(root.client_config()?)
            .https_only()
            .enable_http1()
            .build();
        let state = Arc::new(State {
            behind,
            client: Client::builder(TokioExecutor::new()).build(connector),
            connections: AtomicUsize::new(0),
            inner: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Ok(Self { address, state, task })
    }

    /// The URL of the directory, through the gate.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// How many requests came for this, whatever became of them.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.state.lock().seen.iter().filter(|seen| seen.endpoint == endpoint).count()
    }

    /// How many requests for this the ACME server itself answered with success. One that it
    /// answered with `badNonce` and that was repeated counts once.
    pub fn succeeded(&self, endpoint: Endpoint) -> usize {
        let inner = self.state.lock();
        inner.seen.iter().filter(|seen| seen.endpoint == endpoint && seen.succeeded()).count()
    }

    /// URLs of the orders that the ACME server made, in the order in which it made them.
    pub fn orders(&self) -> Vec<String> {
        let inner = self.state.lock();
        let made = inner.seen.iter().filter(|seen| seen.endpoint == Endpoint::NewOrder);
        made.filter(|seen| seen.succeeded()).filter_map(|seen| seen.location.clone()).collect()
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }

    /// Whether every answer in the ACME server's place has been given.
    pub fn has_answered(&self) -> bool {
        self.state.lock().rules.has_answered()
    }

    /// Holds the next request for this, before the ACME server gets it or after it has
    /// answered, until the result is released or dropped.
    pub fn hold(&self, endpoint: Endpoint, moment: Moment) -> Hold {
        self.state.lock().rules.hold(endpoint, moment)
    }

    /// Answers the next `times` requests for this in the ACME server's place.
    pub fn answer(&self, endpoint: Endpoint, times: usize, answer: Answer) {
        self.state.lock().rules.answer(endpoint, times, answer);
    }

    /// Forgets all answers that have not been given yet.
    pub fn answer_no_more(&self) {
        self.state.lock().rules.clear();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    behind: SocketAddr,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    connections: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: Vec<Seen>,
    rules: Rules,
}

/// The connection is closed without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the test")
    }
}

impl std::error::Error for Cut {}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    // Dropped with this task, and then all connections are closed.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        state.connections.fetch_add(1, Relaxed);
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, acceptor.clone(), Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    // A client that gives up, or is killed, is nothing to tell.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| Arc::clone(&state).handle(request));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let endpoint = Endpoint::of(parts.uri.path());
        let (number, deed) = {
            let mut inner = self.lock();
            inner.seen.push(Seen::new(endpoint, &parts, &body));
            (inner.seen.len() - 1, inner.rules.take(endpoint, Moment::Before))
        };
        let host = parts.headers.get(HOST).cloned();
        if let Some(answered) = self.perform(deed, host.as_ref()).await? {
            return Ok(answered);
        }
        // What was sent is answered and counted, also when the client dies meanwhile.
        let forwarded = tokio::spawn(
            Arc::clone(&self).forward_and_count(number, Request::from_parts(parts, body)),
        );
        let response = match forwarded.await.map_err(|_| Cut)? {
            Ok(response) => response,
            Err(error) => return Ok(problem(StatusCode::BAD_GATEWAY, "gate", &error.to_string())),
        };
        let deed = self.lock().rules.take(endpoint, Moment::After);
        if let Some(Deed::Answer(Answer::Garbled)) = deed {
            return Ok(garbled(response));
        }
        Ok(self.perform(deed, host.as_ref()).await?.unwrap_or_else(|| response.map(Full::new)))
    }

    /// Does what a rule asks for; an answer replaces what the ACME server says.
    async fn perform(
        &self,
        deed: Option<Deed>,
        host: Option<&HeaderValue>,
    ) -> Result<Option<Response<Full<Bytes>>>, Cut> {
        match deed {
            None => Ok(None),
            Some(Deed::Hold(held)) => {
                held.wait().await;
                Ok(None)
            }
            Some(Deed::Answer(Answer::Cut | Answer::CutAfter)) => Err(Cut),
            Some(Deed::Answer(answer)) => Ok(Some(self.spoil(&answer, host).await)),
        }
    }

    /// An answer as a CA gives it: with a fresh nonce (RFC 8555 section 6.5).
    async fn spoil(&self, answer: &Answer, host: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let (status, kind, detail, retry_after) = match answer {
            Answer::TooManyRequests { retry_after } => (
                StatusCode::TOO_MANY_REQUESTS,
                "rateLimited",
                "too many requests, says the gate",
                retry_after.clone(),
            ),
            Answer::Unavailable { retry_after } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "rateLimited",
                "busy, says the gate",
                retry_after.clone(),
            ),
            Answer::AlreadyReplaced => (
                StatusCode::CONFLICT,
                "alreadyReplaced",
                "another order has replaced it, says the gate",
                None,
            ),
            Answer::ServerInternal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "serverInternal", "broken, says the gate", None)
            }
            Answer::BadNonce | Answer::Cut | Answer::CutAfter | Answer::Garbled => {
                (StatusCode::BAD_REQUEST, "badNonce", "the gate does not like this nonce", None)
            }
            Answer::Instead { content_type, body } => {
                return self.instead(content_type, body.clone(), host).await;
            }
        };
        let mut response = problem(status, kind, detail);
        let headers = response.headers_mut();
        if let Some(value) = retry_after.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(RETRY_AFTER, value);
        }
        if let Some(nonce) = self.nonce(host).await {
            headers.insert(NONCE, nonce);
        }
        response
    }

    /// Success, with this in it.
    async fn instead(
        &self,
        content_type: &'static str,
        body: String,
        host: Option<&HeaderValue>,
    ) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(nonce) = self.nonce(host).await {
            headers.insert(NONCE, nonce);
        }
        response
    }

    async fn nonce(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut request = Request::head("/nonce-plz").body(Bytes::new()).ok()?;
        request.headers_mut().insert(HOST, host?.clone());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("chancery-tests-gate"));
        self.forward(request).await.ok()?.headers().get(NONCE).cloned()
    }

    async fn forward_and_count(
        self: Arc<Self>,
        number: usize,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>> {
        let response = self.forward(request).await?;
        self.lock().seen[number].answered(&response);
        Ok(response)
    }

    /// Sends a request on to the ACME server, and returns its whole answer.
    async fn forward(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>> {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() = format!("https://{}{path}", self.behind).parse::<Uri>()?;
        *request.version_mut() = http::Version::HTTP_11;
        let response = self.client.request(request.map(Full::new)).await?;
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}

/// The same answer with its body broken off in the middle, as by a proxy that crashes; its head
/// says nothing of that.
fn garbled(response: Response<Bytes>) -> Response<Full<Bytes>> {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Full::new(body.slice(..body.len() / 2)))
}

/// A problem document (RFC 7807, RFC 8555 section 6.7).
fn problem(status: StatusCode, kind: &str, detail: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": format!("urn:ietf:params:acme:error:{kind}"),
        "detail": detail,
        "status": status.as_u16(),
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

const NONCE: &str = "replay-nonce";
/// On a node, where nobody else is: Pebble's own.
const PORT: u16 = 14_000;
