//! Who is let in, and who is not.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{
    AgentInfo, ReportRequest, RotateIdentityRequest, agent_service_client::AgentServiceClient,
};
use chancery_shared::{
    clock::ManualClock, key_type::KeyType, name::AgentName, tls, x509::public_key_hash,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::{
    api::{
        peer::{Peer, PeerIdentity},
        testing::{Fleet, TestAgent, csr},
    },
    authority::{Authority, Csr, Options},
    metrics::Refusal,
    mirror::Mirror,
    record::{Agent, EventKind, key},
    store::Batch,
};

async fn report(fleet: &Fleet, agent: &TestAgent) -> Result<(), Status> {
    fleet.agent(agent).await.report(ReportRequest::default()).await.map(drop)
}

#[tokio::test]
async fn without_an_identity_only_joining_is_possible() {
    let fleet = Fleet::start().await;
    let mut client = AgentServiceClient::new(fleet.stranger().await);
    let refused = client.report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.watch(chancery_proto::v1::WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let event = fleet.event(EventKind::AgentRefused, "no identity certificate").await;
    assert_eq!(event.subject, "127.0.0.1");
}

#[tokio::test]
async fn an_identity_of_another_ca_is_refused_and_written_down() {
    let fleet = Fleet::start().await;
    let other = Fleet::start().await;
    let agent = other.join("web-1", &["role=web"]).await;
    // It knows our root, as an attacker may.
    let chain = agent.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::try_from(agent.key.serialize_der()).unwrap();
    let root = fleet.authority.certificate().clone();
    let config = tls::identified_client(root, chain, key).unwrap();
    if let Ok(channel) = tls::connect(&fleet.address, Arc::new(config)).await {
        let mut client = AgentServiceClient::new(channel);
        client.report(ReportRequest::default()).await.unwrap_err();
    }
    let event = fleet.event(EventKind::AgentRefused, "an identity that is not ours").await;
    assert_eq!(event.subject, "127.0.0.1");
    assert!(event.message.contains("127.0.0.1:"), "{}", event.message);
}

#[tokio::test]
async fn an_expired_identity_is_told_to_join_again() {
    let fleet = Fleet::start().await;
    let mut agent = fleet.join("web-1", &["role=web"]).await;
    report(&fleet, &agent).await.unwrap();
    let record = fleet.mirror.read().authority.as_ref().unwrap().record.clone();
    let long_ago = fleet.clock.now() - Duration::from_hours(40 * 24);
    let clock = Arc::new(ManualClock::new(long_ago));
    let past = Authority::open(&record, &fleet.sealer, clock, Options::default()).unwrap();
    let csr = Csr::parse(&csr(&agent.key)).unwrap();
    agent.chain = past.issue_identity(&"web-1".parse().unwrap(), &csr).unwrap().chain;
    let refused = report(&fleet, &agent).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("join again"), "{refused}");
    fleet.event(EventKind::AgentRefused, "expired at").await;
}

#[tokio::test]
async fn a_removed_agent_is_refused() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    fleet.commit(Batch::unfenced().delete("agents/web-1")).await;
    let refused = report(&fleet, &agent).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("removed"), "{refused}");
    assert_eq!(fleet.event(EventKind::AgentRefused, "it was removed").await.subject, "web-1");
}

#[tokio::test]
async fn a_rotation_takes_hold_when_the_new_identity_is_seen() {
    let fleet = Fleet::start().await;
    let former = fleet.join("web-1", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let request = || RotateIdentityRequest { csr_der: csr(&key) };
    let mut client = fleet.agent(&former).await;
    let rotated = client.rotate_identity(request()).await.unwrap().into_inner();
    fleet.event(EventKind::AgentRotated, "got a new identity").await;
    // Lost answers do no harm: ask again, with the old identity.
    let again = client.rotate_identity(request()).await.unwrap().into_inner();
    assert_ne!(rotated.chain_der, again.chain_der);
    report(&fleet, &former).await.unwrap();
    assert!(fleet.mirror.read().agents["web-1"].record.next_identity.is_some());

    let chain = again.chain_der.into_iter().map(Into::into).collect();
    let present = TestAgent { key, chain };
    report(&fleet, &present).await.unwrap();
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    assert_eq!(record.next_identity, None);
    let refused = report(&fleet, &former).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("superseded"), "{refused}");
    fleet.event(EventKind::AgentRefused, "superseded").await;
}

