//! The HTTPS client for CAs: what `instant-acme` leaves to its caller.
//!
//! It adds a time-out around each request *and its body*, so that no CA can hang an order;
//! it keeps the Retry-After of a 429 or 503 (RFC 8555 section 6.6), and the status of error answers that
//! are not problem documents.

use std::{cell::RefCell, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    Error,
    jose::{self, Directory},
    problem::{self, Kept},
    refuses::Refuses,
};
use crate::{election::Leadership, events::printable, record::IssuerSpec};

/// The CA asks for patience.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Busy {
    /// What it said.
    pub message: String,
    /// How long, if it said.
    pub retry_after: Option<Duration>,
    /// For what.
    pub refuses: Refuses,
    /// The same as a document.
    pub problem: Kept,
}

/// The CA could not be reached, or answered with something other than ACME.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No answer in time.
    #[error("no answer from {host} within {} seconds", after.as_secs())]
    TimedOut {
        /// Who was asked.
        host: String,
        /// How long it was waited for.
        after: Duration,
        /// Whether the CA may have done what was asked.
        effect: bool,
    },
    /// Its HTTPS certificate is not one to trust.
    #[error(
        "the certificate of {host} is not trusted: {reason}; name the CA's root in trust_roots"
    )]
    Untrusted {
        /// Who was asked.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection failed.
    #[error("cannot talk to {host}: {reason}")]
    Connection {
        /// Who was asked.
        host: String,
        /// What happened.
        reason: String,
        /// Whether the CA may have done what was asked.
        effect: bool,
    },
    /// No ACME at all: a proxy's page, a load balancer's error.
    #[error("{host} answered {status}: {excerpt}")]
    NotAcme {
        /// Who was asked.
        host: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the body.
        excerpt: String,
        /// Whether the CA may have done what was asked.
        effect: bool,
    },
}

/// Whether the CA may have made the order that it was asked for, although all that came back is
/// this error.
pub(super) fn may_have_ordered(error: &instant_acme::Error) -> bool {
    let other = match error {
        instant_acme::Error::Other(other) => other,
        // An answer without an order, or without its URL.
        instant_acme::Error::Json(_) => return true,
        instant_acme::Error::Str(what) => return what.contains("order URL"),
        _ => return false,
    };
    match other.downcast_ref::<Fault>() {
        Some(
            Fault::TimedOut { effect, .. }
            | Fault::Connection { effect, .. }
            | Fault::NotAcme { effect, .. },
        ) => *effect,
        Some(Fault::Untrusted { .. }) | None => false,
    }
}

/// A client for `issuer`, as an [`instant_acme::Account`] wants it.
pub(super) fn connect(issuer: &IssuerSpec) -> Result<Box<dyn HttpClient>, Error> {
    Ok(Box::new(CaClient::new(issuer)?))
}

/// What the CA of `issuer` says of itself, asked now.
pub(crate) async fn look(issuer: &IssuerSpec) -> Result<Directory, Error> {
    jose::fetch_directory(&CaClient::new(issuer)?, &issuer.directory).await
}

/// A client that sends nothing once its term of leadership is over. One step towards a CA is several
/// requests: a process that was stopped between two of them finds out before the next.
#[derive(Clone)]
pub(super) struct WhileLeading {
    client: Arc<dyn HttpClient>,
    leadership: Leadership,
}

impl WhileLeading {
    /// `client`, for the term of `leadership`.
    pub(super) fn new(client: Box<dyn HttpClient>, leadership: Leadership) -> Self {
        Self { client: client.into(), leadership }
    }
}

impl HttpClient for WhileLeading {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        match self.leadership.check() {
            Ok(()) => {
                let answer = self.client.request(request);
                Box::pin(async move { answer.await.inspect(|answer| note_location(&answer.parts)) })
            }
            Err(over) => Box::pin(std::future::ready(Err(other(over)))),
        }
    }
}

tokio::task_local! {
    /// Where the CA has made something for the work at hand.
    static MADE_AT: RefCell<Option<String>>;
}

/// Does `work`, and tells the URL of what the CA has made meanwhile, if it has: also when the library did not
/// like the answer that said so.
pub(super) async fn noting_location<F: Future>(work: F) -> (F::Output, Option<String>) {
    let noting = async { (work.await, MADE_AT.with(RefCell::take)) };
    MADE_AT.scope(RefCell::default(), noting).await
}

fn note_location(answer: &http::response::Parts) {
    let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    if answer.status == StatusCode::CREATED
        && let Some(location) = location
    {
        // Outside of such work nobody wants to know.
        let _ = MADE_AT.try_with(|made_at| made_at.replace(Some(location.to_owned())));
    }
}

