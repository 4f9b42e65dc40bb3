//! `cert list` and `cert show`.

use std::{fmt::Write as _, time::Duration};

use chancery_proto::v1::{
    AcmeProblem, CertificateDetail, CertificateSpec, CertificateSummary, DeploymentDetail,
    DeploymentReport, OrderDetail, RenewTimes, Revocation, StandbyDetail,
};

use super::{
    View, deployment_state,
    table::{facts, section, table},
    text::{labels, or_dash, printable},
    when,
};

/// The table of `chancery cert list`, with the errors below it.
pub(crate) fn list(certificates: &[CertificateSummary], view: &View) -> String {
    if certificates.is_empty() {
        return "There are no certificates yet; declare some with chancery apply.\n".to_owned();
    }
    let mut page = summaries(certificates, view);
    page.push('\n');
    let errors: Vec<_> = certificates
        .iter()
        .filter(|certificate| !certificate.last_error.is_empty())
        .map(|failing| {
            let name = view.paint.red(&printable(&failing.name));
            format!("{name}: {}", printable(&failing.last_error))
        })
        .collect();
    if !errors.is_empty() {
        page.push_str(&section(view, "Errors", &errors.join("\n")));
    }
    page
}

/// The table alone.
pub(crate) fn summaries(certificates: &[CertificateSummary], view: &View) -> String {
    table(
        view,
        &["NAME", "STATE", "EXPIRES", "RENEWS", "AGENTS", "ISSUER"],
        &[0, 5],
        certificates.iter().map(|certificate| {
            vec![
                printable(&certificate.name),
                printable(&certificate.state),
                when::on_day(certificate.not_after.as_ref(), view.now),
                when::briefly(certificate.renew_at.as_ref(), view.now),
                format!("{}/{}", certificate.agents_installed, certificate.agents_entitled),
                or_dash(&certificate.issuer),
            ]
        }),
    )
}

/// The page of `chancery cert show`.
pub(crate) fn detail(detail: &CertificateDetail, view: &View) -> String {
    let summary = detail.summary.clone().unwrap_or_default();
    let spec = detail.spec.clone().unwrap_or_default();
    let mut rows = vec![
        ("Name", printable(&summary.name)),
        ("Identifiers", or_dash(&summary.identifiers.join(", "))),
        ("State", printable(&summary.state)),
        ("Generation", generation(summary.generation, "none yet")),
        ("Key type", key_type(&spec)),
        ("Issuers", or_dash(&spec.issuers.join(", "))),
        ("Challenges", or_dash(&spec.challenges.join(", "))),
        ("Labels", labels(&spec.labels)),
    ];
    if !spec.profile.is_empty() {
        rows.push(("Profile", printable(&spec.profile)));
    }
    if let Some(renew) = &spec.renew {
        rows.push(("Renewed", renew_times(renew)));
    }
    if summary.generation > 0 {
        rows.extend([
            ("Issued by", or_dash(&detail.issued_by)),
            ("Valid from", when::both(summary.not_before.as_ref(), view.now)),
            ("Expires", when::both(summary.not_after.as_ref(), view.now)),
            ("Serial", or_dash(&detail.serial)),
            ("SHA-256", or_dash(&detail.fingerprint)),
            ("Public key", or_dash(&detail.public_key_sha256)),
        ]);
        if !detail.next_public_key_sha256.is_empty() {
            let next = printable(&detail.next_public_key_sha256);
            // RFC 6698 section 2.1: an end entity's key, its SubjectPublicKeyInfo, SHA-256.
            let record = format!("3 1 1 {next}");
            rows.extend([("Next key", next), ("Next TLSA", record)]);
        }
    }
    rows.push(("Renewal", or_dash(&detail.decision)));
    if summary.renew_at.is_some() {
        rows.push(("Renews", when::both(summary.renew_at.as_ref(), view.now)));
    }
    if !summary.last_error.is_empty() {
        rows.push(("Last error", printable(&summary.last_error)));
        rows.push(("Failures", format!("{} in a row", detail.failures)));
        rows.push(("Next attempt", when::both(detail.next_attempt.as_ref(), view.now)));
    }
    let mut page = facts(view, rows);
    page.push('\n');
    if let Some(problem) = &detail.last_problem {
        page.push_str(&section(view, "Last problem of the CA", &last_problem(problem, view)));
    }
    if let Some(order) = &detail.order {
        page.push_str(&section(view, "Order", &facts(view, order_facts(order, view))));
    }
    if let Some(standby) = &detail.standby {
        page.push_str(&section(view, "Standby", &facts(view, standby_facts(standby, view))));
    }
    if !detail.revocations.is_empty() {
        page.push_str(&section(view, "Revocations", &revocations(&detail.revocations, view)));
    }
    page.push_str(&section(view, "Deployments", &deployments(&detail.deployments, view)));
    page
}

