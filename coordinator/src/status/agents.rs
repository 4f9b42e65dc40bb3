//! Agents as operators see them.

use chancery_proto::v1::{
    AgentDetail, AgentInfo, AgentSummary, DeploymentReport, DeploymentState as WireState,
    ServiceReport,
};
use chancery_shared::{name::AgentName, wire::to_timestamp};

use super::{Status, count};
use crate::{
    mirror::View,
    record::{Agent, Deployment, DeploymentState, Service},
};

impl Status {
    /// All agents, by name.
    pub fn agents(&self) -> Vec<AgentSummary> {
        let view = self.mirror.read();
        let agents = view.agents.iter();
        agents.map(|(name, agent)| self.agent_summary(&view, name, &agent.record)).collect()
    }

    /// One agent; `None` if there is none of that name.
    pub fn agent(&self, name: &AgentName) -> Option<AgentDetail> {
        let view = self.mirror.read();
        let agent = &view.agents.get(name)?.record;
        let deployments = view.deployments.get(name).into_iter().flat_map(|table| table.values());
        let services = view.services.get(name).map(|services| services.record.services.as_slice());
        Some(AgentDetail {
            summary: Some(self.agent_summary(&view, name, agent)),
            identity_not_after: Some(to_timestamp(agent.identity.not_after)),
            identity_serial: agent.identity.serial.clone(),
            deployments: deployments
                .map(|deployment| deployment_report(&deployment.record))
                .collect(),
            services: services.unwrap_or_default().iter().map(service_report).collect(),
            entitled: view.entitlement(agent).map(ToString::to_string).collect(),
        })
    }

    fn agent_summary(&self, view: &View, name: &AgentName, agent: &Agent) -> AgentSummary {
        let seen = self.presence.of(name);
        let deployments = view.deployments.get(name);
        let of = |matches: fn(DeploymentState) -> bool| {
            let all = deployments.into_iter().flat_map(|table| table.values());
            count(all.filter(|deployment| matches(deployment.record.state)).count())
        };
        let state = if seen.is_some_and(|seen| seen.streams > 0) {
            "connected"
        } else if seen.is_some() || deployments.is_some() {
            "disconnected"
        } else {
            "joined"
        };
        AgentSummary {
            name: name.to_string(),
            labels: agent.labels.to_map(),
            state: state.to_owned(),
            last_seen: seen.map(|seen| to_timestamp(seen.last_seen)),
            info: Some(AgentInfo {
                version: agent.version.clone(),
                hostname: agent.hostname.clone(),
            }),
            certificates: count(view.entitlement(agent).count()),
            installed: of(|state| state == DeploymentState::Installed),
            failed: of(DeploymentState::is_failure),
            joined_at: Some(to_timestamp(agent.joined_at)),
        }
    }
}

/// A deployment as it goes over the wire.
pub(crate) fn deployment_report(deployment: &Deployment) -> DeploymentReport {
    DeploymentReport {
        certificate: deployment.certificate.to_string(),
        state: wire_state(deployment.state).into(),
        delivered_generation: deployment.delivered.0,
        installed_generation: deployment.installed.0,
        served_generation: deployment.served.0,
        message: deployment.message.clone(),
        changed_at: Some(to_timestamp(deployment.changed_at)),
        failures: deployment.failures,
    }
}

fn service_report(service: &Service) -> ServiceReport {
    ServiceReport {
        service: service.name.to_string(),
        healthy: service.healthy,
        message: service.message.clone(),
        changed_at: Some(to_timestamp(service.changed_at)),
        reloads: service.reloads,
    }
}

const fn wire_state(state: DeploymentState) -> WireState {
    match state {
        DeploymentState::Delivered => WireState::Delivered,
        DeploymentState::Installed => WireState::Installed,
        DeploymentState::InstallFailed => WireState::InstallFailed,
        DeploymentState::TestFailed => WireState::TestFailed,
        DeploymentState::ReloadFailed => WireState::ReloadFailed,
        DeploymentState::ProbeFailed => WireState::ProbeFailed,
        DeploymentState::Withdrawn => WireState::Withdrawn,
    }
}
