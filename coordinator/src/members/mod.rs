//! The coordinators of a fleet: how they know of each other, and how they talk.
//!
//! # Records
//!
//! Each coordinator keeps a record under `members/`, bound to a lease of its own. It is kept alive
//! every third of its life, made again when it is gone (the store was away for too long), and deleted
//! last of all when the coordinator stops. Everybody reads the records in the mirror: the others, to
//! find the leader and each other; agents' streams, to tell agents where else they can go.
//!
//! # One name, one coordinator
//!
//! Two processes with one node name would take each other for themselves. At the start the process
//! that the record names is asked, over the link below: if it is alive, the new one refuses to run.
//! If it cannot be asked (it was killed, it cannot be reached, it is at our own address, where only one can
//! listen) the record is taken over. Should both be alive nevertheless, each finds the other's record
//! in place of its own, and the younger gives way.
//!
//! # The link
//!
//! Coordinators call each other where agents call them: over TLS, each with an identity of its own
//! ([`crate::authority`]), which no agent can have. [`Peers`] keeps the connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chancery_shared::{name::NodeName, retry::Policy};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    mirror::Mirror,
    record::{self, Instance, Member, key},
    store::{self, Registered, Registration, Store},
};

mod peers;
mod progress;
mod seen;

pub use peers::{Peers, Unreachable};

/// This coordinator's place among the members.
#[derive(Debug)]
pub struct Membership {
    task: JoinHandle<()>,
    leave: CancellationToken,
    ousted: oneshot::Receiver<Member>,
}

/// The name is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another coordinator named {node} is running, at {address} since {since}: give each coordinator \
     a name of its own (`node` in the configuration), or stop the other one first"
)]
pub struct NameTaken {
    /// The name.
    pub node: NodeName,
    /// Where the other one says that it can be reached.
    pub address: String,
    /// When it started.
    pub since: jiff::Timestamp,
}

impl From<&Member> for NameTaken {
    fn from(member: &Member) -> Self {
        Self {
            node: member.node.clone(),
            address: member.address.clone(),
            since: member.started_at,
        }
    }
}

impl Membership {
    /// Registers `member` for `ttl`, and keeps it registered until [`Self::leave`]. Resolves
    /// once the mirror shows it, so that from then on the mirror has all that anybody who sees this
    /// member may count on; or after a while, if the store is away.
    pub async fn enter(
        store: Arc<dyn Store>,
        mirror: &Mirror,
        member: Member,
        ttl: Duration,
    ) -> Self {
        let leave = CancellationToken::new();
        let (oust, ousted) = oneshot::channel();
        let (node, instance) = (member.node.clone(), member.instance);
        let keeper = Keeper { store, member, ttl, waits: Policy::CONNECT };
        let task = tokio::spawn(keeper.run(oust, leave.clone()));
        if timeout(SHOWN, shown(mirror, &node, instance)).await.is_err() {
            tracing::warn!(%node, "this coordinator is not registered yet; others cannot find it");
        }
        Self { task, leave, ousted }
    }

    /// Resolves if another coordinator has the name, and this one has to give way. Cancel-safe.
    pub async fn ousted(&mut self) -> NameTaken {
        match (&mut self.ousted).await {
            Ok(member) => NameTaken::from(&member),
            // The task has ended in some other way: it left.
            Err(_) => std::future::pending().await,
        }
    }

    /// Deletes the record, as far as the store can be told soon.
    pub async fn leave(self) {
        self.leave.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the registration has ended in an error");
        }
    }
}

/// Whether nobody else who is alive has the name of `member`: asks whoever the record names.
pub async fn check_name(peers: &Peers, mirror: &Mirror, member: &Member) -> Result<(), NameTaken> {
    let other = {
        let view = mirror.read();
        let known = view.members.get(&member.node).map(|known| known.record.clone());
        // Without the internal CA there is no link, and nobody who has served for long.
        known.filter(|_| view.authority.is_some())
    };
    let Some(other) = other else { return Ok(()) };
    if other.instance == member.instance || other.address == member.address {
        return Ok(());
    }
    match peers.hello(&other).await {
        Ok(hello) if hello.instance == other.instance.to_string() => Err((&*other).into()),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::info!(%error, "taking over the registration of a former life");
            Ok(())
        }
    }
}

/// Where others reach a listener: `advertised`, or its own address if that says which machine it
/// is, or else this machine's host name.
pub fn dialled(advertised: Option<&str>, listening: SocketAddr) -> String {
    match advertised {
        Some(address) => address.to_owned(),
        None if listening.ip().is_unspecified() => {
            format!("{}:{}", host_name(), listening.port())
        }
        None => listening.to_string(),
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Resolves once the mirror shows the record of this instance.
async fn shown(mirror: &Mirror, node: &NodeName, instance: Instance) {
    let mut touched = mirror.touched();
    loop {
        let known = mirror.read().members.get(node).map(|member| member.record.instance);
        if known == Some(instance) {
            return;
        }
        // Lagging is as good a reason to look again; the mirror outlives the process.
        let _ = touched.recv().await;
    }
}

/// Keeps one record.
struct Keeper {
    store: Arc<dyn Store>,
    member: Member,
    ttl: Duration,
    waits: Policy,
}

impl Keeper {
    async fn run(self, oust: oneshot::Sender<Member>, leave: CancellationToken) {
        let mut registered = None;
        let ended = leave.run_until_cancelled(self.keep(&mut registered)).await;
        if let Some(other) = ended {
            // Nobody listens only while the process ends.
            let _ = oust.send(other);
            return;
        }
        if let Some(registered) = registered
            && !matches!(timeout(FAREWELL, self.store.deregister(&registered)).await, Ok(Ok(())))
        {
            tracing::info!("could not take the registration back; it expires by itself");
        }
    }

    /// Registers, and keeps it so. Returns who has the name, if this one has to give way.
    async fn keep(&self, registered: &mut Option<Registered>) -> Member {
        let mut waits = self.waits.waits();
        loop {
            let result = match registered.as_ref() {
                None => self.register().await.map(|made| *registered = Some(made)),
                Some(present) => self.store.keep_registered(present).await,
            };
            let wait = match result {
                Ok(()) => {
                    waits.reset();
                    self.ttl / 3
                }
                Err(store::Error::Expired { .. }) => {
                    *registered = None;
                    match self.successor().await {
                        Ok(Some(other)) if self.member.gives_way_to(&other) => return other,
                        Ok(Some(other)) => {
                            let error = NameTaken::from(&other);
                            tracing::error!(%error, "this one was there first, and goes on");
                        }
                        Ok(None) => tracing::warn!("the registration had expired; making it again"),
                        Err(error) => tracing::debug!(%error, "cannot look at the registration"),
                    }
                    waits.next_wait()
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot register this coordinator; will try again");
                    waits.next_wait().min(self.ttl / 3)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn register(&self) -> Result<Registered, store::Error> {
        let registration = Registration {
            key: key::member(&self.member.node),
            value: record::encode(&self.member),
            ttl: self.ttl,
        };
        self.store.register(&registration).await
    }

    /// Who has taken the record over.
    async fn successor(&self) -> Result<Option<Member>, store::Error> {
        let at = key::member(&self.member.node);
        let found = self.store.get(&at).await?;
        let found = found.and_then(|entry| record::decode::<Member>(&at, &entry.value).ok());
        Ok(found.filter(|other| other.instance != self.member.instance))
    }
}

/// How long a start waits until the registration shows.
const SHOWN: Duration = Duration::from_secs(5);
/// How long a stop waits for the store to take the registration back.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