/// The answer to `chancery cert revoke`.
pub(crate) fn revoked(name: &str, revocation: &Revocation) -> String {
    let Revocation { generation, serial, reason, .. } = revocation;
    let what = match revocation.state.as_str() {
        "revoked" => format!("is revoked at {}", printable(&revocation.issuer)),
        "refused" => format!("is not revoked: {}", printable(&revocation.message)),
        _ => format!("is being revoked at {}", printable(&revocation.issuer)),
    };
    let next = if revocation.replaced {
        format!("\nA new one is made in its place: chancery cert renew {} --wait", printable(name))
    } else {
        String::new()
    };
    let (serial, reason) = (printable(serial), printable(reason));
    format!(
        "Generation {generation} of {} ({reason}, serial {serial}) {what}.{next}",
        printable(name)
    )
}

/// One line for each revocation.
fn revocations(revocations: &[Revocation], view: &View) -> String {
    table(
        view,
        &["GENERATION", "STATE", "REASON", "ASKED FOR", "BY", "SERIAL"],
        &[4],
        revocations.iter().map(|revocation| {
            vec![
                revocation.generation.to_string(),
                printable(&revocation.state),
                printable(&revocation.reason),
                when::briefly(revocation.requested_at.as_ref(), view.now),
                printable(&revocation.requested_by),
                printable(&revocation.serial),
            ]
        }),
    )
}

/// The algorithm of the key, and whether renewals keep it.
fn key_type(spec: &CertificateSpec) -> String {
    let how = match (spec.reuse_key, spec.key_ahead) {
        (true, _) => ", kept by renewals",
        (false, true) => ", made ahead",
        (false, false) => "",
    };
    format!("{}{how}", or_dash(&spec.key_type))
}

