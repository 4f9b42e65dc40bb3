//! Over real HTTP.

use std::collections::BTreeSet;

use chancery_shared::{name::CertName, number::Generation};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    api::testing::Fleet,
    election::{Observation, Observer as _, Outcome, Reason},
    metrics::Refusal,
    mirror::Health,
    record::{Deployment, DeploymentState, key},
    store::Batch,
};

async fn listen(fleet: &Fleet) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, metrics, shutdown) =
        (fleet.status.clone(), fleet.metrics.clone(), fleet.shutdown.clone());
    tokio::spawn(async move { serve(listener, status, &metrics, shutdown).await });
    address
}

/// Status line and body.
async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn failing_deployment(fleet: &Fleet, certificate: &CertName) -> Deployment {
    Deployment {
        agent: "web-1".parse().unwrap(),
        certificate: certificate.clone(),
        state: DeploymentState::ProbeFailed,
        delivered: Generation(3),
        installed: Generation(2),
        served: Generation(2),
        message: String::new(),
        changed_at: fleet.clock.now(),
        failures: 1,
    }
}

#[tokio::test]
async fn metrics_show_what_is_so_and_forget_what_is_gone() {
    let fleet = Fleet::start().await;
    let address = listen(&fleet).await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 3).await;
    fleet.join("web-1", &["role=web"]).await;
    let deployment = failing_deployment(&fleet, &www);
    fleet.put(key::deployment(&deployment.agent, &www), &deployment).await;
    fleet.metrics.order_finished(&"test".parse().unwrap(), "issued");
    fleet.metrics.order_possibly_orphaned(&"test".parse().unwrap());
    fleet.metrics.refused(Refusal::Token);

    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let not_after = fleet.mirror.read().states["www"].record.issued.as_ref().unwrap().not_after;
    for line in [
        &format!(
            "chancery_certificate_not_after_timestamp_seconds{{certificate=\"www\"}} {}",
            not_after.as_second()
        ),
        "chancery_certificate_generation{certificate=\"www\"} 3",
        "chancery_certificates 1",
        "chancery_certificates_due 0",
        "chancery_orders_running 0",
        "chancery_orders_total{issuer=\"test\",outcome=\"issued\"} 1",
        "chancery_orders_possibly_orphaned_total{issuer=\"test\"} 1",
        "chancery_refusals_total{reason=\"token\"} 1",
        "chancery_events_dropped_total 0",
        "chancery_lease_held 1",
        "chancery_lease_epoch 1",
        "chancery_lease_keep_alive_failures_total 0",
        "chancery_lease_vacant_seconds_total 0.0",
        "chancery_store_mirror_age_seconds 0.0",
        "chancery_agents_connected 0",
        "chancery_agents{state=\"joined\"} 0",
        "chancery_agents{state=\"disconnected\"} 1",
        "chancery_deployments{state=\"probe-failed\"} 1",
        "chancery_deployments{state=\"installed\"} 0",
        "chancery_deployment_failing{agent=\"web-1\",certificate=\"www\",state=\"probe-failed\"} 1",
        "chancery_build_info{version=\"1.2.3\",node=\"node-1\",store=\"memory\"} 1",
        "# EOF",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    assert!(body.contains("chancery_lease_remaining_seconds "), "{body}");

    let gone = Batch::unfenced().delete("certificates/www").delete("deployments/web-1/www");
    fleet.commit(gone).await;
    let (_, body) = get(address, "/metrics").await;
    assert!(!body.contains("www"), "{body}");
}

#[tokio::test]
async fn readiness_says_why_not() {
    let fleet = Fleet::start().await;
    let address = listen(&fleet).await;
    assert_eq!(get(address, "/livez").await.0, "HTTP/1.1 200 OK");
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.starts_with("ready\nstore: followed, revision "), "{body}");
    assert!(body.ends_with("\nleader: node-1, epoch 1\n"), "{body}");
    // Its watch ends, and no new one begins.
    fleet.lose_store().await;
    assert!(matches!(fleet.mirror.health(), Health::Lost { .. }));
    for (path, expected) in [
        // A moment of it changes nothing ...
        ("/readyz", "200 OK"),
        ("/readyz?max_age=never", "200 OK"),
        // ... unless somebody wants to know.
        ("/readyz?max_age=0s", "503 Service Unavailable"),
        ("/readyz?max_age=soon", "400 Bad Request"),
        ("/readyz?max_ages=1s", "400 Bad Request"),
    ] {
        let (status, body) = get(address, path).await;
        assert_eq!(status, format!("HTTP/1.1 {expected}"), "{path}: {body}");
        if !status.contains("400") {
            assert!(body.contains("\nreason: the store cannot be followed"), "{body}");
            assert!(body.contains("serving agents what was last known"), "{body}");
        }
    }
    let (_, metrics) = get(address, "/metrics").await;
    assert!(metrics.contains("\nchancery_store_followed 0\n"), "{metrics}");
    assert!(!metrics.contains("\nchancery_store_mirror_age_seconds 0.0\n"), "{metrics}");
    assert_eq!(get(address, "/livez").await.0, "HTTP/1.1 200 OK");
    assert_eq!(get(address, "/").await.0, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let fleet = Fleet::start().await;
    let address = listen(&fleet).await;
    let www = fleet.declare("www", &["role=web"]).await;
    fleet.issue(&www, 3).await;
    fleet.join("web-1", &["role=web"]).await;
    let deployment = failing_deployment(&fleet, &www);
    fleet.put(key::deployment(&deployment.agent, &www), &deployment).await;
    // Counters with labels are there once something was counted.
    let issuer = "test".parse().unwrap();
    fleet.metrics.order_finished(&issuer, "issued");
    fleet.metrics.order_possibly_orphaned(&issuer);
    fleet.metrics.refused(Refusal::Token);
    fleet.metrics.observe(&Observation::Campaigned(Outcome::Lost));
    fleet.metrics.observe(&Observation::SteppedDown(Reason::Fenced));
    let (_, body) = get(address, "/metrics").await;
    let told: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let page = include_str!("../../../docs/monitoring.md");
    let documented: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `chancery_")?.split('`').next())
        .map(|name| format!("chancery_{name}"))
        .collect();
    assert_eq!(told, documented);
}
