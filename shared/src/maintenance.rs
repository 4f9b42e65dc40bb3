//! Maintenance windows: the times of a week at which something may be done, by the clock on the wall.
//!
//! A window is open while a clock in its time zone shows a time in it. So one that a change to summer time
//! skips does not open on that day, and one that a change back repeats opens twice.

use std::{fmt, str::FromStr};

use jiff::{
    ToSpan as _,
    civil::{Date, DateTime},
    tz::{TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

/// Days of the week with a time of the day, to the minute, such as `Mon-Fri 02:00-05:00`. One that ends before it
/// begins goes on until the next day.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// The days on which it begins: the lowest bit is Monday.
    days: u8,
    /// Minutes of the day.
    from: u16,
    /// Minutes of the day; up to 24:00.
    to: u16,
}

/// Why a text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "window {0:?} is not valid: write for example \"Mon-Fri 02:00-05:00\", \"Sat,Sun 00:00-24:00\", or \
     \"22:00-04:00\" for every night"
)]
pub struct InvalidWindow(String);

impl Window {
    /// Whether it is open at a local time.
    pub fn contains(self, local: DateTime) -> bool {
        let minute = u16::try_from(local.hour()).unwrap_or_default() * 60
            + u16::try_from(local.minute()).unwrap_or_default();
        if self.is_over_midnight() {
            let yesterday = local.date().yesterday().ok();
            return (self.begins_on(local.date()) && minute >= self.from)
                || (yesterday.is_some_and(|day| self.begins_on(day)) && minute < self.to);
        }
        self.begins_on(local.date()) && (self.from..self.to).contains(&minute)
    }

    /// The local times at which the window that begins on `day` opens and closes; `None` if none does.
    pub fn on(self, day: Date) -> Option<(DateTime, DateTime)> {
        if !self.begins_on(day) {
            return None;
        }
        let midnight = day.to_datetime(jiff::civil::Time::midnight());
        let after = |minutes: u16| midnight.checked_add(i64::from(minutes).minutes()).ok();
        let to = if self.is_over_midnight() { A_DAY + self.to } else { self.to };
        Some((after(self.from)?, after(to)?))
    }

    fn is_over_midnight(self) -> bool {
        self.to < self.from
    }

    fn begins_on(self, day: Date) -> bool {
        self.days & (1 << day.weekday().to_monday_zero_offset()) != 0
    }
}

/// A time zone by its IANA name, from the system's database or else the one in this program: a
/// container need not have one.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    let ours = || TimeZoneDatabase::bundled().get(name).ok();
    TimeZone::get(name).ok().or_else(ours)
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let invalid = || InvalidWindow(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        let (of_days, hours) = match *words.as_slice() {
            [hours] => (EVERY_DAY, hours),
            [of_days, hours] => (days(of_days).ok_or_else(invalid)?, hours),
            _ => return Err(invalid()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(invalid)?;
        let (from, to) = minute(from).zip(minute(to)).ok_or_else(invalid)?;
        if from == to || from == A_DAY {
            return Err(invalid());
        }
        Ok(Self { days: of_days, from, to })
    }
}

impl TryFrom<String> for Window {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != EVERY_DAY {
            let mut comma = "";
            let mut day = 0;
            while day < DAYS.len() {
                let run = DAYS[day..].iter().enumerate();
                let run = run.take_while(|(i, _)| self.days & (1 << (day + i)) != 0).count();
                match run {
                    0 => {}
                    1 => write!(f, "{comma}{}", DAYS[day])?,
                    _ => write!(f, "{comma}{}-{}", DAYS[day], DAYS[day + run - 1])?,
                }
                comma = if run > 0 { "," } else { comma };
                day += run + 1;
            }
            f.write_str(" ")?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn days(text: &str) -> Option<u8> {
    let day = |text: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(text));
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = day(first).zip(day(last))?;
        days |= 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len();
            days |= 1 << at;
        }
    }
    Some(days)
}

/// `02:00` as minutes of the day.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= A_DAY).then_some(minute)
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EVERY_DAY: u8 = 0b111_1111;
/// In minutes.
const A_DAY: u16 = 24 * 60;

#[cfg(test)]
mod tests {
    use jiff::civil::datetime;

    use super::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    #[test]
    fn windows_are_written_as_they_are_read() {
        for (text, shown) in [
            ("Mon-Fri 02:00-05:00", "Mon-Fri 02:00-05:00"),
            ("sat,SUN 00:00-24:00", "Sat-Sun 00:00-24:00"),
            ("22:00-04:00", "22:00-04:00"),
            ("Mon-Sun 22:00-04:00", "22:00-04:00"),
            ("Fri-Mon 01:30-01:31", "Mon,Fri-Sun 01:30-01:31"),
            ("Tue 23:00-00:00", "Tue 23:00-00:00"),
        ] {
            assert_eq!(window(text).to_string(), shown);
            assert_eq!(window(shown), window(text));
            let stored = serde_json::to_string(&window(text)).unwrap();
            assert_eq!(serde_json::from_str::<Window>(&stored).unwrap(), window(text));
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_examples() {
        for text in [
            "",
            "Mon",
            "2:00-5:00",
            "02:00-02:00",
            "24:00-02:00",
            "02:00-24:01",
            "02:60-03:00",
            "Mo 02:00-05:00",
            "Mon- 02:00-05:00",
            "Mon 02:00 - 05:00",
            "+1:00-02:00",
        ] {
            let error = text.parse::<Window>().unwrap_err().to_string();
            assert!(error.contains("Mon-Fri 02:00-05:00"), "{error}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let nights = window("Fri 22:00-04:00");
        // 20 November 2026 is a Friday.
        assert!(nights.contains(datetime(2026, 11, 20, 23, 0, 0, 0)));
        assert!(nights.contains(datetime(2026, 11, 21, 3, 59, 59, 0)));
        assert!(!nights.contains(datetime(2026, 11, 21, 4, 0, 0, 0)));
        assert!(!nights.contains(datetime(2026, 11, 20, 3, 0, 0, 0)));
        assert!(!nights.contains(datetime(2026, 11, 21, 23, 0, 0, 0)));
        let (opens, closes) = nights.on(datetime(2026, 11, 20, 0, 0, 0, 0).date()).unwrap();
        assert_eq!(opens, datetime(2026, 11, 20, 22, 0, 0, 0));
        assert_eq!(closes, datetime(2026, 11, 21, 4, 0, 0, 0));
    }
}
