//! What programs read: a stable schema, documented in `docs/cli.md`.
//!
//! Fields are only ever added. Times are RFC 3339 in UTC, durations seconds, states
//! lower-case words; what is absent is `null`.

#![expect(clippy::struct_field_names, reason = "the names are the schema")]

use std::collections::BTreeMap;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::{deployment_state, when};

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

/// `apply`.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    plan_id: String,
    applied: bool,
    changes: Vec<Change>,
    unchanged: u32,
    kept: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    action: &'static str,
    kind: String,
    name: String,
    details: Vec<String>,
    causes_order: bool,
}

impl Plan {
    pub(crate) fn new(plan: &v1::ApplyResponse, warnings: Vec<String>) -> Self {
        Self {
            plan_id: plan.plan_id.clone(),
            applied: plan.applied,
            changes: plan.changes.iter().map(Change::from).collect(),
            unchanged: plan.unchanged,
            kept: plan.kept.clone(),
            warnings,
        }
    }
}

impl From<&v1::Change> for Change {
    fn from(change: &v1::Change) -> Self {
        Self {
            action: match change.action() {
                v1::change::Action::Create => "create",
                v1::change::Action::Update => "update",
                v1::change::Action::Delete => "delete",
                v1::change::Action::Unspecified => "unknown",
            },
            kind: change.kind.clone(),
            name: change.name.clone(),
            details: change.details.clone(),
            causes_order: change.causes_order,
        }
    }
}

/// `cert list`.
#[derive(Debug, Serialize)]
pub(crate) struct Certificates {
    certificates: Vec<Certificate>,
}

impl From<&v1::ListCertificatesResponse> for Certificates {
    fn from(list: &v1::ListCertificatesResponse) -> Self {
        Self { certificates: list.certificates.iter().map(Certificate::from).collect() }
    }
}

/// One of `cert list`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Certificate {
    name: String,
    identifiers: Vec<String>,
    state: String,
    generation: u64,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    renew_at: Option<Timestamp>,
    issuer: Option<String>,
    agents_entitled: u32,
    agents_installed: u32,
    last_error: Option<String>,
}

impl From<&v1::CertificateSummary> for Certificate {
    fn from(summary: &v1::CertificateSummary) -> Self {
        Self {
            name: summary.name.clone(),
            identifiers: summary.identifiers.clone(),
            state: summary.state.clone(),
            generation: summary.generation,
            not_before: from_timestamp(summary.not_before.as_ref()),
            not_after: from_timestamp(summary.not_after.as_ref()),
            renew_at: from_timestamp(summary.renew_at.as_ref()),
            issuer: some(&summary.issuer),
            agents_entitled: summary.agents_entitled,
            agents_installed: summary.agents_installed,
            last_error: some(&summary.last_error),
        }
    }
}

/// `cert show`, and a part of each line of `cert renew --wait`.
#[derive(Debug, Serialize)]
pub(crate) struct CertificateDetail {
    #[serde(flatten)]
    summary: Certificate,
    key_type: Option<String>,
    issuers: Vec<String>,
    labels: BTreeMap<String, String>,
    serial: Option<String>,
    fingerprint: Option<String>,
    issued_by: Option<String>,
    decision: Option<String>,
    decision_code: Option<String>,
    renew_requests: u64,
    failures: u32,
    next_attempt: Option<Timestamp>,
    order: Option<Order>,
    deployments: Vec<AgentDeployment>,
    chain_pem: Option<String>,
}

impl From<&v1::CertificateDetail> for CertificateDetail {
    fn from(detail: &v1::CertificateDetail) -> Self {
        let spec = detail.spec.clone().unwrap_or_default();
        Self {
            summary: detail.summary.as_ref().map(Certificate::from).unwrap_or_default(),
            key_type: some(&spec.key_type),
            issuers: spec.issuers,
            labels: spec.labels,
            serial: some(&detail.serial),
            fingerprint: some(&detail.fingerprint),
            issued_by: some(&detail.issued_by),
            decision: some(&detail.decision),
            decision_code: some(&detail.decision_code),
            renew_requests: detail.renew_requests,
            failures: detail.failures,
            next_attempt: from_timestamp(detail.next_attempt.as_ref()),
            order: detail.order.as_ref().map(Order::from),
            deployments: detail.deployments.iter().map(AgentDeployment::from).collect(),
            chain_pem: some(&detail.chain_pem),
        }
    }
}

