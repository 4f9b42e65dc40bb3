//! Answers of a coordinator, as the tests of the tables have them.

use chancery_proto::v1::*;
use chancery_shared::wire::to_timestamp;
use jiff::Timestamp;

use super::{Paint, View};

/// The day on which every test happens.
pub(crate) fn now() -> Timestamp {
    "2026-11-22T05:00:00Z".parse().unwrap()
}

/// A terminal of 80 columns without colours.
pub(crate) fn view() -> View {
    View { now: now(), width: Some(80), paint: Paint::plain() }
}

/// `after("29d")`.
pub(crate) fn after(duration: &str) -> prost_types::Timestamp {
    to_timestamp(now() + humantime::parse_duration(duration).unwrap())
}

/// `before("29d")`.
pub(crate) fn before(duration: &str) -> prost_types::Timestamp {
    to_timestamp(now() - humantime::parse_duration(duration).unwrap())
}

fn text(text: &str) -> String {
    text.to_owned()
}

pub(crate) fn lease() -> Lease {
    Lease {
        held: true,
        holder: text("node-1"),
        epoch: 7,
        since: Some(before("3h")),
        ttl: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        remaining: Some(prost_types::Duration { seconds: 4, nanos: 250_000_000 }),
        last_renewed: Some(before("1s")),
        is_self: true,
        confirmed: true,
        message: String::new(),
        renewals: vec![
            Renewal {
                at: Some(before("1s")),
                took: Some(prost_types::Duration { seconds: 0, nanos: 1_250_000 }),
            },
            Renewal {
                at: Some(before("3s")),
                took: Some(prost_types::Duration { seconds: 0, nanos: 40_000_000 }),
            },
        ],
    }
}

/// What a follower says that cannot ask the leader.
pub(crate) fn unconfirmed() -> Lease {
    Lease {
        holder: text("node-2"),
        is_self: false,
        confirmed: false,
        remaining: None,
        last_renewed: None,
        renewals: Vec::new(),
        ..lease()
    }
}

/// Three coordinators on a cluster of two servers.
pub(crate) fn cluster() -> StatusResponse {
    let member = |node: &str, role: &str| Member {
        node: text(node),
        role: text(role),
        version: text("0.1.0"),
        address: format!("{node}.example.org:7443"),
        started_at: Some(before("3days")),
        reachable: true,
        revision: 1234,
        ..Member::default()
    };
    let lags = Member {
        revisions_behind: 12,
        behind_for: Some(prost_types::Duration { seconds: 95, nanos: 0 }),
        ..member("node-2", "follower")
    };
    let silent = Member { reachable: false, ..member("node-3", "follower") };
    let server = |address: &str, healthy, message: &str| StoreEndpoint {
        address: text(address),
        healthy,
        message: text(message),
    };
    StatusResponse {
        store: text("etcd"),
        store_health: Some(StoreHealth {
            version: text("3.5.16"),
            endpoints: vec![
                server("https://etcd-1:2379", true, "leader, 3 MiB"),
                server("https://etcd-2:2379", false, "connection refused"),
            ],
            ..StoreHealth::default()
        }),
        members: vec![Member { is_self: true, ..member("node-1", "leader") }, lags, silent],
        ..status()
    }
}

pub(crate) fn status() -> StatusResponse {
    StatusResponse {
        node: text("node-1"),
        version: text("0.1.0"),
        store: text("embedded"),
        store_healthy: true,
        store_message: String::new(),
        lease: Some(lease()),
        certificates: Some(CertificateCounts {
            total: 12,
            valid: 11,
            pending: 1,
            orders_running: 1,
            ..CertificateCounts::default()
        }),
        agents: Some(AgentCounts { total: 4, connected: 3 }),
        deployments: Some(DeploymentCounts { total: 12, installed: 11, in_progress: 1, failed: 0 }),
        soonest: vec![certificates().certificates.remove(1)],
        problems: Vec::new(),
        started_at: Some(before("3days")),
        revision: 1234,
        ..StatusResponse::default()
    }
}

