//! What operators can do.

use chancery_proto::v1::{
    ApplyRequest, CertificateSpec as WireCertificate, CreateTokenRequest, DesiredState,
    FollowCertificateRequest, IssuerSpec as WireIssuer, ListEventsRequest, RemoveAgentRequest,
    RenewCertificateRequest, RotateSealRequest, ShowAgentRequest, ShowCertificateRequest,
    ShowSealRequest, SwitchCertificateRequest,
};
use chancery_shared::{key_type::KeyType, name::CertName, number::Generation};
use tonic::Code;
use uuid::Uuid;

use crate::{
    api::testing::{Fleet, PATIENCE, labels},
    record::{
        self, CertificateSpec, CertificateState, Challenge, Deployment, DeploymentState, EventKind,
        Order, Stage, Standby, key,
    },
    store::Batch,
};

fn desired(certificates: &[&str]) -> DesiredState {
    let issuer = WireIssuer {
        name: "test".to_owned(),
        directory: "https://ca.example.org/dir".to_owned(),
        ..WireIssuer::default()
    };
    let certificates = certificates.iter().map(|name| WireCertificate {
        name: (*name).to_owned(),
        identifiers: vec![format!("{name}.example.org")],
        key_type: "ecdsa-p256".to_owned(),
        reuse_key: false,
        key_ahead: false,
        standby: String::new(),
        profile: String::new(),
        issuers: vec!["test".to_owned()],
        challenges: Vec::new(),
        labels: labels(&["role=web"]),
        renew: None,
    });
    DesiredState {
        issuers: vec![issuer],
        certificates: certificates.collect(),
        freezes: Vec::new(),
    }
}

fn apply(certificates: &[&str]) -> ApplyRequest {
    ApplyRequest { desired: Some(desired(certificates)), ..ApplyRequest::default() }
}

pub(super) fn order(fleet: &Fleet, name: &CertName) -> Order {
    Order {
        id: Uuid::now_v7(),
        certificate: name.clone(),
        generation: Generation(2),
        issuer: "test".parse().unwrap(),
        account: "https://ca.example.org/account/1".to_owned(),
        identifiers: vec!["www.example.org".parse().unwrap()],
        key_type: KeyType::EcdsaP256,
        profile: None,
        key: fleet.mirror.read().authority.as_ref().unwrap().record.key.clone(),
        challenges: Vec::new(),
        reason: "testing".to_owned(),
        started_at: fleet.clock.now(),
        deadline: fleet.clock.now(),
        epoch: fleet.leadership.epoch(),
        resumed: 0,
        replaces: None,
        standby: false,
        stage: Stage::Presented {
            url: "https://ca.example.org/order/1".to_owned(),
            tokens: vec!["token-1".to_owned()],
        },
    }
}

#[tokio::test]
async fn a_plan_is_shown_and_then_carried_out_as_shown() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let dry = ApplyRequest { dry_run: true, ..apply(&["www", "mail"]) };
    let shown = admin.apply(dry).await.unwrap().into_inner();
    assert!(!shown.applied);
    let kinds: Vec<_> =
        shown.changes.iter().map(|change| format!("{} {}", change.kind, change.name)).collect();
    assert_eq!(kinds, ["issuer test", "certificate mail", "certificate www"]);
    assert!(fleet.mirror.read().certificates.is_empty());

    let agreed = ApplyRequest { expected_plan: shown.plan_id.clone(), ..apply(&["www", "mail"]) };
    let done = admin.apply(agreed.clone()).await.unwrap().into_inner();
    assert!(done.applied);
    assert_eq!(done.plan_id, shown.plan_id);
    // The caller reads its own write.
    assert_eq!(fleet.mirror.read().certificates.len(), 2);
    fleet.event(EventKind::Applied, "certificate created by").await;

    // What was agreed to is no longer what would happen.
    let refused = admin.apply(agreed).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let nothing = admin.apply(apply(&["www", "mail"])).await.unwrap().into_inner();
    assert!(nothing.changes.is_empty());
    assert_eq!(nothing.unchanged, 3);
    let kept = admin.apply(apply(&["www"])).await.unwrap().into_inner();
    assert_eq!(kept.kept, ["certificate mail"]);
}

