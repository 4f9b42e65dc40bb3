//! A CA that speaks as much of ACME (RFC 8555) as coordinators use, with rate limits, a memory and
//! a validation that takes its time.
//!
//! Signatures of requests are not checked, and nonces are not counted: what this CA is for is to
//! see which orders are placed, when, and what becomes of them.

mod issue;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chancery_shared::x509::Fingerprint;
use fastrand::Rng;
use serde_json::{Value, json};

pub use wire::CaWire;

/// What a CA allows, and how it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// New orders of one account within [`WINDOW`].
    pub orders: usize,
    /// Certificates for one set of names within [`WINDOW`].
    pub duplicates: usize,
    /// Life of what it issues.
    pub life: Duration,
    /// How long it takes to sign, at most.
    pub signing: Duration,
}

/// A CA.
pub struct ModelCa {
    host: String,
    habits: Habits,
    rng: Rng,
    /// Thumbprints (RFC 7638) of the accounts' keys; the account's number is the place here.
    accounts: Vec<String>,
    orders: Vec<Order>,
}

struct Order {
    account: usize,
    names: Vec<String>,
    placed_at: Duration,
    authorizations: Vec<Authorization>,
    /// When and with what it was or will be signed.
    signed: Option<(Duration, String)>,
}

#[derive(Clone)]
struct Authorization {
    token: String,
    status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Pending,
    Processing,
    Valid,
    Invalid,
}

/// A request, as far as it counts.
pub struct Request {
    /// Path of its URL.
    pub path: String,
    /// Protected header of a POST (RFC 7515).
    pub protected: Value,
    /// Its payload; null for POST-as-GET.
    pub payload: Value,
}

/// What a CA answers.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The Location header.
    pub location: String,
    /// The Retry-After header.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: String,
    /// What comes of it later.
    pub follows: Follows,
}

/// What the CA does on its own after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing.
    Nothing,
    /// It has a new order for these names.
    Placed(Vec<String>),
    /// It fetches the answer to a challenge.
    Validation {
        /// The order's number.
        order: usize,
        /// The authorization's place in it.
        authorization: usize,
    },
    /// It has signed a certificate for these names.
    Signed(Vec<String>),
}

impl ModelCa {
    /// A CA at `host`.
    pub fn new(host: &str, habits: Habits, rng: Rng) -> Self {
        let host = host.to_owned();
        Self { host, habits, rng, accounts: Vec::new(), orders: Vec::new() }
    }

    /// Answers a request.
    pub fn answer(&mut self, now: Duration, request: &Request) -> Answer {
        let path = request.path.trim_matches('/').to_owned();
        let segments: Vec<&str> = path.split('/').collect();
        let numbers: Vec<usize> =
            segments[1..].iter().filter_map(|segment| segment.parse().ok()).collect();
        match (segments[0], &*numbers) {
            ("directory", []) => ok(&json!({
                "newNonce": self.url("nonce"), "newAccount": self.url("new-account"),
                "newOrder": self.url("new-order"),
            })),
            ("nonce", []) => ok(&json!({})),
            ("new-account", []) => self.new_account(request),
            ("new-order", []) => self.new_order(now, request),
            ("order", [order]) if *order < self.orders.len() => ok(&self.show(now, *order)),
            ("authz", [order, place]) if self.has(*order, *place) => {
                ok(&self.authorization(*order, *place))
            }
            ("challenge", [order, place]) if self.has(*order, *place) => {
                self.challenged(*order, *place)
            }
            ("finalize", [order]) if *order < self.orders.len() => {
                self.finalize(now, *order, request)
            }
            ("cert", [order]) if self.is_signed(now, *order) => {
                let chain = self.orders[*order].signed.as_ref().map(|(_, chain)| chain.clone());
                Answer { body: chain.unwrap_or_default(), ..ok(&Value::Null) }
            }
            _ => problem(404, "malformed", "there is no such resource"),
        }
    }

