//! Calls at a coordinator that does not lead.

use std::time::Duration;

use chancery_proto::v1::{
    CatchUpRequest, CreateTokenRequest, HelloRequest, RemoveAgentRequest, RenewCertificateRequest,
    RotateIdentityRequest, RotateSealRequest, StatusRequest, WatchRequest,
    admin_service_client::AdminServiceClient, agent_service_client::AgentServiceClient,
    enrolment_service_client::EnrolmentServiceClient, peer_service_client::PeerServiceClient,
};
use chancery_shared::{key_type::KeyType, tls};
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};

use crate::{
    api::testing::{Fleet, PATIENCE, TestAgent, csr, next, until_synced},
    authority::{Csr, coordinator_of_uri},
    record::EventKind,
};

/// A connection to `fleet` with a coordinator's identity.
async fn as_coordinator(fleet: &Fleet, node: &str) -> Channel {
    let (chain, key) = fleet.authority.issue_coordinator(&node.parse().unwrap()).unwrap();
    let root = fleet.authority.certificate().clone();
    let config = tls::identified_client(root, chain, key).unwrap();
    tls::connect(&fleet.address, std::sync::Arc::new(config)).await.unwrap()
}

#[tokio::test]
async fn operators_write_at_any_coordinator_and_read_what_they_wrote() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    let www = leader.declare("www", &["role=web"]).await;
    follower.mirror.wait_for(leader.mirror.revision()).await;
    let mut admin = follower.admin().await;
    let request = RenewCertificateRequest { name: "www".to_owned() };
    admin.renew_certificate(request).await.unwrap();
    // The answer came after the mirror.
    assert!(follower.mirror.read().states[&www].record.renewal_requested_at.is_some());
    let event = leader.event(EventKind::RenewalRequested, "at node-2 asked for a renewal").await;
    assert_eq!(event.node.as_str(), "node-1");
    admin.rotate_seal(RotateSealRequest {}).await.unwrap();
    assert_eq!(follower.mirror.read().seal.as_ref().unwrap().record.keys.len(), 2);
    // What the leader says against a request is what the caller gets.
    let missing = RenewCertificateRequest { name: "nothing".to_owned() };
    let refused = admin.renew_certificate(missing).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(refused.message(), "there is no certificate named nothing");
}

