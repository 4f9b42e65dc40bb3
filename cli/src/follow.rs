//! Pure: whether a renewal that one waits for has come to its end.
//!
//! It has when the wanted generation is there and every agent that is entitled to it
//! serves it. It has failed when an order failed since we began to look, or when
//! agents could not deploy that very generation and no other agent is still at it. The
//! coordinator and the agents go on trying after that; who waits wants to know now.

use chancery_proto::v1::{CertificateDetail, DeploymentDetail, DeploymentState};

use crate::render::text::{count, printable};

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The generation that the renewal becomes.
    pub(crate) generation: u64,
    /// Failures in a row that there had been before.
    failures_before: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not at its end.
    Running,
    /// Served by all that should serve it.
    Installed,
    /// Why not, for a person.
    Failed(String),
}

/// How far one agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has not got the wanted generation.
    Waiting,
    /// It has got it and is at it.
    Deploying,
    /// It serves it.
    Done,
    /// It tried, and failed.
    Failed,
}

impl Goal {
    /// Waits for `generation` of a certificate that had failed `failures_before` times
    /// in a row.
    pub(crate) fn new(generation: u64, failures_before: u32) -> Self {
        Self { generation, failures_before }
    }

    /// Looks at the newest state. Call it for each state in turn.
    pub(crate) fn judge(&mut self, detail: &CertificateDetail) -> Verdict {
        // A renewal that was asked for may wipe the slate: count from the lowest seen.
        self.failures_before = self.failures_before.min(detail.failures);
        let summary = detail.summary.clone().unwrap_or_default();
        if summary.generation < self.generation {
            if detail.failures > self.failures_before {
                return Verdict::Failed(format!(
                    "the order failed: {}",
                    printable(&summary.last_error)
                ));
            }
            return Verdict::Running;
        }
        let steps: Vec<_> =
            entitled(detail).map(|deployment| (self.step(deployment), deployment)).collect();
        let done = steps.iter().filter(|(step, _)| *step == Step::Done).count();
        let failed: Vec<_> = steps
            .iter()
            .filter(|(step, _)| *step == Step::Failed)
            .map(|(_, deployment)| failure_of(deployment))
            .collect();
        let expected = steps.len().max(summary.agents_entitled as usize);
        if done == expected {
            Verdict::Installed
        } else if !failed.is_empty() && done + failed.len() == expected {
            let agents = count(failed.len(), "agent");
            Verdict::Failed(format!("{agents} could not deploy it: {}", failed.join("; ")))
        } else {
            Verdict::Running
        }
    }

    /// How far one agent is with the wanted generation.
    pub(crate) fn step(&self, deployment: &DeploymentDetail) -> Step {
        let report = deployment.report.clone().unwrap_or_default();
        if report.delivered_generation < self.generation {
            return Step::Waiting;
        }
        match report.state() {
            DeploymentState::Installed if report.served_generation >= self.generation => Step::Done,
            DeploymentState::InstallFailed
            | DeploymentState::TestFailed
            | DeploymentState::ReloadFailed
            | DeploymentState::ProbeFailed => Step::Failed,
            _ => Step::Deploying,
        }
    }

    /// What happens now, in a few words.
    pub(crate) fn stage(&self, detail: &CertificateDetail) -> String {
        let summary = detail.summary.clone().unwrap_or_default();
        if summary.generation < self.generation {
            return match &detail.order {
                Some(order) => stage_in_words(&order.stage),
                None => "waiting for the order to begin".to_owned(),
            };
        }
        let done =
            entitled(detail).filter(|deployment| self.step(deployment) == Step::Done).count();
        match (done, entitled(detail).count().max(summary.agents_entitled as usize)) {
            (_, 0) => "issued; no agent is entitled to it".to_owned(),
            (done, all) => format!("issued; {done} of {} serve it", count(all, "agent")),
        }
    }

    /// Who is still missing, when the wait ends too early.
    pub(crate) fn missing(&self, detail: &CertificateDetail) -> String {
        if detail.summary.as_ref().is_none_or(|summary| summary.generation < self.generation) {
            return format!("it is not issued yet: {}", self.stage(detail));
        }
        let missing: Vec<_> = entitled(detail)
            .filter(|deployment| self.step(deployment) != Step::Done)
            .map(|deployment| {
                let away = if deployment.agent_connected { "" } else { " (not connected)" };
                format!("{}{away}", printable(&deployment.agent))
            })
            .collect();
        format!("it is issued, but not served by {}", missing.join(", "))
    }
}

/// The agents that should have the certificate.
pub(crate) fn entitled(detail: &CertificateDetail) -> impl Iterator<Item = &DeploymentDetail> {
    detail.deployments.iter().filter(|deployment| {
        deployment.report.as_ref().is_none_or(|report| report.state() != DeploymentState::Withdrawn)
    })
}