/// A client for one issuer.
#[derive(Clone, Debug)]
pub struct CaClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
}

impl CaClient {
    /// A client that trusts the issuer's own roots if it names any, else the system's.
    pub fn new(issuer: &IssuerSpec) -> Result<Self, Error> {
        let config = ClientConfig::builder_with_provider(chancery_shared::tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::BadIssuer(error.to_string()))?
            .with_root_certificates(Arc::new(roots(issuer)?))
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_all_versions()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Ok(Self { client })
    }
}

/// The roots to trust for the CA's HTTPS.
fn roots(issuer: &IssuerSpec) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if issuer.trust_roots_pem.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::BadIssuer(
                "the system has no trusted roots: install the package ca-certificates, or give \
                 the issuer trust_roots"
                    .to_owned(),
            ));
        }
        return Ok(roots);
    }
    for certificate in CertificateDer::pem_slice_iter(issuer.trust_roots_pem.as_bytes()) {
        let certificate = certificate
            .map_err(|error| Error::BadIssuer(format!("its trust_roots are not PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| Error::BadIssuer(format!("a root cannot be used: {error}")))?;
    }
    Ok(roots)
}

type Answer = Result<BytesResponse, instant_acme::Error>;

impl HttpClient for CaClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let client = self.client.clone();
        Box::pin(async move {
            let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let effect = request.method() == Method::POST;
            let exchange = exchange(client, request, host.clone());
            match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(other(Fault::TimedOut { host, after: REQUEST_TIMEOUT, effect })),
            }
        })
    }
}

async fn exchange(
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    request: Request<BodyWrapper<Bytes>>,
    host: String,
) -> Answer {
    let posts = request.method() == Method::POST;
    let connection = |reason: String, effect: bool| {
        other(Fault::Connection { host: host.clone(), reason, effect })
    };
    let response = client.request(request).await.map_err(|error| {
        if let Some(reason) = untrusted(&error) {
            return other(Fault::Untrusted { host: host.clone(), reason });
        }
        // The client's own words say nothing; those of its sources say what happened.
        let reason = match std::error::Error::source(&error) {
            Some(source) if !error.is_connect() && has_ended(source) => {
                "the connection was closed without an answer".to_owned()
            }
            Some(source) => super::error::with_sources(source),
            None => error.to_string(),
        };
        connection(reason, posts && !error.is_connect())
    })?;
    let (mut parts, body) = response.into_parts();
    bound_retry_after(&mut parts.headers);
    let body = Limited::new(body, LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| connection(error.to_string(), posts))?
        .to_bytes();
    if matches!(parts.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let (message, refuses) = (excerpt(&body), Refuses::of_answer(parts.status, &body));
        let retry_after = retry_after(&parts.headers);
        let problem = problem::in_body(&body);
        return Err(other(Busy { message, retry_after, refuses, problem }));
    }
    let is_foreign =
        is_foreign_error(parts.status, &parts.headers) || (!body.is_empty() && !is_acme(&body));
    if parts.status.is_server_error() || is_foreign {
        let excerpt = excerpt(&body);
        let effect = posts && !is_problem(&body);
        return Err(other(Fault::NotAcme { host, status: parts.status, excerpt, effect }));
    }
    Ok(BytesResponse { parts, body: Box::new(body) })
}

/// What is wrong with the CA's HTTPS certificate, if that is what `error` is about.
fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(rustls::Error::InvalidCertificate(reason.clone()).to_string());
        }
        // An IO error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| untrusted(wrapped)) {
            return Some(found);
        }
        current = error.source();
    }
    None
}

/// Whether this is about a connection that the other side has closed. What the layers below say
/// of that is meant for programmers.
fn has_ended(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(error) = current {
        let is_over = |error: &std::io::Error| {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
        };
        if error.downcast_ref().is_some_and(is_over)
            || error.downcast_ref().is_some_and(hyper::Error::is_incomplete_message)
        {
            return true;
        }
        current = error.source();
    }
    false
}

/// Whether this is an error that is not told as a problem document (RFC 7807).
fn is_foreign_error(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_problem = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    status.is_client_error() && !is_problem
}