    /// The token of a challenge and the answer that it has to get (RFC 8555 section 8.1).
    pub fn challenge(&self, order: usize, authorization: usize) -> (String, String) {
        let order = &self.orders[order];
        let token = &order.authorizations[authorization].token;
        (token.clone(), format!("{token}.{}", self.accounts[order.account]))
    }

    /// Ends a validation.
    pub fn validated(&mut self, order: usize, authorization: usize, valid: bool) {
        let status = if valid { Status::Valid } else { Status::Invalid };
        self.orders[order].authorizations[authorization].status = status;
    }

    /// How many orders it has.
    pub fn orders(&self) -> usize {
        self.orders.len()
    }

    fn new_account(&mut self, request: &Request) -> Answer {
        let thumbprint = thumbprint(&request.protected["jwk"]);
        let known = self.accounts.iter().position(|account| *account == thumbprint);
        let number = known.unwrap_or_else(|| {
            self.accounts.push(thumbprint);
            self.accounts.len() - 1
        });
        let status = if known.is_some() { 200 } else { 201 };
        let location = self.url(&format!("account/{number}"));
        Answer { status, location, ..ok(&json!({"status": "valid"})) }
    }

    fn new_order(&mut self, now: Duration, request: &Request) -> Answer {
        let kid = request.protected["kid"].as_str().unwrap_or_default();
        let account = kid.rsplit('/').next().and_then(|number| number.parse().ok());
        let Some(account) = account.filter(|account: &usize| *account < self.accounts.len()) else {
            return problem(400, "accountDoesNotExist", "there is no such account");
        };
        let names: Vec<String> = request.payload["identifiers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|identifier| Some(identifier["value"].as_str()?.to_owned()))
            .collect();
        if let Some(wait) = self.limited(now, account, &names) {
            let mut answer = problem(429, "rateLimited", "too many new orders recently");
            answer.retry_after = Some(wait);
            return answer;
        }
        let authorizations = names
            .iter()
            .map(|_| Authorization {
                token: format!("{:016x}{:016x}", self.rng.u64(..), self.rng.u64(..)),
                status: Status::Pending,
            })
            .collect();
        let number = self.orders.len();
        let placed = names.clone();
        self.orders.push(Order { account, names, placed_at: now, authorizations, signed: None });
        Answer {
            status: 201,
            location: self.url(&format!("order/{number}")),
            follows: Follows::Placed(placed),
            ..ok(&self.show(now, number))
        }
    }

    /// How long until the limits let this order pass, if they do not.
    fn limited(&self, now: Duration, account: usize, names: &[String]) -> Option<Duration> {
        let recent = |order: &&Order| now < order.placed_at + WINDOW;
        let over = |mut placed: Vec<Duration>, most: usize| {
            placed.sort_unstable();
            let first = placed.len().checked_sub(most)?;
            Some((placed[first] + WINDOW).saturating_sub(now) + Duration::from_secs(1))
        };
        let of_account = self.orders.iter().filter(|order| order.account == account);
        let placed = of_account.filter(recent).map(|order| order.placed_at).collect();
        let same =
            self.orders.iter().filter(|order| order.signed.is_some() && order.names == names);
        let issued = same.filter(recent).map(|order| order.placed_at).collect();
        over(placed, self.habits.orders).max(over(issued, self.habits.duplicates))
    }

    fn challenged(&mut self, order: usize, place: usize) -> Answer {
        let authorization = &mut self.orders[order].authorizations[place];
        let mut follows = Follows::Nothing;
        if authorization.status == Status::Pending {
            authorization.status = Status::Processing;
            follows = Follows::Validation { order, authorization: place };
        }
        let challenge = self.authorization(order, place)["challenges"][0].clone();
        Answer { follows, ..ok(&challenge) }
    }

    fn finalize(&mut self, now: Duration, number: usize, request: &Request) -> Answer {
        if self.status(now, number) != "ready" {
            return problem(403, "orderNotReady", "the order is not ready");
        }
        let csr = request.payload["csr"].as_str().unwrap_or_default();
        let csr = BASE64_URL_SAFE_NO_PAD.decode(csr).unwrap_or_default();
        let serial = Fingerprint::of(format!("{} {number}", self.host).as_bytes());
        let names = self.orders[number].names.clone();
        let signed = issue::sign(&csr, &names, serial.as_bytes(), now, self.habits.life);
        let Some(chain) = signed else {
            return problem(400, "badCSR", "the request is not for the names of the order");
        };
        let most = u64::try_from(self.habits.signing.as_millis()).unwrap_or(0).max(1);
        let at = now + Duration::from_millis(self.rng.u64(..most));
        self.orders[number].signed = Some((at, chain));
        Answer { follows: Follows::Signed(names), ..ok(&self.show(now, number)) }
    }

    fn has(&self, order: usize, place: usize) -> bool {
        self.orders.get(order).is_some_and(|order| place < order.authorizations.len())
    }

    fn is_signed(&self, now: Duration, order: usize) -> bool {
        let signed = self.orders.get(order).and_then(|order| order.signed.as_ref());
        signed.is_some_and(|(at, _)| *at <= now)
    }

    /// The status of an order (RFC 8555 section 7.1.6).
    fn status(&self, now: Duration, number: usize) -> &'static str {
        let order = &self.orders[number];
        let any = |status| order.authorizations.iter().any(|one| one.status == status);
        match &order.signed {
            Some((at, _)) if *at <= now => "valid",
            Some(_) => "processing",
            None if any(Status::Invalid) => "invalid",
            None if any(Status::Pending) || any(Status::Processing) => "pending",
            None => "ready",
        }
    }

