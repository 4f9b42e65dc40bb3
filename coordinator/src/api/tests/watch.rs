//! The stream that brings an agent its certificates.

use chancery_proto::v1::{KnownBundle, WatchRequest, watch_response::Event};
use chancery_shared::{
    name::Labels,
    x509::{Fingerprint, check_key_matches},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::Code;

use crate::{
    api::testing::{Fleet, end, next, short, until_synced},
    record::{Agent, key},
    store::Batch,
};

fn knows(revision: u64, known: &[(&str, u64)]) -> WatchRequest {
    let known = known.iter().map(|(name, generation)| KnownBundle {
        certificate: (*name).to_owned(),
        generation: *generation,
    });
    WatchRequest { resume_revision: revision, known: known.collect(), info: None }
}

#[tokio::test]
async fn an_agent_gets_what_it_is_entitled_to_and_nothing_else() {
    let fleet = Fleet::start().await;
    let web = fleet.declare("www", &["role=web"]).await;
    let both = fleet.declare("both", &["role=web", "zone=a"]).await;
    let nobody = fleet.declare("nobody", &[]).await;
    for name in [&web, &both, &nobody] {
        fleet.issue(name, 1).await;
    }
    let (leaf, key) = fleet.issue(&web, 2).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    let first = next(&mut stream).await;
    let Some(Event::Bundle(bundle)) = &first.event else { panic!("{first:?}") };
    assert_eq!((bundle.certificate.as_str(), bundle.generation), ("www", 2));
    assert_eq!(bundle.identifiers, ["www.example.org"]);
    assert_eq!(bundle.leaf_der, leaf);
    assert_eq!(bundle.private_key_der, key);
    let stored = fleet.mirror.read().bundles["www"].record.chain.clone();
    let chain: Vec<_> = bundle.chain_der.iter().map(|der| Fingerprint::of(der)).collect();
    assert_eq!(chain, stored);
    let key = PrivateKeyDer::try_from(key).unwrap();
    check_key_matches(&CertificateDer::from(leaf), &key).unwrap();
    assert_eq!(short(&next(&mut stream).await), "synced");
}

#[tokio::test]
async fn changes_are_sent_as_they_happen_with_the_revision_that_is_told() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    let synced = next(&mut stream).await;
    assert_eq!(short(&synced), "synced");
    fleet.issue(&www, 1).await;
    let first = next(&mut stream).await;
    assert_eq!(short(&first), "www=1");
    assert!(first.revision > synced.revision);
    // What concerns others wakes nobody: the next response is the next of ours.
    let other = fleet.declare("other", &["role=db"]).await;
    fleet.issue(&other, 1).await;
    fleet.issue(&www, 2).await;
    assert_eq!(short(&next(&mut stream).await), "www=2");
}

#[tokio::test]
async fn a_resumed_stream_sends_only_what_changed() {
    let fleet = Fleet::start().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        let name = fleet.declare(name, &["role=web"]).await;
        fleet.issue(&name, 3).await;
    }
    let agent = fleet.join("web-1", &["role=web"]).await;
    let revision = fleet.mirror.revision().0;
    fleet.issue(&"b".parse().unwrap(), 4).await;
    fleet.commit(Batch::unfenced().delete("certificates/d")).await;
    let known = [("a", 3), ("b", 3), ("c", 7), ("d", 3), ("gone", 1)];
    let mut stream = fleet.watch(&agent, knows(revision, &known)).await;
    // `c` is newer there than here: an agent never goes back.
    let mut told = until_synced(&mut stream).await;
    told.sort();
    assert_eq!(told, ["-d", "-gone", "b=4", "synced"]);
    // And nothing twice.
    fleet.issue(&"a".parse().unwrap(), 4).await;
    assert_eq!(short(&next(&mut stream).await), "a=4");
}

#[tokio::test]
async fn within_a_round_the_revision_stays_at_the_round_before() {
    let fleet = Fleet::start().await;
    for name in ["a", "b"] {
        let name = fleet.declare(name, &["role=web"]).await;
        fleet.issue(&name, 1).await;
    }
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, knows(2, &[])).await;
    let revisions = [next(&mut stream).await, next(&mut stream).await, next(&mut stream).await]
        .map(|response| response.revision);
    assert_eq!(revisions[..2], [2, 2]);
    assert!(revisions[2] > 2);
}

