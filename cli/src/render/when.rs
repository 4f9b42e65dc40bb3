//! Points in time and durations, for people: how far away, and when exactly in UTC.

use chancery_shared::wire::from_timestamp;
use jiff::{SignedDuration, Timestamp};

/// `in 29 d`, `3 h ago`, `now`.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = now.duration_until(at);
    let length = span(distance.abs());
    if distance.abs() < SignedDuration::from_secs(1) {
        "now".to_owned()
    } else if distance.is_negative() {
        format!("{length} ago")
    } else {
        format!("in {length}")
    }
}

/// A length of time in its largest sensible unit, rounded down: `90 s`, `47 h`, `29 d`.
pub(crate) fn span(length: SignedDuration) -> String {
    let secs = length.as_secs();
    match secs {
        ..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// `2026-12-21 04:05Z`.
fn to_the_minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%MZ").to_string()
}

/// `2026-12-21 04:05:06Z`, where seconds matter.
pub(crate) fn to_the_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `in 29 d (2026-12-21 04:05Z)`, to the second if it is near; a dash for no time.
pub(crate) fn both(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match from_timestamp(at) {
        Some(at) if is_within(at, now, SignedDuration::from_hours(1)) => {
            format!("{} ({})", relative(at, now), to_the_second(at))
        }
        Some(at) => format!("{} ({})", relative(at, now), to_the_minute(at)),
        None => "-".to_owned(),
    }
}

/// `in 29 d (2026-12-21)`, to the minute if it is near; a dash for no time.
pub(crate) fn on_day(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match from_timestamp(at) {
        Some(at) if is_within(at, now, SignedDuration::from_hours(48)) => {
            format!("{} ({})", relative(at, now), to_the_minute(at))
        }
        Some(at) => format!("{} ({})", relative(at, now), at.strftime("%Y-%m-%d")),
        None => "-".to_owned(),
    }
}

fn is_within(at: Timestamp, now: Timestamp, distance: SignedDuration) -> bool {
    now.duration_until(at).abs() < distance
}

/// `in 29 d`; a dash for no time.
pub(crate) fn briefly(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    from_timestamp(at).map_or_else(|| "-".to_owned(), |at| relative(at, now))
}

/// A protobuf duration in seconds.
pub(crate) fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    let duration = duration?;
    #[expect(clippy::cast_precision_loss, reason = "leases last seconds, not geological ages")]
    let whole = duration.seconds as f64;
    Some(whole + f64::from(duration.nanos) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_one_unit() {
        let now: Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
        for (at, expected) in [
            ("2026-11-22T05:00:00.4Z", "now"),
            ("2026-11-22T05:01:30Z", "in 90 s"),
            ("2026-11-22T05:59:59Z", "in 59 min"),
            ("2026-11-22T02:00:00Z", "3 h ago"),
            ("2026-12-21T05:00:01Z", "in 29 d"),
            ("2025-11-22T05:00:00Z", "365 d ago"),
        ] {
            assert_eq!(relative(at.parse().unwrap(), now), expected);
        }
        assert_eq!(both(None, now), "-");
        assert_eq!(
            seconds(Some(&prost_types::Duration { seconds: 4, nanos: 500_000_000 })),
            Some(4.5)
        );
    }
}