    fn show(&self, now: Duration, number: usize) -> Value {
        let order = &self.orders[number];
        let authorizations: Vec<String> = (0..order.names.len())
            .map(|place| self.url(&format!("authz/{number}/{place}")))
            .collect();
        let status = self.status(now, number);
        let mut shown = json!({
            "status": status, "authorizations": authorizations, "identifiers": [],
            "finalize": self.url(&format!("finalize/{number}")),
        });
        if status == "valid" {
            shown["certificate"] = self.url(&format!("cert/{number}")).into();
        }
        shown
    }

    fn authorization(&self, number: usize, place: usize) -> Value {
        let order = &self.orders[number];
        let Authorization { token, status } = &order.authorizations[place];
        let (of_authorization, of_challenge) = match status {
            Status::Pending => ("pending", "pending"),
            Status::Processing => ("pending", "processing"),
            Status::Valid => ("valid", "valid"),
            Status::Invalid => ("invalid", "invalid"),
        };
        json!({
            "identifier": {"type": "dns", "value": order.names[place]},
            "status": of_authorization,
            "challenges": [{
                "type": "http-01", "url": self.url(&format!("challenge/{number}/{place}")),
                "token": token, "status": of_challenge,
            }],
        })
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.host)
    }
}

impl std::fmt::Debug for ModelCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelCa({}, {} orders)", self.host, self.orders.len())
    }
}

fn ok(body: &Value) -> Answer {
    Answer {
        status: 200,
        location: String::new(),
        retry_after: None,
        body: body.to_string(),
        follows: Follows::Nothing,
    }
}

/// A problem document (RFC 8555 section 6.7).
pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    Answer { status, ..ok(&json!({"type": kind, "detail": detail, "status": status})) }
}

/// The thumbprint of an elliptic curve key (RFC 7638 section 3).
fn thumbprint(jwk: &Value) -> String {
    let text: BTreeMap<&str, &Value> =
        ["crv", "kty", "x", "y"].into_iter().map(|name| (name, &jwk[name])).collect();
    let canonical = serde_json::to_vec(&text).expect("plain data");
    BASE64_URL_SAFE_NO_PAD.encode(Fingerprint::of(&canonical).as_bytes())
}

/// What rate limits count over.
pub const WINDOW: Duration = Duration::from_mins(2);
