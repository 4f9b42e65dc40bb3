//! What agents report.

use chancery_proto::v1::{
    DeploymentReport, DeploymentState as WireState, ReportRequest, ServiceReport,
};
use chancery_shared::wire::to_timestamp;
use tonic::{Code, Status};

use crate::{
    api::testing::{Fleet, TestAgent},
    record::{DeploymentState, EventKind},
    store::Batch,
};

fn deployment(certificate: &str, state: WireState, generations: [u64; 3]) -> DeploymentReport {
    let [delivered, installed, served] = generations;
    DeploymentReport {
        certificate: certificate.to_owned(),
        state: state.into(),
        delivered_generation: delivered,
        installed_generation: installed,
        served_generation: served,
        message: "because".to_owned(),
        changed_at: Some(to_timestamp("2026-11-22T04:05:06Z".parse().unwrap())),
        failures: 1,
    }
}

async fn report(
    fleet: &Fleet,
    agent: &TestAgent,
    deployments: Vec<DeploymentReport>,
) -> Result<(), Status> {
    let request = ReportRequest { deployments, ..ReportRequest::default() };
    fleet.agent(agent).await.report(request).await.map(drop)
}

#[tokio::test]
async fn only_changes_are_written() {
    let fleet = Fleet::start().await;
    fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let delivered = deployment("www", WireState::Delivered, [1, 0, 0]);
    let service =
        ServiceReport { service: "nginx".to_owned(), healthy: true, ..ServiceReport::default() };
    let request =
        ReportRequest { deployments: vec![delivered], services: vec![service], info: None };
    let mut client = fleet.agent(&agent).await;
    client.report(request.clone()).await.unwrap();
    let (deployment, services) = {
        let view = fleet.mirror.read();
        (view.deployments["web-1"]["www"].clone(), view.services["web-1"].clone())
    };
    assert_eq!(deployment.record.state, DeploymentState::Delivered);
    assert_eq!(services.record.services[0].name.as_str(), "nginx");
    client.report(request).await.unwrap();
    let view = fleet.mirror.read();
    assert_eq!(view.deployments["web-1"]["www"].revision, deployment.revision);
    assert_eq!(view.services["web-1"].revision, services.revision);
}

#[tokio::test]
async fn turns_to_bad_and_to_good_become_events() {
    let fleet = Fleet::start().await;
    fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut failed = deployment("www", WireState::TestFailed, [2, 1, 1]);
    report(&fleet, &agent, vec![failed.clone()]).await.unwrap();
    let event = fleet.event(EventKind::DeploymentFailed, "test-failed: because").await;
    assert_eq!(event.subject, "www");
    assert!(event.message.contains("generation 2 on agent web-1"), "{}", event.message);
    // One more failure of the same is no news.
    failed.failures = 2;
    report(&fleet, &agent, vec![failed]).await.unwrap();
    report(&fleet, &agent, vec![deployment("www", WireState::Installed, [2, 2, 2])]).await.unwrap();
    fleet.event(EventKind::DeploymentInstalled, "generation 2 is installed").await;
    let view = fleet.mirror.read();
    let failures = view.events.values().filter(|of| of.kind == EventKind::DeploymentFailed);
    assert_eq!(failures.count(), 1);
}

#[tokio::test]
async fn what_an_agent_may_not_have_it_may_not_report() {
    let fleet = Fleet::start().await;
    fleet.declare("www", &["role=web"]).await;
    fleet.declare("db", &["role=db"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let reports =
        ["www", "db", "unknown"].map(|name| deployment(name, WireState::Delivered, [1, 0, 0]));
    report(&fleet, &agent, reports.into()).await.unwrap();
    let names: Vec<_> = fleet.mirror.read().deployments["web-1"].keys().cloned().collect();
    assert_eq!(names, ["www".parse().unwrap()]);
    // What it had, it may still report about.
    fleet.declare("www", &["role=db"]).await;
    report(&fleet, &agent, vec![deployment("www", WireState::Withdrawn, [1, 1, 1])]).await.unwrap();
    let state = fleet.mirror.read().deployments["web-1"]["www"].record.state;
    assert_eq!(state, DeploymentState::Withdrawn);
}

#[tokio::test]
async fn nonsense_is_refused_whole_with_all_that_is_wrong() {
    let fleet = Fleet::start().await;
    fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let refused = report(
        &fleet,
        &agent,
        vec![
            deployment("www", WireState::Delivered, [1, 0, 0]),
            deployment("www", WireState::Delivered, [1, 0, 0]),
            deployment("../x", WireState::Delivered, [1, 0, 0]),
            deployment("a", WireState::Unspecified, [1, 0, 0]),
            deployment("b", WireState::Installed, [1, 2, 0]),
        ],
    )
    .await
    .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for part in ["reported twice", "../x", "state 0", "generation 2 cannot"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    assert!(fleet.mirror.read().deployments.is_empty());
}

#[tokio::test]
async fn many_deployments_are_written_in_batches_that_any_store_takes() {
    let fleet = Fleet::start().await;
    let names: Vec<_> = (0..60).map(|n| format!("c{n}")).collect();
    for name in &names {
        fleet.declare(name, &["role=web"]).await;
    }
    let agent = fleet.join("web-1", &["role=web"]).await;
    let before = fleet.mirror.revision().0;
    let reports = names.iter().map(|name| deployment(name, WireState::Delivered, [1, 0, 0]));
    report(&fleet, &agent, reports.collect()).await.unwrap();
    assert_eq!(fleet.mirror.read().deployments["web-1"].len(), 60);
    assert_eq!(fleet.mirror.revision().0, before + 3);
}

#[tokio::test]
async fn a_report_brings_no_removed_agent_back() {
    let fleet = Fleet::start().await;
    fleet.declare("www", &["role=web"]).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    let mut client = fleet.agent(&agent).await;
    fleet.commit(Batch::unfenced().delete("agents/web-1")).await;
    let request = ReportRequest {
        deployments: vec![deployment("www", WireState::Delivered, [1, 0, 0])],
        ..ReportRequest::default()
    };
    let refused = client.report(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(fleet.mirror.read().deployments.is_empty());
}
