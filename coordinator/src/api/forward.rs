//! Calls that only the leader can carry out, made at a coordinator that does not lead: they are
//! passed on as they are, and the answer is passed back.
//!
//! # What is passed on
//!
//! The methods in [`LEADERS`] and no others. What goes along of a call is its body, what gRPC needs
//! of its headers (the deadline among them), and who has made it, as *this* coordinator has verified
//! it ([`Caller`]). The leader believes that only from who shows a coordinator's identity, and
//! takes nothing else from such a connection. To the services behind, a call that was passed on looks
//! as if it had come to the leader itself.
//!
//! # One hop
//!
//! A coordinator that gets such a call and does not lead says so and has done nothing; the
//! one that took the call from the caller looks again who leads. So nothing goes round in circles,
//! and the wait for an election is in one place, with one bound.
//!
//! # Read your writes
//!
//! The answer carries the last commit that the leader's mirror shows when it is done. The caller gets it
//! once this coordinator's mirror shows as much.
//!
//! # When it fails
//!
//! `UNAVAILABLE` if the leader was not reached: nothing was done. `UNKNOWN` if the connection broke
//! afterwards: then nobody here can tell. A caller that goes away takes its call at the leader along.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use chancery_proto::v1::ApplyRequest;
use chancery_shared::{name::NodeName, number::Revision};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message as _;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Layer, Service};

use super::{
    Api,
    caller::{self, Operator},
    peer::Peer,
    write::Leader,
};
use crate::{members::Unreachable, record::Member};

/// What only the leader can carry out.
pub(super) const LEADERS: [&str; 12] = [
    APPLY,
    "/chancery.v1.AdminService/RenewCertificate",
    "/chancery.v1.AdminService/RevokeCertificate",
    "/chancery.v1.AdminService/SwitchCertificate",
    "/chancery.v1.AdminService/ChangeAccount",
    "/chancery.v1.AdminService/RemoveAgent",
    "/chancery.v1.AdminService/CreateToken",
    "/chancery.v1.AdminService/RotateSeal",
    "/chancery.v1.AdminService/TransferLease",
    "/chancery.v1.AdminService/DrillRevocation",
    "/chancery.v1.AgentService/RotateIdentity",
    "/chancery.v1.EnrolmentService/Join",
];

/// Which listener a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The admin socket.
    Operators,
    /// The listener for agents, where other coordinators call too.
    Agents,
}

/// Puts [`Forward`] before the services of a listener.
#[derive(Clone)]
pub(super) struct ForwardLayer {
    pub(super) api: Arc<Api>,
    pub(super) side: Side,
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        Forward { inner, api: self.api.clone(), side: self.side }
    }
}

/// Decides for each call who carries it out.
#[derive(Clone)]
pub(super) struct Forward<S> {
    inner: S,
    api: Arc<Api>,
    side: Side,
}

