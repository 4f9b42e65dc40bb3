//! Renewals wait for maintenance windows, and for freezes to end.
//!
//! Only what is renewed because its time has come waits; what was never issued, was revoked or changed, or
//! what an operator asks for, does not. And nothing waits for longer than until it is urgent, or until the
//! end of a window that its CA has moved: then windows and freezes do not count any more.
//!
//! The instant follows from the certificate and from what is declared, so that every leader comes to the
//! same one. Those that wait for the same opening are spread over the time after it: over the
//! declared jitter, but never beyond the next closing.

use std::{fmt, sync::Arc};

use chancery_shared::maintenance::{Window, time_zone};
use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::DateTime, tz::TimeZone};

use super::{Decision, Facts, ari, seconds, urgent_at};
use crate::record::{Freeze, Issued};

/// Moves a renewal to when it may be made.
pub(super) fn held(decision: Decision, facts: &Facts<'_>, now: Timestamp) -> Decision {
    let issued = facts.state.and_then(|state| state.issued.as_ref());
    let (Some(issued), Some(openings)) = (issued, Openings::of(facts)) else { return decision };
    let due = decision.due;
    let limit = limit(facts, issued);
    if limit <= due.max(now) {
        let closed = openings.closed_by(now).filter(|_| due <= now);
        return with(
            decision,
            closed.map(|cause| format!("it is urgent and does not wait for {cause}")),
        );
    }
    let place = openings.place(&format!("{} {}", facts.spec.name, issued.serial), due, now);
    let at = place.at.unwrap_or(limit).min(limit);
    if at == due {
        return decision;
    }
    let since = if due <= now { format!("due since {}", seconds(due)) } else { "then".to_owned() };
    let until = seconds(at);
    let words = match &place.cause {
        None => format!("{since}, spread to {until}"),
        Some(cause) if place.at.is_none_or(|at| at > limit) => {
            format!("{since} it waits until {until}, when it is urgent, and not for {cause}")
        }
        Some(cause) => format!("{since} it waits until {until} for {cause}"),
    };
    let code = place.cause.filter(|_| due <= now).map_or(decision.code, |cause| cause.code());
    with(Decision { code, due: at, ..decision }, Some(words))
}

fn with(decision: Decision, words: Option<String>) -> Decision {
    match words {
        Some(words) => Decision { message: format!("{}; {words}", decision.message), ..decision },
        None => decision,
    }
}

/// When neither windows nor freezes count any more.
fn limit(facts: &Facts<'_>, issued: &Issued) -> Timestamp {
    let announced = ari::about(issued, facts.renewal_info).filter(|info| ari::is_announced(info));
    announced.map_or(Timestamp::MAX, |info| info.end).min(urgent_at(issued))
}

/// Where a renewal is placed.
struct Place<'a> {
    /// `None` if there is no opening as far as can be seen.
    at: Option<Timestamp>,
    /// When the opening that it is in is over.
    closes: Option<Timestamp>,
    /// What it waits for.
    cause: Option<Cause<'a>>,
}

/// What keeps a renewal from being made.
enum Cause<'a> {
    Freeze(&'a Freeze),
    Windows(&'a [Window], &'a str),
}

impl Cause<'_> {
    fn code(&self) -> &'static str {
        match self {
            Self::Freeze(_) => "freeze",
            Self::Windows(..) => "window",
        }
    }
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Freeze(Freeze { name, to, reason, .. }) => {
                write!(f, "the end of freeze {name} at {}", seconds(*to))?;
                if reason.is_empty() { Ok(()) } else { write!(f, " ({reason})") }
            }
            Self::Windows(windows, zone) => {
                let windows: Vec<_> = windows.iter().map(ToString::to_string).collect();
                write!(f, "its window {} ({zone})", windows.join(" or "))
            }
        }
    }
}

/// When renewals may be made.
struct Openings<'a> {
    windows: &'a [Window],
    zone_name: &'a str,
    zone: TimeZone,
    jitter: Option<SignedDuration>,
    freezes: &'a [Arc<Freeze>],
}