pub(crate) fn certificates() -> ListCertificatesResponse {
    ListCertificatesResponse {
        certificates: vec![
            CertificateSummary {
                name: text("mail"),
                identifiers: vec![text("mail.example.org")],
                state: text("failing"),
                generation: 3,
                not_before: Some(before("85days")),
                not_after: Some(after("5days")),
                renew_at: Some(before("25days")),
                issuer: text("letsencrypt"),
                agents_entitled: 2,
                agents_installed: 2,
                last_error: text(
                    "authorization for mail.example.org failed: connection refused\nby 192.0.2.7:80",
                ),
            },
            CertificateSummary {
                name: text("www"),
                identifiers: vec![text("www.example.org"), text("example.org")],
                state: text("valid"),
                generation: 7,
                not_before: Some(before("60days")),
                not_after: Some(after("30days")),
                renew_at: Some(after("90s")),
                issuer: text("letsencrypt"),
                agents_entitled: 2,
                agents_installed: 1,
                last_error: String::new(),
            },
            CertificateSummary {
                name: text("new.example.org"),
                state: text("pending"),
                ..CertificateSummary::default()
            },
        ],
    }
}

fn installed(certificate: &str) -> DeploymentReport {
    DeploymentReport {
        certificate: text(certificate),
        state: DeploymentState::Installed.into(),
        delivered_generation: 7,
        installed_generation: 7,
        served_generation: 7,
        message: String::new(),
        changed_at: Some(before("59days")),
        failures: 0,
    }
}

fn rolled_back(certificate: &str) -> DeploymentReport {
    DeploymentReport {
        certificate: text(certificate),
        state: DeploymentState::ProbeFailed.into(),
        delivered_generation: 8,
        installed_generation: 7,
        served_generation: 7,
        message: text("127.0.0.1:443 still serves the certificate with serial 03ab; rolled back"),
        changed_at: Some(before("40s")),
        failures: 2,
    }
}

pub(crate) fn certificate_detail() -> CertificateDetail {
    CertificateDetail {
        summary: Some(certificates().certificates.remove(1)),
        spec: Some(CertificateSpec {
            name: text("www"),
            identifiers: vec![text("www.example.org"), text("example.org")],
            key_type: text("ecdsa-p256"),
            reuse_key: true,
            key_ahead: false,
            standby: String::new(),
            profile: text("tlsserver"),
            issuers: vec![text("letsencrypt"), text("zerossl")],
            challenges: vec![text("dns-01"), text("http-01")],
            labels: [(text("role"), text("web")), (text("site"), text("ams"))].into(),
            renew: Some(RenewTimes {
                windows: vec![text("Mon-Fri 02:00-05:00")],
                time_zone: text("Europe/Berlin"),
                jitter: Some(prost_types::Duration { seconds: 5400, nanos: 0 }),
            }),
        }),
        serial: text("03ab"),
        fingerprint: "5e".repeat(32),
        public_key_sha256: "b7".repeat(32),
        next_public_key_sha256: "c8".repeat(32),
        issued_by: text("R11"),
        decision: text("two thirds of its life have passed"),
        decision_code: text("lifetime"),
        order: Some(OrderDetail {
            id: text("0192-order"),
            issuer: text("letsencrypt"),
            stage: text("presented"),
            order_url: text("https://acme.example/order/1"),
            reason: text("an operator asked for it"),
            started_at: Some(before("4s")),
            deadline: Some(after("10min")),
            generation: 8,
            standby: false,
        }),
        standby: None,
        deployments: vec![
            DeploymentDetail {
                agent: text("web-1"),
                report: Some(installed("www")),
                agent_connected: true,
            },
            DeploymentDetail {
                agent: text("web-2"),
                report: Some(rolled_back("www")),
                agent_connected: false,
            },
        ],
        revocations: vec![Revocation {
            generation: 6,
            serial: text("03aa"),
            issuer: text("letsencrypt"),
            reason: text("superseded"),
            state: text("revoked"),
            requested_at: Some(before("3min")),
            requested_by: text("root"),
            ended_at: Some(before("2min")),
            ..Revocation::default()
        }],
        chain_pem: text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        renew_requests: 1,
        failures: 0,
        next_attempt: None,
        last_problem: Some(AcmeProblem {
            at: Some(before("1min")),
            r#type: text("urn:ietf:params:acme:error:malformed"),
            detail: text("two identifiers were refused"),
            status: 403,
            subproblems: vec![
                AcmeSubproblem {
                    identifier: text("example.org"),
                    r#type: text("urn:ietf:params:acme:error:caa"),
                    detail: text("CAA forbids it"),
                },
                AcmeSubproblem { detail: text("no such domain"), ..AcmeSubproblem::default() },
            ],
            left_out: 1,
        }),
    }
}

