//! An agent's way to the coordinators: gRPC as it is, without TLS, HTTP/2 and sockets.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chancery_agent::app::{Broken, Wire as Connection};
use chancery_coordinator::api::InProcess;
use chancery_shared::name::AgentName;
use http::{Request, Response, response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, body::Body};
use tower::util::BoxCloneSyncService;

use super::{
    agent::identity,
    kernel::{Place, SLICE},
    weather::Wire,
    world::World,
};

/// Where a coordinator answers agents.
#[derive(Clone)]
pub struct Door {
    /// The coordinator's runtime.
    pub runtime: Handle,
    /// The coordinator's own reckoning of time.
    pub place: Place,
    /// Its service.
    pub service: InProcess,
}

/// Frames of an answer, each with the time at which it arrives.
type Frames = mpsc::UnboundedReceiver<(Duration, Frame<Bytes>)>;
type Head = oneshot::Sender<(Duration, response::Parts, Frames)>;

/// A connection of an agent to the coordinator with this number.
pub fn connection(world: &Arc<World>, place: &Place, to: usize) -> Connection {
    let (world, place) = (world.clone(), place.clone());
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let (world, place) = (world.clone(), place.clone());
        async move {
            call(world, place, to, request)
                .await
                .map_err(|why| Broken(Box::new(Status::unavailable(why))))
        }
    }))
}

async fn call(
    world: Arc<World>,
    place: Place,
    to: usize,
    request: Request<Body>,
) -> Result<Response<Body>, &'static str> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
    let (head, answered) = oneshot::channel();
    let wire = Wire::Link(place.node, to);
    let arrival = {
        let (world, from) = (world.clone(), place.node);
        let kernel = world.kernel.clone();
        kernel.call(&place, wire, move || {
            let request = Request::from_parts(parts, Body::new(Full::new(body)));
            arrive(&world, from, to, request, head)
        })
    };
    match arrival.await {
        Ok(true) => {}
        Ok(false) => return Err("connection refused"),
        Err(_) => return Err("no answer in time"),
    }
    let (at, parts, frames) = answered.await.map_err(|_| "connection reset")?;
    place.until(at).await;
    let (sender, body) = mpsc::channel(1);
    tokio::spawn(forward(world, place, wire, frames, sender));
    Ok(Response::from_parts(parts, Body::new(StreamBody::new(ReceiverStream::new(body)))))
}

/// A request arrives. Whether somebody is there to take it.
fn arrive(world: &World, from: usize, to: usize, request: Request<Body>, head: Head) -> bool {
    let door = world.doors.lock().expect("no holder panics").get(&to).cloned();
    world.note(from, || {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let taken = if door.is_some() { "" } else { ": refused" };
        format!("calls {}: {method}{taken}", world.names[to])
    });
    let Some(door) = door else { return false };
    let agent: AgentName = world.names[from].parse().expect("a name");
    let delay = world.kernel.with_weather(|weather| SLICE + weather.millis(50));
    door.runtime.clone().spawn(async move {
        let identity = identity();
        let caller = (agent, identity.public_key_hash, identity.not_after);
        let response = door.service.call(caller, request).await;
        let (parts, mut body) = response.into_parts();
        let (sender, frames) = mpsc::unbounded_channel();
        if head.send((door.place.now() + delay, parts, frames)).is_err() {
            return;
        }
        loop {
            let frame = tokio::select! {
                biased;
                () = sender.closed() => return,
                frame = body.frame() => frame,
            };
            let Some(Ok(frame)) = frame else { return };
            if sender.send((door.place.now() + delay, frame)).is_err() {
                return;
            }
        }
    });
    true
}

/// Delivers an answer, frame after frame, unless the wire breaks.
async fn forward(
    world: Arc<World>,
    place: Place,
    wire: Wire,
    mut frames: Frames,
    to: mpsc::Sender<Result<Frame<Bytes>, Status>>,
) {
    loop {
        let received = tokio::select! {
            biased;
            () = to.closed() => return,
            received = frames.recv() => received,
        };
        // Its end, or that of the coordinator: in gRPC the difference is in the last frame.
        let Some((at, frame)) = received else { return };
        place.until(at).await;
        let breaks = world.kernel.with_weather(|weather| {
            let storm = at < weather.calm_from;
            weather.is_cut(wire) || storm && weather.rng.u32(..1000) < weather.store_per_mille
        });
        let frame = if breaks { Err(Status::unavailable("connection reset")) } else { Ok(frame) };
        if to.send(frame).await.is_err() || breaks {
            return;
        }
    }
}
