//! Joining.

use chancery_proto::v1::{JoinRequest, enrolment_service_client::EnrolmentServiceClient};
use chancery_shared::{key_type::KeyType, x509::Facts};
use tonic::Code;

use crate::{
    api::testing::{Fleet, csr},
    record::{EventKind, JoinToken, key},
};

#[tokio::test]
async fn a_token_buys_an_identity_for_client_authentication_only() {
    let fleet = Fleet::start().await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let facts = Facts::of(&agent.chain[0]).unwrap();
    assert_eq!(facts.uris, ["chancery://agent/web-1"]);
    // What the CSR asked for has no effect.
    assert_eq!(facts.dns_names, [""; 0]);
    assert_eq!(agent.chain[1], fleet.authority.certificate().as_ref());
    let (_, leaf) = x509_parser::parse_x509_certificate(&agent.chain[0]).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!leaf.is_ca());
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    assert_eq!(record.identity.serial, facts.serial);
    assert_eq!((record.version.as_str(), record.hostname.as_str()), ("9.9", "host"));
    assert_eq!(record.labels.to_string(), "role=web");
    fleet.event(EventKind::AgentJoined, "joined, from 127.0.0.1").await;
}

#[tokio::test]
async fn the_same_key_may_ask_again_and_another_may_not() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let first = fleet.try_join(&token, &key).await.unwrap();
    let again = fleet.try_join(&token, &key).await.unwrap();
    assert_ne!(Facts::of(&first[0]).unwrap().serial, Facts::of(&again[0]).unwrap().serial);

    let other = KeyType::EcdsaP256.generate().unwrap();
    let refused = fleet.try_join(&token, &other).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let event = fleet.event(EventKind::AgentRefused, "a second time, with another key").await;
    assert_eq!(event.subject, "web-1");
}

#[tokio::test]
async fn refusals_of_a_token_look_the_same_and_their_events_do_not() {
    let fleet = Fleet::start().await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let token = fleet.token("web-1", &["role=web"]).await;
    let other = fleet.token("web-2", &["role=web"]).await;
    let (parts, others): (Vec<_>, Vec<_>) =
        (token.split('.').collect(), other.split('.').collect());
    let forged = [parts[0], parts[1], others[2], parts[3]].join(".");
    let unknown = [parts[0], "AAAAAAAAAAAA", parts[2], parts[3]].join(".");

    let expired = fleet.token("web-3", &["role=web"]).await;
    let id = expired.split('.').nth(1).unwrap();
    let record = fleet.mirror.read().tokens[id].record.clone();
    let expires_at = fleet.clock.now() - std::time::Duration::from_secs(1);
    fleet.put(key::token(id), &JoinToken { expires_at, ..(*record).clone() }).await;

    let mut messages = Vec::new();
    for token in [&*forged, &*unknown, &*expired, "rubbish", ""] {
        let refused = fleet.try_join(token, &key).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
        messages.push(refused.message().to_owned());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(fleet.event(EventKind::AgentRefused, "a forged join token").await.subject, "web-1");
    assert_eq!(fleet.event(EventKind::AgentRefused, "an expired join").await.subject, "web-3");
    let unknown = fleet.event(EventKind::AgentRefused, "does not exist").await;
    assert_eq!(unknown.subject, "127.0.0.1");
    // Nobody joined, and no token was used up.
    assert!(fleet.mirror.read().agents.is_empty());
    fleet.try_join(&token, &key).await.unwrap();
}

#[tokio::test]
async fn a_removed_agent_does_not_come_back_with_its_old_token() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    let id = token.split('.').nth(1).unwrap().to_owned();
    let record = fleet.mirror.read().tokens[&id].record.clone();
    let key = KeyType::EcdsaP256.generate().unwrap();
    fleet.try_join(&token, &key).await.unwrap();
    let used = fleet.mirror.read().tokens[&id].record.clone();
    assert_ne!(record, used);

    let request = chancery_proto::v1::RemoveAgentRequest { name: "web-1".to_owned() };
    fleet.admin().await.remove_agent(request).await.unwrap();
    assert!(fleet.mirror.read().tokens.is_empty());
    assert_eq!(fleet.try_join(&token, &key).await.unwrap_err().code(), Code::Unauthenticated);
    // Even if the token had stayed.
    fleet.put(key::token(&id), &*used).await;
    assert_eq!(fleet.try_join(&token, &key).await.unwrap_err().code(), Code::Unauthenticated);
    fleet.event(EventKind::AgentRefused, "after its identity was removed").await;
}

#[tokio::test]
async fn a_new_token_for_a_known_name_replaces_its_identity() {
    let fleet = Fleet::start().await;
    let former = fleet.join("web-1", &["role=web"]).await;
    let present = fleet.join("web-1", &["role=db"]).await;
    fleet.event(EventKind::AgentJoined, "replaced the identity").await;
    let record = fleet.mirror.read().agents["web-1"].record.clone();
    assert_eq!(record.labels.to_string(), "role=db");
    let request = || chancery_proto::v1::ReportRequest::default();
    fleet.agent(&present).await.report(request()).await.unwrap();
    let refused = fleet.agent(&former).await.report(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_csr_that_proves_nothing_is_refused_and_costs_no_token() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let mut unproven = csr(&key);
    let last = unproven.len() - 1;
    unproven[last] ^= 1;
    let rsa = csr(&KeyType::Rsa2048.generate().unwrap());
    for (der, reason) in
        [(unproven, "not signed with"), (rsa, "not supported"), (b"rubbish".to_vec(), "PKCS#10")]
    {
        let request = JoinRequest { token: token.clone(), csr_der: der, info: None };
        let mut client = EnrolmentServiceClient::new(fleet.stranger().await);
        let refused = client.join(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(reason), "{refused}");
    }
    fleet.try_join(&token, &key).await.unwrap();
}

#[tokio::test]
async fn nobody_joins_while_nobody_leads() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    fleet.leading.send_replace(None);
    let key = KeyType::EcdsaP256.generate().unwrap();
    let refused = fleet.try_join(&token, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("no coordinator leads"), "{refused}");
    fleet.leading.send_replace(Some(fleet.leadership.clone()));
    assert_eq!(fleet.try_join("rubbish", &key).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_lost_store_changes_nothing_and_says_so() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    fleet.store.set_down(true);
    let refused = fleet.try_join(&token, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("nothing was changed"), "{refused}");
    fleet.store.set_down(false);
    fleet.try_join(&token, &key).await.unwrap();
}
