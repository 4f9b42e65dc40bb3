//! Handing leadership over, and what an overview says of it.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{ShowLeaseRequest, StatusRequest, TransferLeaseRequest};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;

use crate::{
    api::testing::{Fleet, PATIENCE},
    election::{self, Election},
    metrics::Metrics,
    record::{EventKind, Instance, Member, key},
};

/// Another coordinator that takes part in the election, and says so.
async fn another(fleet: &Fleet, node: &str) -> (Election, DropGuard) {
    let member = Member {
        node: node.parse().unwrap(),
        instance: Instance::random(),
        version: "1.2.3".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        http: "127.0.0.1:2".to_owned(),
        started_at: fleet.clock.now(),
    };
    fleet.put(key::member(&member.node), &member).await;
    let shutdown = CancellationToken::new();
    let options = election::Options {
        node: member.node,
        ttl: Duration::from_secs(15),
        drain: Duration::from_secs(1),
    };
    let (store, clock) = (fleet.store.clone(), fleet.clock.clone());
    let metrics = Arc::new(Metrics::default());
    let election = election::start(store, clock, options, metrics, shutdown.clone());
    (election, shutdown.drop_guard())
}

fn to(node: &str, expected_epoch: u64) -> TransferLeaseRequest {
    TransferLeaseRequest { to: node.to_owned(), expected_epoch }
}

#[tokio::test]
async fn the_lease_goes_where_an_operator_wants_it() {
    let fleet = Fleet::start().await;
    let _two = another(&fleet, "node-2").await;
    let _three = another(&fleet, "node-3").await;
    let mut admin = fleet.admin().await;
    let response = admin.transfer_lease(to("node-3", 1)).await.unwrap().into_inner();
    assert_eq!((response.from.as_str(), response.from_epoch), ("node-1", 1));
    assert_eq!((response.holder.as_str(), response.epoch), ("node-3", 2));
    let took = Duration::try_from(response.took.unwrap()).unwrap();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let events = fleet.mirror.read().events.values().map(|event| event.kind).collect::<Vec<_>>();
    assert!(events.contains(&EventKind::LeaderTransfer), "{events:?}");

    // From here it is another's, and only that one knows whether it still has it.
    let lease = admin.show_lease(ShowLeaseRequest {}).await.unwrap().into_inner();
    assert_eq!((lease.held, lease.holder.as_str(), lease.epoch), (true, "node-3", 2));
    assert!(!lease.confirmed && !lease.is_self && lease.remaining.is_none());
    assert!(lease.message.contains("node-3 at 127.0.0.1:1 cannot be reached"), "{lease:?}");
}

#[tokio::test]
async fn what_cannot_come_out_well_is_refused_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let status = admin.transfer_lease(to("", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("nobody could take over"), "{}", status.message());

    let _two = another(&fleet, "node-2").await;
    for (request, code, words) in [
        (to("node-9", 0), Code::NotFound, "besides node-1 there are: node-2"),
        (to("No Node", 0), Code::InvalidArgument, "not valid"),
        (to("node-2", 7), Code::Aborted, "epoch 1 by now"),
    ] {
        let status = admin.transfer_lease(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().contains(words), "{}", status.message());
    }
    let itself = admin.transfer_lease(to("node-1", 1)).await.unwrap().into_inner();
    assert_eq!((itself.holder.as_str(), itself.epoch, itself.took), ("node-1", 1, None));
    assert!(fleet.leadership.check().is_ok(), "it leads as before");
}

#[tokio::test]
async fn an_overview_has_members_store_and_keep_alives() {
    let fleet = Fleet::start().await;
    let _two = another(&fleet, "node-2").await;
    let mut admin = fleet.admin().await;
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    let lease = status.lease.unwrap();
    assert!(lease.confirmed && lease.is_self && lease.remaining.is_some());
    let members: Vec<_> =
        status.members.iter().map(|member| (member.node.as_str(), member.role.as_str())).collect();
    assert_eq!(members, [("node-2", "follower")]);
    let health = status.store_health.unwrap();
    assert_eq!((health.version.as_str(), health.error.as_str()), (env!("CARGO_PKG_VERSION"), ""));
}

#[tokio::test]
async fn a_follower_asks_the_leader_and_the_others() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    let mut admin = follower.admin().await;
    let lease = admin.show_lease(ShowLeaseRequest {}).await.unwrap().into_inner();
    assert!(lease.confirmed && !lease.is_self && lease.remaining.is_some(), "{lease:?}");
    assert_eq!((lease.holder.as_str(), lease.message.as_str()), ("node-1", ""));

    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.lease.unwrap().confirmed);
    let members: Vec<_> = status
        .members
        .iter()
        .map(|m| (m.node.as_str(), m.role.as_str(), m.is_self, m.reachable, m.revisions_behind))
        .collect();
    assert_eq!(
        members,
        [("node-1", "leader", false, true, 0), ("node-2", "follower", true, true, 0)]
    );

    leader.shutdown.cancel();
    let lost = async {
        while admin.show_lease(ShowLeaseRequest {}).await.unwrap().into_inner().confirmed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("who cannot be asked confirms nothing");
}
