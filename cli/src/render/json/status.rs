//! `status` and `lease show`.

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::{cert::Certificate, lease::Lease, some};
use crate::render::when;

/// `status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    node: String,
    version: String,
    started_at: Option<Timestamp>,
    revision: u64,
    /// Whether nothing needs attention: exit code 0.
    healthy: bool,
    store: Store,
    lease: Option<Lease>,
    certificates: CertificateCounts,
    agents: AgentCounts,
    deployments: DeploymentCounts,
    members: Vec<Member>,
    soonest: Vec<Certificate>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Store {
    kind: String,
    healthy: bool,
    message: Option<String>,
    behind_seconds: Option<f64>,
    version: Option<String>,
    endpoints: Vec<Endpoint>,
    warnings: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    address: String,
    healthy: bool,
    message: Option<String>,
}

#[derive(Debug, Serialize)]
struct Member {
    node: String,
    role: String,
    version: String,
    address: String,
    started_at: Option<Timestamp>,
    is_self: bool,
    reachable: bool,
    message: Option<String>,
    revision: Option<u64>,
    revisions_behind: Option<u64>,
    behind_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct CertificateCounts {
    total: u32,
    valid: u32,
    pending: u32,
    failing: u32,
    expired: u32,
    orders_running: u32,
}

#[derive(Debug, Serialize)]
struct AgentCounts {
    total: u32,
    connected: u32,
}

#[derive(Debug, Serialize)]
struct DeploymentCounts {
    total: u32,
    installed: u32,
    in_progress: u32,
    failed: u32,
}

impl Status {
    /// `problems` is all that needs attention; empty when all is well.
    pub(crate) fn new(status: &v1::StatusResponse, problems: Vec<String>) -> Self {
        let certificates = status.certificates.unwrap_or_default();
        let agents = status.agents.unwrap_or_default();
        let deployments = status.deployments.unwrap_or_default();
        Self {
            node: status.node.clone(),
            version: status.version.clone(),
            started_at: from_timestamp(status.started_at.as_ref()),
            revision: status.revision,
            healthy: problems.is_empty(),
            store: Store::from(status),
            lease: status.lease.as_ref().map(Lease::from),
            certificates: CertificateCounts {
                total: certificates.total,
                valid: certificates.valid,
                pending: certificates.pending,
                failing: certificates.failing,
                expired: certificates.expired,
                orders_running: certificates.orders_running,
            },
            agents: AgentCounts { total: agents.total, connected: agents.connected },
            deployments: DeploymentCounts {
                total: deployments.total,
                installed: deployments.installed,
                in_progress: deployments.in_progress,
                failed: deployments.failed,
            },
            members: status.members.iter().map(Member::from).collect(),
            soonest: status.soonest.iter().map(Certificate::from).collect(),
            problems,
        }
    }
}

impl From<&v1::StatusResponse> for Store {
    fn from(status: &v1::StatusResponse) -> Self {
        let health = status.store_health.clone().unwrap_or_default();
        let endpoints = health.endpoints.iter().map(|endpoint| Endpoint {
            address: endpoint.address.clone(),
            healthy: endpoint.healthy,
            message: some(&endpoint.message),
        });
        Self {
            kind: status.store.clone(),
            healthy: status.store_healthy,
            message: some(&status.store_message),
            behind_seconds: when::seconds(status.behind_for.as_ref()),
            version: some(&health.version),
            endpoints: endpoints.collect(),
            warnings: health.warnings,
            error: some(&health.error),
        }
    }
}

impl From<&v1::Member> for Member {
    fn from(member: &v1::Member) -> Self {
        Self {
            node: member.node.clone(),
            role: member.role.clone(),
            version: member.version.clone(),
            address: member.address.clone(),
            started_at: from_timestamp(member.started_at.as_ref()),
            is_self: member.is_self,
            reachable: member.reachable,
            message: some(&member.message),
            revision: member.reachable.then_some(member.revision),
            revisions_behind: member.reachable.then_some(member.revisions_behind),
            behind_seconds: when::seconds(member.behind_for.as_ref()),
        }
    }
}
