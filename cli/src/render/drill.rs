//! `drill revocation`.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use chancery_proto::v1::DrilledCertificate;

use super::{
    View,
    table::{section, table},
    text::printable,
    when,
};

/// What has become of one certificate of a drill.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// As it was at the beginning.
    pub(crate) part: DrilledCertificate,
    /// The replacement's generation, and how long it took.
    pub(crate) issued: Option<(u64, Duration)>,
    /// How long it took until every agent served it.
    pub(crate) served: Option<Duration>,
    /// Why it has not been replaced yet, as far as is known.
    pub(crate) error: String,
}

/// What would happen.
pub(crate) fn plan(parts: &[DrilledCertificate], view: &View) -> String {
    if parts.is_empty() {
        return "There are no certificates yet; declare some with chancery apply.\n".to_owned();
    }
    let rows = parts.iter().map(|part| {
        let order = match &part.possible_at {
            _ if !part.skipped.is_empty() => format!("takes no part: {}", printable(&part.skipped)),
            Some(at) => {
                format!("{}: {}", when::both(Some(at), view.now), printable(&part.because))
            }
            None => "now".to_owned(),
        };
        vec![printable(&part.name), part.generation.to_string(), part.agents.to_string(), order]
    });
    let mut page = table(view, &["CERTIFICATE", "GENERATION", "AGENTS", "ORDERED"], &[3], rows);
    let later = parts.iter().filter(|part| part.possible_at.is_some()).count();
    let skipped = parts.iter().filter(|part| !part.skipped.is_empty()).count();
    let now = parts.len() - later - skipped;
    let _ = write!(page, "\n\n{now} at once, {later} when the limits let them, {skipped} not\n");
    page
}

/// How far it has come, in one line.
pub(crate) fn line(parts: &BTreeMap<String, Progress>, elapsed: Duration) -> String {
    let issued = parts.values().filter(|part| part.issued.is_some()).count();
    let served = parts.values().filter(|part| part.served.is_some()).count();
    let all = parts.len();
    let secs = elapsed.as_secs_f64();
    format!("{secs:6.1} s  {issued} of {all} replaced, {served} served everywhere")
}

/// How long it took.
pub(crate) fn report(parts: &BTreeMap<String, Progress>, elapsed: Duration, view: &View) -> String {
    let issued = parts.values().filter_map(|part| Some(part.issued?.1));
    let served = parts.values().filter_map(|part| part.served);
    let rows =
        [("replaced", spread(issued.collect())), ("served everywhere", spread(served.collect()))];
    let rows = rows.into_iter().map(|(what, [first, median, last])| {
        let count = |what: &str| match what {
            "replaced" => parts.values().filter(|part| part.issued.is_some()).count(),
            _ => parts.values().filter(|part| part.served.is_some()).count(),
        };
        let number = format!("{} of {}", count(what), parts.len());
        vec![what.to_owned(), number, first, median, last]
    });
    let mut page = table(view, &["", "CERTIFICATES", "FIRST", "MEDIAN", "LAST"], &[], rows);
    page.push('\n');
    let missing: Vec<String> = parts
        .values()
        .filter(|part| part.served.is_none())
        .map(|part| {
            let why = match (&part.issued, part.error.as_str()) {
                (Some(_), _) => "replaced, but not served everywhere yet".to_owned(),
                (None, "") => "not replaced yet".to_owned(),
                (None, error) => printable(error),
            };
            format!("{}: {why}", printable(&part.part.name))
        })
        .collect();
    if !missing.is_empty() {
        page.push_str(&section(view, "Missing", &missing.join("\n")));
    }
    let _ = write!(page, "\n{:.1} s in all\n", elapsed.as_secs_f64());
    page
}

/// First, median and last, in seconds.
fn spread(mut times: Vec<Duration>) -> [String; 3] {
    times.sort_unstable();
    let told = |time: Option<&Duration>| {
        time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    [told(times.first()), told(times.get(times.len() / 2)), told(times.last())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{fixtures, json};

    fn part(name: &str) -> DrilledCertificate {
        DrilledCertificate {
            name: name.to_owned(),
            generation: 3,
            agents: 2,
            ..DrilledCertificate::default()
        }
    }

    #[test]
    fn a_plan_says_who_waits_and_who_takes_no_part() {
        let waits = DrilledCertificate {
            possible_at: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
            because: "the limit is \u{1b}used up".to_owned(),
            ..part("mail")
        };
        let skipped = DrilledCertificate { skipped: "not issued".to_owned(), ..part("new") };
        let parts = [part("www"), waits, skipped];
        let page = plan(&parts, &fixtures::view());
        for told in ["www", "the limit is", "takes no part: not issued", "1 at once, 1 when"] {
            assert!(page.contains(told), "{told} is not in:\n{page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
        let json = serde_json::to_value(json::DrillPlan::from(&parts[..])).unwrap();
        assert_eq!(json["certificates"][2]["skipped"], "not issued");
    }

    #[test]
    fn a_report_says_how_long_it_took_and_what_is_missing() {
        let progress = |name: &str, issued: Option<u64>, served: Option<u64>| Progress {
            part: part(name),
            issued: issued.map(|secs| (4, Duration::from_secs(secs))),
            served: served.map(Duration::from_secs),
            error: "no challenge".to_owned(),
        };
        let parts = [
            progress("a", Some(2), Some(5)),
            progress("b", Some(3), None),
            progress("c", None, None),
        ];
        let parts: BTreeMap<String, Progress> =
            parts.map(|progress| (progress.part.name.clone(), progress)).into();
        let page = report(&parts, Duration::from_mins(1), &fixtures::view());
        for told in ["2 of 3", "1 of 3", "2.0 s", "5.0 s", "c: no challenge", "b: replaced, but"] {
            assert!(page.contains(told), "{told} is not in:\n{page}");
        }
        assert_eq!(
            line(&parts, Duration::from_secs(7)).trim(),
            "7.0 s  2 of 3 replaced, 1 served everywhere"
        );
        let json =
            serde_json::to_value(json::DrillReport::of(&parts, Duration::from_mins(1))).unwrap();
        assert_eq!(json["certificates"][0]["served_seconds"], 5.0);
        assert_eq!(json["certificates"][2]["served_seconds"], serde_json::Value::Null);
    }
}
