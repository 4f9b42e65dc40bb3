//! `cert renew --wait`: what is drawn on a terminal, and what is printed elsewhere.

use chancery_proto::v1::{CertificateDetail, DeploymentDetail};

use super::{
    View, deployment_state,
    text::{cut, printable},
};
use crate::follow::{Goal, Step, entitled};

/// The lines that are drawn over each other on a terminal: the stage with the seconds
/// that have passed, then the agents.
pub(crate) fn block(
    goal: &Goal,
    detail: &CertificateDetail,
    elapsed_secs: u64,
    view: &View,
) -> Vec<String> {
    let width = view.width.unwrap_or(u16::MAX);
    let name = detail.summary.as_ref().map(|summary| printable(&summary.name)).unwrap_or_default();
    let mut lines = vec![cut(
        &format!(
            "{name}  generation {}  {elapsed_secs:>3} s  {}",
            goal.generation,
            goal.stage(detail)
        ),
        width,
    )];
    // Those that are not done are worth the room.
    let mut agents: Vec<_> = entitled(detail).collect();
    agents.sort_by_key(|deployment| (goal.step(deployment) == Step::Done, &deployment.agent));
    for deployment in agents.iter().take(MOST_AGENTS) {
        let line = cut(&format!("  {}", agent_line(goal, deployment)), width);
        lines.push(match goal.step(deployment) {
            Step::Done => view.paint.green(&line),
            Step::Failed => view.paint.red(&line),
            Step::Deploying => view.paint.yellow(&line),
            Step::Waiting => line,
        });
    }
    if agents.len() > MOST_AGENTS {
        lines.push(format!("  and {} more", agents.len() - MOST_AGENTS));
    }
    lines
}

/// What has changed since `before`, a line each, for where nothing can be drawn over.
pub(crate) fn changes(
    goal: &Goal,
    before: Option<&CertificateDetail>,
    after: &CertificateDetail,
    elapsed_secs: u64,
) -> Vec<String> {
    let mut lines = Vec::new();
    let stage = goal.stage(after);
    if before.is_none_or(|before| goal.stage(before) != stage) {
        lines.push(format!("{elapsed_secs:>4} s  {stage}"));
    }
    for deployment in entitled(after) {
        let line = agent_line(goal, deployment);
        let earlier = before
            .and_then(|before| entitled(before).find(|other| other.agent == deployment.agent))
            .map(|other| agent_line(goal, other));
        // Before the new generation is there, agents have nothing new to tell.
        let news = goal.step(deployment) != Step::Waiting;
        if news && earlier.is_none_or(|earlier| earlier != line) {
            lines.push(format!("{elapsed_secs:>4} s  {line}"));
        }
    }
    lines
}

fn agent_line(goal: &Goal, deployment: &DeploymentDetail) -> String {
    let report = deployment.report.clone().unwrap_or_default();
    let agent = printable(&deployment.agent);
    let away = if deployment.agent_connected { "" } else { " (not connected)" };
    match goal.step(deployment) {
        Step::Waiting if report.served_generation == 0 => format!("{agent}: waiting{away}"),
        Step::Waiting => format!("{agent}: serves generation {}{away}", report.served_generation),
        Step::Deploying => format!("{agent}: delivered{away}"),
        Step::Done => format!("{agent}: installed, serves generation {}", report.served_generation),
        Step::Failed => {
            let state = deployment_state(report.state());
            format!("{agent}: {state}{away}: {}", printable(&report.message))
        }
    }
}

/// Agents that are drawn; a terminal has about two dozen lines.
const MOST_AGENTS: usize = 12;

#[cfg(test)]
mod tests {
    use chancery_proto::v1::{DeploymentReport, DeploymentState};
    use insta::assert_snapshot;

    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_terminal_shows_stage_time_and_agents() {
        let detail = fixtures::certificate_detail();
        let lines = block(&Goal::new(8, 0), &detail, 7, &fixtures::view());
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
        assert_snapshot!(lines.join("\n"), @"
        www  generation 8    7 s  challenges presented; the CA validates
          web-1: serves generation 7
          web-2: probe-failed (not connected): 127.0.0.1:443 still serves the certifica…
        ");
    }

    #[test]
    fn a_big_fleet_does_not_scroll_the_terminal() {
        let mut detail = fixtures::certificate_detail();
        detail.deployments = vec![detail.deployments[0].clone(); 40];
        let lines = block(&Goal::new(8, 0), &detail, 7, &fixtures::view());
        assert_eq!(lines.len(), 1 + MOST_AGENTS + 1);
        assert_eq!(lines.last().unwrap(), "  and 28 more");
    }

    #[test]
    fn elsewhere_only_news_is_printed() {
        let goal = Goal::new(8, 0);
        let first = fixtures::certificate_detail();
        let mut second = first.clone();
        second.order = None;
        second.summary.as_mut().unwrap().generation = 8;
        let mut third = second.clone();
        third.deployments[0].report = Some(DeploymentReport {
            state: DeploymentState::Installed.into(),
            delivered_generation: 8,
            installed_generation: 8,
            served_generation: 8,
            ..DeploymentReport::default()
        });
        let mut lines = changes(&goal, None, &first, 0);
        lines.extend(changes(&goal, Some(&first), &first, 1));
        lines.extend(changes(&goal, Some(&first), &second, 2));
        lines.extend(changes(&goal, Some(&second), &third, 3));
        assert_snapshot!(lines.join("\n"), @"
        0 s  challenges presented; the CA validates
        0 s  web-2: probe-failed (not connected): 127.0.0.1:443 still serves the certificate with serial 03ab; rolled back
        2 s  issued; 0 of 2 agents serve it
        3 s  issued; 1 of 2 agents serve it
        3 s  web-1: installed, serves generation 8
        ");
    }
}
