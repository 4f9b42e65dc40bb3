//! The thin client of Consul's HTTP interface: which address, how long, with which token, and
//! what a failed call may have done. What the requests mean is not its business.
//!
//! # When an address fails
//!
//! The next one is asked, beginning with the one that answered last. That repeats requests, also
//! those of which it is not known what they have done; so every request that is made here can be
//! repeated: reads can, a session that was made twice expires unused, and a transaction that
//! writes holds only for one value of the head (see [`super::write`]). An [`Answer`]
//! says when an earlier try *may* have had an effect.

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chancery_shared::secret::Secret;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::Semaphore;

use super::{
    options::Options,
    txn::{self, Op, Outcome, Row},
};
use crate::{events::printable, store::Error};

/// A client for one Consul.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    options: Options,
    token: RwLock<Option<Secret>>,
    /// The address that answered last.
    good: AtomicUsize,
    /// Requests that may be under way. Consul refuses a client that opens too many connections.
    places: Semaphore,
}

/// A request, to whichever address answers.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: Method,
    /// With the query, without that which every request gets.
    path: String,
    body: Bytes,
    /// How long Consul waits by itself before it answers.
    waits: Duration,
}

/// What Consul said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
    /// Whether a try before this one may have had an effect, too.
    pub(super) doubtful: bool,
}

/// No address gave an answer that could be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Failure {
    error: Error,
    /// Whether a try may have had an effect.
    pub(super) doubtful: bool,
}

impl From<Failure> for Error {
    /// For calls that a repetition does not harm: what they may have done is not told.
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    /// An answer that makes no sense.
    pub(super) fn nonsense(what: &str, doubtful: bool) -> Self {
        let error = Error::Unavailable(format!("Consul's answer makes no sense: {what}"));
        Self { error, doubtful }
    }

    /// An answer with a status of which nothing can be made.
    pub(super) fn unexpected(answer: &Answer) -> Self {
        let message = format!("Consul answered {}", shown(answer));
        let error = if answer.status.is_client_error() {
            Error::Misconfigured(message)
        } else {
            Error::Unavailable(message)
        };
        Self { error, doubtful: answer.doubtful }
    }

    /// What it means for a write.
    pub(super) fn of_write(self) -> Error {
        if self.doubtful { Error::OutcomeUnknown(self.error.to_string()) } else { self.error }
    }
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Bytes::new(), waits: Duration::ZERO }
    }

    /// Reads something.
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Does something.
    pub(super) fn put(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::PUT, path) }
    }

    /// A blocking query: answered when the index is past `index`, or after about `wait`.
    pub(super) fn blocking(path: &str, index: u64, wait: Duration) -> Self {
        let path = format!("{path}index={index}&wait={}ms", wait.as_millis());
        // Consul adds up to a sixteenth, so that not all come back at once.
        Self { waits: wait + wait / 16, ..Self::get(path) }
    }
}

/// How one address failed.
struct Fault {
    reason: String,
    /// Whether it may have done what was asked.
    doubtful: bool,
    /// Whether one of us does not accept the other's certificate, which waiting does not mend.
    is_distrust: bool,
}

impl Fault {
    fn of(error: &(dyn std::error::Error + 'static), doubtful: bool) -> Self {
        Self { reason: reason(error), doubtful, is_distrust: is_distrust(error) }
    }

    fn other(reason: String, doubtful: bool) -> Self {
        Self { reason, doubtful, is_distrust: false }
    }
}

impl Client {
    /// Reads the files that `options` names. Blocks for as long as that takes.
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let token = RwLock::new(options.token()?);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.timeout.min(CONNECT_TIMEOUT)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(options.tls()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        let places = Semaphore::new(MOST_AT_ONCE);
        Ok(Self { http, options, token, good: AtomicUsize::new(0), places })
    }

    /// The addresses, in order of the configuration.
    pub(super) fn addresses(&self) -> &[String] {
        &self.options.addresses
    }

    /// How long Consul may take for a request.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Sends a transaction. Reads show everything that was committed before the call.
    pub(super) async fn txn(&self, ops: &[Op]) -> Result<(Outcome, bool), Failure> {
        let body = serde_json::to_vec(ops).expect("it has text keys");
        let answer = self.call(&Request::put("/v1/txn?consistent", body)).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CONFLICT => {
                let outcome = txn::parse(&answer.body)
                    .map_err(|error| Failure::nonsense(&error, answer.doubtful))?;
                if let Outcome::Refused(refused) = &outcome
                    && let Some(denied) = refused.iter().find(|refused| refused.is_denied())
                {
                    let error = self.denied(&denied.what);
                    return Err(Failure { error, doubtful: answer.doubtful });
                }
                Ok((outcome, answer.doubtful))
            }
            _ => Err(Failure::unexpected(&answer)),
        }
    }