#[tokio::test]
async fn a_lost_entitlement_withdraws_and_a_regained_one_delivers_again() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    assert_eq!(until_synced(&mut stream).await, ["www=1", "synced"]);

    // By the certificate's labels.
    fleet.declare("www", &["role=db"]).await;
    assert_eq!(short(&next(&mut stream).await), "-www");
    fleet.declare("www", &["role=web"]).await;
    assert_eq!(short(&next(&mut stream).await), "www=1");

    // By the agent's.
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    let labels = Labels::parse(["role=mail"]).unwrap();
    fleet.put("agents/web-1", &Agent { labels, ..(*record).clone() }).await;
    assert_eq!(short(&next(&mut stream).await), "-www");

    // By deletion.
    fleet.put("agents/web-1", &*record).await;
    assert_eq!(short(&next(&mut stream).await), "www=1");
    fleet.commit(Batch::unfenced().delete("certificates/www")).await;
    assert_eq!(short(&next(&mut stream).await), "-www");
}

#[tokio::test]
async fn removal_cuts_the_stream_at_once() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    until_synced(&mut stream).await;
    assert!(fleet.status.presence().is_connected(&"web-1".parse().unwrap()));
    let request = chancery_proto::v1::RemoveAgentRequest { name: "web-1".to_owned() };
    fleet.admin().await.remove_agent(request).await.unwrap();
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("removed"), "{status}");
    assert!(!fleet.status.presence().is_connected(&"web-1".parse().unwrap()));
}

#[tokio::test]
async fn an_identity_that_is_replaced_loses_its_stream() {
    let fleet = Fleet::start().await;
    let former = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&former, WatchRequest::default()).await;
    until_synced(&mut stream).await;
    fleet.join("web-1", &["role=web"]).await;
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("superseded"), "{status}");
}

#[tokio::test]
async fn shutdown_sends_agents_to_another_coordinator() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    until_synced(&mut stream).await;
    fleet.shutdown.cancel();
    assert_eq!(end(&mut stream).await.code(), Code::Unavailable);
    fleet.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn agents_are_served_while_the_store_is_away() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    fleet.store.set_down(true);
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    assert_eq!(until_synced(&mut stream).await, ["www=1", "synced"]);
}

#[tokio::test]
async fn one_bundle_that_cannot_be_unsealed_does_not_hold_up_the_others() {
    let fleet = Fleet::start().await;
    let bad = fleet.declare("bad", &["role=web"]).await;
    let good = fleet.declare("good", &["role=web"]).await;
    fleet.issue(&bad, 1).await;
    fleet.issue(&good, 1).await;
    let swapped = fleet.mirror.read().bundles["good"].record.key.clone();
    let mut bundle = (*fleet.mirror.read().bundles["bad"].record).clone();
    bundle.key = swapped;
    fleet.put(key::bundle(&bad, bundle.generation), &bundle).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, WatchRequest::default()).await;
    assert_eq!(until_synced(&mut stream).await, ["good=1", "synced"]);
    // Repaired, it comes by itself.
    fleet.issue(&bad, 2).await;
    assert_eq!(short(&next(&mut stream).await), "bad=2");
}

#[tokio::test]
async fn an_agent_that_has_seen_more_than_the_store_has_is_served() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    // As after a restored backup.
    let mut stream = fleet.watch(&agent, knows(1_000_000, &[])).await;
    assert_eq!(until_synced(&mut stream).await, ["www=1", "synced"]);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let request = knows(0, &[("../etc", 1)]);
    let refused = fleet.agent(&agent).await.watch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_certificate_that_was_declared_again_goes_on_with_the_next_generation() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut stream = fleet.watch(&agent, knows(0, &[("www", 3)])).await;
    // Entitled to it, though nothing of it is here: it is kept.
    assert_eq!(until_synced(&mut stream).await, ["synced"]);
    fleet.issue(&www, 4).await;
    assert_eq!(short(&next(&mut stream).await), "www=4");
}
