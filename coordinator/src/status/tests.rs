//! The read model.

use std::time::Duration;

use chancery_shared::{
    name::{AgentName, CertName},
    number::Generation,
};
use jiff::Timestamp;

use super::*;
use crate::{
    api::testing::Fleet,
    record::{CertificateState, Deployment, Failure, Service, Services, key},
};

async fn deploy(fleet: &Fleet, agent: &str, certificate: &CertName, state: DeploymentState) {
    let installed = if state == DeploymentState::Installed { 2 } else { 1 };
    let deployment = Deployment {
        agent: agent.parse().unwrap(),
        certificate: certificate.clone(),
        state,
        delivered: Generation(2),
        installed: Generation(installed),
        served: Generation(installed),
        message: "nginx: emerg".to_owned(),
        changed_at: fleet.clock.now(),
        failures: 3,
    };
    fleet.put(key::deployment(&deployment.agent, certificate), &deployment).await;
}

async fn fail(fleet: &Fleet, certificate: &CertName, message: &str) {
    let state = fleet.mirror.read().states.get(certificate).map(|state| (*state.record).clone());
    let failure = Failure {
        at: fleet.clock.now(),
        message: message.to_owned(),
        code: "rate-limited".to_owned(),
        retry_at: fleet.clock.now() + Duration::from_hours(1),
    };
    let state =
        CertificateState { failures: 2, last_failure: Some(failure), ..state.unwrap_or_default() };
    fleet.put(key::state(certificate), &state).await;
}

async fn expire(fleet: &Fleet, certificate: &CertName, not_after: Timestamp) {
    let mut state = (*fleet.mirror.read().states[certificate].record).clone();
    state.issued.as_mut().unwrap().not_after = not_after;
    fleet.put(key::state(certificate), &state).await;
}

#[tokio::test]
async fn an_empty_fleet_has_no_problems() {
    let fleet = Fleet::start().await;
    let overview = fleet.status.overview();
    assert_eq!(overview.problems, [""; 0]);
    assert!(overview.store_healthy);
    let lease = overview.lease.unwrap();
    assert!(lease.held && lease.is_self);
    assert_eq!((lease.holder.as_str(), lease.epoch), ("node-1", 1));
    assert!(lease.remaining.is_some_and(|remaining| remaining.seconds > 0));
    assert_eq!(overview.certificates.unwrap().total, 0);
}

#[tokio::test]
async fn counts_and_states_of_certificates() {
    let fleet = Fleet::start().await;
    for name in ["pending", "valid", "failing", "expired"] {
        fleet.declare(name, &["role=web"]).await;
    }
    let [valid, failing, expired] =
        ["valid", "failing", "expired"].map(|name| name.parse::<CertName>().unwrap());
    for name in [&valid, &failing, &expired] {
        fleet.issue(name, 2).await;
    }
    fail(&fleet, &failing, "the CA said no").await;
    expire(&fleet, &expired, fleet.clock.now() - Duration::from_hours(3)).await;
    fleet.join("web-1", &["role=web"]).await;
    fleet.join("web-2", &["role=web", "zone=a"]).await;
    fleet.join("db-1", &["role=db"]).await;
    deploy(&fleet, "web-1", &valid, DeploymentState::Installed).await;
    deploy(&fleet, "web-2", &valid, DeploymentState::Delivered).await;

    let counts = fleet.status.overview().certificates.unwrap();
    assert_eq!(
        (counts.total, counts.valid, counts.pending, counts.failing, counts.expired),
        (4, 2, 1, 1, 1)
    );
    let all = fleet.status.certificates();
    let states: Vec<_> =
        all.iter().map(|summary| (summary.name.as_str(), summary.state.as_str())).collect();
    let wanted = [
        ("expired", "expired"),
        ("failing", "failing"),
        ("pending", "pending"),
        ("valid", "valid"),
    ];
    assert_eq!(states, wanted);
    let of_valid = &all[3];
    assert_eq!((of_valid.agents_entitled, of_valid.agents_installed), (2, 1));
    assert_eq!((of_valid.generation, of_valid.issuer.as_str()), (2, "test"));
    assert_eq!(all[1].last_error, "the CA said no");

    let detail = fleet.status.certificate(&failing).unwrap();
    assert_eq!(detail.failures, 2);
    assert!(detail.next_attempt.is_some());
    assert_eq!(detail.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!detail.chain_pem.contains("PRIVATE"));
    let deployments = fleet.status.overview().deployments.unwrap();
    assert_eq!((deployments.total, deployments.installed, deployments.in_progress), (2, 1, 1));
    let soonest = fleet.status.overview().soonest;
    assert_eq!(soonest[0].name, "pending");
    assert_eq!(soonest[1].name, "expired");
}

