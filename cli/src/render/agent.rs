//! `agent list`, `agent show` and `agent token create`.

use chancery_proto::v1::{AgentDetail, AgentSummary, CreateTokenResponse, ServiceReport};

use super::{
    View, cert,
    table::{facts, section, table},
    text::{labels, or_dash, printable},
    when,
};

/// The table of `chancery agent list`.
pub(crate) fn list(agents: &[AgentSummary], view: &View) -> String {
    if agents.is_empty() {
        return "No agent has joined yet; make a token with chancery agent token create.\n"
            .to_owned();
    }
    table(
        view,
        &["NAME", "STATE", "SEEN", "INSTALLED", "FAILED", "VERSION", "LABELS"],
        &[0, 6],
        agents.iter().map(|agent| {
            let info = agent.info.clone().unwrap_or_default();
            vec![
                printable(&agent.name),
                printable(&agent.state),
                when::briefly(agent.last_seen.as_ref(), view.now),
                format!("{}/{}", agent.installed, agent.certificates),
                agent.failed.to_string(),
                or_dash(&info.version),
                labels(&agent.labels),
            ]
        }),
    )
}

/// The page of `chancery agent show`.
pub(crate) fn detail(detail: &AgentDetail, view: &View) -> String {
    let summary = detail.summary.clone().unwrap_or_default();
    let info = summary.info.clone().unwrap_or_default();
    let rows = [
        ("Name", printable(&summary.name)),
        ("State", printable(&summary.state)),
        ("Labels", labels(&summary.labels)),
        ("Hostname", or_dash(&info.hostname)),
        ("Version", or_dash(&info.version)),
        ("Joined", when::both(summary.joined_at.as_ref(), view.now)),
        ("Seen", when::both(summary.last_seen.as_ref(), view.now)),
        ("Identity", format!("serial {}", or_dash(&detail.identity_serial))),
        ("", format!("expires {}", when::both(detail.identity_not_after.as_ref(), view.now))),
        ("Entitled to", or_dash(&detail.entitled.join(", "))),
    ];
    let mut page = facts(view, rows);
    page.push('\n');
    if !detail.deployments.is_empty() {
        page.push_str(&section(view, "Certificates", &deployments(detail, view)));
    }
    if !detail.services.is_empty() {
        page.push_str(&section(view, "Services", &services(&detail.services, view)));
    }
    page
}

fn deployments(detail: &AgentDetail, view: &View) -> String {
    let mut body = table(
        view,
        &["CERTIFICATE", "STATE", "DELIVERED", "INSTALLED", "SERVED", "CHANGED"],
        &[0],
        detail.deployments.iter().map(|report| {
            let mut row = vec![printable(&report.certificate)];
            row.extend(cert::report_cells(report, view));
            row
        }),
    );
    detail
        .deployments
        .iter()
        .filter_map(|report| cert::message_line(&report.certificate, report, view))
        .for_each(|line| body.push_str(&line));
    body
}

fn services(services: &[ServiceReport], view: &View) -> String {
    table(
        view,
        &["SERVICE", "STATE", "RELOADS", "CHANGED", "MESSAGE"],
        &[4],
        services.iter().map(|service| {
            vec![
                printable(&service.service),
                if service.healthy { "healthy" } else { "failed" }.to_owned(),
                service.reloads.to_string(),
                when::briefly(service.changed_at.as_ref(), view.now),
                or_dash(&service.message),
            ]
        }),
    )
}

