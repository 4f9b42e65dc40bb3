//! `cert revoke` and `issuer`: what is asked, what is shown, and the exit codes.

use super::*;

fn revocation(state: &str) -> Script {
    let revocation = Revocation {
        generation: 7,
        serial: "03ab".to_owned(),
        issuer: "letsencrypt".to_owned(),
        reason: "keyCompromise".to_owned(),
        state: state.to_owned(),
        ..Revocation::default()
    };
    Script { revocation: Some(revocation), ..Script::default() }
}

#[tokio::test]
async fn a_revocation_is_asked_for_with_its_reason_and_ends_as_it_stands() {
    for (state, code) in [("revoked", 0), ("refused", 1), ("pending", 6)] {
        let fake = Fake::start(revocation(state));
        let words = ["cert", "revoke", "www", "--reason", "keycompromise", "--yes"];
        let ended = chancery(&fake.socket, &words).await;
        assert_eq!(ended.code, code, "{state}: {}", ended.stderr);
        assert!(ended.stdout.starts_with("Generation 7 of www (keyCompromise"), "{}", ended.stdout);
        assert_eq!(fake.calls(), ["revoke www 0 keyCompromise"]);
    }
    let fake = Fake::start(revocation("revoked"));
    let ended = chancery(&fake.socket, &["cert", "revoke", "www"]).await;
    assert_eq!(ended.code, 2, "nobody was asked: {}", ended.stdout);
    let bad = ["cert", "revoke", "www", "--yes", "--reason", "boredom"];
    let ended = chancery(&fake.socket, &bad).await;
    assert_eq!(ended.code, 2, "{}", ended.stdout);
    assert!(ended.stderr.contains("superseded"), "{}", ended.stderr);
    assert!(fake.calls().is_empty());
}

fn issuer(change: Option<(&str, &str)>) -> IssuerDetail {
    let change = change.map(|(what, state)| AccountChange {
        what: what.to_owned(),
        state: state.to_owned(),
        requested_by: "root".to_owned(),
        ..AccountChange::default()
    });
    IssuerDetail {
        name: "letsencrypt".to_owned(),
        directory: "https://acme.example/directory".to_owned(),
        certificates: 3,
        issued: 2,
        account: Some(AccountDetail {
            url: "https://acme.example/account/1".to_owned(),
            state: "valid".to_owned(),
            change,
            ..AccountDetail::default()
        }),
        ..IssuerDetail::default()
    }
}

#[tokio::test]
async fn an_account_is_changed_and_the_end_tells_whether_it_was() {
    for (state, code) in [("done", 0), ("refused", 1), ("pending", 6)] {
        let issuer = Some(issuer(Some(("roll", state))));
        let fake = Fake::start(Script { issuer, ..Script::default() });
        let words = ["issuer", "account", "roll", "letsencrypt"];
        let ended = chancery(&fake.socket, &words).await;
        assert_eq!(ended.code, code, "{state}: {}", ended.stderr);
        assert!(ended.stdout.contains(&format!("roll, {state}: asked for by root")));
        assert_eq!(fake.calls(), ["roll letsencrypt"]);
        let unasked = ["issuer", "account", "deactivate", "letsencrypt"];
        assert_eq!(chancery(&fake.socket, &unasked).await.code, 2);
    }
}

#[tokio::test]
async fn issuers_are_shown_as_tables_and_as_json() {
    let check = IssuerCheck {
        problems: vec!["the CA has no profile \"x\"; it offers classic".to_owned()],
        took: Some(prost_types::Duration { seconds: 0, nanos: 42_000_000 }),
        profiles: [("classic".to_owned(), "as ever".to_owned())].into(),
        ..IssuerCheck::default()
    };
    let script = Script { issuer: Some(issuer(None)), check: Some(check), ..Script::default() };
    let fake = Fake::start(script);
    let listed = chancery(&fake.socket, &["issuer", "list"]).await;
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    assert!(listed.stdout.contains("letsencrypt  valid"), "{}", listed.stdout);
    let shown = chancery(&fake.socket, &["issuer", "show", "letsencrypt", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["account"]["url"], "https://acme.example/account/1");
    assert_eq!((shown["issued"].as_u64(), shown["profile"].is_null()), (Some(2), true));
    let checked = chancery(&fake.socket, &["issuer", "check", "letsencrypt"]).await;
    assert_eq!(checked.code, 1, "{}", checked.stderr);
    for part in ["in 42 ms", "classic: as ever", "no profile"] {
        assert!(checked.stdout.contains(part), "{part}: {}", checked.stdout);
    }
}

#[tokio::test]
async fn records_for_the_dns_are_printed_and_checked() {
    let record = DnsRecord {
        name: "_validation-persist.example.org".to_owned(),
        value: "ca.example; accounturi=https://ca.example/1".to_owned(),
        ..DnsRecord::default()
    };
    let missing = DnsRecord { missing: vec!["ns1: no TXT".to_owned()], ..record.clone() };
    for (record, code) in [(record, 0), (missing, 1)] {
        let found = ShowDnsRecordsResponse { records: vec![record], checked: true };
        let fake = Fake::start(Script { dns_records: Some(found), ..Script::default() });
        let words = ["issuer", "dns-record", "main", "--check", "--identifier", "example.org"];
        let until = ["--wildcard", "--persist-until", "2027-06-30", "-o", "json"];
        let ended = chancery(&fake.socket, &[&words[..], &until[..]].concat()).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
        let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(shown["records"][0]["in_place"], code == 0);
        let asked =
            "records main [] [\"example.org\"] wildcard=true until=Some(1814313600) check=true";
        assert_eq!(fake.calls(), [asked]);
    }
    let fake = Fake::start(Script::default());
    let bad = ["issuer", "dns-record", "main", "--persist-until", "soon"];
    let ended = chancery(&fake.socket, &bad).await;
    assert_eq!(ended.code, 2, "{}", ended.stdout);
    assert!(ended.stderr.contains("2027-06-30"), "{}", ended.stderr);
}
