//! `cert list`, `cert show` and `cert renew`.

use std::collections::BTreeMap;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::some;
use crate::render::deployment_state;

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
pub(super) struct Certificate {
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
    reuse_key: bool,
    key_ahead: bool,
    profile: Option<String>,
    issuers: Vec<String>,
    standby: Option<Standby>,
    challenges: Vec<String>,
    labels: BTreeMap<String, String>,
    renew: Option<RenewTimes>,
    serial: Option<String>,
    fingerprint: Option<String>,
    public_key_sha256: Option<String>,
    next_public_key_sha256: Option<String>,
    issued_by: Option<String>,
    decision: Option<String>,
    decision_code: Option<String>,
    renew_requests: u64,
    failures: u32,
    next_attempt: Option<Timestamp>,
    last_problem: Option<AcmeProblem>,
    order: Option<Order>,
    revocations: Vec<Revocation>,
    deployments: Vec<AgentDeployment>,
    chain_pem: Option<String>,
}

impl From<&v1::CertificateDetail> for CertificateDetail {
    fn from(detail: &v1::CertificateDetail) -> Self {
        let spec = detail.spec.clone().unwrap_or_default();
        Self {
            summary: detail.summary.as_ref().map(Certificate::from).unwrap_or_default(),
            key_type: some(&spec.key_type),
            reuse_key: spec.reuse_key,
            key_ahead: spec.key_ahead,
            profile: some(&spec.profile),
            issuers: spec.issuers,
            standby: detail.standby.as_ref().map(Standby::from),
            challenges: spec.challenges,
            labels: spec.labels,
            renew: spec.renew.as_ref().map(RenewTimes::from),
            serial: some(&detail.serial),
            fingerprint: some(&detail.fingerprint),
            public_key_sha256: some(&detail.public_key_sha256),
            next_public_key_sha256: some(&detail.next_public_key_sha256),
            issued_by: some(&detail.issued_by),
            decision: some(&detail.decision),
            decision_code: some(&detail.decision_code),
            renew_requests: detail.renew_requests,
            failures: detail.failures,
            next_attempt: from_timestamp(detail.next_attempt.as_ref()),
            last_problem: detail.last_problem.as_ref().map(AcmeProblem::from),
            order: detail.order.as_ref().map(Order::from),
            revocations: detail.revocations.iter().map(Revocation::from).collect(),
            deployments: detail.deployments.iter().map(AgentDeployment::from).collect(),
            chain_pem: some(&detail.chain_pem),
        }
    }
}

/// What a CA last said against it (RFC 8555 section 6.7).
#[derive(Debug, Serialize)]
struct AcmeProblem {
    at: Option<Timestamp>,
    r#type: Option<String>,
    detail: Option<String>,
    status: Option<u32>,
    subproblems: Vec<AcmeSubproblem>,
    /// Subproblems that are not kept.
    left_out: u32,
}

#[derive(Debug, Serialize)]
struct AcmeSubproblem {
    identifier: Option<String>,
    r#type: Option<String>,
    detail: Option<String>,
}

impl From<&v1::AcmeProblem> for AcmeProblem {
    fn from(problem: &v1::AcmeProblem) -> Self {
        let subproblems = problem.subproblems.iter().map(|one| AcmeSubproblem {
            identifier: some(&one.identifier),
            r#type: some(&one.r#type),
            detail: some(&one.detail),
        });
        Self {
            at: from_timestamp(problem.at.as_ref()),
            r#type: some(&problem.r#type),
            detail: some(&problem.detail),
            status: (problem.status > 0).then_some(problem.status),
            subproblems: subproblems.collect(),
            left_out: problem.left_out,
        }
    }
}

/// When it may be renewed.
#[derive(Debug, Serialize)]
struct RenewTimes {
    windows: Vec<String>,
    time_zone: String,
    jitter_seconds: Option<i64>,
}

impl From<&v1::RenewTimes> for RenewTimes {
    fn from(renew: &v1::RenewTimes) -> Self {
        Self {
            windows: renew.windows.clone(),
            time_zone: renew.time_zone.clone(),
            jitter_seconds: renew.jitter.map(|jitter| jitter.seconds),
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
    standby: bool,
}

#[derive(Debug, Serialize)]
struct Standby {
    issuer: String,
    ready: bool,
    message: Option<String>,
    generation: Option<u64>,
    serial: Option<String>,
    fingerprint: Option<String>,
    public_key_sha256: Option<String>,
    issued_by: Option<String>,
    not_after: Option<Timestamp>,
    renew_at: Option<Timestamp>,
    decision: Option<String>,
    failures: u32,
    last_error: Option<String>,
}

impl From<&v1::StandbyDetail> for Standby {
    fn from(standby: &v1::StandbyDetail) -> Self {
        Self {
            issuer: standby.issuer.clone(),
            ready: standby.ready,
            message: some(&standby.message),
            generation: (standby.generation > 0).then_some(standby.generation),
            serial: some(&standby.serial),
            fingerprint: some(&standby.fingerprint),
            public_key_sha256: some(&standby.public_key_sha256),
            issued_by: some(&standby.issued_by),
            not_after: from_timestamp(standby.not_after.as_ref()),
            renew_at: from_timestamp(standby.renew_at.as_ref()),
            decision: some(&standby.decision),
            failures: standby.failures,
            last_error: some(&standby.last_error),
        }
    }
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
            standby: order.standby,
        }
    }
}

/// A revocation of one bundle.
#[derive(Debug, Serialize)]
struct Revocation {
    generation: u64,
    serial: String,
    issuer: String,
    reason: String,
    state: String,
    message: Option<String>,
    requested_at: Option<Timestamp>,
    requested_by: String,
    ended_at: Option<Timestamp>,
}

impl From<&v1::Revocation> for Revocation {
    fn from(revocation: &v1::Revocation) -> Self {
        Self {
            generation: revocation.generation,
            serial: revocation.serial.clone(),
            issuer: revocation.issuer.clone(),
            reason: revocation.reason.clone(),
            state: revocation.state.clone(),
            message: some(&revocation.message),
            requested_at: from_timestamp(revocation.requested_at.as_ref()),
            requested_by: revocation.requested_by.clone(),
            ended_at: from_timestamp(revocation.ended_at.as_ref()),
        }
    }
}

/// `cert revoke`.
#[derive(Debug, Serialize)]
pub(crate) struct RevocationOf {
    name: String,
    #[serde(flatten)]
    revocation: Revocation,
    /// Whether a new bundle is made in its place.
    replaced: bool,
}

impl RevocationOf {
    pub(crate) fn new(name: &str, revocation: &v1::Revocation) -> Self {
        let replaced = revocation.replaced;
        Self { name: name.to_owned(), revocation: Revocation::from(revocation), replaced }
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

/// How far one certificate has come on one agent.
#[derive(Debug, Serialize)]
pub(super) struct Deployment {
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

/// `cert switch`.
#[derive(Debug, Serialize)]
pub(crate) struct Switch {
    pub(crate) name: String,
    /// The generation that the standby has become, or becomes.
    pub(crate) generation: u64,
    pub(crate) switched: bool,
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
