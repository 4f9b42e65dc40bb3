//! What keeps the invariants is taken away, and the simulation notices.

use chancery_tests::sim::{Sabotage, Verdict, simulate};

/// The first seed that fails.
fn first_failure(sabotage: Sabotage) -> Verdict {
    let mut verdicts = (0..SEEDS).map(|seed| simulate(seed, Some(sabotage)));
    verdicts
        .find(|verdict| verdict.violation.is_some())
        .unwrap_or_else(|| panic!("{sabotage:?} stayed unnoticed in {SEEDS} seeds"))
}

fn shows(sabotage: Sabotage, invariant: &str) {
    let verdict = first_failure(sabotage);
    let violation = verdict.violation.clone().expect("it was looked for");
    assert_eq!(violation.invariant, invariant, "{verdict}");
    let shown = verdict.to_string();
    let command = format!("cargo xtask sim --seeds 1 --seed {}", verdict.seed);
    assert!(shown.contains(&command) && shown.contains(&violation.why), "{shown}");
    // Only what was taken away is to blame.
    assert!(simulate(verdict.seed, None).violation.is_none());
}

#[test]
fn a_store_that_ignores_fences_is_noticed() {
    shows(Sabotage::NoFence, "1 one-epoch");
}

#[test]
fn an_intent_that_is_not_written_is_noticed() {
    shows(Sabotage::NoIntent, "2 one-order");
}

#[test]
fn a_lease_without_a_margin_is_noticed() {
    shows(Sabotage::NoMargin, "1 one-epoch");
}

/// Enough for each of them.
const SEEDS: u64 = 200;
