//! `lease show` and `lease transfer`.

use std::time::Duration;

use chancery_proto::v1::{Lease, Renewal, TransferLeaseResponse};
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;

use super::{
    View,
    table::{facts, section, table},
    text::printable,
    when,
};

/// The lease in one line of an overview.
pub(super) fn holder(lease: &Lease, view: &View) -> String {
    if !lease.held {
        return format!("held by nobody; the last epoch was {}", lease.epoch);
    }
    let itself = if lease.is_self { " (this one)" } else { "" };
    let since = from_timestamp(lease.since.as_ref())
        .map(|at| format!(", for {}", when::span(at.duration_until(view.now))))
        .unwrap_or_default();
    let doubt = if lease.confirmed { "" } else { ", NOT CONFIRMED" };
    format!("{}{itself}, epoch {}{since}{doubt}", printable(&lease.holder), lease.epoch)
}

/// The page of `chancery lease show`.
pub(crate) fn page(lease: &Lease, view: &View) -> String {
    if !lease.held {
        let last = lease.epoch.to_string();
        return facts(view, [("Holder", "nobody".to_owned()), ("Last epoch", last)]);
    }
    let itself = if lease.is_self { " (this coordinator)" } else { "" };
    let mut rows = vec![
        ("Holder", format!("{}{itself}", printable(&lease.holder))),
        ("Epoch", lease.epoch.to_string()),
        ("Since", when::both(lease.since.as_ref(), view.now)),
    ];
    if lease.confirmed {
        rows.push(("Renewed", when::both(lease.last_renewed.as_ref(), view.now)));
        let remaining = seconds(lease.remaining.as_ref());
        rows.push(("Remaining", format!("{remaining} of {}", seconds(lease.ttl.as_ref()))));
    } else {
        rows.push(("TTL", seconds(lease.ttl.as_ref())));
        let doubt = format!("{}: {}", view.paint.red("not confirmed"), printable(&lease.message));
        rows.push(("Remaining", doubt));
    }
    let mut page = facts(view, rows);
    if !lease.renewals.is_empty() {
        let rows = lease.renewals.iter().map(|renewal| row(renewal, view.now));
        let body = table(view, &["CONFIRMED", "AT", "TOOK"], &[], rows);
        page.push('\n');
        page.push_str(&section(view, "Last keep-alives", &body));
    }
    page
}

fn row(renewal: &Renewal, now: Timestamp) -> Vec<String> {
    let at = from_timestamp(renewal.at.as_ref());
    let took = when::seconds(renewal.took.as_ref()).unwrap_or_default() * 1e3;
    vec![
        at.map_or_else(|| "-".to_owned(), |at| when::relative(at, now)),
        at.map_or_else(|| "-".to_owned(), when::to_the_second),
        format!("{took:.1} ms"),
    ]
}

/// The lease in one line of many, where nothing can be drawn over.
pub(crate) fn line(lease: &Lease, now: Timestamp) -> String {
    let at = when::to_the_second(now);
    if !lease.held {
        return format!("{at}  nobody leads; the last epoch was {}", lease.epoch);
    }
    let holder = printable(&lease.holder);
    let doubt = if lease.confirmed {
        String::new()
    } else {
        format!("; not confirmed: {}", printable(&lease.message))
    };
    format!("{at}  {holder} leads, epoch {}{doubt}", lease.epoch)
}

/// Whether the two say different things, beside the time that has passed.
pub(crate) fn differs(one: &Lease, other: &Lease) -> bool {
    let said = |lease: &Lease| (lease.held, lease.holder.clone(), lease.epoch, lease.confirmed);
    said(one) != said(other)
}

/// How a transfer ended.
pub(crate) fn transferred(response: &TransferLeaseResponse, elapsed: Duration) -> String {
    let holder = printable(&response.holder);
    if response.epoch == response.from_epoch {
        return format!("{holder} leads already, epoch {}; nothing was done.", response.epoch);
    }
    let TransferLeaseResponse { from, epoch, .. } = response;
    if let Some(took) = when::seconds(response.took.as_ref()) {
        let from = printable(from);
        return format!(
            "{holder} leads, epoch {epoch}. Nobody led for {took:.3} s after {from} had stepped down."
        );
    }
    let elapsed = elapsed.as_secs_f64();
    format!("{holder} leads, epoch {epoch}, {elapsed:.1} s after it was asked for.")
}