    /// Reads one key or, with `?recurse` at its end, all with a prefix; nothing if there is none.
    pub(super) async fn rows(&self, request: &Request) -> Result<(Vec<Row>, u64), Failure> {
        let answer = self.call(request).await?;
        let rows = match answer.status {
            StatusCode::OK => txn::parse_rows(&answer.body)
                .map_err(|error| Failure::nonsense(&error, answer.doubtful))?,
            StatusCode::NOT_FOUND => Vec::new(),
            _ => return Err(Failure::unexpected(&answer)),
        };
        Ok((rows, answer.index.unwrap_or_default()))
    }

    /// Sends a request to the addresses in turn until one answers.
    pub(super) async fn call(&self, request: &Request) -> Result<Answer, Failure> {
        // Blocking queries are few, and would keep the places of others.
        let _place = match request.waits {
            Duration::ZERO => Some(self.places.acquire().await.expect("it is never closed")),
            _ => None,
        };
        let addresses = &self.options.addresses;
        let first = self.good.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        let (mut doubtful, mut distrust) = (false, 0);
        for turn in 0..addresses.len() {
            let at = (first + turn) % addresses.len();
            match self.ask_with_fresh_token(&addresses[at], request).await {
                Ok(answer) if answer.status == StatusCode::FORBIDDEN => {
                    let error = self.denied(&shown(&answer));
                    return Err(Failure { error, doubtful });
                }
                Ok(answer) => {
                    self.good.store(at, Ordering::Relaxed);
                    return Ok(Answer { doubtful, ..answer });
                }
                Err(fault) => {
                    doubtful |= fault.doubtful;
                    distrust += usize::from(fault.is_distrust);
                    reasons.push(format!("{}: {}", addresses[at], fault.reason));
                }
            }
        }
        let everybody = distrust == addresses.len();
        let reasons = reasons.join("; ");
        let error =
            if everybody { Error::Misconfigured(reasons) } else { Error::Unavailable(reasons) };
        Err(Failure { error, doubtful })
    }

    /// Sends a request to one address; once more if the token file has a new token.
    async fn ask_with_fresh_token(
        &self,
        address: &str,
        request: &Request,
    ) -> Result<Answer, Fault> {
        let answer = self.ask(address, request).await?;
        if answer.status == StatusCode::FORBIDDEN && self.reload_token() {
            return self.ask(address, request).await;
        }
        Ok(answer)
    }

    /// Whether there is another token in the file than before.
    fn reload_token(&self) -> bool {
        let Ok(token) = self.options.token() else { return false };
        let mut current = self.token.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != token;
        *current = token;
        is_new
    }

    /// Sends a request to one address. Server errors are faults.
    pub(super) async fn ask_one(&self, address: &str, request: &Request) -> Result<Answer, String> {
        self.ask_with_fresh_token(address, request).await.map_err(|fault| fault.reason)
    }

    async fn ask(&self, address: &str, request: &Request) -> Result<Answer, Fault> {
        let patience = request.waits + self.options.timeout;
        let exchange = self.exchange(address, request);
        let answer = tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {}", humantime::format_duration(patience));
            Err(Fault::other(reason, true))
        })?;
        if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
            // The one server error that comes before anything was done.
            let doubtful = !answer.body.starts_with(b"No cluster leader")
                && answer.status != StatusCode::TOO_MANY_REQUESTS;
            return Err(Fault::other(shown(&answer), doubtful));
        }
        Ok(answer)
    }

    async fn exchange(&self, address: &str, request: &Request) -> Result<Answer, Fault> {
        let sent = self.http_request(address, request)?;
        let response = self
            .http
            .request(sent)
            .await
            .map_err(|error| Fault::of(&error, !error.is_connect()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MOST_BODY)
            .collect()
            .await
            .map_err(|error| Fault::of(&*error, true))?
            .to_bytes();
        let index = head.headers.get("x-consul-index");
        let index = index.and_then(|index| index.to_str().ok()).and_then(|text| text.parse().ok());
        Ok(Answer { status: head.status, index, body, doubtful: false })
    }

    fn http_request(
        &self,
        address: &str,
        request: &Request,
    ) -> Result<http::Request<Full<Bytes>>, Fault> {
        let mut uri = format!("{address}{}", request.path);
        if let Some(datacenter) = &self.options.datacenter {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str("dc=");
            uri.push_str(datacenter);
        }
        let mut builder = http::Request::builder().method(request.method.clone()).uri(uri);
        if !request.body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &*token
            && let Ok(mut value) = HeaderValue::from_bytes(token.expose_secret())
        {
            value.set_sensitive(true);
            builder = builder.header("x-consul-token", value);
        }
        builder
            .body(Full::new(request.body.clone()))
            .map_err(|error| Fault::other(error.to_string(), false))
    }

    /// What to tell an operator whose token may not do something.
    fn denied(&self, what: &str) -> Error {
        let prefix = &self.options.prefix;
        let token = match &self.options.token_file {
            Some(path) => format!("the token in {}", path.display()),
            None => "requests without a token; set store.consul.token_file".to_owned(),
        };
        Error::Misconfigured(format!(
            "Consul refuses {token}: {what}. It has to know the token, and its rules have to be \
             at least: key_prefix \"{prefix}\" {{ policy = \"write\" }} and \
             session_prefix \"\" {{ policy = \"write\" }}"
        ))
    }
}

