//! Who has made a call that one coordinator passes on to another.

use std::{net::SocketAddr, sync::Arc};

use chancery_proto::v1::{Caller, caller};
use chancery_shared::{
    name::NodeName,
    wire::{from_timestamp, to_timestamp},
};
use http::{HeaderValue, Request};
use prost::Message as _;
use tonic::{
    Status,
    body::Body,
    metadata::{Binary, MetadataMap, MetadataValue},
    transport::server::UdsConnectInfo,
};

use super::peer::{Peer, PeerIdentity};
use crate::events::printable;

/// The user who has made a call on the admin socket of another coordinator.
#[derive(Clone, Debug)]
pub(super) struct Operator(pub(super) String);

/// The header that tells who has made `request`, as this coordinator has verified it.
pub(super) fn header(request: &Request<Body>) -> Result<HeaderValue, Status> {
    let who = if let Some(peer) = request.extensions().get::<Peer>() {
        let identity = peer.identity.as_ref().map(|identity| caller::Identity {
            agent: identity.agent.to_string(),
            public_key_hash: identity.public_key_hash.to_vec(),
            not_after: Some(to_timestamp(identity.not_after)),
        });
        caller::Who::Client(caller::Client { address: peer.address.to_string(), identity })
    } else {
        let user = super::socket::user(request.extensions().get::<UdsConnectInfo>());
        caller::Who::Operator(caller::Operator { user })
    };
    let bytes = Caller { who: Some(who) }.encode_to_vec();
    let value = MetadataValue::<Binary>::from_bytes(&bytes);
    HeaderValue::from_bytes(value.as_encoded_bytes())
        .map_err(|error| Status::internal(error.to_string()))
}

/// Makes `request`, which the coordinator `from` has passed on, look as if whoever made it had made
/// it here.
pub(super) fn adopt(request: &mut Request<Body>, from: &NodeName) -> Result<(), Status> {
    let missing = || Status::permission_denied("a coordinator has to say whose call it passes on");
    let metadata = MetadataMap::from_headers(request.headers_mut().clone());
    request.headers_mut().remove(HEADER);
    let bytes = metadata.get_bin(HEADER).and_then(|value| value.to_bytes().ok());
    let caller = bytes.and_then(|bytes| Caller::decode(bytes).ok());
    match caller.and_then(|caller| caller.who).ok_or_else(missing)? {
        caller::Who::Operator(operator) => {
            let user = printable(&operator.user, MAX_USER);
            request.extensions_mut().insert(Operator(format!("{user} at {from}")));
        }
        caller::Who::Client(client) => {
            let peer = client_peer(&client).ok_or_else(missing)?;
            request.extensions_mut().insert(peer);
        }
    }
    Ok(())
}

fn client_peer(client: &caller::Client) -> Option<Peer> {
    let address: SocketAddr = client.address.parse().ok()?;
    let identity = match &client.identity {
        None => None,
        Some(identity) => Some(Arc::new(PeerIdentity {
            agent: identity.agent.parse().ok()?,
            public_key_hash: identity.public_key_hash.as_slice().try_into().ok()?,
            not_after: from_timestamp(identity.not_after.as_ref())?,
        })),
    };
    Some(Peer { address, identity, coordinator: None })
}

/// Binary, as its end says (gRPC over HTTP/2, "Custom-Metadata").
pub(super) const HEADER: &str = "chancery-caller-bin";
const MAX_USER: usize = 64;
