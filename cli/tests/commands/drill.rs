//! `drill revocation` and `issuer budget`.

use super::*;

fn part(name: &str) -> DrilledCertificate {
    DrilledCertificate {
        name: name.to_owned(),
        generation: 3,
        agents: 2,
        ..DrilledCertificate::default()
    }
}

fn listed(name: &str, generation: u64, installed: u32) -> CertificateSummary {
    CertificateSummary {
        name: name.to_owned(),
        generation,
        agents_entitled: 2,
        agents_installed: installed,
        ..CertificateSummary::default()
    }
}

fn script(listed: Vec<CertificateSummary>) -> Script {
    let skipped = DrilledCertificate { skipped: "not issued".to_owned(), ..part("new") };
    let drill = DrillRevocationResponse { certificates: vec![part("www"), skipped] };
    Script { drill: Some(drill), listed, ..Script::default() }
}

#[tokio::test]
async fn a_dry_run_begins_nothing() {
    let fake = Fake::start(script(Vec::new()));
    let ended = chancery(&fake.socket, &["drill", "revocation", "--dry-run"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("takes no part: not issued"), "{}", ended.stdout);
    // Programs that do not say that they mean it get the plan, too.
    let ended = chancery(&fake.socket, &["drill", "revocation", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["certificates"][0]["name"], "www");
    assert!(fake.calls().iter().all(|call| call.contains("dry_run=true")), "{:?}", fake.calls());
}

#[tokio::test]
async fn a_drill_ends_when_all_that_took_part_is_served() {
    let fake = Fake::start(script(vec![listed("www", 4, 2), listed("new", 0, 0)]));
    let words = ["drill", "revocation", "--yes", "--certs", "www,new", "-o", "json"];
    let ended = chancery(&fake.socket, &words).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["certificates"].as_array().map(Vec::len), Some(1), "{json}");
    assert_eq!(json["certificates"][0]["generation"], 4);
    assert!(json["certificates"][0]["served_seconds"].is_number(), "{json}");
    assert_eq!(
        fake.calls(),
        [true, false].map(|dry| format!("drill [\"www\", \"new\"] dry_run={dry} ask_cas=false"))
    );
}

#[tokio::test]
async fn a_drill_that_takes_too_long_says_what_is_missing() {
    let fake = Fake::start(script(vec![listed("www", 4, 1)]));
    let words = ["drill", "revocation", "--yes", "--timeout", "1s"];
    let ended = chancery(&fake.socket, &words).await;
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(ended.stdout.contains("www: replaced, but not served everywhere"), "{}", ended.stdout);
}

#[tokio::test]
async fn nothing_is_replaced_without_a_yes() {
    let fake = Fake::start(script(Vec::new()));
    let ended = chancery(&fake.socket, &["drill", "revocation"]).await;
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    assert!(fake.calls().iter().all(|call| call.contains("dry_run=true")), "{:?}", fake.calls());
}

#[tokio::test]
async fn a_budget_is_shown_for_the_issuer_that_was_named() {
    let budget = IssuerBudget { issuer: "ca".to_owned(), waiting: 4, ..IssuerBudget::default() };
    let budgets = Some(ListBudgetsResponse { budgets: vec![budget] });
    let fake = Fake::start(Script { budgets, ..Script::default() });
    let ended = chancery(&fake.socket, &["issuer", "budget", "ca"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("4 certificates"), "{}", ended.stdout);
    assert_eq!(fake.calls(), ["budgets \"ca\""]);
}