fn seconds(duration: Option<&prost_types::Duration>) -> String {
    when::seconds(duration).map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn a_lease_that_is_held() {
        let lease_held = fixtures::lease();
        assert_snapshot!(page(&lease_held, &fixtures::view()), @"
        Holder     node-1 (this coordinator)
        Epoch      7
        Since      3 h ago (2026-11-22 02:00Z)
        Renewed    1 s ago (2026-11-22 04:59:59Z)
        Remaining  4.2 s of 5.0 s

        Last keep-alives
        CONFIRMED  AT                    TOOK
        1 s ago    2026-11-22 04:59:59Z  1.2 ms
        3 s ago    2026-11-22 04:59:57Z  40.0 ms
        ");
        assert_json_snapshot!(json::Lease::from(&lease_held), @r#"
        {
          "held": true,
          "holder": "node-1",
          "epoch": 7,
          "since": "2026-11-22T02:00:00Z",
          "ttl_seconds": 5.0,
          "remaining_seconds": 4.25,
          "last_renewed": "2026-11-22T04:59:59Z",
          "is_self": true,
          "confirmed": true,
          "message": null,
          "renewals": [
            {
              "at": "2026-11-22T04:59:59Z",
              "took_seconds": 0.00125
            },
            {
              "at": "2026-11-22T04:59:57Z",
              "took_seconds": 0.04
            }
          ]
        }
        "#);
    }

    #[test]
    fn a_lease_that_nobody_holds() {
        let free = Lease { epoch: 7, ..Lease::default() };
        assert_snapshot!(page(&free, &fixtures::view()), @"
        Holder      nobody
        Last epoch  7
        ");
        assert_json_snapshot!(json::Lease::from(&free), @r#"
        {
          "held": false,
          "holder": null,
          "epoch": 7,
          "since": null,
          "ttl_seconds": null,
          "remaining_seconds": null,
          "last_renewed": null,
          "is_self": false,
          "confirmed": false,
          "message": null,
          "renewals": []
        }
        "#);
    }

    #[test]
    fn a_lease_that_nobody_confirms() {
        let doubtful = Lease {
            message: "coordinator node-2 at b:7443 cannot be reached from here".to_owned(),
            ..fixtures::unconfirmed()
        };
        assert_snapshot!(page(&doubtful, &fixtures::view()), @"
        Holder     node-2
        Epoch      7
        Since      3 h ago (2026-11-22 02:00Z)
        TTL        5.0 s
        Remaining  not confirmed: coordinator node-2 at b:7443 cannot be reached from
                   here
        ");
        assert_snapshot!(holder(&doubtful, &fixtures::view()), @"node-2, epoch 7, for 3 h, NOT CONFIRMED");
        assert_snapshot!(line(&doubtful, fixtures::now()), @"2026-11-22 05:00:00Z  node-2 leads, epoch 7; not confirmed: coordinator node-2 at b:7443 cannot be reached from here");
        assert!(differs(&doubtful, &fixtures::lease()) && !differs(&doubtful, &doubtful));
    }

    #[test]
    fn transfers_and_how_they_ended() {
        let moved = TransferLeaseResponse {
            from: "node-1".to_owned(),
            from_epoch: 7,
            holder: "node-2".to_owned(),
            epoch: 8,
            took: Some(prost_types::Duration { seconds: 0, nanos: 12_000_000 }),
        };
        let elapsed = Duration::from_millis(250);
        assert_snapshot!(transferred(&moved, elapsed), @"node-2 leads, epoch 8. Nobody led for 0.012 s after node-1 had stepped down.");
        assert_json_snapshot!(json::Transfer::new(&moved, elapsed), @r#"
        {
          "from": "node-1",
          "from_epoch": 7,
          "holder": "node-2",
          "epoch": 8,
          "transferred": true,
          "vacant_seconds": 0.012,
          "elapsed_seconds": 0.25
        }
        "#);
        let slow = TransferLeaseResponse { took: None, ..moved.clone() };
        assert_snapshot!(transferred(&slow, elapsed), @"node-2 leads, epoch 8, 0.2 s after it was asked for.");
        let stays =
            TransferLeaseResponse { holder: "node-1".to_owned(), epoch: 7, took: None, ..moved };
        assert_snapshot!(transferred(&stays, elapsed), @"node-1 leads already, epoch 7; nothing was done.");
    }
}
