//! From the message to records: when certificates may be renewed.

use chancery_proto::v1::{Freeze as WireFreeze, RenewTimes as WireTimes};
use chancery_shared::{
    maintenance::{Window, time_zone},
    name::{FreezeName, Labels},
    wire::from_timestamp,
};

use super::desired::Found;
use crate::record::{Freeze, RenewTimes};

/// `None` for times that say nothing.
pub(super) fn times(wire: &WireTimes, found: &mut Found<'_>) -> Option<RenewTimes> {
    if wire.windows.len() > MOST_WINDOWS {
        found.add(format!("renew has {} windows, more than {MOST_WINDOWS}", wire.windows.len()));
    }
    let windows: Vec<Window> =
        wire.windows.iter().filter_map(|text| found.ok(text.parse())).collect();
    let zone = if wire.time_zone.is_empty() { UTC } else { &wire.time_zone };
    if time_zone(zone).is_none() {
        found.add(format!(
            "time zone {zone:?} is not known: write an IANA name, such as \"Europe/Berlin\""
        ));
    }
    let jitter_secs = wire.jitter.as_ref().and_then(|jitter| {
        let secs = u32::try_from(jitter.seconds).ok().filter(|secs| *secs <= MOST_JITTER_SECS);
        found.ok(secs.ok_or("the jitter of renew is longer than 7 days"))
    });
    if windows.is_empty() && jitter_secs.is_none() {
        return None;
    }
    Some(RenewTimes { windows, time_zone: zone.to_owned(), jitter_secs })
}

/// `None` only if it has no valid name, or no times; all problems are in `found`.
pub(super) fn freeze(wire: &WireFreeze, found: &mut Found<'_>) -> Option<Freeze> {
    let name: Option<FreezeName> = found.ok(wire.name.parse());
    let from = from_timestamp(wire.from.as_ref());
    let to = from_timestamp(wire.to.as_ref());
    let times = from.zip(to).filter(|(from, to)| from < to);
    let times = found.ok(times.ok_or("its end, to, is not after its beginning, from"));
    let labels = found.ok(Labels::new(wire.labels.clone()));
    if wire.reason.len() > MOST_REASON {
        found.add(format!("its reason has more than {MOST_REASON} bytes"));
    }
    let (from, to) = times?;
    let labels = labels.unwrap_or_default();
    Some(Freeze { name: name?, from, to, reason: wire.reason.clone(), labels })
}

const UTC: &str = "UTC";
const MOST_WINDOWS: usize = 20;
const MOST_JITTER_SECS: u32 = 7 * 24 * 3600;
const MOST_REASON: usize = 500;