fn failure_of(deployment: &DeploymentDetail) -> String {
    let message = deployment.report.as_ref().map(|report| printable(&report.message));
    format!("{}: {}", printable(&deployment.agent), message.unwrap_or_default())
}

/// The journal's stages (RFC 8555 section 7.1.6 has the states behind them).
fn stage_in_words(stage: &str) -> String {
    match stage {
        "intended" => "placing the order",
        "placed" => "order placed; presenting the challenges",
        "presented" => "challenges presented; the CA validates",
        "validated" => "validated; finalizing",
        "finalized" => "finalized; the CA issues",
        "issued" => "issued; storing it",
        other => return printable(other),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use chancery_proto::v1::{CertificateSummary, DeploymentReport, OrderDetail};

    use super::*;

    fn detail(generation: u64, deployments: &[(DeploymentState, u64, u64)]) -> CertificateDetail {
        let deployments = deployments.iter().enumerate().map(|(i, (state, delivered, served))| {
            let report = DeploymentReport {
                state: (*state).into(),
                delivered_generation: *delivered,
                served_generation: *served,
                message: "nginx: no".to_owned(),
                ..DeploymentReport::default()
            };
            DeploymentDetail {
                agent: format!("web-{i}"),
                report: Some(report),
                agent_connected: i == 0,
            }
        });
        CertificateDetail {
            summary: Some(CertificateSummary { generation, ..CertificateSummary::default() }),
            deployments: deployments.collect(),
            ..CertificateDetail::default()
        }
    }

    use DeploymentState::{Delivered, Installed, ProbeFailed, Withdrawn};

    #[test]
    fn it_ends_when_every_entitled_agent_serves_it() {
        let mut goal = Goal::new(5, 0);
        for (state, expected) in [
            (detail(4, &[(Installed, 4, 4)]), Verdict::Running),
            (detail(5, &[(Installed, 4, 4)]), Verdict::Running),
            (detail(5, &[(Delivered, 5, 4)]), Verdict::Running),
            (detail(5, &[(Installed, 5, 4)]), Verdict::Running),
            (detail(5, &[(Installed, 5, 5), (Delivered, 5, 4)]), Verdict::Running),
            (detail(5, &[(Installed, 5, 5), (Withdrawn, 4, 4)]), Verdict::Installed),
            (detail(6, &[(Installed, 6, 6)]), Verdict::Installed),
            (detail(5, &[]), Verdict::Installed),
        ] {
            assert_eq!(goal.judge(&state), expected, "{state:?}");
        }
    }

    #[test]
    fn an_agent_that_has_not_reported_yet_is_waited_for() {
        let mut state = detail(5, &[(Installed, 5, 5)]);
        state.summary.as_mut().unwrap().agents_entitled = 2;
        assert_eq!(Goal::new(5, 0).judge(&state), Verdict::Running);
    }

    #[test]
    fn a_failure_of_the_generation_before_is_not_ours() {
        let mut goal = Goal::new(5, 0);
        assert_eq!(goal.judge(&detail(5, &[(ProbeFailed, 4, 3)])), Verdict::Running);
        let Verdict::Failed(why) = goal.judge(&detail(5, &[(ProbeFailed, 5, 4)])) else {
            panic!("a failed deployment is a failure");
        };
        assert_eq!(why, "1 agent could not deploy it: web-0: nginx: no");
        let others_at_it = detail(5, &[(ProbeFailed, 5, 4), (Delivered, 5, 4)]);
        assert_eq!(goal.judge(&others_at_it), Verdict::Running);
    }

    #[test]
    fn an_order_that_fails_while_we_look_is_a_failure() {
        let mut goal = Goal::new(5, 3);
        let mut state = detail(4, &[]);
        state.summary.as_mut().unwrap().last_error = "connection refused".to_owned();
        for (failures, running) in [(3, true), (0, true), (1, false)] {
            state.failures = failures;
            assert_eq!(goal.judge(&state) == Verdict::Running, running, "{failures}");
        }
        state.failures = 4;
        let failed = Verdict::Failed("the order failed: connection refused".to_owned());
        assert_eq!(Goal::new(5, 3).judge(&state), failed);
    }

    #[test]
    fn stages_are_told_in_words() {
        let goal = Goal::new(5, 0);
        let mut state = detail(4, &[]);
        assert_eq!(goal.stage(&state), "waiting for the order to begin");
        state.order = Some(OrderDetail { stage: "presented".to_owned(), ..OrderDetail::default() });
        assert_eq!(goal.stage(&state), "challenges presented; the CA validates");
        let state = detail(5, &[(Installed, 5, 5), (Delivered, 4, 4)]);
        assert_eq!(goal.stage(&state), "issued; 1 of 2 agents serve it");
        assert_eq!(goal.missing(&state), "it is issued, but not served by web-1 (not connected)");
        assert_eq!(goal.stage(&detail(5, &[])), "issued; no agent is entitled to it");
    }
}
