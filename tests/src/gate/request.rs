//! What passes the gate, in the words of RFC 8555.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::header::LOCATION;
use http::{Method, Response, StatusCode, request};
use serde_json::Value;
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
    /// The names that an order is to be for.
    pub names: Vec<String>,
    /// Whether it binds an account to an external one.
    pub binds: bool,
    /// The certificate that an order is to replace (RFC 9773 section 5).
    pub replaces: Option<String>,
}

impl Seen {
    pub(super) fn new(endpoint: Endpoint, parts: &request::Parts, body: &[u8]) -> Self {
        let order = payload(body).filter(|_| endpoint == Endpoint::NewOrder);
        let names = order.as_ref().and_then(names_in).unwrap_or_default();
        Self {
            at: Instant::now(),
            endpoint,
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            status: None,
            location: None,
            replaces: order.and_then(|order| order["replaces"].as_str().map(str::to_owned)),
            names,
            binds: payload(body)
                .is_some_and(|payload| payload["externalAccountBinding"].is_object()),
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

/// The names in the payload of a newOrder (RFC 8555 section 7.4).
fn names_in(order: &Value) -> Option<Vec<String>> {
    let identifiers = order["identifiers"].as_array()?.iter();
    Some(identifiers.filter_map(|one| Some(one["value"].as_str()?.to_owned())).collect())
}

/// The payload of a signed request.
fn payload(body: &[u8]) -> Option<Value> {
    let signed: Value = serde_json::from_slice(body).ok()?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?;
    serde_json::from_slice(&payload).ok()
}
