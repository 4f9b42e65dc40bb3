//! How much a CA grants, as an operator declares it.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// So many in so long: a token bucket that holds `count`, and gets one back each `per / count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// `count` in `per`; `None` for none, or in no time, or for more than one a millisecond.
    pub const fn new(count: u32, per: Duration) -> Option<Self> {
        if count == 0 || per.as_millis() < count as u128 || per.as_secs() > LONGEST_SECS {
            return None;
        }
        Some(Self { count, per })
    }

    /// How many at once.
    pub fn count(self) -> u32 {
        self.count
    }

    /// How long until one comes back, in milliseconds.
    pub fn interval_millis(self) -> i64 {
        // Rounded up: what is a little slower than the CA is never refused.
        i64::try_from(self.per.as_millis().div_ceil(u128::from(self.count))).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", self.count, humantime::format_duration(self.per))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form 300 per 3h");
        let (count, per) = text.split_once(" per ").ok_or_else(wrong)?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        let per = humantime::parse_duration(per.trim()).map_err(|_| wrong())?;
        Self::new(count, per)
            .ok_or_else(|| format!("{text:?} is none at all, or more than a thousand a second"))
    }
}

/// The limits of one CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// New orders of an account.
    pub orders: Option<Rate>,
    /// Certificates for a registered domain.
    pub certificates_per_domain: Option<Rate>,
    /// Certificates for one exact set of identifiers.
    pub certificates_per_set: Option<Rate>,
    /// Failed authorizations of an identifier.
    pub failed_authorizations: Option<Rate>,
    /// Failed authorizations of an identifier in a row, after which it is paused.
    pub failed_in_a_row: Option<Rate>,
    /// A renewal of the same identifiers costs no order, and nothing of the domain.
    pub renewals_exempt: bool,
    /// An order that says what it replaces (RFC 9773 section 5) costs nothing.
    pub replacements_exempt: bool,
    /// Hundredths of the orders and of each domain's certificates that only emergencies may use.
    pub reserve_percent: u32,
}

