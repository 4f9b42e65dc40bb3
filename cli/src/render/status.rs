//! `status` and `lease show`.

use std::fmt::Write as _;

use chancery_proto::v1::{Lease, StatusResponse};
use chancery_shared::wire::from_timestamp;

use super::{
    View,
    table::{facts, section},
    text::{count, or_dash, printable},
    when,
};
use crate::render::cert;

/// All that a person should look at: what the coordinator says, and what its answer
/// shows though it does not say it. Empty when all is well.
pub(crate) fn problems(status: &StatusResponse) -> Vec<String> {
    let mut problems: Vec<_> = status.problems.iter().map(|problem| printable(problem)).collect();
    if !problems.is_empty() {
        return problems;
    }
    if !status.store_healthy {
        problems.push(format!("the store is not healthy: {}", printable(&status.store_message)));
    }
    if !status.lease.as_ref().is_some_and(|lease| lease.held) {
        problems.push("nobody holds the lease, so nothing is renewed".to_owned());
    }
    let certificates = status.certificates.unwrap_or_default();
    let failed = status.deployments.unwrap_or_default().failed;
    for (number, noun, remedy) in [
        (certificates.expired, "certificate has expired", "chancery cert list"),
        (certificates.failing, "certificate fails to renew", "chancery cert list"),
        (failed, "deployment has failed", "chancery agent list"),
    ] {
        if number > 0 {
            let noun = if number == 1 { noun.to_owned() } else { plural(noun) };
            problems.push(format!("{number} {noun}: see {remedy}"));
        }
    }
    problems
}

/// `certificate has expired` -> `certificates have expired`.
fn plural(phrase: &str) -> String {
    phrase.replacen(' ', "s ", 1).replacen(" has ", " have ", 1).replacen(" fails ", " fail ", 1)
}

/// The page of `chancery status`.
pub(crate) fn status(status: &StatusResponse, problems: &[String], view: &View) -> String {
    let mut page = facts(view, overview(status, view));
    page.push('\n');
    if !status.soonest.is_empty() {
        let body = cert::summaries(&status.soonest, view);
        page.push_str(&section(view, "Soonest to expire", &body));
    }
    if problems.is_empty() {
        let _ = writeln!(page, "\n{}", view.paint.green("All is well."));
    } else {
        let lines: Vec<_> =
            problems.iter().map(|problem| format!("{} {problem}", view.paint.red("!"))).collect();
        page.push_str(&section(view, "Needs attention", &lines.join("\n")));
    }
    page
}

fn overview(status: &StatusResponse, view: &View) -> Vec<(&'static str, String)> {
    let certificates = status.certificates.unwrap_or_default();
    let agents = status.agents.unwrap_or_default();
    let deployments = status.deployments.unwrap_or_default();
    let up = from_timestamp(status.started_at.as_ref())
        .map(|at| format!(", up {}", when::span(at.duration_until(view.now))))
        .unwrap_or_default();
    let store = if status.store_healthy {
        format!("{}, healthy, revision {}", printable(&status.store), status.revision)
    } else {
        format!("{}, NOT HEALTHY: {}", printable(&status.store), or_dash(&status.store_message))
    };
    let orders = match certificates.orders_running {
        0 => String::new(),
        running => format!("; {} running", count(running as usize, "order")),
    };
    vec![
        (
            "Coordinator",
            format!("{}, version {}{up}", printable(&status.node), printable(&status.version)),
        ),
        ("Store", store),
        (
            "Lease",
            status.lease.as_ref().map_or_else(|| "-".to_owned(), |lease| holder(lease, view)),
        ),
        (
            "Certificates",
            format!(
                "{}: {} valid, {} pending, {} failing, {} expired{orders}",
                certificates.total,
                certificates.valid,
                certificates.pending,
                certificates.failing,
                certificates.expired
            ),
        ),
        ("Agents", format!("{} of {} connected", agents.connected, agents.total)),
        (
            "Deployments",
            format!(
                "{} of {} installed, {} in progress, {} failed",
                deployments.installed,
                deployments.total,
                deployments.in_progress,
                deployments.failed
            ),
        ),
    ]
}

/// The lease in one line.
fn holder(lease: &Lease, view: &View) -> String {
    if !lease.held {
        return format!("held by nobody; the last epoch was {}", lease.epoch);
    }
    let itself = if lease.is_self { " (this one)" } else { "" };
    let since = from_timestamp(lease.since.as_ref())
        .map(|at| format!(", for {}", when::span(at.duration_until(view.now))))
        .unwrap_or_default();
    format!("{}{itself}, epoch {}{since}", printable(&lease.holder), lease.epoch)
}

