//! When certificates may be renewed: `renew`, of a file or of a `[[certificate]]`, and `[[freeze]]`.

use std::time::Duration;

use chancery_proto::v1::{Freeze, RenewTimes};
use chancery_shared::{
    maintenance::{Window, time_zone},
    name::FreezeName,
    wire::to_timestamp,
};
use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use super::{
    Findings, Problem,
    check::{self, keep, parsed, refuse_repetitions},
    table::{Table, Text},
};

/// Reads `renew`, if it is there. One that says nothing stands for any time.
pub(super) fn times(of: &Table<'_>, problems: &mut Vec<Problem>) -> Option<RenewTimes> {
    let table = of.table("renew", EXAMPLE, problems)?;
    table.refuse_unknown_keys(&["windows", "time_zone", "jitter"], problems);
    let windows = table.texts("windows", problems);
    refuse_repetitions(&table, "windows", &windows, problems);
    let windows: Vec<String> = windows
        .into_iter()
        .filter_map(|text| parsed::<Window>(&table, "windows", text, problems))
        .map(|(window, _)| window.to_string())
        .collect();
    let (time_zone, _) = zone(&table, problems);
    let jitter = table.text("jitter", problems).and_then(|text| jitter(&table, &text, problems));
    Some(RenewTimes { windows, time_zone, jitter })
}

/// Reads one `[[freeze]]`.
pub(super) fn freeze(table: &Table<'_>, findings: &mut Findings) {
    let problems = &mut findings.problems;
    let known = ["name", "from", "to", "time_zone", "reason", "labels"];
    table.refuse_unknown_keys(&known, problems);
    let name = table.required_text("name", "\"year-end\"", problems);
    let name = name.and_then(|text| parsed::<FreezeName>(table, "name", text, problems));
    let (_, zone) = zone(table, problems);
    let from = table.required_text("from", "\"2026-12-18\"", problems);
    let from = from.and_then(|text| instant(table, "from", &text, &zone, false, problems));
    let to = table.required_text("to", "\"2027-01-03\"", problems);
    let end = to.as_ref().and_then(|text| instant(table, "to", text, &zone, true, problems));
    if let (Some(from), Some(end), Some(to)) = (from, end, &to)
        && end <= from
    {
        let text =
            format!("this is not after its beginning, {from}; exchange from and to, or mend one");
        problems.push(table.text_problem("to", to, text));
    }
    let reason = table.text("reason", problems).map(|text| text.value).unwrap_or_default();
    let labels = check::check_labels(table, problems);
    let Some((name, text)) = name else { return };
    let freeze = Freeze {
        name: name.to_string(),
        from: from.map(to_timestamp),
        to: end.map(to_timestamp),
        reason,
        labels,
    };
    let entry = ("freeze", table, &text);
    keep(&mut findings.freezes, entry, freeze.name.clone(), freeze, problems);
}

/// The name of the time zone that a table says, and the zone; UTC without one.
fn zone(table: &Table<'_>, problems: &mut Vec<Problem>) -> (String, TimeZone) {
    let Some(text) = table.text("time_zone", problems) else {
        return (String::new(), TimeZone::UTC);
    };
    let Some(zone) = time_zone(&text.value) else {
        let message = "no time zone of this name is known; write an IANA name, such as \
                       \"Europe/Berlin\"";
        problems.push(table.text_problem("time_zone", &text, message.to_owned()));
        return (String::new(), TimeZone::UTC);
    };
    (text.value, zone)
}

fn jitter(
    table: &Table<'_>,
    text: &Text,
    problems: &mut Vec<Problem>,
) -> Option<prost_types::Duration> {
    let message = match humantime::parse_duration(&text.value) {
        Err(error) => format!("{error}; write for example 30m, 6h or 1day"),
        Ok(jitter) if jitter > MOST_JITTER => "this is longer than 7days; write less".to_owned(),
        Ok(jitter) => {
            let seconds = i64::try_from(jitter.as_secs()).unwrap_or_default();
            return Some(prost_types::Duration { seconds, nanos: 0 });
        }
    };
    problems.push(table.text_problem("jitter", text, message));
    None
}

/// A day, from its beginning or, as the `end`, with all of it; or a minute of one; or an instant in UTC.
fn instant(
    table: &Table<'_>,
    key: &str,
    text: &Text,
    zone: &TimeZone,
    end: bool,
    problems: &mut Vec<Problem>,
) -> Option<Timestamp> {
    let value = &text.value;
    let of_day = || {
        let day = value.parse::<Date>().ok().filter(|_| value.len() == A_DATE)?;
        let day = if end { day.tomorrow().ok()? } else { day };
        Some(day.to_zoned(zone.clone()).ok()?.timestamp())
    };
    let of_minute = || {
        let time = value.parse::<DateTime>().ok().filter(|_| value.len() > A_DATE)?;
        Some(zone.to_zoned(time).ok()?.timestamp())
    };
    let instant = of_day().or_else(of_minute).or_else(|| value.parse().ok());
    if instant.is_none() {
        let message = "this is neither a day nor a time; write for example \"2026-12-18\" or \
                       \"2026-12-18 18:00\"";
        problems.push(table.text_problem(key, text, message.to_owned()));
    }
    instant
}

const EXAMPLE: &str = "{ windows = [\"Mon-Fri 02:00-05:00\"], time_zone = \"Europe/Berlin\" }";
const MOST_JITTER: Duration = Duration::from_hours(7 * 24);
/// Letters of `2026-12-18`.
const A_DATE: usize = 10;
