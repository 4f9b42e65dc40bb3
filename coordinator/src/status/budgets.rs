//! What is left of the CAs' limits, as operators see it.

use chancery_proto::v1::{BucketLeft, BucketRefused, IdentifierPaused, IssuerBudget};
use chancery_shared::{name::IssuerName, wire::to_timestamp};
use jiff::Timestamp;

use super::{Status, certificates::Known};
use crate::{
    mirror::View,
    plan::budget::{self, Limits, Of},
    record::{Bucket, IssuerSpec},
};

impl Status {
    /// The budgets of all issuers, or of one; `None` if there is none of that name.
    pub fn budgets(&self, only: Option<&IssuerName>) -> Option<Vec<IssuerBudget>> {
        let now = self.clock.now();
        let view = self.mirror.read();
        let issuers = view.issuers.values().map(|issuer| &*issuer.record);
        let wanted = issuers.filter(|issuer| only.is_none_or(|only| *only == issuer.name));
        let budgets: Vec<_> = wanted.map(|issuer| budget_of(&view, issuer, now)).collect();
        (only.is_none() || !budgets.is_empty()).then_some(budgets)
    }
}

fn budget_of(view: &View, issuer: &IssuerSpec, now: Timestamp) -> IssuerBudget {
    let limits = Limits::of(&issuer.limits, &issuer.directory).unwrap_or_default();
    let untouched = budget::untouched(&issuer.name, &issuer.directory);
    let stored = view.budgets.get(&issuer.name).map(|budget| &*budget.record);
    let spent = stored.filter(|budget| budget.directory == issuer.directory).unwrap_or(&untouched);
    let spent = &*budget::under(spent, &issuer.limits, now);
    let full = (!spent.full_at_millis.contains_key(&Bucket::Orders)).then_some(&Bucket::Orders);
    let mut buckets: Vec<BucketLeft> = full
        .into_iter()
        .chain(spent.full_at_millis.keys())
        .filter_map(|bucket| {
            let left = budget::left(&limits, spent, bucket, now)?;
            Some(BucketLeft {
                about: Of(bucket).to_string(),
                bucket: bucket.to_string(),
                limit: left.rate.to_string(),
                left: left.left,
                reserved: left.reserved,
                full_at: left.full_at.map(to_timestamp),
            })
        })
        .filter(|left| left.full_at.is_some() || left.bucket == Bucket::Orders.to_string())
        .collect();
    // The account's orders first, then what is nearest to being used up.
    buckets.sort_by_key(|left| (left.bucket != Bucket::Orders.to_string(), left.left));
    let more = buckets.len().saturating_sub(MOST_SHOWN);
    buckets.truncate(MOST_SHOWN);
    let refused = spent.refused.iter().filter(|(_, refused)| refused.until > now);
    IssuerBudget {
        issuer: issuer.name.to_string(),
        counted: !limits.count_nothing(),
        buckets,
        more_buckets: super::count(more),
        refused: refused
            .map(|(bucket, refused)| BucketRefused {
                about: Of(bucket).to_string(),
                bucket: bucket.to_string(),
                until: Some(to_timestamp(refused.until)),
                message: refused.message.clone(),
            })
            .collect(),
        paused: spent
            .paused
            .iter()
            .map(|(identifier, paused)| IdentifierPaused {
                identifier: identifier.to_string(),
                since: Some(to_timestamp(paused.since)),
                message: paused.message.clone(),
                link: paused.link.clone().unwrap_or_default(),
            })
            .collect(),
        waiting: super::count(waiting(view, issuer, now)),
    }
}

/// Certificates that are due and held back by the limits of this issuer.
fn waiting(view: &View, issuer: &IssuerSpec, now: Timestamp) -> usize {
    let held_back = view.certificates.keys().filter(|name| {
        Known::of(view, name).is_some_and(|known| known.is_held_back_by(&issuer.name, now))
    });
    held_back.count()
}

const MOST_SHOWN: usize = 50;