/// Whether this can be an answer of an ACME server: JSON, or a chain (RFC 8555 sections 7.1 and 7.4.2).
/// By what it is, since what it is said to be is often wrong.
fn is_acme(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(PEM)
        || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Whether the ACME server itself says that it has failed (RFC 8555 section 6.7): then it has not done
/// what it was asked to do.
fn is_problem(body: &[u8]) -> bool {
    serde_json::from_slice::<instant_acme::Problem>(body)
        .is_ok_and(|problem| problem.r#type.is_some_and(|kind| kind.starts_with(ACME_ERROR)))
}

/// Retry-After (RFC 9110 section 10.2.3), in seconds or as a date. A date is taken by the CA's own
/// clock, which its answer shows (section 6.6.1); without that it counts as if it were not there.
/// Bounded, so that a slip of the CA cannot stop renewals for years.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let retry_after = text(header::RETRY_AFTER)?;
    if let Ok(secs) = retry_after.parse() {
        return Some(Duration::from_secs(secs).min(LONGEST_RETRY_AFTER));
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    let then = parser.parse_timestamp(retry_after).ok()?;
    let now = parser.parse_timestamp(text(header::DATE)?).ok()?;
    let wait = Duration::try_from(then.duration_since(now)).ok()?;
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The ACME library adds it to the time: one without bounds would be too much for that.
fn bound_retry_after(headers: &mut HeaderMap) {
    let told = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let secs = told.and_then(|told| told.trim().parse::<u64>().ok());
    if secs.is_some_and(|secs| secs > LONGEST_RETRY_AFTER.as_secs()) {
        headers.insert(header::RETRY_AFTER, LONGEST_RETRY_AFTER.as_secs().into());
    }
}

/// The detail of a problem document, or else the beginning of the body.
fn excerpt(body: &[u8]) -> String {
    if body.is_empty() {
        return "no reason given".to_owned();
    }
    match serde_json::from_slice::<instant_acme::Problem>(body) {
        Ok(problem) if problem.detail.is_some() => super::error::describe(&problem),
        _ => printable(&String::from_utf8_lossy(&body[..body.len().min(200)]), 300),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

const PEM: &[u8] = b"-----BEGIN ";
const ACME_ERROR: &str = "urn:ietf:params:acme:error:";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one request and its whole answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Far above any chain; bounds what a broken CA can make us hold.
const LARGEST_ANSWER: usize = 1024 * 1024;
/// The longest that a CA can put us off at once. None of the known rate limits is longer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use chancery_shared::clock::SystemClock;

    use super::*;
    use crate::{
        election::{SteppedDown, testing::lead},
        store::memory::MemoryStore,
    };

    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl HttpClient for Counting {
        fn request(
            &self,
            _: Request<BodyWrapper<Bytes>>,
        ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            self.0.fetch_add(1, SeqCst);
            Box::pin(std::future::ready(Err(other(Busy {
                message: String::new(),
                retry_after: None,
                refuses: Refuses::This,
                problem: None,
            }))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_sends_nothing_more() {
        let clock = SystemClock::shared();
        let store = MemoryStore::new(clock.clone());
        let (leadership, _lease) = lead(store, clock, "node-1").await;
        let sent = Counting::default();
        let client = WhileLeading::new(Box::new(sent.clone()), leadership.clone());
        let request = async || client.request(Request::default()).await.err().unwrap();
        assert!(matches!(request().await, instant_acme::Error::Other(error) if error.is::<Busy>()));
        // The election has no time to notice: nothing else runs.
        tokio::time::advance(Duration::from_mins(1)).await;
        let error = request().await;
        assert!(matches!(error, instant_acme::Error::Other(error) if error.is::<SteppedDown>()));
        assert_eq!(sent.0.load(SeqCst), 1);
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let told = |retry_after: &str, date: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, retry_after.parse().unwrap());
            headers.insert(header::DATE, date.parse().unwrap());
            super::retry_after(&headers)
        };
        let date = "Sun, 22 Nov 2026 06:34:44 GMT";
        assert_eq!(told("120", date), Some(Duration::from_mins(2)));
        assert_eq!(told("Sun, 22 Nov 2026 06:35:44 GMT", date), Some(Duration::from_mins(1)));
        assert_eq!(told("Sun, 22 Nov 2026 06:33:44 GMT", date), None);
        assert_eq!(told("Sun, 22 Nov 2026 06:35:44 GMT", "today"), None);
        assert_eq!(told("soon", date), None);
        assert_eq!(told(&u64::MAX.to_string(), date), Some(LONGEST_RETRY_AFTER));
        for (said, kept) in [
            ("120", "120".to_owned()),
            ("soon", "soon".to_owned()),
            ("18446744073709551615", LONGEST_RETRY_AFTER.as_secs().to_string()),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, said.parse().unwrap());
            bound_retry_after(&mut headers);
            assert_eq!(headers[header::RETRY_AFTER], kept);
        }
    }
}