impl Limits {
    /// What Let's Encrypt grants: <https://letsencrypt.org/docs/rate-limits/>.
    pub fn letsencrypt() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        let week = Duration::from_hours(7 * 24);
        Self {
            orders: Rate::new(300, Duration::from_hours(3)),
            certificates_per_domain: Rate::new(50, week),
            certificates_per_set: Rate::new(5, week),
            failed_authorizations: Rate::new(5, Duration::from_hours(1)),
            failed_in_a_row: Rate::new(1152, 1152 * DAY),
            renewals_exempt: true,
            replacements_exempt: true,
            reserve_percent: RESERVE_PERCENT,
        }
    }

    /// The limits of an issuer: as declared, or if nothing is, those that its directory is known for.
    pub fn of(declared: &BTreeMap<String, String>, directory: &str) -> Result<Self, Vec<String>> {
        let mut limits = match declared.get(PRESET).map(String::as_str) {
            Some(LETSENCRYPT) => Self::letsencrypt(),
            None if declared.is_empty() && directory.starts_with(LETSENCRYPT_DIRECTORY) => {
                Self::letsencrypt()
            }
            None | Some("none") => Self { reserve_percent: RESERVE_PERCENT, ..Self::default() },
            Some(other) => {
                return Err(vec![format!(
                    "limits: preset {other:?} is not known; known are {LETSENCRYPT} and none"
                )]);
            }
        };
        let mut problems = Vec::new();
        for (key, text) in declared.iter().filter(|(key, _)| *key != PRESET) {
            if let Err(problem) = limits.set(key, text) {
                problems.push(format!("limits.{key}: {problem}"));
            }
        }
        if problems.is_empty() { Ok(limits) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let rate = || match text {
            "none" => Ok(None),
            text => text.parse().map(Some),
        };
        let flag = || text.parse().map_err(|_| format!("{text:?} is neither true nor false"));
        match key {
            "orders" => self.orders = rate()?,
            "certificates_per_domain" => self.certificates_per_domain = rate()?,
            "certificates_per_set" => self.certificates_per_set = rate()?,
            "failed_authorizations" => self.failed_authorizations = rate()?,
            "failed_in_a_row" => self.failed_in_a_row = rate()?,
            "renewals_exempt" => self.renewals_exempt = flag()?,
            "replacements_exempt" => self.replacements_exempt = flag()?,
            "reserve" => self.reserve_percent = percent(text)?,
            _ => return Err(format!("this limit is not known; known are {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// Whether there is anything to keep count of.
    pub fn count_nothing(&self) -> bool {
        let Self {
            orders,
            certificates_per_domain,
            certificates_per_set,
            failed_authorizations,
            failed_in_a_row,
            ..
        } = self;
        [
            orders,
            certificates_per_domain,
            certificates_per_set,
            failed_authorizations,
            failed_in_a_row,
        ]
        .into_iter()
        .all(Option::is_none)
    }

    /// How many of `rate` only emergencies may use. One at least is left to all others.
    pub(super) fn reserved(&self, rate: Rate) -> u32 {
        let share = u64::from(rate.count) * u64::from(self.reserve_percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).min(rate.count - 1)
    }
}

fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    number.filter(|percent| *percent <= MOST_RESERVE_PERCENT).ok_or_else(|| {
        format!("{text:?} is not a share from 0% to {MOST_RESERVE_PERCENT}%, such as 10%")
    })
}

/// What a table of limits may have beside `preset`.
const KEYS: [&str; 8] = [
    "orders",
    "certificates_per_domain",
    "certificates_per_set",
    "failed_authorizations",
    "failed_in_a_row",
    "renewals_exempt",
    "replacements_exempt",
    "reserve",
];
const PRESET: &str = "preset";
const LETSENCRYPT: &str = "letsencrypt";
/// Its staging directory has other, far wider limits.
const LETSENCRYPT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/";
const RESERVE_PERCENT: u32 = 10;
const MOST_RESERVE_PERCENT: u32 = 90;
/// Ten years.
const LONGEST_SECS: u64 = 3_652 * 24 * 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_preset_has_the_published_refills() {
        let limits = Limits::letsencrypt();
        let every = |rate: Option<Rate>| rate.unwrap().interval_millis() / 1000;
        assert_eq!(every(limits.orders), 36);
        assert_eq!(every(limits.certificates_per_domain) / 60, 201);
        assert_eq!(every(limits.certificates_per_set) / 3600, 33);
        assert_eq!(every(limits.failed_authorizations) / 60, 12);
        assert_eq!(every(limits.failed_in_a_row), 86_400);
        assert_eq!(limits.reserved(limits.orders.unwrap()), 30);
    }

    #[test]
    fn the_directory_decides_if_nothing_is_declared() {
        let production = "https://acme-v02.api.letsencrypt.org/directory";
        assert_eq!(Limits::of(&declared(&[]), production), Ok(Limits::letsencrypt()));
        let staging = "https://acme-staging-v02.api.letsencrypt.org/directory";
        assert!(Limits::of(&declared(&[]), staging).unwrap().count_nothing());
        assert!(Limits::of(&declared(&[("preset", "none")]), production).unwrap().count_nothing());
    }

    #[test]
    fn a_preset_can_be_changed_in_part() {
        let wider =
            declared(&[("preset", "letsencrypt"), ("orders", "3000 per 3h"), ("reserve", "5%")]);
        let limits = Limits::of(&wider, "").unwrap();
        assert_eq!(limits.orders.unwrap().to_string(), "3000 per 3h");
        assert_eq!(limits.reserve_percent, 5);
        assert_eq!(limits.certificates_per_set, Limits::letsencrypt().certificates_per_set);
        let off = declared(&[("preset", "letsencrypt"), ("certificates_per_set", "none")]);
        assert_eq!(Limits::of(&off, "").unwrap().certificates_per_set, None);
    }

    #[test]
    fn every_mistake_is_told() {
        let wrong = declared(&[
            ("orders", "many"),
            ("order", "3 per 1h"),
            ("reserve", "100%"),
            ("renewals_exempt", "yes"),
            ("certificates_per_set", "0 per 7d"),
        ]);
        let problems = Limits::of(&wrong, "").unwrap_err();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(problems.iter().any(|problem| problem.contains("300 per 3h")), "{problems:#?}");
        assert!(problems.iter().any(|problem| problem.contains("known are")), "{problems:#?}");
    }
}