impl<'a> Openings<'a> {
    /// `None` if they may be made whenever they are due.
    fn of(facts: &Facts<'a>) -> Option<Self> {
        let renew = facts.spec.renew.as_ref();
        if renew.is_none() && facts.freezes.is_empty() {
            return None;
        }
        let zone_name = renew.map_or("UTC", |renew| &renew.time_zone);
        let zone = time_zone(zone_name);
        // A zone that this version does not know must not hold anything back for ever.
        let windows = renew.filter(|_| zone.is_some()).map_or(&[][..], |renew| &renew.windows);
        let jitter_secs = renew.and_then(|renew| renew.jitter_secs);
        Some(Self {
            windows,
            zone_name,
            zone: zone.unwrap_or(TimeZone::UTC),
            jitter: jitter_secs.map(|secs| SignedDuration::from_secs(i64::from(secs))),
            freezes: facts.freezes,
        })
    }

    /// Where a renewal is placed that is due at `due`: in the first opening after that which is not over by
    /// `now`.
    fn place(&self, of: &str, due: Timestamp, now: Timestamp) -> Place<'a> {
        let mut from = due;
        for _ in 0..MOST_MISSED {
            let place = self.place_after(of, from);
            match place.closes.filter(|closes| *closes <= now) {
                Some(closes) => from = closes,
                None => return place,
            }
        }
        self.place_after(of, now)
    }

    fn place_after(&self, of: &str, time: Timestamp) -> Place<'a> {
        let cause = self.closed_by(time);
        let Some(opens) = self.opens(time) else { return Place { at: None, closes: None, cause } };
        let closes = self.closes(opens);
        let spread = self.jitter.unwrap_or(if cause.is_some() { WAITED } else { NONE });
        let room = closes.map_or(spread, |closes| opens.duration_until(closes));
        let share = ari::share_of(&format!("{of} jitter"), spread.min(room).as_secs());
        Place { at: Some(opens + SignedDuration::from_secs(share)), closes, cause }
    }

    /// What keeps renewals from being made at a time.
    fn closed_by(&self, time: Timestamp) -> Option<Cause<'a>> {
        if let Some(freeze) = self.freezes.iter().find(|freeze| freeze.holds(time)) {
            return Some(Cause::Freeze(freeze));
        }
        (!self.in_window(time)).then_some(Cause::Windows(self.windows, self.zone_name))
    }

    fn in_window(&self, time: Timestamp) -> bool {
        self.windows.is_empty() || {
            let local = self.zone.to_datetime(time);
            self.windows.iter().any(|window| window.contains(local))
        }
    }

    /// The first instant from `time` on at which renewals may be made.
    fn opens(&self, time: Timestamp) -> Option<Timestamp> {
        let mut at = time;
        // Each turn but the last leaves a freeze behind.
        for _ in 0..=self.freezes.len() {
            at = if self.in_window(at) { at } else { self.next_edge(at, true)? };
            match self.freezes.iter().find(|freeze| freeze.holds(at)) {
                None => return Some(at),
                Some(freeze) => at = freeze.to,
            }
        }
        None
    }

    /// The first instant after an opening at which they may not; `None` if none is near.
    fn closes(&self, opening: Timestamp) -> Option<Timestamp> {
        let freezes = self.freezes.iter().map(|freeze| freeze.from);
        let freeze = freezes.filter(|from| *from > opening).min();
        let window = if self.windows.is_empty() { None } else { self.next_edge(opening, false) };
        [freeze, window].into_iter().flatten().min()
    }

    /// The next instant after `time` at which a window opens, or at which the last of them closes. Clocks that are
    /// set make such instants as well.
    fn next_edge(&self, time: Timestamp, opens: bool) -> Option<Timestamp> {
        let is_edge = |at: &Timestamp| *at > time && self.in_window(*at) == opens;
        let horizon = time + SignedDuration::from_hours(24 * i64::from(SEARCHED_DAYS));
        let changes = self.zone.following(time).map(|change| change.timestamp());
        let mut first = changes.take_while(|at| *at <= horizon).find(is_edge);
        let mut found = false;
        let today = self.zone.to_datetime(time).date();
        for day in -1..=SEARCHED_DAYS {
            let Ok(day) = today.checked_add(i64::from(day).days()) else { continue };
            let edges = self.windows.iter().filter_map(|window| window.on(day));
            let edges = edges.map(|(from, to)| if opens { from } else { to });
            let edge = edges.flat_map(|local| self.instants(local)).filter(is_edge).min();
            first = [first, edge].into_iter().flatten().min();
            // A window over midnight of the day before may have ended later than one of today.
            if found {
                break;
            }
            found = edge.is_some();
        }
        first
    }

    /// When clocks show a local time: once, but not if they are set past it, and twice if they are set back
    /// over it.
    fn instants(&self, local: DateTime) -> impl Iterator<Item = Timestamp> + use<> {
        let (one, other) = match self.zone.to_ambiguous_timestamp(local).offset() {
            jiff::tz::AmbiguousOffset::Unambiguous { offset } => (Some(offset), None),
            jiff::tz::AmbiguousOffset::Gap { .. } => (None, None),
            jiff::tz::AmbiguousOffset::Fold { before, after } => (Some(before), Some(after)),
        };
        let offsets = [one, other].into_iter().flatten();
        offsets.filter_map(move |offset| offset.to_timestamp(local).ok())
    }
}