#[derive(Debug, Serialize)]
struct Order {
    id: String,
    issuer: String,
    stage: String,
    order_url: Option<String>,
    reason: Option<String>,
    started_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    generation: u64,
}

impl From<&v1::OrderDetail> for Order {
    fn from(order: &v1::OrderDetail) -> Self {
        Self {
            id: order.id.clone(),
            issuer: order.issuer.clone(),
            stage: order.stage.clone(),
            order_url: some(&order.order_url),
            reason: some(&order.reason),
            started_at: from_timestamp(order.started_at.as_ref()),
            deadline: from_timestamp(order.deadline.as_ref()),
            generation: order.generation,
        }
    }
}

/// One certificate on one agent.
#[derive(Debug, Serialize)]
struct AgentDeployment {
    agent: String,
    connected: bool,
    #[serde(flatten)]
    deployment: Deployment,
}

impl From<&v1::DeploymentDetail> for AgentDeployment {
    fn from(detail: &v1::DeploymentDetail) -> Self {
        Self {
            agent: detail.agent.clone(),
            connected: detail.agent_connected,
            deployment: Deployment::from(&detail.report.clone().unwrap_or_default()),
        }
    }
}

#[derive(Debug, Serialize)]
struct Deployment {
    state: &'static str,
    delivered_generation: u64,
    installed_generation: u64,
    served_generation: u64,
    message: Option<String>,
    changed_at: Option<Timestamp>,
    failures: u32,
}

impl From<&v1::DeploymentReport> for Deployment {
    fn from(report: &v1::DeploymentReport) -> Self {
        Self {
            state: deployment_state(report.state()),
            delivered_generation: report.delivered_generation,
            installed_generation: report.installed_generation,
            served_generation: report.served_generation,
            message: some(&report.message),
            changed_at: from_timestamp(report.changed_at.as_ref()),
            failures: report.failures,
        }
    }
}

/// `cert renew`.
#[derive(Debug, Serialize)]
pub(crate) struct Renewal {
    pub(crate) name: String,
    /// The generation that the renewal will become.
    pub(crate) generation: u64,
    pub(crate) already_running: bool,
}

/// One line of `cert renew --wait`.
#[derive(Debug, Serialize)]
pub(crate) struct Progress {
    pub(crate) at: Timestamp,
    pub(crate) elapsed_seconds: f64,
    /// The generation that is waited for.
    pub(crate) wanted_generation: u64,
    /// `running`, `installed`, `failed` or `timed-out`; all but the first end the wait.
    pub(crate) outcome: &'static str,
    /// What happens, or what went wrong, in words.
    pub(crate) message: String,
    pub(crate) certificate: Option<CertificateDetail>,
}

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

/// `event list`.
#[derive(Debug, Serialize)]
pub(crate) struct Events {
    events: Vec<Event>,
}

impl From<&[v1::Event]> for Events {
    fn from(events: &[v1::Event]) -> Self {
        Self { events: events.iter().map(Event::from).collect() }
    }
}

#[derive(Debug, Serialize)]
struct Event {
    sequence: u64,
    at: Option<Timestamp>,
    kind: String,
    subject: Option<String>,
    message: String,
    node: Option<String>,
    epoch: u64,
}

impl From<&v1::Event> for Event {
    fn from(event: &v1::Event) -> Self {
        Self {
            sequence: event.sequence,
            at: from_timestamp(event.at.as_ref()),
            kind: event.kind.clone(),
            subject: some(&event.subject),
            message: event.message.clone(),
            node: some(&event.node),
            epoch: event.epoch,
        }
    }
}

/// `seal show`.
#[derive(Debug, Serialize)]
pub(crate) struct Seal {
    active_key: u32,
    key_file_fingerprint: String,
    keys: Vec<DataKey>,
}

#[derive(Debug, Serialize)]
struct DataKey {
    id: u32,
    created_at: Option<Timestamp>,
    records: u32,
}

impl From<&v1::SealDetail> for Seal {
    fn from(seal: &v1::SealDetail) -> Self {
        let keys = seal.keys.iter().map(|key| DataKey {
            id: key.id,
            created_at: from_timestamp(key.created_at.as_ref()),
            records: key.records,
        });
        Self {
            active_key: seal.active_key,
            key_file_fingerprint: seal.key_file_fingerprint.clone(),
            keys: keys.collect(),
        }
    }
}

/// `seal rotate`.
#[derive(Debug, Serialize)]
pub(crate) struct Rotation {
    pub(crate) active_key: u32,
}

/// Protobuf's empty text is no text.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