#[tokio::test]
async fn a_deleted_certificate_takes_everything_along_but_its_generation() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    fleet.join("web-1", &["role=web"]).await;
    admin.apply(apply(&["www", "mail"])).await.unwrap();
    let www: CertName = "www".parse().unwrap();
    let mail: CertName = "mail".parse().unwrap();
    fleet.issue(&mail, 1).await;
    fleet.issue(&www, 1).await;
    fleet.issue(&www, 2).await;
    let order = order(&fleet, &www);
    fleet.put(key::order(&www), &order).await;
    let challenge = Challenge {
        order: order.id,
        certificate: www.clone(),
        identifier: "www.example.org".parse().unwrap(),
        key_authorization: "x".to_owned(),
        challenge_type: chancery_shared::challenge_type::ChallengeType::Http01,
        txt: None,
        standing: None,
        left: Vec::new(),
    };
    fleet.put(key::challenge("token-1"), &challenge).await;
    fleet.put(key::standby(&www), &Standby::none(www.clone())).await;
    for certificate in [&www, &mail] {
        let deployment = Deployment {
            agent: "web-1".parse().unwrap(),
            certificate: certificate.clone(),
            state: DeploymentState::Installed,
            delivered: Generation(1),
            installed: Generation(1),
            served: Generation(1),
            message: String::new(),
            changed_at: fleet.clock.now(),
            failures: 0,
        };
        fleet.put(key::deployment(&deployment.agent, certificate), &deployment).await;
    }
    let pruned = ApplyRequest { prune: true, ..apply(&["mail"]) };
    admin.apply(pruned).await.unwrap();
    {
        let view = fleet.mirror.read();
        assert!(!view.certificates.contains_key("www") && view.certificates.contains_key("mail"));
        assert!(view.orders.is_empty() && view.challenges.is_empty() && view.standbys.is_empty());
        assert_eq!(view.deployments["web-1"].len(), 1);
        let left = CertificateState { generation: Generation(2), ..CertificateState::default() };
        assert_eq!(*view.states["www"].record, left);
    }
    let bundles = crate::store::Store::list(&*fleet.store, "bundles/").await.unwrap();
    let keys: Vec<_> = bundles.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, [key::bundle(&mail, Generation(1))]);
    let request = ShowCertificateRequest { name: "www".to_owned() };
    assert_eq!(admin.show_certificate(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_renewal_is_asked_for_once() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let request = || RenewCertificateRequest { name: "www".to_owned() };
    assert_eq!(admin.renew_certificate(request()).await.unwrap_err().code(), Code::NotFound);
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 4).await;
    let answer = admin.renew_certificate(request()).await.unwrap().into_inner();
    assert_eq!((answer.generation, answer.already_running), (5, false));
    assert!(fleet.mirror.read().states["www"].record.renewal_requested_at.is_some());
    fleet.event(EventKind::RenewalRequested, "asked for a renewal").await;
    fleet.put(key::order(&www), &order(&fleet, &www)).await;
    let answer = admin.renew_certificate(request()).await.unwrap().into_inner();
    assert_eq!((answer.generation, answer.already_running), (2, true));
}

#[tokio::test]
async fn a_renewal_is_asked_for_though_the_order_loop_writes_at_the_same_moment() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 4).await;
    let touch = || {
        let state = fleet.mirror.read().states["www"].record.as_ref().clone();
        Batch::unfenced().put(key::state(&www), record::encode(&state))
    };
    fleet.store.overtake(vec![touch(), touch()]);
    let request = RenewCertificateRequest { name: "www".to_owned() };
    let answer = admin.renew_certificate(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.generation, answer.already_running), (5, false));
    assert!(fleet.mirror.read().states["www"].record.renewal_requested_at.is_some());
    // The order that was just started is what was asked for.
    let started = record::encode(&order(&fleet, &www));
    let started = Batch::unfenced().put(key::order(&www), started);
    fleet.store.overtake(vec![started]);
    let answer = admin.renew_certificate(request).await.unwrap().into_inner();
    assert!(answer.already_running);
}