/// The page of `chancery lease show`.
pub(crate) fn lease(lease: &Lease, view: &View) -> String {
    let seconds = |duration| {
        when::seconds(duration).map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
    };
    let rows = if lease.held {
        let itself = if lease.is_self { " (this coordinator)" } else { "" };
        vec![
            ("Holder", format!("{}{itself}", printable(&lease.holder))),
            ("Epoch", lease.epoch.to_string()),
            ("Since", when::both(lease.since.as_ref(), view.now)),
            ("Renewed", when::both(lease.last_renewed.as_ref(), view.now)),
            (
                "Remaining",
                format!("{} of {}", seconds(lease.remaining.as_ref()), seconds(lease.ttl.as_ref())),
            ),
        ]
    } else {
        vec![("Holder", "nobody".to_owned()), ("Last epoch", lease.epoch.to_string())]
    };
    facts(view, rows)
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn a_healthy_fleet() {
        let answer = fixtures::status();
        let problems = problems(&answer);
        assert_snapshot!(status(&answer, &problems, &fixtures::view()), @"
        Coordinator   node-1, version 0.1.0, up 3 d
        Store         embedded, healthy, revision 1234
        Lease         node-1 (this one), epoch 7, for 3 h
        Certificates  12: 11 valid, 1 pending, 0 failing, 0 expired; 1 order running
        Agents        3 of 4 connected
        Deployments   11 of 12 installed, 1 in progress, 0 failed

        Soonest to expire
        NAME  STATE  EXPIRES               RENEWS   AGENTS  ISSUER
        www   valid  in 30 d (2026-12-22)  in 90 s  1/2     letsencrypt

        All is well.
        ");
        assert_json_snapshot!(json::Status::new(&answer, problems), @r#"
        {
          "node": "node-1",
          "version": "0.1.0",
          "started_at": "2026-11-19T05:00:00Z",
          "revision": 1234,
          "healthy": true,
          "store": {
            "kind": "embedded",
            "healthy": true,
            "message": null
          },
          "lease": {
            "held": true,
            "holder": "node-1",
            "epoch": 7,
            "since": "2026-11-22T02:00:00Z",
            "ttl_seconds": 5.0,
            "remaining_seconds": 4.25,
            "last_renewed": "2026-11-22T04:59:59Z",
            "is_self": true
          },
          "certificates": {
            "total": 12,
            "valid": 11,
            "pending": 1,
            "failing": 0,
            "expired": 0,
            "orders_running": 1
          },
          "agents": {
            "total": 4,
            "connected": 3
          },
          "deployments": {
            "total": 12,
            "installed": 11,
            "in_progress": 1,
            "failed": 0
          },
          "soonest": [
            {
              "name": "www",
              "identifiers": [
                "www.example.org",
                "example.org"
              ],
              "state": "valid",
              "generation": 7,
              "not_before": "2026-09-23T05:00:00Z",
              "not_after": "2026-12-22T05:00:00Z",
              "renew_at": "2026-11-22T05:01:30Z",
              "issuer": "letsencrypt",
              "agents_entitled": 2,
              "agents_installed": 1,
              "last_error": null
            }
          ],
          "problems": []
        }
        "#);
    }

    #[test]
    fn what_needs_attention_stands_last_where_the_eye_ends() {
        let mut answer = fixtures::status();
        answer.store_healthy = false;
        answer.store_message = "disk full".to_owned();
        answer.lease = Some(Lease { epoch: 7, ..Lease::default() });
        answer.certificates.as_mut().unwrap().expired = 2;
        answer.deployments.as_mut().unwrap().failed = 1;
        assert_snapshot!(status(&answer, &problems(&answer), &fixtures::view()), @"
        Coordinator   node-1, version 0.1.0, up 3 d
        Store         embedded, NOT HEALTHY: disk full
        Lease         held by nobody; the last epoch was 7
        Certificates  12: 11 valid, 1 pending, 0 failing, 2 expired; 1 order running
        Agents        3 of 4 connected
        Deployments   11 of 12 installed, 1 in progress, 1 failed

        Soonest to expire
        NAME  STATE  EXPIRES               RENEWS   AGENTS  ISSUER
        www   valid  in 30 d (2026-12-22)  in 90 s  1/2     letsencrypt

        Needs attention
        ! the store is not healthy: disk full
        ! nobody holds the lease, so nothing is renewed
        ! 2 certificates have expired: see chancery cert list
        ! 1 deployment has failed: see chancery agent list
        ");
        answer.problems = vec!["certificate api\nhas expired".to_owned()];
        assert_eq!(problems(&answer), ["certificate api has expired"]);
    }

    #[test]
    fn a_lease_that_is_held() {
        let lease_held = fixtures::lease();
        assert_snapshot!(lease(&lease_held, &fixtures::view()), @"
        Holder     node-1 (this coordinator)
        Epoch      7
        Since      3 h ago (2026-11-22 02:00Z)
        Renewed    1 s ago (2026-11-22 04:59:59Z)
        Remaining  4.2 s of 5.0 s
        ");
        assert_json_snapshot!(json::Lease::from(&lease_held), @r#"
        {
          "held": true,
          "holder": "node-1",
          "epoch": 7,
          "since": "2026-11-22T02:00:00Z",
          "ttl_seconds": 5.0,
          "remaining_seconds": 4.25,
          "last_renewed": "2026-11-22T04:59:59Z",
          "is_self": true
        }
        "#);
    }

    #[test]
    fn a_lease_that_nobody_holds() {
        let free = Lease { epoch: 7, ..Lease::default() };
        assert_snapshot!(lease(&free, &fixtures::view()), @"
        Holder      nobody
        Last epoch  7
        ");
        assert_json_snapshot!(json::Lease::from(&free), @r#"
        {
          "held": false,
          "holder": null,
          "epoch": 7,
          "since": null,
          "ttl_seconds": null,
          "remaining_seconds": null,
          "last_renewed": null,
          "is_self": false
        }
        "#);
    }
}
