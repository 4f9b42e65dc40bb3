//! Handing leadership over, and what an overview needs of others.

use std::{collections::BTreeMap, time::Duration};

use chancery_proto::v1::{
    HelloResponse, Lease, StatusResponse, StoreEndpoint, StoreHealth, TransferLeaseRequest,
    TransferLeaseResponse,
};
use chancery_shared::{
    name::NodeName,
    number::{Epoch, Revision},
};
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Status;

use super::{super::Api, name};
use crate::{
    election::transfer,
    record::{EventKind, Leader, key},
    status,
    store::Health,
};

impl Api {
    /// Hands over, and waits until the successor is seen to lead.
    pub(super) async fn transfer_lease(
        &self,
        request: &TransferLeaseRequest,
        who: &str,
    ) -> Result<TransferLeaseResponse, Status> {
        let to = (!request.to.is_empty()).then(|| name::<NodeName>(&request.to)).transpose()?;
        let leadership = self.lead().await?;
        let (own, epoch) = (self.status.about().node.clone(), leadership.epoch());
        if !matches!(request.expected_epoch, 0) && request.expected_epoch != epoch.0 {
            return Err(Status::aborted(format!(
                "{own} leads with epoch {epoch} by now, and no longer is it epoch {}; nothing was \
                 done",
                request.expected_epoch
            )));
        }
        let mut response = TransferLeaseResponse {
            from: own.to_string(),
            from_epoch: epoch.0,
            ..TransferLeaseResponse::default()
        };
        if to.as_ref() == Some(&own) {
            (response.holder, response.epoch) = (own.to_string(), epoch.0);
            return Ok(response);
        }
        self.check_successor(&own, to.as_ref())?;
        let wish =
            to.as_ref().map_or_else(|| "another coordinator".to_owned(), ToString::to_string);
        let message = format!("{who} wants {wish} to lead instead of {own}");
        self.events.record(EventKind::LeaderTransfer, own.as_str(), message);
        self.transfers.transfer(&leadership, to.as_ref()).await.map_err(|error| match error {
            transfer::Error::Nomination(error) => {
                let refused = self.refused(&error);
                Status::new(refused.code(), format!("not handed over: {}", refused.message()))
            }
            transfer::Error::Stopping => Status::unavailable(error.to_string()),
        })?;
        let stepped_down = self.clock.monotonic();
        if let Ok(leader) = timeout(SUCCESSOR, self.successor(epoch)).await {
            let took = self.clock.monotonic().since(stepped_down);
            (response.holder, response.epoch) = (leader.node.to_string(), leader.epoch.0);
            response.took = Some(status::duration(took));
        }
        Ok(response)
    }

    /// Refuses what cannot come out well.
    fn check_successor(&self, own: &NodeName, to: Option<&NodeName>) -> Result<(), Status> {
        let view = self.mirror.read();
        let others: Vec<&str> =
            view.members.keys().filter(|node| *node != own).map(NodeName::as_str).collect();
        match to {
            _ if others.is_empty() => Err(Status::failed_precondition(format!(
                "there is no coordinator but {own}: nobody could take over"
            ))),
            Some(to) if !others.contains(&to.as_str()) => Err(Status::not_found(format!(
                "there is no coordinator named {to}; besides {own} there are: {}",
                others.join(", ")
            ))),
            _ => Ok(()),
        }
    }

    /// The leader of a later term than `epoch`.
    async fn successor(&self, epoch: Epoch) -> Leader {
        let mut touched = self.mirror.touched();
        loop {
            let leader = self.mirror.read().leader.as_ref().map(|leader| leader.record.clone());
            if let Some(leader) = leader.filter(|leader| leader.epoch > epoch) {
                return (*leader).clone();
            }
            // Having lagged is as good a reason to look.
            let _ = touched.recv().await;
        }
    }

    /// Who leads, as the holder itself says if it can be asked.
    pub(super) async fn lease(&self) -> Lease {
        let lease = self.status.lease();
        if !lease.held || lease.confirmed {
            return lease;
        }
        let holder =
            self.peers.others().into_iter().find(|peer| peer.node.as_str() == lease.holder);
        let Some(holder) = holder else {
            let message = format!("{} has not registered where it can be asked", lease.holder);
            return Lease { message, ..lease };
        };
        let answer = self.peers.hello(&holder).await.map_err(|error| error.to_string());
        confirmed_by(lease, answer.as_ref())
    }

