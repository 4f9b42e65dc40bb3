//! What a person should look at: sentences that say what is wrong and where, most urgent first.

use std::time::Duration;

use chancery_shared::name::AgentName;
use jiff::Timestamp;

use super::{Presence, certificates::Known};
use crate::{mirror::View, record::Deployment};

/// What the list is made from.
pub(super) struct Inputs<'a> {
    pub(super) view: &'a View,
    pub(super) presence: &'a Presence,
    pub(super) now: Timestamp,
    pub(super) started_at: Timestamp,
    pub(super) leaderless: bool,
    pub(super) store_lost: Option<&'a str>,
}

/// All problems, most urgent first; a long list is cut, and says so.
pub(super) fn list(inputs: &Inputs<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(reason) = inputs.store_lost {
        problems.push(format!(
            "{reason}; agents are served what was last known, nothing is issued or changed"
        ));
    }
    if inputs.leaderless {
        problems.push("no coordinator leads: nothing is issued until one does".to_owned());
    }
    problems.extend(inputs.view.damaged.values().map(ToString::to_string));
    certificates(inputs, &mut problems);
    standbys(inputs, &mut problems);
    set_back(inputs, &mut problems);
    deployments(inputs, &mut problems);
    disconnected(inputs, &mut problems);
    if problems.len() > MOST {
        let more = problems.len() - MOST;
        problems.truncate(MOST);
        problems.push(format!("and {more} more"));
    }
    problems
}

/// Expired ones, then failing ones by how soon they expire.
fn certificates(inputs: &Inputs<'_>, problems: &mut Vec<String>) {
    let mut found = Vec::new();
    for name in inputs.view.certificates.keys() {
        let Some(known) = Known::of(inputs.view, name) else { continue };
        let reason = known.failure();
        let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let end = known.not_after();
        let sentence = match (end, reason) {
            (Some(end), _) if end <= inputs.now => {
                format!("certificate {name} expired {}{because}", ago(inputs.now, end))
            }
            (Some(end), _) if known.is_at_risk(inputs.now) => format!(
                "certificate {name} is at risk: it expires in {} and could not be renewed{because}",
                rough(inputs.now.duration_until(end).unsigned_abs()),
            ),
            (Some(end), Some(_)) => format!(
                "certificate {name} expires in {} and cannot be renewed{because}",
                rough(inputs.now.duration_until(end).unsigned_abs()),
            ),
            (None, Some(_)) => format!("certificate {name} cannot be issued{because}"),
            (_, None) => continue,
        };
        found.push((end, sentence));
    }
    // What was never issued sorts as the most urgent but the expired: nothing is served at all.
    found.sort_by_key(|(end, _)| end.unwrap_or(inputs.now));
    problems.extend(found.into_iter().map(|(_, sentence)| sentence));
}

/// Standbys that cannot be had. What is served is not affected.
fn standbys(inputs: &Inputs<'_>, problems: &mut Vec<String>) {
    for (name, standby) in &inputs.view.standbys {
        let spec = inputs.view.certificates.get(name).map(|spec| &spec.record);
        let state = &standby.record.state;
        let failure = state.last_failure.as_ref().filter(|_| state.failures > 0);
        if let (Some(_), Some(failure)) = (spec.and_then(|spec| spec.standby.as_ref()), failure) {
            let verb = if state.issued.is_some() { "renewed" } else { "issued" };
            let message = &failure.message;
            problems.push(format!("the standby of certificate {name} cannot be {verb}: {message}"));
        }
    }
}

/// Certificates of which agents have had later generations than the store knows. They keep those.
fn set_back(inputs: &Inputs<'_>, problems: &mut Vec<String>) {
    for name in inputs.view.certificates.keys() {
        let Some(known) = Known::of(inputs.view, name) else { continue };
        let present = known.state.map(|state| state.generation).unwrap_or_default();
        if let Some(delivered) = inputs.view.delivered(name).filter(|had| *had > present) {
            problems.push(format!(
                "agents have generation {delivered} of certificate {name}, the store knows only \
                 {present}: it is older than they are, as after a restore; they keep theirs until \
                 `chancery cert renew {name}` makes one that is newer than both"
            ));
        }
    }
}

fn deployments(inputs: &Inputs<'_>, problems: &mut Vec<String>) {
    for (agent, table) in &inputs.view.deployments {
        let mut failed = false;
        for deployment in table.values().map(|deployment| &*deployment.record) {
            if deployment.state.is_failure() {
                failed = true;
                problems.push(failed_deployment(agent, deployment));
            }
        }
        let services = inputs.view.services.get(agent).filter(|_| !failed);
        for service in services.iter().flat_map(|services| &services.record.services) {
            if !service.healthy {
                let (name, message) = (&service.name, or_unknown(&service.message));
                problems.push(format!("service {name} on agent {agent} is not well: {message}"));
            }
        }
    }
}

fn failed_deployment(agent: &AgentName, deployment: &Deployment) -> String {
    let Deployment { certificate, state, delivered, installed, failures, .. } = deployment;
    let what = match state {
        crate::record::DeploymentState::TestFailed => "failed the service's configuration test",
        crate::record::DeploymentState::ReloadFailed => "could not be reloaded and was rolled back",
        crate::record::DeploymentState::ProbeFailed => "was not served and was rolled back",
        _ => "could not be written",
    };
    let times = if *failures > 1 { format!(" {failures} times") } else { String::new() };
    format!(
        "agent {agent}: generation {delivered} of certificate {certificate} {what}{times} \
         (generation {installed} stands): {}",
        or_unknown(&deployment.message)
    )
}

/// Agents that hold certificates and have been away for longer than a reconnect takes.
fn disconnected(inputs: &Inputs<'_>, problems: &mut Vec<String>) {
    for agent in inputs.view.deployments.keys() {
        if !inputs.view.agents.contains_key(agent) || inputs.presence.is_connected(agent) {
            continue;
        }
        let seen = inputs.presence.of(agent).map(|seen| seen.last_seen);
        let since = seen.unwrap_or(inputs.started_at);
        if inputs.now.duration_since(since).unsigned_abs() < AWAY {
            continue;
        }
        let when = match seen {
            Some(at) => format!("(last seen {})", ago(inputs.now, at)),
            None => "and was not seen since this coordinator started".to_owned(),
        };
        problems.push(format!(
            "agent {agent} is disconnected {when}: it keeps what it has, but gets no renewals"
        ));
    }
}

fn or_unknown(message: &str) -> &str {
    if message.is_empty() { "the agent gave no reason" } else { message }
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", rough(now.duration_since(then).unsigned_abs()))
}

/// A duration in its largest unit that is at least two, for people.
fn rough(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (number, unit) = match secs {
        0..120 => (secs, "second"),
        120..7_200 => (secs / 60, "minute"),
        7_200..172_800 => (secs / 3_600, "hour"),
        _ => (secs / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

const MOST: usize = 50;
/// Longer than a reconnect after a restart of a coordinator takes.
const AWAY: Duration = Duration::from_mins(2);
