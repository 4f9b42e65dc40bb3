//! What a coordinator is told: a view of the records, rebuilt whole after each change.

use std::{collections::BTreeMap, fs};

use chancery_proto::v1::{
    AgentInfo, DeploymentReport, DeploymentState, KnownBundle, ReportRequest, ServiceReport,
};
use chancery_shared::{
    name::{CertName, ServiceName},
    number::Generation,
    wire,
};

use crate::{
    bundle::Brief,
    config::Config,
    state::{CertRecord, Phase, ServiceRecord, State},
};

/// What the connection needs to know of the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) report: ReportRequest,
    /// What is in the cache.
    pub(crate) known: Vec<KnownBundle>,
}

impl Snapshot {
    pub(crate) fn of(state: &State, config: &Config, wanted: &BTreeMap<CertName, Brief>) -> Self {
        let deployment = |(name, record)| deployment(name, record, config);
        let known = |(name, brief): (&CertName, &Brief)| KnownBundle {
            certificate: name.as_str().to_owned(),
            generation: brief.generation.0,
        };
        Self {
            report: ReportRequest {
                deployments: state.certificates.iter().map(deployment).collect(),
                services: state.services.iter().map(service).collect(),
                info: Some(info()),
            },
            known: wanted.iter().map(known).collect(),
        }
    }
}

/// What the agent says of itself.
pub(crate) fn info() -> AgentInfo {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: hostname.trim().to_owned(),
    }
}

fn deployment(name: &CertName, record: &CertRecord, config: &Config) -> DeploymentReport {
    let services = config.services_of(name);
    let seen = |service| record.active.get(service).map_or(Generation(0), |seen| seen.generation);
    // As long as one service lags behind, the certificate does.
    let served = services.iter().map(seen).min().unwrap_or(record.installed);
    let state = match record.phase {
        Phase::Delivered => DeploymentState::Delivered,
        Phase::Installed => DeploymentState::Installed,
        Phase::InstallFailed => DeploymentState::InstallFailed,
        Phase::TestFailed => DeploymentState::TestFailed,
        Phase::ReloadFailed => DeploymentState::ReloadFailed,
        Phase::ProbeFailed => DeploymentState::ProbeFailed,
        Phase::Withdrawn => DeploymentState::Withdrawn,
    };
    DeploymentReport {
        certificate: name.as_str().to_owned(),
        state: state.into(),
        // Whatever somebody did to the files: what is there was delivered once.
        delivered_generation: record.delivered.max(record.installed).max(served).0,
        installed_generation: record.installed.0,
        served_generation: served.0,
        message: record.message.clone(),
        changed_at: Some(wire::to_timestamp(record.changed_at)),
        failures: record.failures,
    }
}

fn service((name, record): (&ServiceName, &ServiceRecord)) -> ServiceReport {
    ServiceReport {
        service: name.as_str().to_owned(),
        healthy: record.healthy,
        message: record.message.clone(),
        changed_at: Some(wire::to_timestamp(record.changed_at)),
        reloads: record.reloads,
    }
}
