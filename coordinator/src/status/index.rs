//! What many answers need, gathered in one pass over the view.

use std::collections::HashMap;

use chancery_shared::name::AgentName;

use crate::{
    mirror::View,
    record::{Agent, CertificateSpec, DeploymentState},
};

/// Agents by label, and installations by certificate.
pub(super) struct Index<'a> {
    by_label: HashMap<(&'a str, &'a str), Vec<(&'a AgentName, &'a Agent)>>,
    installed: HashMap<&'a str, u32>,
}

impl<'a> Index<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for (name, agent) in &view.agents {
            for label in agent.record.labels.iter() {
                by_label.entry(label).or_default().push((name, &*agent.record));
            }
        }
        let mut installed = HashMap::new();
        for (name, deployment) in view.deployments.values().flatten() {
            let newest = view.states.get(name).map(|state| state.record.generation);
            let deployment = &deployment.record;
            if deployment.state == DeploymentState::Installed
                && newest.is_some_and(|newest| newest <= deployment.installed)
            {
                *installed.entry(name.as_str()).or_default() += 1;
            }
        }
        Self { by_label, installed }
    }

    /// The agents that may have a certificate.
    pub(super) fn entitled(
        &self,
        spec: &'a CertificateSpec,
    ) -> impl Iterator<Item = &'a AgentName> {
        let first = spec.labels.iter().next();
        let candidates = first.and_then(|label| self.by_label.get(&label));
        candidates
            .into_iter()
            .flatten()
            .filter(|(_, agent)| agent.labels.satisfy(&spec.labels))
            .map(|(name, _)| *name)
    }

    /// On how many agents the newest generation of a certificate is installed.
    pub(super) fn installed(&self, certificate: &str) -> u32 {
        self.installed.get(certificate).copied().unwrap_or_default()
    }
}
