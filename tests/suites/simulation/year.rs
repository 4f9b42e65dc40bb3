//! A year of the plan under a CA's limits, and what becomes of it when a part of the plan is left out.
//! `cargo xtask bench plan` has ten times as many certificates.

use chancery_tests::year::Try;

const CERTIFICATES: usize = 5_000;

#[test]
fn in_a_year_nothing_expires_and_nothing_is_refused() {
    let outcome = Try::year(CERTIFICATES).run();
    assert!(outcome.refused.is_empty(), "{outcome:#?}");
    assert!(outcome.expired.is_empty(), "{outcome:#?}");
    // Lives of two months, of one, and of four days.
    assert!(outcome.orders > 70_000, "{outcome:#?}");
    assert!(outcome.replacements > outcome.orders / 2, "{outcome:#?}");
    assert!(outcome.most_a_minute <= 30, "{outcome:#?}");
    assert!(outcome.most_a_minute_in_revocation <= 30, "{outcome:#?}");
    // The outages, the bad names and the limits were felt.
    assert!(outcome.failures > 500 && outcome.held_back > 100, "{outcome:#?}");
}

#[test]
fn without_the_budget_requests_are_refused() {
    let outcome = Try { days: 40, budget: false, ..Try::year(CERTIFICATES) }.run();
    assert!(!outcome.refused.is_empty(), "{outcome:#?}");
}

#[test]
fn without_the_spread_a_revocation_is_a_burst() {
    let outcome = Try { days: 190, spread: false, ..Try::year(CERTIFICATES) }.run();
    assert!(outcome.most_a_minute_in_revocation > 300, "{outcome:#?}");
}

#[test]
fn without_renewal_information_revoked_certificates_are_served() {
    let outcome = Try { days: 200, ari: false, ..Try::year(CERTIFICATES) }.run();
    assert!(outcome.expired.iter().any(|what| what.contains("revoked")), "{outcome:#?}");
}