/// The status and the beginning of the body.
fn shown(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(2 * MOST_SHOWN)]);
    format!("{}: {}", answer.status, printable(&text, MOST_SHOWN))
}

/// An error with all its sources, of which the innermost says most.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Whether TLS failed because of a certificate: ours, or theirs.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref() {
        return matches!(
            error,
            rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)
        );
    }
    // An IO error does not name what it wraps as its source.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(wrapped) => is_distrust(wrapped),
        None => error.source().is_some_and(is_distrust),
    }
}

/// Consul's agents are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Far more than the largest prefix of a fleet: a listing comes in one piece.
const MOST_BODY: usize = 1 << 30;
const MOST_SHOWN: usize = 300;
/// By default Consul takes 200 connections from one address, where others may be as well.
const MOST_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that reads a request on each connection, says `answer` and closes; with `None` it
    /// closes at once. Its address, and what it was asked.
    async fn server(
        answer: Option<&'static str>,
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let _ = tell.send(String::from_utf8_lossy(&request[..read]).into_owned());
                if let Some(answer) = answer {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (address, asked)
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 2\r\n\r\n[]";
    const NO_LEADER: &str =
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 17\r\n\r\nNo cluster leader";
    const LOST: &str =
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 15\r\n\r\nleadership lost";
    const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nPermission denied";

    /// Where nobody listens any more.
    async fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    fn client(addresses: Vec<String>) -> Client {
        chancery_shared::tls::install_crypto();
        let timeout = Duration::from_millis(500);
        Client::new(Options { addresses, timeout, ..Options::local() }).unwrap()
    }

    #[tokio::test]
    async fn the_next_address_is_asked_and_doubt_is_told() {
        for (first, doubtful) in [
            (nobody().await, false),
            (server(Some(NO_LEADER)).await.0, false),
            (server(Some(LOST)).await.0, true),
            (server(None).await.0, true),
        ] {
            let client = client(vec![first, server(Some(GOOD)).await.0]);
            let request = Request::put("/v1/txn", "[]");
            let answer = client.call(&request).await.unwrap();
            assert_eq!((answer.status, answer.index), (StatusCode::OK, Some(7)));
            assert_eq!(answer.doubtful, doubtful);
            let again = client.call(&request).await.unwrap();
            assert!(!again.doubtful, "the one that answered comes first now");
        }
    }

    #[tokio::test]
    async fn a_write_that_nobody_answered_has_an_unknown_outcome() {
        let request = Request::put("/v1/txn", "[]");
        let lost = client(vec![server(None).await.0]).call(&request).await.unwrap_err();
        assert!(matches!(lost.of_write(), Error::OutcomeUnknown(_)));
        let unreachable = client(vec![nobody().await]).call(&request).await.unwrap_err();
        assert!(matches!(unreachable.of_write(), Error::Unavailable(_)));
        let kept = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", kept.local_addr().unwrap());
        let timed_out = client(vec![address.clone()]).call(&request).await.unwrap_err().of_write();
        let Error::OutcomeUnknown(message) = timed_out else { panic!("{timed_out}") };
        assert_eq!(
            message,
            format!("the store is not available: {address}: no answer within 500ms")
        );
    }

    #[tokio::test]
    async fn the_token_goes_into_the_header_and_nowhere_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret-token\n").unwrap();
        let (address, mut asked) = server(Some(DENIED)).await;
        chancery_shared::tls::install_crypto();
        let options = Options {
            addresses: vec![address],
            token_file: Some(file.path().to_owned()),
            datacenter: Some("dc2".to_owned()),
            ..Options::local()
        };
        let client = Client::new(options).unwrap();
        let failure = client.call(&Request::get("/v1/kv/a?consistent")).await.unwrap_err();
        let asked = asked.recv().await.unwrap();
        assert!(asked.starts_with("GET /v1/kv/a?consistent&dc=dc2 HTTP/1.1"), "{asked}");
        assert!(asked.contains("x-consul-token: secret-token"), "{asked}");
        let error = Error::from(failure);
        assert!(matches!(error, Error::Misconfigured(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("key_prefix \"chancery/\" { policy = \"write\" }"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn a_blocking_query_outlives_the_time_out() {
        let request = Request::blocking("/v1/kv/head?", 7, Duration::from_secs(16));
        assert_eq!(request.path, "/v1/kv/head?index=7&wait=16000ms");
        assert_eq!(request.waits, Duration::from_secs(17));
    }
}