/// What is said beside a new token, on standard error.
pub(crate) fn token_note(agent: &str, token: &CreateTokenResponse, view: &View) -> String {
    format!(
        "Agent {agent} can join with this token, once; it expires {}.\n\
         It is not shown again. The CA that the agent will trust has the fingerprint {}.",
        when::both(token.expires_at.as_ref(), view.now),
        printable(&token.ca_fingerprint),
    )
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn a_list_fits_eighty_columns() {
        let agents = fixtures::agents();
        let page = list(&agents.agents, &fixtures::view());
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert_snapshot!(page, @"
        NAME    STATE      SEEN     INSTALLED  FAILED  VERSION  LABELS
        web-1   connected  2 s ago  2/3        1       0.1.0    role=web,site=ams
        mail-1  joined     -        0/0        0       -        -
        ");
        assert_json_snapshot!(json::Agents::from(&agents), @r#"
        {
          "agents": [
            {
              "name": "web-1",
              "labels": {
                "role": "web",
                "site": "ams"
              },
              "state": "connected",
              "joined_at": "2026-08-14T05:00:00Z",
              "last_seen": "2026-11-22T04:59:58Z",
              "version": "0.1.0",
              "hostname": "web-1.example.org",
              "certificates": 3,
              "installed": 2,
              "failed": 1
            },
            {
              "name": "mail-1",
              "labels": {},
              "state": "joined",
              "joined_at": "2026-11-22T04:59:00Z",
              "last_seen": null,
              "version": null,
              "hostname": null,
              "certificates": 0,
              "installed": 0,
              "failed": 0
            }
          ]
        }
        "#);
    }

    #[test]
    fn no_agents() {
        assert!(list(&[], &fixtures::view()).contains("token create"));
    }

    #[test]
    fn one_agent_with_everything() {
        let agent = fixtures::agent_detail();
        assert_snapshot!(detail(&agent, &fixtures::view()), @r#"
        Name         web-1
        State        connected
        Labels       role=web,site=ams
        Hostname     web-1.example.org
        Version      0.1.0
        Joined       100 d ago (2026-08-14 05:00Z)
        Seen         2 s ago (2026-11-22 04:59:58Z)
        Identity     serial 0badcafe
                     expires in 15 d (2026-12-07 05:00Z)
        Entitled to  mail, www

        Certificates
        CERTIFICATE  STATE         DELIVERED  INSTALLED  SERVED  CHANGED
        mail         installed     7          7          7       59 d ago
        www          probe-failed  8          7          7       40 s ago
        www: 127.0.0.1:443 still serves the certificate with serial 03ab; rolled back (2 times)

        Services
        SERVICE  STATE   RELOADS  CHANGED   MESSAGE
        nginx    failed  9        40 s ago  nginx: [emerg] unknown directive "sevrer"
                                            in /etc/nginx/nginx.conf:12
        "#);
        assert_json_snapshot!(json::AgentDetail::from(&agent), @r#"
        {
          "name": "web-1",
          "labels": {
            "role": "web",
            "site": "ams"
          },
          "state": "connected",
          "joined_at": "2026-08-14T05:00:00Z",
          "last_seen": "2026-11-22T04:59:58Z",
          "version": "0.1.0",
          "hostname": "web-1.example.org",
          "certificates": 3,
          "installed": 2,
          "failed": 1,
          "identity_serial": "0badcafe",
          "identity_not_after": "2026-12-07T05:00:00Z",
          "entitled": [
            "mail",
            "www"
          ],
          "deployments": [
            {
              "certificate": "mail",
              "state": "installed",
              "delivered_generation": 7,
              "installed_generation": 7,
              "served_generation": 7,
              "message": null,
              "changed_at": "2026-09-24T05:00:00Z",
              "failures": 0
            },
            {
              "certificate": "www",
              "state": "probe-failed",
              "delivered_generation": 8,
              "installed_generation": 7,
              "served_generation": 7,
              "message": "127.0.0.1:443 still serves the certificate with serial 03ab; rolled back",
              "changed_at": "2026-11-22T04:59:20Z",
              "failures": 2
            }
          ],
          "services": [
            {
              "service": "nginx",
              "healthy": false,
              "message": "nginx: [emerg] unknown directive \"sevrer\"\nin /etc/nginx/nginx.conf:12",
              "changed_at": "2026-11-22T04:59:20Z",
              "reloads": 9
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_note_beside_a_token_does_not_hold_it() {
        let token = CreateTokenResponse {
            token: "the-secret".to_owned(),
            expires_at: Some(fixtures::after("1h")),
            ca_fingerprint: "c0ffee".to_owned(),
        };
        let note = token_note("web-1", &token, &fixtures::view());
        assert!(!note.contains("the-secret"));
        assert_snapshot!(note, @"
        Agent web-1 can join with this token, once; it expires in 60 min (2026-11-22 06:00Z).
        It is not shown again. The CA that the agent will trust has the fingerprint c0ffee.
        ");
    }
}