#[tokio::test]
async fn following_a_certificate_shows_each_change_until_it_is_gone() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let request = || FollowCertificateRequest { name: "www".to_owned() };
    assert_eq!(admin.follow_certificate(request()).await.unwrap_err().code(), Code::NotFound);
    let www = fleet.declare("www", &["role=web"]).await;
    let mut stream = admin.follow_certificate(request()).await.unwrap().into_inner();
    let mut states = Vec::new();
    let mut follow = async |stream: &mut tonic::Streaming<_>| {
        let detail: chancery_proto::v1::CertificateDetail =
            tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        states.push(detail.summary.unwrap().state);
    };
    follow(&mut stream).await;
    fleet.put(key::order(&www), &order(&fleet, &www)).await;
    follow(&mut stream).await;
    // Another certificate is none of its business.
    fleet.declare("mail", &["role=web"]).await;
    fleet.commit(Batch::unfenced().delete(key::order(&www))).await;
    follow(&mut stream).await;
    fleet.issue(&www, 1).await;
    follow(&mut stream).await;
    assert_eq!(states[..3], ["pending", "issuing", "pending"]);
    assert_eq!(states.len(), 4);
    fleet.commit(Batch::unfenced().delete("certificates/www")).await;
    let ended = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn only_the_leader_changes_anything() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    fleet.declare("www", &["role=web"]).await;
    fleet.leading.send_replace(None);
    let before = fleet.mirror.revision();
    // Each waits a little for an election.
    let (mut renewing, mut removing, mut inviting) = (admin.clone(), admin.clone(), admin.clone());
    let token = CreateTokenRequest { agent: "web-1".to_owned(), ..Default::default() };
    let (applied, renewed, removed, invited) = tokio::join!(
        admin.apply(apply(&["www"])),
        renewing.renew_certificate(RenewCertificateRequest { name: "www".to_owned() }),
        removing.remove_agent(RemoveAgentRequest { name: "web-1".to_owned() }),
        inviting.create_token(token),
    );
    for status in
        [applied.unwrap_err(), renewed.unwrap_err(), removed.unwrap_err(), invited.unwrap_err()]
    {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert_eq!(fleet.mirror.revision(), before);
    // Looking is possible everywhere.
    let dry = ApplyRequest { dry_run: true, ..apply(&["www"]) };
    admin.apply(dry).await.unwrap();
}

#[tokio::test]
async fn a_change_waits_for_an_election_that_is_under_way() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    fleet.leading.send_replace(None);
    let request = apply(&["www"]);
    let mut applied = std::pin::pin!(admin.apply(request));
    let moment = std::time::Duration::from_millis(50);
    let early = tokio::time::timeout(moment, &mut applied).await;
    assert!(early.is_err(), "nobody leads, but {early:?}");
    fleet.leading.send_replace(Some(fleet.leadership.clone()));
    assert!(applied.await.unwrap().into_inner().applied);
}

