//! `lease show` and `lease transfer`.

use std::time::Duration;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::some;
use crate::render::when;

/// `lease show`.
#[derive(Debug, Serialize)]
pub(crate) struct Lease {
    held: bool,
    holder: Option<String>,
    epoch: u64,
    since: Option<Timestamp>,
    ttl_seconds: Option<f64>,
    remaining_seconds: Option<f64>,
    last_renewed: Option<Timestamp>,
    is_self: bool,
    confirmed: bool,
    message: Option<String>,
    renewals: Vec<Renewal>,
}

#[derive(Debug, Serialize)]
struct Renewal {
    at: Option<Timestamp>,
    took_seconds: Option<f64>,
}

impl From<&v1::Lease> for Lease {
    fn from(lease: &v1::Lease) -> Self {
        let renewals = lease.renewals.iter().map(|renewal| Renewal {
            at: from_timestamp(renewal.at.as_ref()),
            took_seconds: when::seconds(renewal.took.as_ref()),
        });
        Self {
            held: lease.held,
            holder: some(&lease.holder),
            epoch: lease.epoch,
            since: from_timestamp(lease.since.as_ref()),
            ttl_seconds: when::seconds(lease.ttl.as_ref()),
            remaining_seconds: when::seconds(lease.remaining.as_ref()),
            last_renewed: from_timestamp(lease.last_renewed.as_ref()),
            is_self: lease.is_self,
            confirmed: lease.confirmed,
            message: some(&lease.message),
            renewals: renewals.collect(),
        }
    }
}

/// `lease transfer`.
#[derive(Debug, Serialize)]
pub(crate) struct Transfer {
    from: String,
    from_epoch: u64,
    holder: String,
    epoch: u64,
    /// Whether another term has begun.
    transferred: bool,
    vacant_seconds: Option<f64>,
    elapsed_seconds: f64,
}

impl Transfer {
    /// `elapsed` is how long the whole command took.
    pub(crate) fn new(response: &v1::TransferLeaseResponse, elapsed: Duration) -> Self {
        Self {
            from: response.from.clone(),
            from_epoch: response.from_epoch,
            holder: response.holder.clone(),
            epoch: response.epoch,
            transferred: response.epoch != response.from_epoch,
            vacant_seconds: when::seconds(response.took.as_ref()),
            elapsed_seconds: elapsed.as_secs_f64(),
        }
    }
}
