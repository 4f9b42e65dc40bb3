use chancery_shared::{
    key_type::KeyType, name::Labels, number::Generation, revocation::RevocationReason,
};
use proptest::prelude::*;

use super::*;
use crate::record::Failure;

const DAY_SECS: i64 = 24 * 3600;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * DAY_SECS).unwrap()
}

fn spec() -> CertificateSpec {
    CertificateSpec {
        name: "web".parse().unwrap(),
        identifiers: vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()],
        key_type: KeyType::EcdsaP256,
        reuse_key: false,
        key_ahead: false,
        standby: None,
        profile: None,
        issuers: vec!["main".parse().unwrap(), "spare".parse().unwrap()],
        challenges: Vec::new(),
        labels: Labels::parse(["role=web"]).unwrap(),
        renew: None,
    }
}

fn issued(days: i64) -> CertificateState {
    CertificateState {
        generation: Generation(1),
        issued: Some(Issued {
            serial: "01".to_owned(),
            fingerprint: Fingerprint::of(b"leaf"),
            not_before: at(0),
            not_after: at(days),
            issuer: "main".parse().unwrap(),
            issued_by: "CA".to_owned(),
            identifiers: spec().identifiers,
            key_type: KeyType::EcdsaP256,
            profile: None,
            stored_at: at(0),
        }),
        ..CertificateState::default()
    }
}

fn code(spec: &CertificateSpec, state: &CertificateState, now: Timestamp) -> (&'static str, bool) {
    let decision = decide(
        &Facts {
            spec,
            state: Some(state),
            order: None,
            renewal_info: None,
            freezes: &[],
            standby: None,
        },
        now,
    );
    (decision.code, decision.is_due(now))
}

#[test]
fn what_was_never_issued_is_due() {
    let decision = decide(
        &Facts {
            spec: &spec(),
            state: None,
            order: None,
            renewal_info: None,
            freezes: &[],
            standby: None,
        },
        at(0),
    );
    assert_eq!((decision.code, decision.is_due(at(0))), ("not-issued", true));
}

#[test]
fn what_was_revoked_is_due_until_it_has_been_replaced() {
    let mut state = issued(90);
    let (generation, reason) = (Generation(1), RevocationReason::Superseded);
    state.revoked = Some(crate::record::Revoked { generation, reason, at: at(1) });
    assert_eq!(code(&spec(), &state, at(1)), ("revoked", true));
    state.generation = Generation(2);
    assert_eq!(code(&spec(), &state, at(1)), ("lifetime", false));
}

#[test]
fn ninety_days_are_renewed_with_about_a_third_left() {
    let state = issued(90);
    assert_eq!(code(&spec(), &state, at(55)), ("lifetime", false));
    assert_eq!(code(&spec(), &state, at(60)), ("lifetime", true));
    assert_eq!(code(&spec(), &state, at(90)), ("expired", true));
}

#[test]
fn six_days_are_renewed_with_about_half_left() {
    let state = issued(6);
    assert_eq!(code(&spec(), &state, at(2)), ("lifetime", false));
    assert_eq!(code(&spec(), &state, at(3)), ("lifetime", true));
}

#[test]
fn a_changed_specification_is_due_and_a_reordered_one_is_not() {
    let state = issued(90);
    let mut changed = spec();
    changed.identifiers.reverse();
    assert_eq!(code(&changed, &state, at(1)), ("lifetime", false));
    changed.identifiers.pop();
    assert_eq!(code(&changed, &state, at(1)), ("identifiers-changed", true));
    let changed = CertificateSpec { key_type: KeyType::Rsa2048, ..spec() };
    assert_eq!(code(&changed, &state, at(1)), ("key-type-changed", true));
    let changed = CertificateSpec { profile: Some("shortlived".to_owned()), ..spec() };
    assert_eq!(code(&changed, &state, at(1)), ("profile-changed", true));
    let changed = CertificateSpec { issuers: vec!["spare".parse().unwrap()], ..spec() };
    assert_eq!(code(&changed, &state, at(1)), ("issuer-removed", true));
}

