//! All invariants hold, and a seed is a seed.

use chancery_tests::sim::{Verdict, simulate};

/// On one thread: the test runner has the four parts run side by side.
fn all_hold(part: u64) {
    let verdicts: Vec<Verdict> =
        (part * PART..(part + 1) * PART).map(|seed| simulate(seed, None)).collect();
    let failed: Vec<_> = verdicts.iter().filter(|verdict| verdict.violation.is_some()).collect();
    let shown: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{} of {PART} seeds failed:\n{}", failed.len(), shown.join("\n\n"));
    let orders: usize = verdicts.iter().map(|verdict| verdict.orders).sum();
    assert!(orders as u64 > PART, "only {orders} orders were made");
}

#[test]
fn all_invariants_hold_in_the_first_quarter_of_a_thousand_seeds() {
    all_hold(0);
}

#[test]
fn all_invariants_hold_in_the_second_quarter_of_a_thousand_seeds() {
    all_hold(1);
}

#[test]
fn all_invariants_hold_in_the_third_quarter_of_a_thousand_seeds() {
    all_hold(2);
}

#[test]
fn all_invariants_hold_in_the_last_quarter_of_a_thousand_seeds() {
    all_hold(3);
}

#[test]
fn a_seed_goes_the_same_way_each_time() {
    for seed in 0..SAME {
        let (once, again) = (simulate(seed, None), simulate(seed, None));
        assert_eq!((once.hash, once.steps), (again.hash, again.steps), "seed {seed}");
    }
    assert_ne!(simulate(0, None).hash, simulate(1, None).hash);
}

/// A quarter of a thousand.
const PART: u64 = 250;
const SAME: u64 = 25;