/// What the CA said, identifier by identifier.
fn last_problem(problem: &AcmeProblem, view: &View) -> String {
    // An order that turned invalid may have nothing but what is the matter with its identifiers.
    let told = [("Type", &problem.r#type), ("Detail", &problem.detail)].into_iter();
    let told = told.filter(|(_, text)| !text.is_empty());
    let mut rows: Vec<_> = told.map(|(field, text)| (field, printable(text))).collect();
    if problem.status > 0 {
        rows.push(("Status", problem.status.to_string()));
    }
    rows.push(("At", when::both(problem.at.as_ref(), view.now)));
    let mut text = facts(view, rows);
    for one in &problem.subproblems {
        let identifier = view.paint.red(&or_dash(&one.identifier));
        let _ = write!(text, "\n{identifier}: {}", or_dash(&one.detail));
        if !one.r#type.is_empty() {
            let _ = write!(text, " ({})", printable(&one.r#type));
        }
    }
    if problem.left_out > 0 {
        let _ = write!(text, "\nand {} more", problem.left_out);
    }
    text
}

/// When it may be renewed.
fn renew_times(renew: &RenewTimes) -> String {
    let windows = if renew.windows.is_empty() {
        "at any time".to_owned()
    } else {
        format!("only {} ({})", renew.windows.join(", "), renew.time_zone)
    };
    let jitter = renew.jitter.map(|jitter| Duration::from_secs(jitter.seconds.unsigned_abs()));
    let spread = jitter.map(|it| format!(", spread over {}", humantime::format_duration(it)));
    printable(&format!("{windows}{}", spread.unwrap_or_default()))
}

fn order_facts(order: &OrderDetail, view: &View) -> Vec<(&'static str, String)> {
    vec![
        ("Id", printable(&order.id)),
        ("Stage", printable(&order.stage)),
        ("Issuer", printable(&order.issuer)),
        ("Reason", or_dash(&order.reason)),
        ("Started", when::both(order.started_at.as_ref(), view.now)),
        ("Deadline", when::both(order.deadline.as_ref(), view.now)),
        ("URL", or_dash(&order.order_url)),
        (
            "Becomes",
            if order.standby {
                "the standby".to_owned()
            } else {
                format!("generation {}", order.generation)
            },
        ),
    ]
}

fn standby_facts(standby: &StandbyDetail, view: &View) -> Vec<(&'static str, String)> {
    let ready = if standby.ready {
        view.paint.green("yes")
    } else {
        view.paint.yellow(&format!("no: {}", printable(&standby.message)))
    };
    let mut rows = vec![("Issuer", printable(&standby.issuer)), ("Ready", ready)];
    if standby.generation > 0 {
        rows.extend([
            ("Generation", standby.generation.to_string()),
            ("Issued by", or_dash(&standby.issued_by)),
            ("Serial", or_dash(&standby.serial)),
            ("Public key", or_dash(&standby.public_key_sha256)),
            ("Expires", when::both(standby.not_after.as_ref(), view.now)),
        ]);
    }
    if !standby.decision.is_empty() {
        rows.push(("Renewal", printable(&standby.decision)));
    }
    if !standby.last_error.is_empty() {
        rows.push(("Last error", printable(&standby.last_error)));
        rows.push(("Failures", format!("{} in a row", standby.failures)));
    }
    rows
}

fn deployments(deployments: &[DeploymentDetail], view: &View) -> String {
    if deployments.is_empty() {
        return "No agent is entitled to it.".to_owned();
    }
    let mut body = table(
        view,
        &["AGENT", "STATE", "DELIVERED", "INSTALLED", "SERVED", "CHANGED"],
        &[0],
        deployments.iter().map(|deployment| {
            let report = deployment.report.clone().unwrap_or_default();
            let away = if deployment.agent_connected { "" } else { " (away)" };
            let mut row = vec![format!("{}{away}", printable(&deployment.agent))];
            row.extend(report_cells(&report, view));
            row
        }),
    );
    let messages = deployments.iter().filter_map(|deployment| {
        let report = deployment.report.as_ref()?;
        message_line(&deployment.agent, report, view)
    });
    messages.for_each(|line| body.push_str(&line));
    body
}

/// State, three generations, time of the last change.
pub(crate) fn report_cells(report: &DeploymentReport, view: &View) -> [String; 5] {
    [
        deployment_state(report.state()).to_owned(),
        generation(report.delivered_generation, "-"),
        generation(report.installed_generation, "-"),
        generation(report.served_generation, "-"),
        when::briefly(report.changed_at.as_ref(), view.now),
    ]
}

/// A generation, of which 0 stands for none.
fn generation(number: u64, none: &str) -> String {
    if number == 0 { none.to_owned() } else { number.to_string() }
}

/// Why a deployment is not installed, as a line below the table.
pub(crate) fn message_line(of: &str, report: &DeploymentReport, view: &View) -> Option<String> {
    if report.message.is_empty() {
        return None;
    }
    let times = match report.failures {
        0 | 1 => String::new(),
        failures => format!(" ({failures} times)"),
    };
    Some(format!("\n{}: {}{times}", view.paint.red(&printable(of)), printable(&report.message)))
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn a_list_fits_eighty_columns() {
        let list_of = fixtures::certificates();
        let page = list(&list_of.certificates, &fixtures::view());
        assert!(page.lines().take(4).all(|line| line.chars().count() <= 80), "{page}");
        assert_snapshot!(page, @"
        NAME             STATE    EXPIRES               RENEWS    AGENTS  ISSUER
        mail             failing  in 5 d (2026-11-27)   25 d ago  2/2     letsencrypt
        www              valid    in 30 d (2026-12-22)  in 90 s   1/2     letsencrypt
        new.example.org  pending  -                     -         0/0     -

        Errors
        mail: authorization for mail.example.org failed: connection refused by 192.0.2.7:80
        ");
        assert_json_snapshot!(json::Certificates::from(&list_of), @r#"
        {
          "certificates": [
            {
              "name": "mail",
              "identifiers": [
                "mail.example.org"
              ],
              "state": "failing",
              "generation": 3,
              "not_before": "2026-08-29T05:00:00Z",
              "not_after": "2026-11-27T05:00:00Z",
              "renew_at": "2026-10-28T05:00:00Z",
              "issuer": "letsencrypt",
              "agents_entitled": 2,
              "agents_installed": 2,
              "last_error": "authorization for mail.example.org failed: connection refused\nby 192.0.2.7:80"
            },
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
            },
            {
              "name": "new.example.org",
              "identifiers": [],
              "state": "pending",
              "generation": 0,
              "not_before": null,
              "not_after": null,
              "renew_at": null,
              "issuer": null,
              "agents_entitled": 0,
              "agents_installed": 0,
              "last_error": null
            }
          ]
        }
        "#);
    }

    #[test]
    fn without_a_terminal_lines_are_whole() {
        let mut list_of = fixtures::certificates();
        list_of.certificates[0].name =
            "a-name-of-sixty-three-characters".repeat(2)[..63].to_owned();
        assert_snapshot!(summaries(&list_of.certificates, &fixtures::view()), @"
        NAME              STATE    EXPIRES               RENEWS    AGENTS  ISSUER
        a-name-of-sixty-  failing  in 5 d (2026-11-27)   25 d ago  2/2     letsencrypt
        three-characters
        a-name-of-sixty-
        three-character
        www               valid    in 30 d (2026-12-22)  in 90 s   1/2     letsencrypt
        new.example.org   pending  -                     -         0/0     -
        ");
        let view = View { width: None, ..fixtures::view() };
        assert_eq!(summaries(&list_of.certificates, &view).lines().count(), 4);
    }

    #[test]
    fn no_certificates() {
        assert!(list(&[], &fixtures::view()).contains("chancery apply"));
    }

    #[test]
    fn one_certificate_with_everything() {
        let one = fixtures::certificate_detail();
        assert_snapshot!(detail(&one, &fixtures::view()), @"
        Name         www
        Identifiers  www.example.org, example.org
        State        valid
        Generation   7
        Key type     ecdsa-p256, kept by renewals
        Issuers      letsencrypt, zerossl
        Challenges   dns-01, http-01
        Labels       role=web,site=ams
        Profile      tlsserver
        Renewed      only Mon-Fri 02:00-05:00 (Europe/Berlin), spread over 1h 30m
        Issued by    R11
        Valid from   60 d ago (2026-09-23 05:00Z)
        Expires      in 30 d (2026-12-22 05:00Z)
        Serial       03ab
        SHA-256      5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e
        Public key   b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7
        Next key     c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8
        Next TLSA    3 1 1
                     c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8
        Renewal      two thirds of its life have passed
        Renews       in 90 s (2026-11-22 05:01:30Z)

        Last problem of the CA
        Type    urn:ietf:params:acme:error:malformed
        Detail  two identifiers were refused
        Status  403
        At      60 s ago (2026-11-22 04:59:00Z)
        example.org: CAA forbids it (urn:ietf:params:acme:error:caa)
        -: no such domain
        and 1 more

        Order
        Id        0192-order
        Stage     presented
        Issuer    letsencrypt
        Reason    an operator asked for it
        Started   4 s ago (2026-11-22 04:59:56Z)
        Deadline  in 10 min (2026-11-22 05:10:00Z)
        URL       https://acme.example/order/1
        Becomes   generation 8

        Revocations
        GENERATION  STATE    REASON      ASKED FOR  BY    SERIAL
        6           revoked  superseded  3 min ago  root  03aa

        Deployments
        AGENT         STATE         DELIVERED  INSTALLED  SERVED  CHANGED
        web-1         installed     7          7          7       59 d ago
        web-2 (away)  probe-failed  8          7          7       40 s ago
        web-2: 127.0.0.1:443 still serves the certificate with serial 03ab; rolled back (2 times)
        ");
    }

    #[test]
    fn a_standby_tells_whether_it_could_be_served() {
        let mut one = fixtures::certificate_detail();
        let standby = StandbyDetail {
            issuer: "zerossl".to_owned(),
            message: "it is not issued yet: the CA\u{1b} is away".to_owned(),
            decision: "it has never been issued".to_owned(),
            failures: 2,
            last_error: "the CA is away".to_owned(),
            ..StandbyDetail::default()
        };
        one.standby = Some(standby.clone());
        let page = detail(&one, &fixtures::view());
        for part in ["Standby\n", "no: it is not issued yet: the CA", "2 in a row"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
        let standby = StandbyDetail {
            ready: true,
            message: String::new(),
            generation: 5,
            serial: "05cd".to_owned(),
            failures: 0,
            last_error: String::new(),
            ..standby
        };
        one.standby = Some(standby);
        let page = detail(&one, &fixtures::view());
        assert!(page.contains("05cd") && !page.contains("in a row"), "{page}");
        let shown = serde_json::to_value(json::CertificateDetail::from(&one)).unwrap();
        assert_eq!(
            (&shown["standby"]["ready"], &shown["standby"]["generation"]),
            (&true.into(), &5.into())
        );
    }

    #[test]
    fn a_revocation_tells_how_it_stands_and_what_follows() {
        let mut revocation = fixtures::certificate_detail().revocations.remove(0);
        assert_snapshot!(revoked("www", &revocation), @"Generation 6 of www (superseded, serial 03aa) is revoked at letsencrypt.");
        (revocation.state, revocation.replaced) = ("pending".to_owned(), true);
        assert_snapshot!(revoked("www", &revocation), @"
        Generation 6 of www (superseded, serial 03aa) is being revoked at letsencrypt.
        A new one is made in its place: chancery cert renew www --wait
        ");
        (revocation.state, revocation.message) = ("refused".to_owned(), "not\nyours".to_owned());
        assert!(revoked("www", &revocation).contains("is not revoked: not"));
    }

    #[test]
    fn what_a_ca_said_for_programs() {
        let detail = json::CertificateDetail::from(&fixtures::certificate_detail());
        let shown = serde_json::to_value(&detail).unwrap();
        assert_json_snapshot!(shown["last_problem"], @r#"
        {
          "at": "2026-11-22T04:59:00Z",
          "detail": "two identifiers were refused",
          "left_out": 1,
          "status": 403,
          "subproblems": [
            {
              "detail": "CAA forbids it",
              "identifier": "example.org",
              "type": "urn:ietf:params:acme:error:caa"
            },
            {
              "detail": "no such domain",
              "identifier": null,
              "type": null
            }
          ],
          "type": "urn:ietf:params:acme:error:malformed"
        }
        "#);
    }

    /// One that no CA has had anything against.
    fn unrefused() -> CertificateDetail {
        CertificateDetail { last_problem: None, ..fixtures::certificate_detail() }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one document")]
    fn one_certificate_for_programs() {
        assert_json_snapshot!(json::CertificateDetail::from(&unrefused()), @r#"
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
          "last_error": null,
          "key_type": "ecdsa-p256",
          "reuse_key": true,
          "key_ahead": false,
          "profile": "tlsserver",
          "issuers": [
            "letsencrypt",
            "zerossl"
          ],
          "standby": null,
          "challenges": [
            "dns-01",
            "http-01"
          ],
          "labels": {
            "role": "web",
            "site": "ams"
          },
          "renew": {
            "windows": [
              "Mon-Fri 02:00-05:00"
            ],
            "time_zone": "Europe/Berlin",
            "jitter_seconds": 5400
          },
          "serial": "03ab",
          "fingerprint": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e",
          "public_key_sha256": "b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7b7",
          "next_public_key_sha256": "c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8",
          "issued_by": "R11",
          "decision": "two thirds of its life have passed",
          "decision_code": "lifetime",
          "renew_requests": 1,
          "failures": 0,
          "next_attempt": null,
          "last_problem": null,
          "order": {
            "id": "0192-order",
            "issuer": "letsencrypt",
            "stage": "presented",
            "order_url": "https://acme.example/order/1",
            "reason": "an operator asked for it",
            "started_at": "2026-11-22T04:59:56Z",
            "deadline": "2026-11-22T05:10:00Z",
            "generation": 8,
            "standby": false
          },
          "revocations": [
            {
              "generation": 6,
              "serial": "03aa",
              "issuer": "letsencrypt",
              "reason": "superseded",
              "state": "revoked",
              "message": null,
              "requested_at": "2026-11-22T04:57:00Z",
              "requested_by": "root",
              "ended_at": "2026-11-22T04:58:00Z"
            }
          ],
          "deployments": [
            {
              "agent": "web-1",
              "connected": true,
              "state": "installed",
              "delivered_generation": 7,
              "installed_generation": 7,
              "served_generation": 7,
              "message": null,
              "changed_at": "2026-09-24T05:00:00Z",
              "failures": 0
            },
            {
              "agent": "web-2",
              "connected": false,
              "state": "probe-failed",
              "delivered_generation": 8,
              "installed_generation": 7,
              "served_generation": 7,
              "message": "127.0.0.1:443 still serves the certificate with serial 03ab; rolled back",
              "changed_at": "2026-11-22T04:59:20Z",
              "failures": 2
            }
          ],
          "chain_pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        }
        "#);
    }

    #[test]
    fn a_certificate_that_was_never_issued() {
        let one = CertificateDetail {
            summary: Some(CertificateSummary {
                name: "new".to_owned(),
                identifiers: vec!["new.example.org".to_owned()],
                state: "pending".to_owned(),
                ..CertificateSummary::default()
            }),
            decision: "it was never issued".to_owned(),
            ..CertificateDetail::default()
        };
        assert_snapshot!(detail(&one, &fixtures::view()), @"
        Name         new
        Identifiers  new.example.org
        State        pending
        Generation   none yet
        Key type     -
        Issuers      -
        Challenges   -
        Labels       -
        Renewal      it was never issued

        Deployments
        No agent is entitled to it.
        ");
    }
}
