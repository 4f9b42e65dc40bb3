//! What passes the gate, in the words of RFC 8555.

use http::header::LOCATION;
use http::{Method, Response, StatusCode, request};
use tokio::time::Instant;

/// What a request is for (RFC 8555 section 7.1), by the paths that Pebble uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The directory.
    Directory,
    /// A fresh nonce.
    NewNonce,
    /// An account is made or looked up.
    NewAccount,
    /// An account is read or changed.
    Account,
    /// An order is made.
    NewOrder,
    /// An order is read.
    Order,
    /// An order is finalized with a CSR.
    Finalize,
    /// An authorization is read or given up.
    Authorization,
    /// A challenge is declared ready, or read.
    Challenge,
    /// A certificate is downloaded.
    Certificate,
    /// An account's key is changed.
    KeyChange,
    /// A certificate is revoked.
    Revoke,
    /// ARI (RFC 9773).
    RenewalInfo,
    /// Anything else.
    Other,
}

impl Endpoint {
    /// By the path of a request.
    pub(super) fn of(path: &str) -> Self {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match first {
            "dir" => Self::Directory,
            "nonce-plz" => Self::NewNonce,
            "sign-me-up" => Self::NewAccount,
            "my-account" | "list-orderz" => Self::Account,
            "order-plz" => Self::NewOrder,
            "my-order" => Self::Order,
            "finalize-order" => Self::Finalize,
            "authZ" => Self::Authorization,
            "chalZ" => Self::Challenge,
            "certZ" => Self::Certificate,
            "rollover-account-key" => Self::KeyChange,
            "revoke-cert" => Self::Revoke,
            _ if path.contains("renewalInfo") => Self::RenewalInfo,
            _ => Self::Other,
        }
    }
}

/// A request that came to the gate.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// What it is for.
    pub endpoint: Endpoint,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// What the ACME server answered; none when it did not get it, or has not answered yet.
    pub status: Option<StatusCode>,
    /// The `Location` of the answer: the URL of what was made.
    pub location: Option<String>,
}

impl Seen {
    pub(super) fn new(endpoint: Endpoint, parts: &request::Parts) -> Self {
        Self {
            at: Instant::now(),
            endpoint,
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            status: None,
            location: None,
        }
    }

    pub(super) fn answered<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status());
        let location = response.headers().get(LOCATION);
        self.location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
    }

    /// Whether the ACME server answered it with success.
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }
}
