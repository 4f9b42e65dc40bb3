//! `agent list`, `agent show`, `agent remove` and `agent token create`.

use std::collections::BTreeMap;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::{cert::Deployment, some};

/// `agent list`.
#[derive(Debug, Serialize)]
pub(crate) struct Agents {
    agents: Vec<Agent>,
}

impl From<&v1::ListAgentsResponse> for Agents {
    fn from(list: &v1::ListAgentsResponse) -> Self {
        Self { agents: list.agents.iter().map(Agent::from).collect() }
    }
}

#[derive(Debug, Default, Serialize)]
struct Agent {
    name: String,
    labels: BTreeMap<String, String>,
    state: String,
    joined_at: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    version: Option<String>,
    hostname: Option<String>,
    certificates: u32,
    installed: u32,
    failed: u32,
}

impl From<&v1::AgentSummary> for Agent {
    fn from(agent: &v1::AgentSummary) -> Self {
        let info = agent.info.clone().unwrap_or_default();
        Self {
            name: agent.name.clone(),
            labels: agent.labels.clone(),
            state: agent.state.clone(),
            joined_at: from_timestamp(agent.joined_at.as_ref()),
            last_seen: from_timestamp(agent.last_seen.as_ref()),
            version: some(&info.version),
            hostname: some(&info.hostname),
            certificates: agent.certificates,
            installed: agent.installed,
            failed: agent.failed,
        }
    }
}

/// `agent show`.
#[derive(Debug, Serialize)]
pub(crate) struct AgentDetail {
    #[serde(flatten)]
    summary: Agent,
    identity_serial: Option<String>,
    identity_not_after: Option<Timestamp>,
    entitled: Vec<String>,
    deployments: Vec<CertificateDeployment>,
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct CertificateDeployment {
    certificate: String,
    #[serde(flatten)]
    deployment: Deployment,
}

#[derive(Debug, Serialize)]
struct Service {
    service: String,
    healthy: bool,
    message: Option<String>,
    changed_at: Option<Timestamp>,
    reloads: u64,
}

impl From<&v1::AgentDetail> for AgentDetail {
    fn from(detail: &v1::AgentDetail) -> Self {
        let deployments = detail.deployments.iter().map(|report| CertificateDeployment {
            certificate: report.certificate.clone(),
            deployment: Deployment::from(report),
        });
        let services = detail.services.iter().map(|report| Service {
            service: report.service.clone(),
            healthy: report.healthy,
            message: some(&report.message),
            changed_at: from_timestamp(report.changed_at.as_ref()),
            reloads: report.reloads,
        });
        Self {
            summary: detail.summary.as_ref().map(Agent::from).unwrap_or_default(),
            identity_serial: some(&detail.identity_serial),
            identity_not_after: from_timestamp(detail.identity_not_after.as_ref()),
            entitled: detail.entitled.clone(),
            deployments: deployments.collect(),
            services: services.collect(),
        }
    }
}

/// `agent remove`.
#[derive(Debug, Serialize)]
pub(crate) struct Removal {
    pub(crate) removed: String,
}

/// `agent token create`. The one answer that carries a secret.
#[derive(Serialize)]
pub(crate) struct Token {
    pub(crate) agent: String,
    pub(crate) token: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) ca_fingerprint: String,
}