/// How far renewals that have waited for the same instant are spread, if no jitter is declared.
const WAITED: SignedDuration = SignedDuration::from_hours(1);
const NONE: SignedDuration = SignedDuration::ZERO;
/// A weekly window that clocks were set past opens a week later.
const SEARCHED_DAYS: i32 = 15;
/// Openings that a renewal can have missed: a window a day for a year.
const MOST_MISSED: usize = 400;

#[cfg(test)]
mod tests {
    use chancery_shared::{key_type::KeyType, name::Labels, number::Generation, x509::Fingerprint};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        plan::decide,
        record::{CertificateSpec, CertificateState, RenewTimes, RenewalInfo},
    };

    const BERLIN: &str = "Europe/Berlin";

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn days(days: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * days)
    }

    fn spec(windows: &[&str], zone: &str) -> CertificateSpec {
        CertificateSpec {
            name: "web".parse().unwrap(),
            identifiers: vec!["a.example".parse().unwrap()],
            key_type: KeyType::EcdsaP256,
            reuse_key: false,
            key_ahead: false,
            standby: None,
            profile: None,
            issuers: vec!["main".parse().unwrap()],
            challenges: Vec::new(),
            labels: Labels::default(),
            renew: Some(RenewTimes {
                windows: windows.iter().map(|window| window.parse().unwrap()).collect(),
                time_zone: zone.to_owned(),
                jitter_secs: None,
            }),
        }
    }

    /// Issued for ninety days, of which a third is left at some time between `due` less 4.5 days and `due`.
    fn issued(due: Timestamp) -> CertificateState {
        CertificateState {
            generation: Generation(1),
            issued: Some(Issued {
                serial: "01".to_owned(),
                fingerprint: Fingerprint::of(b"leaf"),
                not_before: due - days(60),
                not_after: due + days(30),
                issuer: "main".parse().unwrap(),
                issued_by: "CA".to_owned(),
                identifiers: vec!["a.example".parse().unwrap()],
                key_type: KeyType::EcdsaP256,
                profile: None,
                stored_at: due - days(60),
            }),
            ..CertificateState::default()
        }
    }

    fn freeze(name: &str, from: Timestamp, to: Timestamp) -> Arc<Freeze> {
        Arc::new(Freeze {
            name: name.parse().unwrap(),
            from,
            to,
            reason: "nobody is there".to_owned(),
            labels: Labels::default(),
        })
    }

    struct Case {
        spec: CertificateSpec,
        state: CertificateState,
        info: Option<RenewalInfo>,
        freezes: Vec<Arc<Freeze>>,
    }

    impl Case {
        /// Due at the latest at `due`, renewed only in `windows`.
        fn new(windows: &[&str], due: &str) -> Self {
            let state = issued(time(due));
            Self { spec: spec(windows, BERLIN), state, info: None, freezes: Vec::new() }
        }

        fn decide(&self, now: Timestamp) -> Decision {
            decide(
                &Facts {
                    spec: &self.spec,
                    state: Some(&self.state),
                    order: None,
                    renewal_info: self.info.as_ref(),
                    freezes: &self.freezes,
                    standby: None,
                },
                now,
            )
        }

        fn openings<T>(&self, look: impl FnOnce(&Openings<'_>) -> T) -> T {
            let facts = Facts {
                spec: &self.spec,
                state: None,
                order: None,
                renewal_info: None,
                freezes: &self.freezes,
                standby: None,
            };
            look(&Openings::of(&facts).unwrap())
        }
    }

    #[test]
    fn what_is_due_waits_for_its_window_and_is_renewed_in_it() {
        // A Saturday; the window opens on Monday at two, one hour before UTC.
        let case = Case::new(&["Mon-Fri 02:00-05:00"], "2026-11-21T12:00:00Z");
        let now = time("2026-11-21T12:00:00Z");
        let decision = case.decide(now);
        assert_eq!(decision.code, "window");
        assert!(decision.due >= time("2026-11-23T01:00:00Z"), "{decision:?}");
        assert!(decision.due < time("2026-11-23T02:00:00Z"), "{decision:?}");
        let message = &decision.message;
        assert!(message.contains("due since 2026-11-"), "{message}");
        assert!(
            message.contains("for its window Mon-Fri 02:00-05:00 (Europe/Berlin)"),
            "{message}"
        );
        // It stays so until then, is due then, and once its turn was missed in the next window.
        assert_eq!(case.decide(time("2026-11-23T00:59:59Z")).due, decision.due);
        assert!(case.decide(decision.due).is_due(decision.due));
        assert!(case.decide(time("2026-11-23T03:59:59Z")).is_due(time("2026-11-23T03:59:59Z")));
        let missed = case.decide(time("2026-11-23T04:00:00Z"));
        assert!(missed.due >= time("2026-11-24T01:00:00Z"), "{missed:?}");
        assert!(missed.due < time("2026-11-24T02:00:00Z"), "{missed:?}");
    }

    #[test]
    fn what_is_not_due_yet_says_what_it_will_wait_for() {
        let case = Case::new(&["Sun 04:00-06:00"], "2026-11-21T12:00:00Z");
        let decision = case.decide(time("2026-10-01T00:00:00Z"));
        assert_eq!(decision.code, "lifetime");
        assert!(decision.message.contains("; then it waits until 2026-11-22T0"), "{decision:?}");
        assert!(decision.due >= time("2026-11-22T03:00:00Z"), "{decision:?}");
    }

    #[test]
    fn a_freeze_is_waited_for_and_lifted() {
        let now = time("2026-12-24T12:00:00Z");
        let mut case = Case::new(&[], "2026-12-24T00:00:00Z");
        let (from, to) = (time("2026-12-18T00:00:00Z"), time("2027-01-04T00:00:00Z"));
        case.freezes = vec![freeze("year-end", from, to)];
        let decision = case.decide(now);
        assert_eq!(decision.code, "freeze");
        assert!(decision.due >= to && decision.due < to + SignedDuration::from_hours(1));
        let words = "the end of freeze year-end at 2027-01-04T00:00:00Z (nobody is there)";
        assert!(decision.message.contains(words), "{decision:?}");
        case.freezes.clear();
        assert!(case.decide(now).is_due(now));
    }

    #[test]
    fn a_freeze_that_would_last_too_long_is_overridden_when_it_is_urgent() {
        let now = time("2026-12-24T12:00:00Z");
        let mut case = Case::new(&["Sun 04:00-06:00"], "2026-12-24T00:00:00Z");
        let (from, to) = (time("2026-12-18T00:00:00Z"), time("2027-03-01T00:00:00Z"));
        case.freezes = vec![freeze("spring", from, to)];
        let urgent = urgent_at(case.state.issued.as_ref().unwrap());
        let decision = case.decide(now);
        assert_eq!((decision.code, decision.due), ("freeze", urgent));
        assert!(decision.message.contains("when it is urgent, and not for"), "{decision:?}");
        let decision = case.decide(urgent);
        assert_eq!(decision.code, "lifetime");
        assert!(decision.is_due(urgent), "{decision:?}");
        assert!(decision.message.contains("urgent and does not wait for the end of freeze spring"));
    }

    #[test]
    fn what_an_operator_wants_and_what_cannot_wait_does_not() {
        let now = time("2026-12-24T12:00:00Z");
        let mut case = Case::new(&["Sun 04:00-06:00"], "2026-12-24T00:00:00Z");
        case.freezes = vec![freeze("year-end", now - days(1), now + days(5))];
        assert!(!case.decide(now).is_due(now));
        let quiet = case.state.clone();
        case.state.renewal_requested_at = Some(now);
        assert_eq!(
            (case.decide(now).code, case.decide(now).is_due(now)),
            ("renewal-requested", true)
        );
        case.state = CertificateState::default();
        assert_eq!((case.decide(now).code, case.decide(now).is_due(now)), ("not-issued", true));
        case.state = quiet;
        case.spec.identifiers.push("b.example".parse().unwrap());
        assert!(case.decide(now).is_due(now));
    }

    #[test]
    fn a_window_of_the_ca_that_has_just_passed_waits_and_one_that_was_moved_does_not() {
        let now = time("2026-12-24T12:00:00Z");
        let mut case = Case::new(&["Sun 04:00-06:00"], "2027-01-10T00:00:00Z");
        let info = RenewalInfo {
            certificate: "web".parse().unwrap(),
            serial: "01".to_owned(),
            id: "a.b".to_owned(),
            start: now - days(2),
            end: now - SignedDuration::from_hours(1),
            explanation_url: None,
            ask_every_secs: 21_600,
            moved: false,
            since: now - days(40),
        };
        case.info = Some(info.clone());
        let decision = case.decide(now);
        assert_eq!((decision.code, decision.is_due(now)), ("window", false));
        case.info = Some(RenewalInfo { moved: true, ..info.clone() });
        assert!(case.decide(now).is_due(now));
        case.info = Some(RenewalInfo { since: now, ..info });
        assert!(case.decide(now).is_due(now));
    }

    #[test]
    fn a_failed_try_is_repeated_within_the_window() {
        let mut case = Case::new(&["Mon-Fri 02:00-05:00"], "2026-11-21T12:00:00Z");
        case.state.failures = 2;
        case.state.last_failure = Some(crate::record::Failure {
            at: time("2026-11-23T03:55:00Z"),
            message: "refused".to_owned(),
            code: "ca-rejected".to_owned(),
            retry_at: time("2026-11-23T04:05:00Z"),
        });
        let decision = case.decide(time("2026-11-23T03:56:00Z"));
        assert!(decision.due >= time("2026-11-24T01:00:00Z"), "{decision:?}");
    }

    #[test]
    fn clocks_that_are_set_close_and_open_windows() {
        let edges = |windows: &[&str], from: &str| {
            let case = Case::new(windows, "2026-11-21T12:00:00Z");
            case.openings(|openings| {
                let opens = openings.opens(time(from)).unwrap();
                (opens.to_string(), openings.closes(opens).unwrap().to_string())
            })
        };
        // On 29 March 2026 there is no time between two and three.
        let day = "2026-03-28T12:00:00Z";
        assert_eq!(edges(&["Sun 02:00-03:00"], day).0, "2026-04-05T00:00:00Z");
        let half = ("2026-03-29T01:00:00Z".to_owned(), "2026-03-29T01:30:00Z".to_owned());
        assert_eq!(edges(&["Sun 02:30-03:30"], day), half);
        // On 25 October 2026 there are two such hours.
        let day = "2026-10-24T12:00:00Z";
        let first = ("2026-10-25T00:15:00Z".to_owned(), "2026-10-25T00:45:00Z".to_owned());
        assert_eq!(edges(&["Sun 02:15-02:45"], day), first);
        let second = ("2026-10-25T01:15:00Z".to_owned(), "2026-10-25T01:45:00Z".to_owned());
        assert_eq!(edges(&["Sun 02:15-02:45"], "2026-10-25T00:45:00Z"), second);
        let split = ("2026-10-24T23:30:00Z".to_owned(), "2026-10-25T00:30:00Z".to_owned());
        assert_eq!(edges(&["Sun 01:30-02:30"], day), split);
        let again = ("2026-10-25T01:00:00Z".to_owned(), "2026-10-25T01:30:00Z".to_owned());
        assert_eq!(edges(&["Sun 01:30-02:30"], "2026-10-25T00:30:00Z"), again);
    }

    #[test]
    fn those_that_wait_for_one_opening_are_spread_over_the_jitter_but_not_beyond_the_closing() {
        let mut case = Case::new(&["Mon 02:00-04:00"], "2026-11-21T12:00:00Z");
        let now = time("2026-11-21T12:00:00Z");
        for (jitter, least, most) in [(None, 2_500, 3_600), (Some(86_400), 6_000, 7_200)] {
            case.spec.renew.as_mut().unwrap().jitter_secs = jitter;
            let places: Vec<i64> = (0..200)
                .map(|i| {
                    case.spec.name = format!("web-{i}").parse().unwrap();
                    case.decide(now).due.as_second() - time("2026-11-23T01:00:00Z").as_second()
                })
                .collect();
            assert!(places.iter().all(|place| (0..most).contains(place)), "{places:?}");
            assert!(places.iter().any(|place| *place > least), "{places:?}");
            assert!(places.iter().any(|place| *place < most / 10), "{places:?}");
        }
    }

    #[test]
    fn an_unknown_time_zone_holds_nothing_back() {
        let mut case = Case::new(&["Sun 02:00-03:00"], "2026-11-21T12:00:00Z");
        case.spec.renew.as_mut().unwrap().time_zone = "Mars/Olympus".to_owned();
        assert!(case.decide(time("2026-11-21T12:00:00Z")).is_due(time("2026-11-21T12:00:00Z")));
    }

    const ZONES: [&str; 6] = [
        BERLIN,
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "UTC",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_next_opening_is_open_and_nothing_before_it_is(
            windows in prop::collection::vec((0_usize..7, 0_u16..1440, 0_u16..1440), 1..4),
            zone in 0_usize..ZONES.len(),
            from_secs in 1_735_000_000_i64..1_830_000_000,
            freezes in prop::collection::vec((-50_i64..200, 1_i64..100), 0..3),
        ) {
            let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
            let texts: Vec<String> = windows
                .iter()
                .filter(|(_, from, to)| from != to)
                .map(|(day, from, to)| {
                    let (day, hours, minutes) = (names[*day], from / 60, from % 60);
                    format!("{day} {hours:02}:{minutes:02}-{:02}:{:02}", to / 60, to % 60)
                })
                .collect();
            prop_assume!(!texts.is_empty());
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let from = Timestamp::from_second(from_secs).unwrap();
            let hour = |hours: i64| from + SignedDuration::from_hours(hours);
            let mut case = Case::new(&texts, "2026-11-21T12:00:00Z");
            case.spec = spec(&texts, ZONES[zone]);
            case.freezes = freezes
                .iter()
                .map(|(start, long)| freeze("some", hour(*start), hour(start + long)))
                .collect();
            case.openings(|openings| {
                let Some(opens) = openings.opens(from) else { return Ok(()) };
                prop_assert!(opens >= from && openings.closed_by(opens).is_none());
                let mut at = from;
                while at < opens {
                    prop_assert!(openings.closed_by(at).is_some(), "open at {at}, not at {opens}");
                    at += SignedDuration::from_mins(7);
                }
                let closes = openings.closes(opens).unwrap();
                prop_assert!(closes > opens && openings.closed_by(closes).is_some());
                let mut at = opens;
                while at < closes {
                    prop_assert!(openings.closed_by(at).is_none(), "closed at {at}, not at {closes}");
                    at += SignedDuration::from_mins(7);
                }
                Ok(())
            })?;
        }

        #[test]
        fn whatever_is_declared_is_renewed_before_it_is_urgent_and_always_at_one_instant(
            late_mins in 0_i64..40_000,
            day in 0_usize..7,
            frozen_days in 0_i64..200,
        ) {
            let window = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][day];
            let mut case = Case::new(&[&format!("{window} 22:00-04:00")], "2026-11-21T12:00:00Z");
            let due = time("2026-11-21T12:00:00Z");
            case.freezes = vec![freeze("some", due - days(1), due + days(frozen_days))];
            let now = due + SignedDuration::from_mins(late_mins);
            let urgent = urgent_at(case.state.issued.as_ref().unwrap());
            let decision = case.decide(now);
            prop_assert!(decision.is_due(now) || decision.due <= urgent);
            prop_assert!(now < urgent || decision.is_due(now));
            if !decision.is_due(now) {
                let then = case.decide(decision.due);
                prop_assert!(then.is_due(decision.due));
                let just_before = decision.due - SignedDuration::from_secs(1);
                prop_assert_eq!(case.decide(just_before.max(now)).due, decision.due);
            }
        }
    }
}
