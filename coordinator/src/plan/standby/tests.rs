use chancery_shared::{
    key_type::KeyType, name::Labels, number::Generation, revocation::RevocationReason,
    x509::Fingerprint,
};

use super::*;
use crate::{
    plan::{Turn, turn},
    record::{Failure, RenewalInfo, Revoked},
};

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * 24 * 3600).unwrap()
}

fn spec() -> CertificateSpec {
    CertificateSpec {
        name: "web".parse().unwrap(),
        identifiers: vec!["a.example".parse().unwrap()],
        key_type: KeyType::EcdsaP256,
        reuse_key: true,
        key_ahead: false,
        profile: Some("classic".to_owned()),
        issuers: vec!["main".parse().unwrap()],
        standby: Some("spare".parse().unwrap()),
        challenges: Vec::new(),
        labels: Labels::default(),
        renew: None,
    }
}

/// Issued on this day, for ninety days.
fn issued(issuer: &str, day: i64) -> CertificateState {
    CertificateState {
        generation: Generation(1),
        issued: Some(Issued {
            serial: format!("{issuer}-{day}"),
            fingerprint: Fingerprint::of(b"leaf"),
            not_before: at(day),
            not_after: at(day + 90),
            issuer: issuer.parse().unwrap(),
            issued_by: "CA".to_owned(),
            identifiers: spec().identifiers,
            key_type: KeyType::EcdsaP256,
            profile: Some("classic".to_owned()),
            stored_at: at(day),
        }),
        ..CertificateState::default()
    }
}

fn standby(issuer: &str, day: i64) -> Standby {
    let state = CertificateState { generation: Generation(2), ..issued(issuer, day) };
    Standby { state, ..Standby::none("web".parse().unwrap()) }
}

struct Case {
    spec: CertificateSpec,
    state: CertificateState,
    standby: Option<Standby>,
    info: Option<RenewalInfo>,
}

impl Case {
    /// Served by `main` since day 0, with a standby of `spare` since day 10.
    fn new() -> Self {
        let standby = Some(standby("spare", 10));
        Self { spec: spec(), state: issued("main", 0), standby, info: None }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            spec: &self.spec,
            state: Some(&self.state),
            order: None,
            renewal_info: self.info.as_ref(),
            freezes: &[],
            standby: self.standby.as_ref(),
        }
    }

    /// Whose turn it is at the beginning of a day, why, and whether it is due.
    fn turn(&self, day: i64) -> (Turn, &'static str, bool) {
        let (turn, decision) = turn(&self.facts(), at(day));
        (turn, decision.code, decision.is_due(at(day)))
    }

    fn failed(&mut self, day: i64) {
        self.state.failures = 4;
        self.state.last_failure = Some(Failure {
            at: at(day),
            message: "away".to_owned(),
            code: "ca-unreachable".to_owned(),
            retry_at: at(day + 1),
        });
    }
}

#[test]
fn a_standby_is_ordered_after_the_certificate_and_renewed_by_itself() {
    let mut case = Case { standby: None, ..Case::new() };
    assert_eq!(case.turn(1), (Turn::Standby, "not-issued", true));
    let state = std::mem::take(&mut case.state);
    assert_eq!(case.turn(1), (Turn::Order, "not-issued", true));
    case.state = state;
    case.standby = Some(standby("spare", 1));
    assert!(!case.turn(2).2, "both are fresh");
    // The one of which less is left is next.
    assert_eq!(case.turn(50).0, Turn::Order);
    case.state = issued("main", 40);
    assert_eq!(case.turn(75), (Turn::Standby, "lifetime", true));
    case.state.renewal_requested_at = Some(at(75));
    assert_eq!(case.turn(75), (Turn::Order, "renewal-requested", true));
    case.spec.standby = None;
    case.state.renewal_requested_at = None;
    assert_eq!(case.turn(75).0, Turn::Order, "it is not wanted any more");
}

#[test]
fn a_failing_certificate_does_not_hold_its_standby_back() {
    let mut case = Case::new();
    case.failed(65);
    case.standby = None;
    assert_eq!(case.turn(65), (Turn::Standby, "not-issued", true));
    let mut failing = standby("spare", 0);
    failing.state = CertificateState { failures: 1, ..case.state.clone() };
    failing.state.issued = None;
    case.standby = Some(failing);
    assert!(!case.turn(65).2, "its own failure does");
}

