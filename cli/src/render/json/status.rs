//! `status` and `lease show`.

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::{cert::Certificate, some};
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
    soonest: Vec<Certificate>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Store {
    kind: String,
    healthy: bool,
    message: Option<String>,
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
            store: Store {
                kind: status.store.clone(),
                healthy: status.store_healthy,
                message: some(&status.store_message),
            },
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
            soonest: status.soonest.iter().map(Certificate::from).collect(),
            problems,
        }
    }
}

/// `lease show`.
#[derive(Debug, Serialize)]
pub(crate) struct Lease {
    held: bool,
    holder: Option<String>,
    epoch: u64,
    since: Option<Timestamp>,
    ttl_seconds: Option<f64>,
    remaining_seconds: Option<f64>,
    last_renewed: Option<Timestamp>,
    is_self: bool,
}

impl From<&v1::Lease> for Lease {
    fn from(lease: &v1::Lease) -> Self {
        Self {
            held: lease.held,
            holder: some(&lease.holder),
            epoch: lease.epoch,
            since: from_timestamp(lease.since.as_ref()),
            ttl_seconds: when::seconds(lease.ttl.as_ref()),
            remaining_seconds: when::seconds(lease.remaining.as_ref()),
            last_renewed: from_timestamp(lease.last_renewed.as_ref()),
            is_self: lease.is_self,
        }
    }
}