#[tokio::test]
async fn a_term_that_is_over_is_refused_by_the_store_and_counted() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    // Ours is over, and this coordinator does not know it yet.
    crate::store::Store::resign(&*fleet.store, &fleet.leadership.fence()).await.unwrap();
    let refused = admin.apply(apply(&["www"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(fleet.mirror.read().certificates.is_empty());
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_as_a_hash() {
    let fleet = Fleet::start().await;
    let token = fleet.token("web-1", &["role=web"]).await;
    let secret = token.split('.').nth(2).unwrap();
    let all = crate::store::Store::list(&*fleet.store, "").await.unwrap();
    for entry in all.entries {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!value.contains(secret), "{} holds the secret", entry.key);
    }
    let mut admin = fleet.admin().await;
    let long = prost_types::Duration { seconds: 8 * 24 * 3600, nanos: 0 };
    let request = CreateTokenRequest {
        agent: "Not A Name".to_owned(),
        labels: [("a b".to_owned(), "c".to_owned())].into(),
        ttl: Some(long),
    };
    let refused = admin.create_token(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message().lines().count(), 3, "{refused}");
}

#[tokio::test]
async fn events_come_newest_first_and_by_subject() {
    let fleet = Fleet::start().await;
    for n in 0..60 {
        let subject = if n % 2 == 0 { "even" } else { "odd" };
        fleet.events.record(EventKind::OrderFailed, subject, format!("event {n}"));
    }
    fleet.event(EventKind::OrderFailed, "event 59").await;
    let mut admin = fleet.admin().await;
    let all = admin.list_events(ListEventsRequest::default()).await.unwrap().into_inner().events;
    assert_eq!(all.len(), 50);
    assert_eq!(all[0].message, "event 59");
    let request =
        ListEventsRequest { limit: 2, subject: "even".to_owned(), before: all[1].sequence };
    let some = admin.list_events(request).await.unwrap().into_inner().events;
    let messages: Vec<_> = some.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["event 56", "event 54"]);
}

#[tokio::test]
async fn agents_and_the_seal_can_be_looked_at() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    fleet.join("web-1", &["role=web"]).await;
    let mut admin = fleet.admin().await;
    let request = ShowAgentRequest { name: "web-1".to_owned() };
    let detail = admin.show_agent(request).await.unwrap().into_inner();
    assert_eq!(detail.entitled, ["www"]);
    assert_eq!(detail.summary.unwrap().state, "joined");
    let request = ShowAgentRequest { name: "web-2".to_owned() };
    assert_eq!(admin.show_agent(request).await.unwrap_err().code(), Code::NotFound);
    let seal = admin.show_seal(ShowSealRequest {}).await.unwrap().into_inner();
    assert_eq!(seal.active_key, 1);
    // The internal CA's key and one bundle.
    assert_eq!(seal.keys[0].records, 2);
}

#[tokio::test]
async fn a_new_data_key_seals_from_now_on() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let rotated = admin.rotate_seal(RotateSealRequest {}).await.unwrap().into_inner();
    assert_eq!(rotated.active_key, 2);
    fleet.event(EventKind::SealRotated, "made data key 2").await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let seal = admin.show_seal(ShowSealRequest {}).await.unwrap().into_inner();
    assert_eq!(seal.active_key, 2);
    let records: Vec<_> = seal.keys.iter().map(|key| (key.id, key.records)).collect();
    assert_eq!(records, [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn a_switch_needs_a_standby_and_is_written_down_for_the_leader() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let request = || SwitchCertificateRequest { name: "www".to_owned() };
    assert_eq!(admin.switch_certificate(request()).await.unwrap_err().code(), Code::NotFound);
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let refused = admin.switch_certificate(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("standby = \"ISSUER\""), "{}", refused.message());

    let spec = (*fleet.mirror.read().certificates["www"].record).clone();
    let spec = CertificateSpec { standby: Some("spare".parse().unwrap()), ..spec };
    fleet.put(key::certificate(&www), &spec).await;
    let refused = admin.switch_certificate(request()).await.unwrap_err();
    assert!(refused.message().contains("not issued yet"), "{}", refused.message());
    let state = (*fleet.mirror.read().states["www"].record).clone();
    let kept = CertificateState { generation: Generation(2), ..state.clone() };
    fleet.put(key::standby(&www), &Standby { state: kept, ..Standby::none(www.clone()) }).await;
    // Nobody makes orders here, so the test is the one that finds the wish.
    let found = async {
        let mut touched = fleet.mirror.touched();
        while fleet.mirror.read().states["www"].record.switch_requested_at.is_none() {
            let _ = touched.recv().await;
        }
        let switched = CertificateState { generation: Generation(3), ..state };
        fleet.put(key::state(&www), &switched).await;
    };
    let (answer, ()) = tokio::join!(admin.switch_certificate(request()), found);
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.generation, answer.switched), (3, true));
    fleet.event(EventKind::SwitchRequested, "asked for the standby").await;
}
