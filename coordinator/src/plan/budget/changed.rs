//! What was spent, under limits that have changed since.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;

use super::{Limits, rate_of};
use crate::record::Budget;

/// The budget under the limits that are `declared` now. As many tokens are missing as before: an
/// operator who declares more of them gets more of them at once.
pub fn under<'a>(
    budget: &'a Budget,
    declared: &BTreeMap<String, String>,
    now: Timestamp,
) -> Cow<'a, Budget> {
    if budget.limits == *declared {
        return Cow::Borrowed(budget);
    }
    let of = |declared| Limits::of(declared, &budget.directory).unwrap_or_default();
    let (former, limits) = (of(&budget.limits), of(declared));
    let now_millis = now.as_millisecond();
    let rescaled = budget.full_at_millis.iter().filter_map(|(bucket, full_at)| {
        let new = rate_of(&limits, bucket)?.interval_millis();
        let old = rate_of(&former, bucket).map_or(new, super::Rate::interval_millis);
        let missing = i128::from(full_at.saturating_sub(now_millis).max(0));
        let missing = missing * i128::from(new) / i128::from(old.max(1));
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        Some((bucket.clone(), now_millis.saturating_add(missing)))
    });
    Cow::Owned(Budget {
        limits: declared.clone(),
        full_at_millis: rescaled.collect(),
        ..budget.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::budget::untouched, record::Bucket};

    fn orders(rate: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("orders".to_owned(), rate.to_owned())])
    }

    #[test]
    fn as_many_are_missing_as_before() {
        const DAY: i64 = 24 * 3_600_000;
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut budget = untouched(&"ca".parse().unwrap(), "https://ca.example/");
        budget.limits = orders("2 per 40d");
        budget.full_at_millis.insert(Bucket::Orders, now.as_millisecond() + 40 * DAY);
        assert!(matches!(under(&budget, &orders("2 per 40d"), now), Cow::Borrowed(_)));
        let missing = |declared: &BTreeMap<String, String>| {
            let budget = under(&budget, declared, now);
            budget.full_at_millis.get(&Bucket::Orders).map(|at| at - now.as_millisecond())
        };
        // Two of them, at one in two days.
        assert_eq!(missing(&orders("20 per 40d")), Some(4 * DAY));
        assert_eq!(missing(&orders("1 per 40d")), Some(80 * DAY));
        assert_eq!(missing(&BTreeMap::new()), None, "it is not counted any longer");
    }
}