#[tokio::test]
async fn an_agent_joins_rotates_and_is_removed_at_a_follower() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    let www = leader.declare("www", &["role=web"]).await;
    leader.issue(&www, 1).await;
    // Token, join and stream, each right after the other, all at the follower.
    let mut agent = follower.join("web-1", &["role=web"]).await;
    let mut stream = follower.watch(&agent, WatchRequest::default()).await;
    assert_eq!(until_synced(&mut stream).await, ["www=1", "synced"]);
    let key = KeyType::EcdsaP256.generate().unwrap();
    let request = RotateIdentityRequest { csr_der: csr(&key) };
    let rotated = follower.agent(&agent).await.rotate_identity(request).await.unwrap();
    let chain = rotated.into_inner().chain_der.into_iter().map(Into::into).collect();
    agent = TestAgent { key, chain };
    let request = WatchRequest::default();
    until_synced(&mut follower.watch(&agent, request).await).await;
    // Meanwhile the leader issues, and the follower's agents hear of it.
    leader.issue(&www, 2).await;
    let mut admin = follower.admin().await;
    admin.remove_agent(RemoveAgentRequest { name: "web-1".to_owned() }).await.unwrap();
    let again = follower.agent(&agent).await.watch(WatchRequest::default()).await;
    assert_eq!(again.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_named_and_nothing_is_done() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    leader.shutdown.cancel();
    let mut admin = follower.admin().await;
    let request = CreateTokenRequest { agent: "web-1".to_owned(), ..Default::default() };
    let refused = admin.create_token(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    for part in ["the leader, coordinator node-1", &leader.address, "nothing was changed"] {
        assert!(refused.message().contains(part), "{refused:?}");
    }
    assert!(follower.mirror.read().tokens.is_empty());
    // It leads itself by the next time.
    follower.leading.send_replace(Some(leader.leadership.clone()));
    admin.create_token(request).await.unwrap();
}

#[tokio::test]
async fn a_call_goes_one_hop_and_no_further() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    // Whoever is taken for the leader does not lead.
    leader.leading.send_replace(None);
    let mut admin = follower.admin().await;
    let request = CreateTokenRequest { agent: "web-1".to_owned(), ..Default::default() };
    let refused = admin.create_token(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("node-1 does not lead any more"), "{refused:?}");
    // A wait for an election ends with it.
    let leading = leader.leading.clone();
    let term = leader.leadership.clone();
    let idle = leading.receiver_count();
    let (answer, ()) = tokio::join!(admin.create_token(request), async {
        // Whoever waits for a term listens to it.
        while leading.receiver_count() == idle {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        leading.send_replace(Some(term));
    });
    answer.unwrap();
}

#[tokio::test]
async fn deadlines_go_along_and_what_is_dropped_ends_at_the_leader() {
    let leader = Fleet::start().await;
    let mut peer = PeerServiceClient::new(as_coordinator(&leader, "node-2").await);
    let mut request = Request::new(CatchUpRequest { revision: u64::MAX });
    request.set_timeout(Duration::from_millis(50));
    let late = tokio::time::timeout(PATIENCE, peer.catch_up(request)).await.unwrap().unwrap_err();
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
    let here = peer.hello(HelloRequest {}).await.unwrap().into_inner();
    assert_eq!((here.node.as_str(), here.version.as_str()), ("node-1", "1.2.3"));
    let shown = peer.catch_up(CatchUpRequest { revision: here.revision }).await.unwrap();
    assert!(shown.into_inner().revision >= here.revision);
}

#[tokio::test]
async fn only_coordinators_speak_for_others() {
    let leader = Fleet::start().await;
    let agent = leader.join("web-1", &["role=web"]).await;
    let request = || CreateTokenRequest { agent: "web-2".to_owned(), ..Default::default() };
    // Neither a stranger nor an agent has the services of operators and coordinators.
    for channel in [leader.stranger().await, leader.channel(&agent).await] {
        let mut forged = Request::new(request());
        let caller = MetadataValue::from_bytes(b"\x0a\x06\x0a\x04root");
        forged.metadata_mut().insert_bin("chancery-caller-bin", caller);
        let refused = AdminServiceClient::new(channel.clone()).create_token(forged).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused = PeerServiceClient::new(channel).hello(HelloRequest {}).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    // A coordinator passes on what only the leader can do, with who asks for it, and nothing else.
    let channel = as_coordinator(&leader, "node-2").await;
    let refused = AdminServiceClient::new(channel.clone()).create_token(request()).await;
    assert!(refused.unwrap_err().message().contains("whose call"));
    let refused = AdminServiceClient::new(channel.clone()).status(StatusRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let refused = AgentServiceClient::new(channel).watch(WatchRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert!(leader.mirror.read().tokens.values().all(|t| t.record.agent.as_str() == "web-1"));
}

#[tokio::test]
async fn enrolment_issues_no_coordinators_identity() {
    let leader = Fleet::start().await;
    let follower = leader.follower("node-2").await;
    // An agent of the very name of a coordinator, with a CSR that asks for a coordinator's URI.
    let token = leader.token("node-2", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let uri = "chancery://coordinator/node-2";
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    Csr::parse(&csr).unwrap();
    let request = chancery_proto::v1::JoinRequest { token, csr_der: csr, info: None };
    let mut client = EnrolmentServiceClient::new(leader.stranger().await);
    let chain = client.join(request).await.unwrap().into_inner().chain_der;
    let facts = chancery_shared::x509::Facts::of(&chain[0]).unwrap();
    assert_eq!(facts.uris, ["chancery://agent/node-2"]);
    assert!(facts.uris.iter().all(|uri| coordinator_of_uri(uri).is_none()));
    let agent = TestAgent { key, chain: chain.into_iter().map(Into::into).collect() };
    let mut peer = PeerServiceClient::new(follower.channel(&agent).await);
    let refused = peer.hello(HelloRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut stream = follower.watch(&agent, WatchRequest::default()).await;
    assert!(next(&mut stream).await.event.is_some());
    assert!(follower.mirror.read().agents.contains_key("node-2"));
}