#[test]
fn it_takes_over_when_an_operator_says_so_and_when_what_is_served_was_revoked() {
    let mut case = Case::new();
    case.state.switch_requested_at = Some(at(20));
    assert_eq!(case.turn(20), (Turn::Switch, "switch-requested", true));
    case.state.switch_requested_at = Some(at(5));
    assert!(!case.turn(20).2, "that was about another standby");
    let revoked =
        Revoked { generation: Generation(1), reason: RevocationReason::KeyCompromise, at: at(20) };
    case.state.revoked = Some(revoked.clone());
    assert_eq!(case.turn(20), (Turn::Switch, "switch-revoked", true));
    if let Some(standby) = &mut case.standby {
        standby.state.revoked = Some(Revoked { generation: Generation(2), ..revoked });
    }
    assert_eq!(case.turn(20), (Turn::Order, "revoked", true));
    let ready = ready(&case.spec, case.standby.as_ref(), at(20));
    assert_eq!(ready.unwrap_err(), "it was revoked");
    case.state.revoked = None;
    assert_eq!(case.turn(20), (Turn::Standby, "revoked", true));
}

#[test]
fn it_takes_over_when_the_certificate_cannot_be_renewed() {
    let mut case = Case { standby: Some(standby("spare", 20)), ..Case::new() };
    case.failed(70);
    let (next, decision) = turn(&case.facts(), at(70));
    assert!(next == Turn::Order && !decision.is_due(at(70)), "there is time left: {decision:?}");
    case.failed(79);
    assert_eq!(case.turn(79), (Turn::Switch, "switch-unrenewed", true));
    // The end of the window that the CA suggests is a revocation that it announces.
    case.failed(20);
    case.info = Some(RenewalInfo {
        certificate: "web".parse().unwrap(),
        serial: "main-0".to_owned(),
        id: "id".to_owned(),
        start: at(18),
        end: at(19),
        explanation_url: None,
        ask_every_secs: 3600,
        moved: true,
        since: at(18),
    });
    assert_eq!(case.turn(20), (Turn::Switch, "switch-unrenewed", true));
    case.state.failures = 0;
    case.state.last_failure = None;
    assert_eq!(case.turn(20), (Turn::Order, "suggested", true));
    case.info = None;
    assert_eq!(case.turn(91), (Turn::Switch, "switch-unrenewed", true), "it has expired");
    // One that ends before is of no help.
    case.standby = Some(standby("spare", -5));
    case.failed(79);
    assert_eq!(case.turn(79).0, Turn::Standby);
}

#[test]
fn it_comes_from_another_issuer_than_what_is_served() {
    let case = Case::new();
    let of = |state| issuer_for(&case.spec, state).map(ToString::to_string);
    assert_eq!(of(None), None);
    let (main, spare) = (issued("main", 0), issued("spare", 0));
    assert_eq!(of(Some(&main)).as_deref(), Some("spare"));
    assert_eq!(of(Some(&spare)).as_deref(), Some("main"));
    // After a switch the certificate is well as it is.
    let switched = Case { state: issued("spare", 10), standby: None, ..Case::new() };
    assert_eq!(switched.turn(11), (Turn::Standby, "not-issued", true));
    let both =
        Case { state: issued("spare", 10), standby: Some(standby("spare", 11)), ..Case::new() };
    assert_eq!(both.turn(12), (Turn::Standby, "issuer-removed", true));
    let own = spec_from(&case.spec, &"spare".parse().unwrap());
    assert!(own.profile.is_none() && !own.reuse_key && own.standby.is_none());
}

#[test]
fn an_order_for_it_gives_way_to_what_is_urgent() {
    let mut case = Case::new();
    let (main, spare) = ("main".parse().unwrap(), "spare".parse().unwrap());
    assert!(is_wanted_at(&case.facts(), &spare, true, at(20)));
    assert!(is_wanted_at(&case.facts(), &main, false, at(20)));
    assert!(!is_wanted_at(&case.facts(), &spare, false, at(20)));
    assert!(!is_wanted_at(&case.facts(), &"other".parse().unwrap(), true, at(20)));
    case.state.renewal_requested_at = Some(at(20));
    assert!(!is_wanted_at(&case.facts(), &spare, true, at(20)));
    case.state.renewal_requested_at = None;
    case.spec.standby = None;
    assert!(!is_wanted_at(&case.facts(), &main, true, at(20)));
}

#[test]
fn what_stands_in_the_way_is_said() {
    let mut case = Case::new();
    let why = |case: &Case, day| ready(&case.spec, case.standby.as_ref(), at(day)).err();
    assert_eq!(why(&case, 20), None);
    assert!(why(&case, 101).unwrap().contains("expired"));
    case.spec.key_type = KeyType::Rsa2048;
    assert!(why(&case, 20).unwrap().contains("rsa-2048"));
    case.standby = None;
    assert_eq!(why(&case, 20).unwrap(), "it is not issued yet");
    case.spec.standby = None;
    assert!(why(&case, 20).unwrap().contains("none is declared"));
}
