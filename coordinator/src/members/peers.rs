//! Connections to the other coordinators.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use chancery_proto::v1::{HelloRequest, HelloResponse, peer_service_client::PeerServiceClient};
use chancery_shared::{
    clock::{Monotonic, SharedClock},
    name::NodeName,
    tls,
};
use tokio::{sync::OnceCell, time::timeout};
use tonic::transport::Channel;

use super::progress;
use crate::{
    authority::{self, Authority},
    mirror::Mirror,
    record::Member,
    seal::Sealer,
};

/// The other coordinators, and the connections to them. Makes none before it is asked to.
pub struct Peers {
    pub(super) node: NodeName,
    pub(super) mirror: Arc<Mirror>,
    sealer: Sealer,
    pub(super) clock: SharedClock,
    authority: OnceCell<Arc<Authority>>,
    pub(super) progress: Mutex<progress::Known>,
    /// By address.
    links: Mutex<BTreeMap<String, Link>>,
}

/// An open connection.
struct Link {
    channel: Channel,
    /// When it is to be made anew: long before the identity that it was made with ends.
    until: Monotonic,
}

/// Another coordinator cannot be asked, and has not been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("coordinator {node} at {address} cannot be reached from here: {reason}")]
pub struct Unreachable {
    /// The other one.
    pub node: NodeName,
    /// Where it should be.
    pub address: String,
    /// Why not.
    pub reason: String,
}

impl Peers {
    /// The others, as `node` sees them.
    pub fn new(
        node: NodeName,
        mirror: Arc<Mirror>,
        sealer: Sealer,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            mirror,
            sealer,
            clock,
            authority: OnceCell::new(),
            progress: Mutex::default(),
            links: Mutex::default(),
        })
    }

    /// The coordinators that are there, this one excepted.
    pub fn others(&self) -> Vec<Arc<Member>> {
        let view = self.mirror.read();
        let others = view.members.iter().filter(|(node, _)| **node != self.node);
        others.map(|(_, member)| member.record.clone()).collect()
    }

    /// Asks `member` who it is. Bounded in time.
    pub async fn hello(&self, member: &Member) -> Result<HelloResponse, Unreachable> {
        let asking = async {
            let channel = self.channel(member).await?;
            let answer = PeerServiceClient::new(channel).hello(HelloRequest {}).await;
            let answer = answer.map_err(|status| {
                self.forget(member);
                unreachable(member, status.message())
            })?;
            Ok(answer.into_inner())
        };
        timeout(HELLO, asking)
            .await
            .unwrap_or_else(|_| Err(unreachable(member, "it does not answer")))
    }

    /// A connection to `member`. Bounded in time.
    pub async fn channel(&self, member: &Member) -> Result<Channel, Unreachable> {
        let now = self.clock.monotonic();
        let known = {
            let links = self.links.lock().expect("no holder panics");
            links.get(&member.address).filter(|link| now < link.until).map(|l| l.channel.clone())
        };
        if let Some(channel) = known {
            return Ok(channel);
        }
        let connected = timeout(CONNECT, self.connect(&member.address)).await;
        let channel = connected
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
            .map_err(|reason| unreachable(member, &reason))?;
        let link = Link { channel: channel.clone(), until: now.after(LINK_LIFE) };
        let mut links = self.links.lock().expect("no holder panics");
        links.retain(|_, link| now < link.until);
        links.insert(member.address.clone(), link);
        Ok(channel)
    }

    /// Lets go of the connection to `member`, which has failed.
    pub fn forget(&self, member: &Member) {
        self.links.lock().expect("no holder panics").remove(&member.address);
    }

    async fn connect(&self, address: &str) -> Result<Channel, String> {
        let authority = self.authority().await.map_err(|error| chain(&error))?;
        let issued = authority.issue_coordinator(&self.node).map_err(|error| chain(&error))?;
        let (certificates, key) = issued;
        let root = authority.certificate().clone();
        let config = tls::identified_client(root, certificates, key);
        let config = config.map_err(|error| chain(&error))?;
        tls::connect(address, Arc::new(config)).await.map_err(|error| chain(&error))
    }

    /// The internal CA, which the first leader makes.
    async fn authority(&self) -> Result<&Arc<Authority>, authority::Error> {
        let options = authority::Options::default();
        let load = || authority::load(&self.mirror, &self.sealer, self.clock.clone(), options);
        self.authority.get_or_try_init(load).await
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("node", &self.node).finish_non_exhaustive()
    }
}

pub(super) fn unreachable(member: &Member, reason: &(impl fmt::Display + ?Sized)) -> Unreachable {
    Unreachable {
        node: member.node.clone(),
        address: member.address.clone(),
        reason: reason.to_string(),
    }
}

/// An error and what it came from, once each.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

const CONNECT: Duration = Duration::from_secs(2);
const HELLO: Duration = Duration::from_secs(2);
/// A quarter of the life of the identity that a connection is made with.
const LINK_LIFE: Duration = Duration::from_hours(6);
