//! What coordinators ask of each other.

use std::time::Duration;

use chancery_proto::v1::{
    ListAgentsRequest, RemoveAgentRequest, WatchRequest, watch_response::Event,
};
use tokio::time::timeout;

use crate::{
    api::testing::{Fleet, PATIENCE},
    members::{NameTaken, check_name},
    record::{Instance, Member, key},
    store::Batch,
};

#[tokio::test]
async fn the_leader_learns_when_every_other_one_has_caught_up() {
    let leader = Fleet::start().await;
    // Alone: nobody is asked.
    timeout(Duration::from_millis(100), leader.peers.caught_up(leader.mirror.revision()))
        .await
        .unwrap();
    let (second, third) = (leader.follower("node-2").await, leader.follower("node-3").await);
    leader.mirror.wait_for(third.mirror.revision()).await;
    leader.declare("www", &["role=web"]).await;
    let revision = leader.mirror.revision();
    timeout(PATIENCE, leader.peers.caught_up(revision)).await.unwrap();
    assert!(second.mirror.revision() >= revision && third.mirror.revision() >= revision);
    // One whose mirror stands still is waited for until it follows again.
    third.lose_store().await;
    leader.declare("mail", &["role=web"]).await;
    let revision = leader.mirror.revision();
    let mut waiting = std::pin::pin!(leader.peers.caught_up(revision));
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    third.store.set_down(false);
    timeout(PATIENCE, waiting).await.unwrap();
    assert!(third.mirror.revision() >= revision);
}

#[tokio::test]
async fn one_that_cannot_be_reached_holds_up_orders_for_a_while_only() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    leader.mirror.wait_for(follower.mirror.revision()).await;
    follower.shutdown.cancel();
    follower.server.await.unwrap().unwrap();
    leader.declare("www", &["role=web"]).await;
    let revision = leader.mirror.revision();
    // While it is registered; its lease would run out soon.
    let waiting = leader.peers.caught_up(revision);
    timeout(Duration::from_secs(15), waiting).await.unwrap();
    // From then on nobody waits for it.
    leader.declare("mail", &["role=web"]).await;
    let again = leader.peers.caught_up(leader.mirror.revision());
    timeout(Duration::from_millis(500), again).await.unwrap();
}

#[tokio::test]
async fn a_name_is_taken_as_long_as_its_process_answers() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    let known = follower.mirror.read().members["node-1"].record.clone();
    let second = Member {
        instance: Instance::random(),
        address: "127.0.0.1:1".to_owned(),
        ..(*known).clone()
    };
    let taken = check_name(&follower.peers, &follower.mirror, &second).await.unwrap_err();
    assert_eq!(taken, NameTaken::from(&*known));
    // At its own address only one can listen: that record is of a former life.
    let same = Member { address: known.address.clone(), ..second.clone() };
    check_name(&follower.peers, &follower.mirror, &same).await.unwrap();
    // It was killed.
    leader.shutdown.cancel();
    leader.server.await.unwrap().unwrap();
    check_name(&follower.peers, &follower.mirror, &second).await.unwrap();
}

#[tokio::test]
async fn a_stream_tells_who_else_is_there() {
    let leader = Fleet::start().await;
    let agent = leader.join("web-1", &["role=web"]).await;
    let mut alone = leader.watch(&agent, WatchRequest::default()).await;
    let _first = alone.message().await.unwrap();
    let follower = leader.follower("node-2").await;
    let mut told = Vec::new();
    let both = vec![leader.address.clone(), follower.address.clone()];
    while told != both {
        let message = timeout(PATIENCE, alone.message()).await.unwrap().unwrap().unwrap();
        if let Some(Event::Coordinators(list)) = message.event {
            told = list.addresses;
        }
    }
    // A new stream begins with it, and one that comes from the other loses nothing.
    let mut fresh = follower.watch(&agent, WatchRequest::default()).await;
    let message = timeout(PATIENCE, fresh.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(message.event, Some(Event::Coordinators(list)) if list.addresses == both));
    follower.commit(Batch::unfenced().delete(key::member(&"node-1".parse().unwrap()))).await;
    let left = loop {
        let message = timeout(PATIENCE, fresh.message()).await.unwrap().unwrap().unwrap();
        if let Some(Event::Coordinators(list)) = message.event {
            break list.addresses;
        }
    };
    assert_eq!(left, std::slice::from_ref(&follower.address));
}

#[tokio::test]
async fn every_coordinator_knows_which_agents_are_connected_anywhere() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    let agent = follower.join("web-1", &["role=web"]).await;
    let before = leader.mirror.revision();
    let stream = follower.watch(&agent, WatchRequest::default()).await;
    let state = async || {
        let agents = leader.admin().await.list_agents(ListAgentsRequest {}).await.unwrap();
        agents.into_inner().agents.first().map(|agent| agent.state.clone())
    };
    let connected = async {
        while state().await.as_deref() != Some("connected") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, connected).await.unwrap();
    assert_eq!(leader.mirror.revision(), before, "nothing was written for it");
    drop(stream);
    let gone = async {
        while state().await.as_deref() != Some("disconnected") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let name = "web-1".to_owned();
    leader.admin().await.remove_agent(RemoveAgentRequest { name }).await.unwrap();
    assert_eq!(state().await, None);
}