impl<S> Service<Request<Body>> for Forward<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (api, side) = (self.api.clone(), self.side);
        Box::pin(async move {
            match api.route(side, request).await {
                Ok(Route::Here(request)) => inner.call(request).await,
                Ok(Route::HereForAnother(request)) => {
                    let mut response = inner.call(request).await?;
                    let revision = HeaderValue::from(api.mirror.read().last_commit.0);
                    response.headers_mut().insert(REVISION, revision);
                    Ok(response)
                }
                Ok(Route::Answered(response)) => Ok(response),
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// Where a call goes.
enum Route {
    /// To the services of this process.
    Here(Request<Body>),
    /// As well, and another coordinator waits for the answer.
    HereForAnother(Request<Body>),
    /// It went to the leader, and this is the answer.
    Answered(Response<Body>),
}

impl Api {
    async fn route(&self, side: Side, request: Request<Body>) -> Result<Route, Status> {
        let for_leaders = LEADERS.contains(&request.uri().path());
        if side == Side::Agents {
            let peer = request.extensions().get::<Peer>().cloned();
            let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
            if let Some(coordinator) = &peer.coordinator {
                if coordinator.not_after <= self.clock.now() {
                    return Err(Status::unauthenticated("the coordinator's identity has expired"));
                }
                if request.uri().path().starts_with(PEER_SERVICE) {
                    return Ok(Route::Here(request));
                }
                return self.accept(&coordinator.node, request, for_leaders).await;
            }
            let path = request.uri().path();
            if path.starts_with(PEER_SERVICE) || path.starts_with(ADMIN_SERVICE) {
                return Err(Status::permission_denied("this is not for agents"));
            }
        }
        if !for_leaders || self.leads() {
            return Ok(Route::Here(request));
        }
        let caller = caller::header(&request)?;
        let (parts, body) = request.into_parts();
        let most = if side == Side::Agents { MOST_OF_AGENTS } else { super::MAX_ADMIN_MESSAGE };
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| Status::resource_exhausted(error.to_string()))?.to_bytes();
        let call = Call {
            path: parts.uri.path().to_owned(),
            headers: parts.headers.clone(),
            caller,
            body,
        };
        if !call.only_looks()
            && let Some(response) = self.pass_on(&call).await?
        {
            return Ok(Route::Answered(response));
        }
        Ok(Route::Here(Request::from_parts(parts, Body::new(Full::new(call.body)))))
    }

    /// Takes a call that the coordinator `from` has passed on.
    async fn accept(
        &self,
        from: &NodeName,
        mut request: Request<Body>,
        for_leaders: bool,
    ) -> Result<Route, Status> {
        if !for_leaders {
            return Err(Status::permission_denied("coordinators do not pass this on"));
        }
        caller::adopt(&mut request, from)?;
        match self.leader().await {
            Ok(Leader::Own(_)) => Ok(Route::HereForAnother(request)),
            Ok(Leader::Other(_)) | Err(_) => {
                let mut status = Status::unavailable("this coordinator does not lead any more");
                status.metadata_mut().insert(NOT_LEADING, "1".parse().expect("it is ASCII"));
                Err(status)
            }
        }
    }

    /// Has the leader carry out a call, whoever that is by the time it is reached. `None` if it is
    /// this coordinator.
    async fn pass_on(&self, call: &Call) -> Result<Option<Response<Body>>, Status> {
        let began = self.clock.monotonic();
        loop {
            let mut touched = self.mirror.touched();
            let leader = match self.leader().await? {
                Leader::Own(_) => return Ok(None),
                Leader::Other(leader) => leader,
            };
            let trouble = match self.send(&leader, call).await {
                Sent::Answered(response) => {
                    return Ok(Some(self.once_shown(response).await));
                }
                Sent::Lost(status) => return Err(status),
                Sent::Not(trouble) => trouble,
            };
            let left = PATIENCE.saturating_sub(self.clock.monotonic().since(began));
            if left.is_zero() {
                return Err(Status::unavailable(format!("{trouble}; nothing was changed")));
            }
            // Another leader, most likely; or the same one, once it listens.
            let change =
                async { while touched.recv().await.is_ok_and(|touched| !touched.members) {} };
            let _ = tokio::time::timeout(left.min(AGAIN), change).await;
        }
    }

    /// Sends a call to `leader`, once.
    async fn send(&self, leader: &NodeName, call: &Call) -> Sent {
        let member = self.mirror.read().members.get(leader).map(|member| member.record.clone());
        let Some(member) = member else {
            return Sent::Not(format!(
                "coordinator {leader} leads, but has not registered where it can be reached"
            ));
        };
        let channel = match self.peers.channel(&member).await {
            Ok(channel) => channel,
            Err(error) => return Sent::Not(leading(&error)),
        };
        match exchange(channel, call.request()).await {
            Ok(response) if response.headers().contains_key(NOT_LEADING) => {
                Sent::Not(format!("coordinator {leader} does not lead any more"))
            }
            Ok(response) => Sent::Answered(response),
            Err(error) => {
                self.peers.forget(&member);
                broken(&member, &error)
            }
        }
    }

    /// Holds an answer back until this coordinator's mirror shows what it is about.
    async fn once_shown(&self, mut response: Response<Body>) -> Response<Body> {
        let revision = response.headers_mut().remove(REVISION);
        let revision = revision.as_ref().and_then(|text| text.to_str().ok()?.parse().ok());
        if let Some(revision) = revision {
            self.shown(Revision(revision)).await;
        }
        response
    }
}

/// A call, whole, so that it can be sent more than once.
struct Call {
    path: String,
    headers: HeaderMap,
    caller: HeaderValue,
    body: Bytes,
}

impl Call {
    /// Whether it changes nothing after all: a plan can be made anywhere.
    fn only_looks(&self) -> bool {
        // A gRPC message that is not compressed, with its length.
        let message = self.body.strip_prefix(&[0]).and_then(|rest| rest.get(4..));
        self.path == APPLY
            && message
                .and_then(|message| ApplyRequest::decode(message).ok())
                .is_some_and(|request| request.dry_run)
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new(Full::new(self.body.clone())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.path.parse().expect("it was the path of a request");
        *request.version_mut() = http::Version::HTTP_2;
        for name in PASSED {
            if let Some(value) = self.headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        request.headers_mut().insert(caller::HEADER, self.caller.clone());
        request
    }
}

/// What became of a call.
enum Sent {
    Answered(Response<Body>),
    /// It did not get there, or was turned away: why.
    Not(String),
    /// It may have got there.
    Lost(Status),
}

async fn exchange(
    mut channel: Channel,
    request: Request<Body>,
) -> Result<Response<Body>, tonic::transport::Error> {
    std::future::poll_fn(|context| channel.poll_ready(context)).await?;
    channel.call(request).await
}

/// What a failure of the connection means.
fn broken(member: &Member, error: &tonic::transport::Error) -> Sent {
    let Member { node, address, .. } = member;
    if was_not_sent(error) {
        let reason = "the connection has ended".to_owned();
        let error = Unreachable { node: node.clone(), address: address.clone(), reason };
        return Sent::Not(leading(&error));
    }
    Sent::Lost(Status::unknown(format!(
        "the connection to the leader, coordinator {node} at {address}, has broken: what was asked \
         for may have been done; look before you repeat it"
    )))
}

fn leading(error: &Unreachable) -> String {
    format!("the leader, {error}")
}

/// Whether the request has certainly not left this process.
fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(error) = current {
        if error.is::<tonic::ConnectError>()
            || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        current = error.source();
    }
    false
}

/// The user behind a call that was passed on.
pub(super) fn operator<T>(request: &tonic::Request<T>) -> Option<String> {
    request.extensions().get::<Operator>().map(|operator| operator.0.clone())
}

/// The headers of a call that go along.
const PASSED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::TE,
    header::USER_AGENT,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];
const APPLY: &str = "/chancery.v1.AdminService/Apply";
const REVISION: &str = "chancery-revision";
const NOT_LEADING: &str = "chancery-not-leading";
const PEER_SERVICE: &str = "/chancery.v1.PeerService/";
const ADMIN_SERVICE: &str = "/chancery.v1.AdminService/";
/// Bytes of a call by an agent or a stranger: a token and a CSR.
const MOST_OF_AGENTS: usize = 64 * 1024;
/// For how long a leader that cannot be reached is tried.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between tries, unless something changes.
const AGAIN: Duration = Duration::from_millis(200);
