//! What is asked for while somebody else writes the same records.

use chancery_proto::v1::{
    DeploymentReport, DeploymentState as WireState, DrillRevocationRequest, ReportRequest,
    RevokeCertificateRequest,
};
use chancery_shared::number::Generation;
use tonic::Code;

use super::admin::order;
use crate::{
    api::testing::Fleet,
    record::{self, Deployment, DeploymentState, EventKind, RenewalInfo, key},
    seal,
    store::Batch,
};

#[tokio::test]
async fn a_report_that_was_held_up_does_not_bring_back_the_past() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let report = |state: WireState| ReportRequest {
        deployments: vec![DeploymentReport {
            certificate: "www".to_owned(),
            state: state.into(),
            delivered_generation: 1,
            ..DeploymentReport::default()
        }],
        ..ReportRequest::default()
    };
    let mut client = fleet.agent(&agent).await;
    client.report(report(WireState::Delivered)).await.unwrap();
    let known = fleet.mirror.read().deployments["web-1"][&www].record.clone();
    let newer = Deployment {
        state: DeploymentState::Installed,
        installed: Generation(1),
        ..(*known).clone()
    };
    let at = key::deployment(&newer.agent, &www);
    fleet.store.overtake(vec![Batch::unfenced().put(&*at, record::encode(&newer))]);
    let refused = client.report(report(WireState::InstallFailed)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let stored = crate::store::Store::get(&*fleet.store, &at).await.unwrap().unwrap();
    assert_eq!(record::decode::<Deployment>(&at, &stored.value).unwrap(), newer);
}

#[tokio::test]
async fn a_drill_that_is_overtaken_by_an_answer_of_the_ca_begins_all_the_same() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    let answer = RenewalInfo {
        certificate: www.clone(),
        serial: fleet.mirror.read().states[&www].record.issued.as_ref().unwrap().serial.clone(),
        id: "a.b".to_owned(),
        start: fleet.clock.now() + jiff::SignedDuration::from_hours(24),
        end: fleet.clock.now() + jiff::SignedDuration::from_hours(48),
        explanation_url: None,
        ask_every_secs: 3600,
        moved: false,
        since: fleet.clock.now(),
    };
    let at = key::renewal_info(&www);
    fleet.store.overtake(vec![Batch::unfenced().put(&*at, record::encode(&answer))]);
    let request = DrillRevocationRequest { certificates: vec!["www".to_owned()], ..<_>::default() };
    admin.drill_revocation(request).await.unwrap();
    let window = fleet.mirror.read().renewal_infos[&www].record.clone();
    assert!(window.end < fleet.clock.now(), "{window:?}");
    assert_eq!(window.id, "a.b");
    fleet.event(EventKind::Drill, "begins a drill").await;
}

#[tokio::test]
async fn no_order_with_a_compromised_key_slips_past_its_revocation() {
    let fleet = Fleet::start().await;
    let mut admin = fleet.admin().await;
    // Not declared to keep its key any more, but begun when it was.
    let www = fleet.declare("www", &["role=web"]).await;
    let (_, private_key) = fleet.issue(&www, 1).await;
    let mut begun = order(&fleet, &www);
    let context = seal::Context::order(&www, begun.generation);
    begun.key = fleet.sealer.seal(&context, &private_key);
    let begins = Batch::unfenced().put(key::order(&www), record::encode(&begun));
    fleet.store.overtake(vec![begins]);
    let request = RevokeCertificateRequest {
        name: "www".to_owned(),
        generation: 1,
        reason: "keyCompromise".to_owned(),
    };
    let refused = admin.revoke_certificate(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("is under way with the key"), "{refused}");
    let view = fleet.mirror.read();
    assert!(view.revocations.is_empty() && view.states[&www].record.revoked.is_none());
}
