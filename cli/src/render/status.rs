//! `status`.

use std::fmt::Write as _;

use chancery_proto::v1::{Member, StatusResponse, StoreHealth};
use chancery_shared::wire::from_timestamp;

use super::{
    View, lease,
    table::{facts, section, table},
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
    if status.members.len() > 1 {
        page.push_str(&section(view, "Coordinators", &members(&status.members, view)));
    }
    if let Some(health) = status.store_health.as_ref().filter(|health| health.endpoints.len() > 1) {
        page.push_str(&section(view, "Store", &endpoints(health, view)));
    }
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

fn members(members: &[Member], view: &View) -> String {
    let header = ["NODE", "ROLE", "VERSION", "BEHIND", "UP", "ADDRESS"];
    table(view, &header, &[3], members.iter().map(|member| member_row(member, view)))
}

fn member_row(member: &Member, view: &View) -> Vec<String> {
    let itself = if member.is_self { " (this one)" } else { "" };
    let up = from_timestamp(member.started_at.as_ref())
        .map_or_else(|| "-".to_owned(), |at| when::span(at.duration_until(view.now)));
    vec![
        format!("{}{itself}", printable(&member.node)),
        printable(&member.role),
        printable(&member.version),
        behind(member, view),
        up,
        printable(&member.address),
    ]
}

/// How far a coordinator is behind the store.
fn behind(member: &Member, view: &View) -> String {
    if !member.reachable {
        return view.paint.red("no answer");
    }
    let revisions = count(usize::try_from(member.revisions_behind).unwrap_or(0), "revision");
    match when::seconds(member.behind_for.as_ref()) {
        Some(seconds) => view.paint.red(&format!("{seconds:.0} s, {revisions}")),
        None if member.revisions_behind > 0 => revisions,
        None => "-".to_owned(),
    }
}

fn endpoints(health: &StoreHealth, view: &View) -> String {
    let rows = health.endpoints.iter().map(|endpoint| {
        let state =
            if endpoint.healthy { "healthy".to_owned() } else { view.paint.red("NOT WELL") };
        vec![printable(&endpoint.address), state, or_dash(&endpoint.message)]
    });
    table(view, &["SERVER", "STATE", "DETAILS"], &[2], rows)
}

fn overview(status: &StatusResponse, view: &View) -> Vec<(&'static str, String)> {
    let certificates = status.certificates.unwrap_or_default();
    let agents = status.agents.unwrap_or_default();
    let deployments = status.deployments.unwrap_or_default();
    let up = from_timestamp(status.started_at.as_ref())
        .map(|at| format!(", up {}", when::span(at.duration_until(view.now))))
        .unwrap_or_default();
    let version = status.store_health.as_ref().map(|health| printable(&health.version));
    let version = version.filter(|version| !version.is_empty()).unwrap_or_default();
    let kind = format!("{} {version}", printable(&status.store)).trim_end().to_owned();
    let store = if status.store_healthy {
        format!("{kind}, healthy, revision {}", status.revision)
    } else {
        let behind = when::seconds(status.behind_for.as_ref())
            .map(|seconds| format!(" for {seconds:.0} s"))
            .unwrap_or_default();
        format!("{kind}, NOT HEALTHY{behind}: {}", or_dash(&status.store_message))
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
            status
                .lease
                .as_ref()
                .map_or_else(|| "-".to_owned(), |lease| lease::holder(lease, view)),
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

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use chancery_proto::v1::Lease;

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
            "message": null,
            "behind_seconds": null,
            "version": null,
            "endpoints": [],
            "warnings": [],
            "error": null
          },
          "lease": {
            "held": true,
            "holder": "node-1",
            "epoch": 7,
            "since": "2026-11-22T02:00:00Z",
            "ttl_seconds": 5.0,
            "remaining_seconds": 4.25,
            "last_renewed": "2026-11-22T04:59:59Z",
            "is_self": true,
            "confirmed": true,
            "message": null,
            "renewals": [
              {
                "at": "2026-11-22T04:59:59Z",
                "took_seconds": 0.00125
              },
              {
                "at": "2026-11-22T04:59:57Z",
                "took_seconds": 0.04
              }
            ]
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
          "members": [],
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
    fn a_cluster_with_one_that_lags_and_one_that_is_silent() {
        let answer = fixtures::cluster();
        assert_snapshot!(status(&answer, &problems(&answer), &fixtures::view()), @"
        Coordinator   node-1, version 0.1.0, up 3 d
        Store         etcd 3.5.16, healthy, revision 1234
        Lease         node-1 (this one), epoch 7, for 3 h
        Certificates  12: 11 valid, 1 pending, 0 failing, 0 expired; 1 order running
        Agents        3 of 4 connected
        Deployments   11 of 12 installed, 1 in progress, 0 failed

        Coordinators
        NODE               ROLE      VERSION  BEHIND      UP   ADDRESS
        node-1 (this one)  leader    0.1.0    -           3 d  node-1.example.org:7443
        node-2             follower  0.1.0    95 s, 12    3 d  node-2.example.org:7443
                                              revisions
        node-3             follower  0.1.0    no answer   3 d  node-3.example.org:7443

        Store
        SERVER               STATE     DETAILS
        https://etcd-1:2379  healthy   leader, 3 MiB
        https://etcd-2:2379  NOT WELL  connection refused

        Soonest to expire
        NAME  STATE  EXPIRES               RENEWS   AGENTS  ISSUER
        www   valid  in 30 d (2026-12-22)  in 90 s  1/2     letsencrypt

        All is well.
        ");
        let json = serde_json::to_value(json::Status::new(&answer, Vec::new())).unwrap();
        assert_json_snapshot!(json["store"], @r#"
        {
          "behind_seconds": null,
          "endpoints": [
            {
              "address": "https://etcd-1:2379",
              "healthy": true,
              "message": "leader, 3 MiB"
            },
            {
              "address": "https://etcd-2:2379",
              "healthy": false,
              "message": "connection refused"
            }
          ],
          "error": null,
          "healthy": true,
          "kind": "etcd",
          "message": null,
          "version": "3.5.16",
          "warnings": []
        }
        "#);
        assert_json_snapshot!(json["members"][1], @r#"
        {
          "address": "node-2.example.org:7443",
          "behind_seconds": 95.0,
          "is_self": false,
          "message": null,
          "node": "node-2",
          "reachable": true,
          "revision": 1234,
          "revisions_behind": 12,
          "role": "follower",
          "started_at": "2026-11-19T05:00:00Z",
          "version": "0.1.0"
        }
        "#);
    }
}