#[tokio::test]
async fn a_rotation_needs_another_key() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let request = RotateIdentityRequest { csr_der: csr(&agent.key) };
    let refused = fleet.agent(&agent).await.rotate_identity(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_kept_and_made_harmless() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let info = AgentInfo { version: "2.0\u{1b}[31m".to_owned(), hostname: "h".repeat(500) };
    let request = ReportRequest { info: Some(info), ..ReportRequest::default() };
    fleet.agent(&agent).await.report(request).await.unwrap();
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    assert_eq!(record.version, "2.0 [31m");
    assert!(record.hostname.len() <= 128 && record.hostname.ends_with('…'));
}

/// A request as from the agent `record`.
fn request_of(record: &Agent, not_after: jiff::Timestamp) -> Request<()> {
    let mut request = Request::new(());
    let identity = PeerIdentity {
        agent: record.name.clone(),
        public_key_hash: record.identity.public_key_hash.clone().try_into().unwrap(),
        not_after,
    };
    let address = "127.0.0.1:9".parse().unwrap();
    let peer = Peer { address, identity: Some(Arc::new(identity)), coordinator: None };
    request.extensions_mut().insert(peer);
    request
}

#[tokio::test]
async fn a_mirror_that_lags_frightens_no_agent_away() {
    let fleet = Fleet::start().await;
    fleet.join("web-1", &["role=web"]).await;
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    // A coordinator whose mirror stands still, and does not know the agent that joins elsewhere.
    let name: AgentName = "web-2".parse().unwrap();
    let joined = Agent {
        name: name.clone(),
        identity: crate::record::Identity {
            public_key_hash: public_key_hash(b"another").to_vec(),
            ..record.identity.clone()
        },
        ..(*record).clone()
    };
    let stopped = CancellationToken::new();
    stopped.cancel();
    let behind = Mirror::start(fleet.store.clone(), stopped).await.unwrap();
    let api = crate::api::Api::new(crate::api::Parts {
        store: fleet.store.clone(),
        mirror: behind,
        sealer: fleet.sealer.clone(),
        status: fleet.status.clone(),
        leadership: fleet.leading.subscribe(),
        peers: fleet.peers.clone(),
        instance: crate::record::Instance::random(),
        transfers: fleet.transfers.clone(),
        ask_now: crate::renewal_info::AskNow::default(),
        dns01: None,
        events: fleet.events.clone(),
        metrics: fleet.metrics.clone(),
        clock: fleet.clock.clone(),
    });
    fleet.put(key::agent(&name), &joined).await;
    let request = request_of(&joined, fleet.clock.now() + Duration::from_hours(1));
    tokio::time::pause();
    let refused = api.authorize(&request, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Where the store cannot be asked, nobody is told that he was removed either.
    fleet.store.set_down(true);
    let refused = api.authorize(&request, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_store() {
    let fleet = Fleet::start().await;
    for n in 0..200 {
        let message = format!("refusal {n}");
        fleet.api.refusals.refuse(Refusal::Token, format!("10.0.0.{n}"), message);
        fleet.api.refusals.refuse(Refusal::Token, "10.0.0.1", "the same again");
    }
    fleet.events.record(EventKind::Applied, "", "after the flood");
    fleet.event(EventKind::Applied, "after the flood").await;
    let refused = fleet
        .mirror
        .read()
        .events
        .values()
        .filter(|event| event.kind == EventKind::AgentRefused)
        .count();
    assert_eq!(refused, 20);
}
