//! A coordinator's way to the CAs, and the CAs' way to the answers of challenges.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chancery_coordinator::order::{
    Refuses,
    ca::{Busy, Fault},
};
use chancery_shared::name::CertName;
use http::StatusCode;
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{Answer, Follows, Request, problem};
use crate::sim::{
    event::Event,
    kernel::{Lost, Place},
    weather::{Weather, Wire},
    world::{World, now},
};

/// Reaches CAs by their host, for one life of a node.
#[derive(Clone)]
pub struct CaWire {
    /// Where the CAs are.
    pub world: Arc<World>,
    /// Who asks.
    pub place: Place,
}

type Response = Result<BytesResponse, instant_acme::Error>;

impl HttpClient for CaWire {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        let Self { world, place } = self.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let effect = request.method() == http::Method::POST;
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.expect("it is in memory").to_bytes();
            let request = read(path, &body);
            let node = place.node;
            let leads = world.leads(node, place.now());
            world.tell(&Event::Outward { node, leads });
            if request.path == "/new-order" {
                asked(&world, node, leads, &request);
            }
            let at = host.clone();
            let to = world.clone();
            let call =
                world.kernel.call(&place, Wire::Ca(node), move || arrive(&to, node, &at, &request));
            let lost = |effect, reason: &str| {
                let reason = reason.to_owned();
                other(Fault::Connection { host: host.clone(), reason, effect })
            };
            match call.await {
                Ok(answer) => response(answer, host, effect),
                Err(Lost::Refused) => Err(lost(false, "refused")),
                Err(Lost::Unknown) => Err(lost(effect, "no answer in time")),
            }
        })
    }
}

fn read(path: String, body: &[u8]) -> Request {
    let jose: Value = serde_json::from_slice(body).unwrap_or_default();
    let part = |name: &str| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(jose[name].as_str().unwrap_or_default());
        serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
    };
    Request { path, protected: part("protected"), payload: part("payload") }
}

fn asked(world: &World, node: usize, leads: bool, request: &Request) {
    let name = request.payload["identifiers"][0]["value"].as_str().unwrap_or_default();
    let Some(certificate) = certificate(name) else { return };
    let disturbances = world.kernel.with_weather(|weather| weather.disturbances());
    world.tell(&Event::OrderAsked { node, leads, certificate: &certificate, disturbances });
}

/// The certificate that a name belongs to: `a.web.test` is one of `web`'s.
fn certificate(name: &str) -> Option<CertName> {
    name.split('.').nth_back(1)?.parse().ok()
}

/// A request arrives.
fn arrive(world: &Arc<World>, node: usize, host: &str, request: &Request) -> Answer {
    let at = world.kernel.now();
    let busy = world.kernel.with_weather(|weather| {
        at < weather.calm_from && weather.rng.u32(..1000) < weather.ca_per_mille
    });
    let mut answer = if busy {
        problem(503, "serverInternal", "the CA is busy")
    } else {
        let mut cas = world.cas.lock().expect("no holder panics");
        cas.get_mut(host).expect("its issuer is declared").answer(at, request)
    };
    if answer.status >= 400 {
        world.kernel.with_weather(Weather::disturb);
    }
    world.note(node, || format!("asks {host}{}: {}", request.path, answer.status));
    match std::mem::replace(&mut answer.follows, Follows::Nothing) {
        Follows::Nothing | Follows::Placed(_) => {}
        Follows::Signed(names) => {
            if let Some(certificate) = names.first().and_then(|name| certificate(name)) {
                world.tell(&Event::Signed { certificate: &certificate });
            }
        }
        Follows::Validation { order, authorization } => {
            validate(world, host.to_owned(), order, authorization, VALIDATIONS);
        }
    }
    answer
}

/// The CA fetches the answer to a challenge, soon, from any of the coordinators (RFC 8555 section
/// 8.3). What does not answer rightly is asked again a few times.
fn validate(world: &Arc<World>, host: String, order: usize, authorization: usize, left: u32) {
    let wait =
        world.kernel.with_weather(|weather| Duration::from_millis(100) + weather.millis(900));
    let world_then = world.clone();
    world.kernel.at(world.kernel.now() + wait, move || {
        let world = world_then;
        let (token, expected) = {
            let cas = world.cas.lock().expect("no holder panics");
            cas[&host].challenge(order, authorization)
        };
        let served = fetch(&world, &token);
        let valid = served.as_deref() == Some(expected.as_str());
        world.kernel.note(|| format!("{host}: validates order {order}/{authorization}: {valid}"));
        if !valid && left > 1 {
            return validate(&world, host, order, authorization, left - 1);
        }
        let mut cas = world.cas.lock().expect("no holder panics");
        let ca = cas.get_mut(&host).expect("it is here");
        ca.validated(order, authorization, valid);
    });
}

/// What a coordinator answers for `token`; which one, chance decides.
fn fetch(world: &World, token: &str) -> Option<String> {
    let seen = world.seen.lock().expect("no holder panics");
    let up: Vec<_> = seen.iter().filter_map(|(node, seen)| Some((*node, seen.get()?))).collect();
    if up.is_empty() {
        return None;
    }
    let which = world.kernel.with_weather(|weather| weather.rng.usize(..up.len()));
    let (node, up) = up[which];
    if world.is_paused(node) {
        return None;
    }
    let uri = format!("/.well-known/acme-challenge/{token}");
    let request = http::Request::get(uri).body(Body::empty()).ok()?;
    let response = now(up.http01.clone().oneshot(request)).ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let body = now(response.into_body().collect()).ok()?.to_bytes();
    String::from_utf8(body.to_vec()).ok()
}

/// As the coordinator's own client reports what a CA says.
fn response(answer: Answer, host: String, effect: bool) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("a status that exists");
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let refuses = Refuses::of_answer(status, answer.body.as_bytes());
        let (message, retry_after) = (answer.body, answer.retry_after);
        return Err(other(Busy { message, retry_after, refuses, problem: None }));
    }
    if status.is_server_error() {
        return Err(other(Fault::NotAcme { host, status, excerpt: answer.body, effect }));
    }
    let response = http::Response::builder()
        .status(status)
        .header("replay-nonce", "nonce")
        .header("location", answer.location);
    let (parts, ()) = response.body(()).expect("plain headers").into_parts();
    Ok(BytesResponse { parts, body: Box::new(Bytes::from(answer.body)) })
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

/// So often the CA looks before it gives up.
const VALIDATIONS: u32 = 3;