#[tokio::test]
async fn problems_come_most_urgent_first() {
    let fleet = Fleet::start().await;
    for name in ["never", "expired", "failing"] {
        fleet.declare(name, &["role=web"]).await;
    }
    let [never, expired, failing] =
        ["never", "expired", "failing"].map(|name| name.parse::<CertName>().unwrap());
    fleet.issue(&expired, 2).await;
    fleet.issue(&failing, 2).await;
    expire(&fleet, &expired, fleet.clock.now() - Duration::from_hours(3)).await;
    expire(&fleet, &failing, fleet.clock.now() + Duration::from_mins(60 * 48 + 1)).await;
    fail(&fleet, &failing, "rate limited").await;
    fail(&fleet, &never, "no such host").await;
    fleet.join("web-1", &["role=web"]).await;
    fleet.join("web-2", &["role=web"]).await;
    deploy(&fleet, "web-1", &failing, DeploymentState::TestFailed).await;
    deploy(&fleet, "web-2", &failing, DeploymentState::Installed).await;
    let service = Service {
        name: "nginx".parse().unwrap(),
        healthy: false,
        message: String::new(),
        changed_at: fleet.clock.now(),
        reloads: 0,
    };
    let services = Services { services: vec![service] };
    fleet.put("services/web-2", &services).await;
    let damaged = bytes::Bytes::from_static(b"{}");
    fleet.commit(crate::store::Batch::unfenced().put("accounts/test", damaged)).await;
    fleet.leading.send_replace(None);
    assert_eq!(
        fleet.status.overview().problems,
        [
            "no coordinator leads: nothing is issued until one does",
            "accounts/test does not hold a record of kind account: missing field `kind` at line 1 \
             column 2",
            "certificate expired expired 3 hours ago",
            "certificate never cannot be issued: no such host",
            "certificate failing is at risk: it expires in 2 days and could not be renewed: rate limited",
            "agent web-1: generation 2 of certificate failing failed the service's configuration \
             test 3 times (generation 1 stands): nginx: emerg",
            "service nginx on agent web-2 is not well: the agent gave no reason",
        ]
    );
}

#[tokio::test]
async fn a_store_that_is_older_than_its_agents_is_a_problem() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 1).await;
    fleet.join("web-1", &["role=web"]).await;
    deploy(&fleet, "web-1", &www, DeploymentState::Installed).await;
    let problems = fleet.status.overview().problems;
    assert!(problems[0].contains("generation 2 of certificate www"), "{problems:?}");
    assert!(problems[0].contains("`chancery cert renew www`"), "{problems:?}");
    fleet.issue(&www, 3).await;
    assert_eq!(fleet.status.overview().problems, [""; 0]);
}

#[tokio::test]
async fn an_agent_that_stays_away_is_a_problem_and_one_that_reconnects_is_not() {
    let fleet = Fleet::start().await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 2).await;
    let agent = fleet.join("web-1", &["role=web"]).await;
    deploy(&fleet, "web-1", &www, DeploymentState::Installed).await;
    let name: AgentName = "web-1".parse().unwrap();
    let presence = fleet.status.presence();
    let problems = |later: Duration| {
        let view = fleet.mirror.read();
        let now = fleet.clock.now();
        problems::list(&problems::Inputs {
            view: &view,
            presence,
            now: now + later,
            started_at: now,
            leaderless: false,
            store_lost: None,
        })
    };
    assert_eq!(problems(Duration::from_mins(1)), [""; 0]);
    assert_eq!(
        problems(Duration::from_mins(10)),
        ["agent web-1 is disconnected and was not seen since this coordinator started: it keeps \
          what it has, but gets no renewals"]
    );
    let mut stream = fleet.watch(&agent, chancery_proto::v1::WatchRequest::default()).await;
    crate::api::testing::until_synced(&mut stream).await;
    assert!(presence.is_connected(&name));
    assert_eq!(fleet.status.agents()[0].state, "connected");
    assert_eq!(problems(Duration::from_mins(10)), [""; 0]);
    drop(stream);
    while presence.is_connected(&name) {
        tokio::task::yield_now().await;
    }
    assert_eq!(fleet.status.agents()[0].state, "disconnected");
    assert_eq!(
        problems(Duration::from_mins(10)),
        ["agent web-1 is disconnected (last seen 10 minutes ago): it keeps what it has, but gets \
          no renewals"]
    );
}

#[tokio::test]
async fn the_lease_of_another_node_is_held_and_not_ours() {
    let fleet = Fleet::start().await;
    let leader = crate::record::Leader {
        node: "node-2".parse().unwrap(),
        epoch: Epoch(9),
        since: fleet.clock.now(),
        ttl_millis: 5000,
    };
    fleet.put(key::LEADER, &leader).await;
    let lease = fleet.status.lease();
    assert!(lease.held && !lease.is_self);
    assert_eq!((lease.holder.as_str(), lease.epoch), ("node-2", 9));
    assert_eq!(lease.remaining, None);
    fleet.commit(crate::store::Batch::unfenced().delete(key::LEADER)).await;
    assert!(!fleet.status.lease().held);
}