    /// The overview, with what the store and the other coordinators say.
    pub(super) async fn overview(&self) -> StatusResponse {
        let (health, newest, answers, ()) = tokio::join!(
            self.store_health(),
            self.newest_revision(),
            self.ask_all(),
            self.look_around()
        );
        let mut overview = self.status.overview();
        for endpoint in health.endpoints.iter().filter(|endpoint| !endpoint.healthy) {
            let StoreEndpoint { address, message, .. } = endpoint;
            overview.problems.push(format!("the store's server {address} is not well: {message}"));
        }
        overview.problems.extend(health.warnings.iter().map(|text| format!("the store: {text}")));
        overview.store_health = Some(health);
        overview.members = self.status.members();
        for member in &mut overview.members {
            match answers.get(&member.node) {
                Some(Ok(answer)) => {
                    member.reachable = true;
                    member.revision = answer.revision;
                    member.behind_for = answer.behind_for;
                }
                Some(Err(why)) => {
                    member.message.clone_from(why);
                    overview.problems.push(format!("{why}; it may be well all the same"));
                }
                None => {}
            }
        }
        if let Some(lease) = overview.lease.take_if(|lease| lease.held && !lease.confirmed) {
            let missing = Err(format!("{} has not registered where it can be asked", lease.holder));
            let answer = answers.get(&lease.holder).unwrap_or(&missing);
            overview.lease = Some(confirmed_by(lease, answer.as_ref()));
        }
        // Who has answered late may be ahead of what the store said before.
        let shown = overview.members.iter().map(|member| member.revision).max().unwrap_or(0);
        let newest = newest.unwrap_or_default().0.max(shown);
        for member in overview.members.iter_mut().filter(|member| member.reachable) {
            member.revisions_behind = newest.saturating_sub(member.revision);
        }
        overview
    }

    /// What the other coordinators say of themselves, by name, or why they could not be asked.
    async fn ask_all(&self) -> BTreeMap<String, Result<HelloResponse, String>> {
        let others = self.peers.others();
        let asking = others.iter().map(|other| async {
            let answer = self.peers.hello(other).await.map_err(|error| error.to_string());
            (other.node.to_string(), answer)
        });
        join_all(asking).await.into_iter().collect()
    }

    async fn store_health(&self) -> StoreHealth {
        match timeout(STORE, self.store.health()).await {
            Ok(Ok(health)) => shown(health),
            Ok(Err(error)) => StoreHealth { error: error.to_string(), ..StoreHealth::default() },
            Err(_) => {
                StoreHealth { error: "it does not answer".to_owned(), ..StoreHealth::default() }
            }
        }
    }

    /// The revision that the store itself has reached, if it can be asked.
    async fn newest_revision(&self) -> Option<Revision> {
        let snapshot = timeout(STORE, self.store.list(key::LEADER)).await.ok()?.ok()?;
        Some(snapshot.revision)
    }
}

/// The lease as its holder sees it, if the holder has said so.
fn confirmed_by(lease: Lease, answer: Result<&HelloResponse, &String>) -> Lease {
    match answer.map(|answer| answer.lease.as_ref()) {
        Ok(Some(said)) => Lease { is_self: false, ..said.clone() },
        Ok(None) => {
            let message = format!("{} says that it does not hold it any more", lease.holder);
            Lease { message, ..lease }
        }
        Err(why) => Lease { message: why.clone(), ..lease },
    }
}

fn shown(health: Health) -> StoreHealth {
    let endpoints = health.endpoints.into_iter().map(|endpoint| StoreEndpoint {
        address: endpoint.address,
        healthy: endpoint.healthy,
        message: endpoint.message,
    });
    StoreHealth {
        version: health.version,
        endpoints: endpoints.collect(),
        warnings: health.warnings,
        error: String::new(),
    }
}

/// How long a successor is waited for. More than any transfer takes; whoever has asked can look
/// again.
const SUCCESSOR: Duration = Duration::from_secs(8);
/// How long the store is waited for.
const STORE: Duration = Duration::from_secs(2);