#[test]
fn a_failure_delays_until_its_time_and_an_operator_overrides_it() {
    let mut state = CertificateState {
        failures: 2,
        last_failure: Some(Failure {
            at: at(1),
            message: "refused".to_owned(),
            code: "acme.rejected".to_owned(),
            retry_at: at(2),
        }),
        ..CertificateState::default()
    };
    let decision = decide(
        &Facts {
            spec: &spec(),
            state: Some(&state),
            order: None,
            renewal_info: None,
            freezes: &[],
            standby: None,
        },
        at(1),
    );
    assert_eq!(decision.due, at(2));
    assert!(decision.message.contains("2 failed tries"), "{}", decision.message);
    assert_eq!(code(&spec(), &state, at(2)), ("not-issued", true));
    state.renewal_requested_at = Some(Timestamp::from_second(at(1).as_second() + 1).unwrap());
    assert!(code(&spec(), &state, at(1)).1);
}

#[test]
fn a_failure_in_the_future_delays_nothing() {
    let state = CertificateState {
        failures: 1,
        last_failure: Some(Failure {
            at: at(1000),
            message: "refused".to_owned(),
            code: "ca-rejected".to_owned(),
            retry_at: at(1001),
        }),
        ..CertificateState::default()
    };
    // The clock was three years ahead for a while.
    assert!(code(&spec(), &state, at(0)).1);
}

#[test]
fn a_clock_that_runs_ahead_does_not_make_each_new_certificate_due_at_once() {
    let mut state = issued(90);
    state.issued.as_mut().unwrap().stored_at = at(65);
    assert_eq!(code(&spec(), &state, at(65)), ("lifetime", false));
    assert_eq!(code(&spec(), &state, at(74)), ("lifetime", true));
}

#[test]
fn after_three_failures_the_next_issuer_has_its_turn() {
    let turns: Vec<_> = [0, 2, 3, 5, 6]
        .into_iter()
        .map(|failures| {
            let state = CertificateState { failures, ..CertificateState::default() };
            issuer_for(&spec(), Some(&state)).unwrap().to_string()
        })
        .collect();
    assert_eq!(turns, ["main", "main", "spare", "spare", "main"]);
}

#[test]
fn waits_grow_to_a_day() {
    let waits: Vec<_> =
        (1..=5).map(|failures| wait_after(failures, Duration::from_mins(1)).as_secs()).collect();
    assert_eq!(waits, [60, 600, 6_000, 60_000, 86_400]);
    assert_eq!(wait_after(u32::MAX, Duration::from_mins(1)), A_DAY);
}

#[test]
fn certificates_of_one_day_are_spread_over_a_twentieth_of_their_life() {
    let state = issued(90);
    let days: std::collections::BTreeSet<i64> = (0..100)
        .map(|i| {
            let spec = CertificateSpec { name: format!("web-{i}").parse().unwrap(), ..spec() };
            (renew_at(&spec, state.issued.as_ref().unwrap()).as_second() - at(0).as_second())
                / DAY_SECS
        })
        .collect();
    assert!(days.len() >= 4, "{days:?}");
    assert!(days.iter().all(|day| (55..=60).contains(day)), "{days:?}");
}

proptest! {
    #[test]
    fn whatever_is_issued_is_due_before_it_expires(
        life_secs in 60_i64..1_000 * DAY_SECS,
        name in "[a-z]{1,10}",
    ) {
        let mut state = issued(1);
        let issued = state.issued.as_mut().unwrap();
        issued.not_after = Timestamp::from_second(at(0).as_second() + life_secs).unwrap();
        let spec = CertificateSpec { name: name.parse().unwrap(), ..spec() };
        let due = renew_at(&spec, issued);
        prop_assert!(due > issued.not_before && due < issued.not_after);
    }
}