pub(crate) fn agents() -> ListAgentsResponse {
    ListAgentsResponse {
        agents: vec![
            AgentSummary {
                name: text("web-1"),
                labels: [(text("role"), text("web")), (text("site"), text("ams"))].into(),
                state: text("connected"),
                last_seen: Some(before("2s")),
                info: Some(AgentInfo {
                    version: text("0.1.0"),
                    hostname: text("web-1.example.org"),
                }),
                certificates: 3,
                installed: 2,
                failed: 1,
                joined_at: Some(before("100days")),
            },
            AgentSummary {
                name: text("mail-1"),
                state: text("joined"),
                joined_at: Some(before("1min")),
                ..AgentSummary::default()
            },
        ],
    }
}

pub(crate) fn agent_detail() -> AgentDetail {
    AgentDetail {
        summary: Some(agents().agents.remove(0)),
        identity_not_after: Some(after("15days")),
        identity_serial: text("0badcafe"),
        deployments: vec![installed("mail"), rolled_back("www")],
        services: vec![ServiceReport {
            service: text("nginx"),
            healthy: false,
            message: text(
                "nginx: [emerg] unknown directive \"sevrer\"\nin /etc/nginx/nginx.conf:12",
            ),
            changed_at: Some(before("40s")),
            reloads: 9,
        }],
        entitled: vec![text("mail"), text("www")],
    }
}

pub(crate) fn events() -> Vec<Event> {
    vec![
        Event {
            sequence: 42,
            at: Some(before("90s")),
            kind: text("certificate.issued"),
            subject: text("www"),
            message: text(
                "generation 7 was issued by R11, valid until 2026-12-22; an operator asked for it",
            ),
            node: text("node-1"),
            epoch: 7,
        },
        Event {
            sequence: 41,
            at: Some(before("3h")),
            kind: text("lease.acquired"),
            subject: String::new(),
            message: text("node-1 leads"),
            node: text("node-1"),
            epoch: 7,
        },
    ]
}

pub(crate) fn seal() -> SealDetail {
    SealDetail {
        active_key: 2,
        keys: vec![
            DataKey { id: 1, created_at: Some(before("100days")), records: 17 },
            DataKey { id: 2, created_at: Some(before("30s")), records: 3 },
        ],
        key_file_fingerprint: text("0123456789abcdef"),
    }
}

pub(crate) fn plan() -> ApplyResponse {
    let change = |action: change::Action, kind: &str, name: &str, details: &[&str], order| Change {
        action: action.into(),
        kind: text(kind),
        name: text(name),
        details: details.iter().map(|detail| text(detail)).collect(),
        causes_order: order,
        possible_at: order.then(|| after("5min")),
        because: if order { text("50 per 7d for example.org are used up") } else { String::new() },
    };
    ApplyResponse {
        changes: vec![
            change(
                change::Action::Create,
                "certificate",
                "mail",
                &["identifiers: mail.example.org", "key_type: rsa-2048"],
                true,
            ),
            change(
                change::Action::Update,
                "issuer",
                "letsencrypt",
                &["contacts: (none) -> mailto:ops@example.org"],
                false,
            ),
            change(change::Action::Delete, "certificate", "old", &[], false),
        ],
        plan_id: text("9f86d081"),
        applied: false,
        unchanged: 5,
        kept: vec![text("issuer zerossl")],
        ..ApplyResponse::default()
    }
}
