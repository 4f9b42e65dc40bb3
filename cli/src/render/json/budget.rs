//! `issuer budget`.

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::some;

/// `issuer budget`.
#[derive(Debug, Serialize)]
pub(crate) struct Budgets {
    budgets: Vec<Budget>,
}

#[derive(Debug, Serialize)]
struct Budget {
    issuer: String,
    counted: bool,
    waiting: u32,
    buckets: Vec<Bucket>,
    more_buckets: u32,
    refused: Vec<Refused>,
    paused: Vec<Paused>,
}

#[derive(Debug, Serialize)]
struct Bucket {
    bucket: String,
    limit: String,
    left: u32,
    reserved: u32,
    full_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Refused {
    bucket: String,
    until: Option<Timestamp>,
    message: String,
}

#[derive(Debug, Serialize)]
struct Paused {
    identifier: String,
    since: Option<Timestamp>,
    message: String,
    link: Option<String>,
}

impl From<&[v1::IssuerBudget]> for Budgets {
    fn from(budgets: &[v1::IssuerBudget]) -> Self {
        Self { budgets: budgets.iter().map(Budget::from).collect() }
    }
}

impl From<&v1::IssuerBudget> for Budget {
    fn from(budget: &v1::IssuerBudget) -> Self {
        let buckets = budget.buckets.iter().map(|bucket| Bucket {
            bucket: bucket.bucket.clone(),
            limit: bucket.limit.clone(),
            left: bucket.left,
            reserved: bucket.reserved,
            full_at: from_timestamp(bucket.full_at.as_ref()),
        });
        let refused = budget.refused.iter().map(|refused| Refused {
            bucket: refused.bucket.clone(),
            until: from_timestamp(refused.until.as_ref()),
            message: refused.message.clone(),
        });
        let paused = budget.paused.iter().map(|paused| Paused {
            identifier: paused.identifier.clone(),
            since: from_timestamp(paused.since.as_ref()),
            message: paused.message.clone(),
            link: some(&paused.link),
        });
        Self {
            issuer: budget.issuer.clone(),
            counted: budget.counted,
            waiting: budget.waiting,
            buckets: buckets.collect(),
            more_buckets: budget.more_buckets,
            refused: refused.collect(),
            paused: paused.collect(),
        }
    }
}
