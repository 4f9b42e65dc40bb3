//! The figures behind the metrics.

use std::collections::BTreeMap;

use super::{Status, certificates::Known};
use crate::record::DeploymentState;

/// What is so, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// One for each certificate that was issued.
    pub certificates: Vec<CertificateFigure>,
    /// Declared certificates.
    pub declared: usize,
    /// Certificates that are due or overdue.
    pub due: usize,
    /// Certificates whose last order failed.
    pub failing: usize,
    /// Certificates that are near their end and that could not be renewed.
    pub at_risk: usize,
    /// Orders in the journal.
    pub orders_running: usize,
    /// Whether this coordinator leads.
    pub leads: bool,
    /// The epoch of the present term, whoever leads.
    pub epoch: u64,
    /// How long this coordinator's lease has to run, in seconds; 0 if it does not lead.
    pub lease_remaining_secs: f64,
    /// Agents that have a stream open to this coordinator.
    pub connected_here: usize,
    /// Agents, by state: `joined`, `connected`, `disconnected`, as far as this coordinator has been
    /// told by the others.
    pub agents: BTreeMap<String, usize>,
    /// Deployments, by state; all states are there.
    pub deployments: BTreeMap<&'static str, usize>,
    /// Deployments that have failed; at most 200.
    pub failing_deployments: Vec<FailingDeployment>,
    /// Whether the store is being followed.
    pub store_followed: bool,
    /// How long the store has not been followed, in seconds; 0 while it is.
    pub mirror_age_secs: f64,
    /// Records that cannot be read.
    pub damaged_records: usize,
    /// The revision that the mirror shows.
    pub revision: u64,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFigure {
    /// Its name.
    pub name: String,
    /// End of validity, in seconds since 1970.
    pub not_after_secs: i64,
    /// Generation of its newest bundle.
    pub generation: u64,
}

/// A deployment that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingDeployment {
    /// The agent.
    pub agent: String,
    /// The certificate.
    pub certificate: String,
    /// How.
    pub state: DeploymentState,
}

impl Status {
    /// What is so, in numbers.
    pub fn figures(&self) -> Figures {
        let now = self.clock.now();
        let lease = self.lease();
        let mut figures = Figures {
            leads: lease.is_self,
            epoch: lease.epoch,
            lease_remaining_secs: lease.remaining.map_or(0.0, |remaining| {
                std::time::Duration::try_from(remaining).unwrap_or_default().as_secs_f64()
            }),
            store_followed: self.store_lost().is_none(),
            mirror_age_secs: self.mirror.lost_for().unwrap_or_default().as_secs_f64(),
            connected_here: self.presence.connected_here(),
            agents: ["joined", "connected", "disconnected"].map(|s| (s.to_owned(), 0)).into(),
            deployments: DeploymentState::ALL.map(|state| (state.name(), 0)).into(),
            ..Figures::default()
        };
        for agent in self.agents() {
            *figures.agents.entry(agent.state).or_default() += 1;
        }
        let view = self.mirror.read();
        figures.declared = view.certificates.len();
        figures.orders_running = view.orders.len();
        figures.damaged_records = view.damaged.len();
        figures.revision = view.revision.0;
        for name in view.certificates.keys() {
            let Some(known) = Known::of(&view, name) else { continue };
            figures.due += usize::from(known.decide(now).is_due(now));
            figures.failing += usize::from(known.failure().is_some());
            figures.at_risk += usize::from(known.is_at_risk(now));
            if let Some(not_after) = known.not_after() {
                figures.certificates.push(CertificateFigure {
                    name: name.to_string(),
                    not_after_secs: not_after.as_second(),
                    generation: known.state.map_or(0, |state| state.generation.0),
                });
            }
        }
        for (agent, table) in &view.deployments {
            for (certificate, deployment) in table {
                let state = deployment.record.state;
                *figures.deployments.entry(state.name()).or_default() += 1;
                if state.is_failure() && figures.failing_deployments.len() < MAX_FAILING {
                    figures.failing_deployments.push(FailingDeployment {
                        agent: agent.to_string(),
                        certificate: certificate.to_string(),
                        state,
                    });
                }
            }
        }
        figures
    }
}

/// So that a broken fleet does not flood the monitoring as well; the number of failures is
/// in [`Figures::deployments`] all the same.
const MAX_FAILING: usize = 200;
