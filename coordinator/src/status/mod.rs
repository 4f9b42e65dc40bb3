//! The one read model: what is so, as the CLI, the metrics and the health checks tell it.
//!
//! Everything is made from the mirror, the lease, and who is connected, at the moment of the
//! question. Nothing is kept up to date in between, so nothing can be stale, and an object that was
//! deleted is gone from every answer at once.

use std::{sync::Arc, time::Duration};

use chancery_proto::v1::{AgentCounts, CertificateCounts, DeploymentCounts, StatusResponse};
use chancery_shared::{
    clock::{Monotonic, SharedClock},
    name::NodeName,
    number::{Epoch, Revision},
    wire::to_timestamp,
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    election::Leadership,
    mirror::{Health, Mirror, View},
    record::DeploymentState,
};

mod agents;
mod budgets;
mod certificates;
mod drill;
mod figures;
mod index;
mod issuers;
mod leadership;
mod presence;
mod problems;

pub(crate) use certificates::revocation;
pub use figures::{CertificateFigure, FailingDeployment, Figures};
pub use presence::{Connected, Presence, Seen};

pub(crate) use drill::{Part, Window};
use index::Index;

/// Reads what is so.
pub struct Status {
    mirror: Arc<Mirror>,
    leadership: watch::Receiver<Option<Leadership>>,
    presence: Arc<Presence>,
    clock: SharedClock,
    about: About,
    started_at: Timestamp,
}

/// What does not change while the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The node.
    pub node: NodeName,
    /// What kind of store it uses, as [`crate::store::Store::kind`] says.
    pub store: &'static str,
    /// Chancery's version.
    pub version: &'static str,
}

/// How far a coordinator is with what it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// How long the store has not been followed; `None` while it is.
    pub lost_for: Option<Duration>,
    /// Why not.
    pub lost: Option<String>,
    /// The revision that the mirror shows.
    pub revision: Revision,
    /// Who leads, as far as the mirror shows it.
    pub leader: Option<(NodeName, Epoch)>,
}

impl Status {
    /// A read model over `mirror`. `leadership` is what [`crate::election::Election::subscribe`]
    /// returns.
    pub fn new(
        about: About,
        mirror: Arc<Mirror>,
        leadership: watch::Receiver<Option<Leadership>>,
        presence: Arc<Presence>,
        clock: SharedClock,
    ) -> Arc<Self> {
        let started_at = clock.now();
        Arc::new(Self { mirror, leadership, presence, clock, about, started_at })
    }

    /// Who is connected.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// What does not change while the process lives.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Why the store cannot be followed, if it cannot. What was last known is served all the same.
    pub fn store_lost(&self) -> Option<String> {
        match self.mirror.health() {
            Health::Following => None,
            Health::Lost { reason, .. } => Some(format!("the store cannot be followed: {reason}")),
        }
    }

    /// How far this coordinator is.
    pub fn readiness(&self) -> Readiness {
        let view = self.mirror.read();
        let leader = view.leader.as_ref().map(|leader| &leader.record);
        Readiness {
            lost_for: self.mirror.lost_for(),
            lost: self.store_lost(),
            revision: view.revision,
            leader: leader.map(|leader| (leader.node.clone(), leader.epoch)),
        }
    }

    /// Now, as leases are counted.
    pub(crate) fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// The overview, as far as this process knows: without what only the store and the other
    /// coordinators can tell.
    pub fn overview(&self) -> StatusResponse {
        let now = self.clock.now();
        let lease = self.lease();
        let lost = self.store_lost();
        let view = self.mirror.read();
        let index = Index::of(&view);
        let mut certificates: Vec<_> = view
            .certificates
            .keys()
            .filter_map(|name| certificates::summary(&view, &index, name, now))
            .collect();
        let problems = problems::list(&problems::Inputs {
            view: &view,
            presence: &self.presence,
            now,
            started_at: self.started_at,
            leaderless: !lease.held,
            store_lost: lost.as_deref(),
        });
        let counts = certificate_counts(&view, &certificates);
        // Those without a certificate first: nothing expires sooner than what is not there.
        certificates.sort_by_key(|summary| {
            (summary.not_after.as_ref().map(|at| at.seconds), summary.name.clone())
        });
        certificates.truncate(SOONEST);
        StatusResponse {
            node: self.about.node.to_string(),
            version: self.about.version.to_owned(),
            store: self.about.store.to_owned(),
            store_healthy: lost.is_none(),
            store_message: lost.unwrap_or_default(),
            lease: Some(lease),
            certificates: Some(counts),
            agents: Some(self.agent_counts(&view)),
            deployments: Some(deployment_counts(&view)),
            soonest: certificates,
            problems,
            started_at: Some(to_timestamp(self.started_at)),
            revision: view.revision.0,
            behind_for: self.mirror.lost_for().map(duration),
            store_health: None,
            members: Vec::new(),
        }
    }

    fn agent_counts(&self, view: &View) -> AgentCounts {
        let connected = view.agents.keys().filter(|name| self.presence.is_connected(name)).count();
        AgentCounts { total: count(view.agents.len()), connected: count(connected) }
    }
}

/// Valid, pending and expired exclude each other and add up to the total; failing ones
/// are among them.
fn certificate_counts(
    view: &View,
    summaries: &[chancery_proto::v1::CertificateSummary],
) -> CertificateCounts {
    let expired = summaries.iter().filter(|summary| summary.state == "expired").count();
    let pending = summaries.iter().filter(|summary| summary.not_after.is_none()).count();
    CertificateCounts {
        total: count(summaries.len()),
        valid: count(summaries.len() - expired - pending),
        pending: count(pending),
        failing: count(summaries.iter().filter(|summary| !summary.last_error.is_empty()).count()),
        expired: count(expired),
        orders_running: count(view.orders.len()),
    }
}

fn deployment_counts(view: &View) -> DeploymentCounts {
    let mut counts = DeploymentCounts::default();
    for (name, deployment) in view.deployments.values().flatten() {
        let deployment = &deployment.record;
        let newest = view.states.get(name).map(|state| state.record.generation);
        counts.total += 1;
        if deployment.state.is_failure() {
            counts.failed += 1;
        } else if deployment.state == DeploymentState::Withdrawn
            || newest.is_none_or(|newest| newest <= deployment.installed)
        {
            counts.installed += 1;
        } else {
            counts.in_progress += 1;
        }
    }
    counts
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// As protobuf's.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

const SOONEST: usize = 10;

#[cfg(test)]
mod tests;
