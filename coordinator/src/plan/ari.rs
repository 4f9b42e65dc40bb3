//! What a CA's renewal information (RFC 9773) means for one certificate: when it is renewed, and when
//! the CA is asked next. Pure, and the same in every process: both follow from the certificate and the
//! window alone, so that a new leader neither renews nor asks anything twice.

use std::time::Duration;

use chancery_shared::{name::CertName, x509::Fingerprint};
use jiff::Timestamp;

use crate::record::{Issued, RenewalInfo};

/// The instant in the window at which the certificate is renewed, evenly spread over it
/// (RFC 9773 section 4.2). A window that is not one is worth nothing (same section).
pub fn instant_in(name: &CertName, info: &RenewalInfo) -> Option<Timestamp> {
    let (start, end) = (info.start.as_second(), info.end.as_second());
    if start >= end {
        return None;
    }
    let of = format!("{name} {} {start} {end}", info.serial);
    Timestamp::from_second(start + share_of(&of, end - start)).ok()
}

/// Whether the CA wants it sooner than it had said, or had wanted it already when it was asked first, which is how
/// it announces a revocation.
pub fn is_announced(info: &RenewalInfo) -> bool {
    info.moved || info.end <= info.since
}

/// The information, if it is about what was issued last.
pub fn about<'a>(issued: &Issued, info: Option<&'a RenewalInfo>) -> Option<&'a RenewalInfo> {
    info.filter(|info| info.serial == issued.serial)
}

/// When to ask the CA about a certificate next. Soon after it was issued; from then on in each period that the
/// CA named once, at a place in it that is the certificate's own.
pub fn next_ask(
    name: &CertName,
    issued: &Issued,
    info: Option<&RenewalInfo>,
    now: Timestamp,
) -> Timestamp {
    let of = format!("{name} {}", issued.serial);
    let Some(info) = about(issued, info) else {
        let first_secs = issued.stored_at.as_second() + share_of(&of, SOON_SECS);
        return Timestamp::from_second(first_secs).unwrap_or(now);
    };
    let every_secs = i64::from(info.ask_every_secs).max(1);
    let place = share_of(&of, every_secs);
    let now_secs = now.as_second();
    let this_period = now_secs - now_secs.rem_euclid(every_secs) + place;
    let next = if this_period > now_secs { this_period } else { this_period + every_secs };
    Timestamp::from_second(next).unwrap_or(now)
}

/// A Retry-After within reason (RFC 9773 section 4.3.2): not so short that it is a storm, and often
/// enough to hear of an emergency in time.
pub fn ask_every(retry_after: Duration) -> Duration {
    retry_after.clamp(MOST_OFTEN, LEAST_OFTEN)
}

/// A number from zero to below `whole` that a text decides.
pub(super) fn share_of(text: &str, whole: i64) -> i64 {
    let hash = Fingerprint::of(text.as_bytes());
    let [a, b, c, d, ..] = hash.as_bytes();
    let share = i64::from(u32::from_be_bytes([*a, *b, *c, *d]));
    i64::try_from((i128::from(whole) * i128::from(share)) >> 32).unwrap_or(0)
}

const SOON_SECS: i64 = 30;
const MOST_OFTEN: Duration = Duration::from_mins(1);
const LEAST_OFTEN: Duration = Duration::from_hours(12);

#[cfg(test)]
mod tests {
    use chancery_shared::key_type::KeyType;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).unwrap()
    }

    fn info(start: i64, end: i64) -> RenewalInfo {
        RenewalInfo {
            certificate: "www".parse().unwrap(),
            serial: "01".to_owned(),
            id: "a.b".to_owned(),
            start: at(start),
            end: at(end),
            explanation_url: None,
            ask_every_secs: 21_600,
            moved: false,
            since: at(0),
        }
    }

    fn issued() -> Issued {
        Issued {
            serial: "01".to_owned(),
            fingerprint: Fingerprint::of(b"leaf"),
            not_before: at(0),
            not_after: at(90 * 86_400),
            issuer: "ca".parse().unwrap(),
            issued_by: "CA".to_owned(),
            identifiers: vec!["www.example".parse().unwrap()],
            key_type: KeyType::EcdsaP256,
            profile: None,
            stored_at: at(0),
        }
    }

    fn name(i: usize) -> CertName {
        format!("c{i}").parse().unwrap()
    }

    #[test]
    fn the_instant_is_in_the_window_stays_and_is_spread() {
        let info = info(1_000, 11_000);
        let mut tenths = [0_u32; 10];
        for i in 0..1_000 {
            let instant = instant_in(&name(i), &info).unwrap();
            assert_eq!(instant_in(&name(i), &info), Some(instant));
            let place = instant.as_second() - info.start.as_second();
            tenths[usize::try_from(place / 1_000).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|tenth| (60..140).contains(tenth)), "{tenths:?}");
    }

    #[test]
    fn a_window_that_ends_before_it_starts_says_nothing() {
        assert_eq!(instant_in(&name(1), &info(10, 10)), None);
        assert_eq!(instant_in(&name(1), &info(10, 9)), None);
    }

    #[test]
    fn each_certificate_is_asked_for_once_in_a_period_at_a_place_of_its_own() {
        let (info, issued) = (info(0, 1), issued());
        let mut hours = [0_u32; 6];
        for i in 0..600 {
            let first = next_ask(&name(i), &issued, Some(&info), at(0));
            let second = next_ask(&name(i), &issued, Some(&info), first);
            assert_eq!(second.as_second() - first.as_second(), 21_600);
            assert!(first > at(0) && first <= at(21_600));
            hours[usize::try_from((first.as_second() - at(1).as_second()) / 3_600).unwrap()] += 1;
        }
        assert!(hours.iter().all(|hour| (60..140).contains(hour)), "{hours:?}");
    }

    #[test]
    fn a_new_certificate_is_asked_for_soon() {
        let stale = RenewalInfo { serial: "00".to_owned(), ..info(0, 1) };
        let first = next_ask(&name(1), &issued(), Some(&stale), at(5));
        assert!(first >= at(0) && first < at(30));
        assert_eq!(ask_every(Duration::ZERO), MOST_OFTEN);
        assert_eq!(ask_every(Duration::from_hours(24 * 30)), LEAST_OFTEN);
    }
}
