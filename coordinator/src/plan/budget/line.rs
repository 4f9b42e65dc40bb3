//! Who waits for a CA's tokens, and when each has its turn.
//!
//! If a thousand certificates are asked for and three hundred can be had now, it would be of no use to tell
//! each of the others that one more is possible in 36 seconds: all of them would come then, and all
//! but one again after that. So whoever has to wait books the first moment that is free behind
//! all those who have booked before, in a copy of the budget that is ahead of time. The true budget has the
//! last word when that moment has come.

use std::collections::HashMap;

use chancery_shared::name::CertName;
use jiff::{SignedDuration, Timestamp};

use super::{Ask, Limits, Reason, Verdict, check, spend};
use crate::record::Budget;

/// The line in front of one issuer.
#[derive(Debug, Default)]
pub struct Line {
    /// The budget as it will be when all who have booked have had their turn.
    ahead: Option<Budget>,
    booked: HashMap<CertName, (Timestamp, Reason)>,
}

impl Line {
    /// Whether `name` can order now; if not, when its turn is. What is urgent is never put behind
    /// the others.
    pub fn ask(
        &mut self,
        limits: &Limits,
        budget: &Budget,
        name: &CertName,
        ask: &Ask<'_>,
        now: Timestamp,
    ) -> Verdict {
        let verdict = check(limits, budget, ask, now);
        if ask.urgent {
            return verdict;
        }
        match (verdict, self.booked.get(name).cloned()) {
            (Verdict::Possible, Some((at, because))) if at > now => {
                Verdict::NotBefore { at, because }
            }
            (Verdict::Possible, Some(_)) => Verdict::Possible,
            // Something has got in the way. Whoever has waited does not start at the end again.
            (Verdict::NotBefore { at, because }, Some(booked)) => {
                let (at, because) = if booked.0 > at { booked } else { (at, because) };
                self.booked.insert(name.clone(), (at, because.clone()));
                Verdict::NotBefore { at, because }
            }
            (verdict, None) => match self.behind(limits, budget, ask, now) {
                Verdict::Possible => verdict,
                Verdict::NotBefore { at, because } => {
                    self.book(limits, budget, name, ask, now);
                    self.booked.insert(name.clone(), (at, because.clone()));
                    Verdict::NotBefore { at, because }
                }
            },
        }
    }

    /// Notes that `name` has ordered, or has no need to any more.
    pub fn leave(&mut self, name: &CertName) {
        self.booked.remove(name);
        if self.booked.is_empty() {
            self.ahead = None;
        }
    }

    /// Notes what was spent out of turn.
    pub fn spent(&mut self, limits: &Limits, name: &CertName, ask: &Ask<'_>, now: Timestamp) {
        let had_booked = self.booked.contains_key(name);
        if !had_booked && let Some(ahead) = &mut self.ahead {
            spend(limits, ahead, ask, now);
        }
        self.leave(name);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.booked.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.booked.is_empty()
    }

    /// The verdict for one that comes after all who wait.
    fn behind(&self, limits: &Limits, budget: &Budget, ask: &Ask<'_>, now: Timestamp) -> Verdict {
        let here = check(limits, budget, ask, now);
        let Some(ahead) = &self.ahead else { return here };
        match (here, check(limits, ahead, ask, now)) {
            (here, Verdict::Possible) => here,
            (Verdict::Possible, ahead) => ahead,
            (
                Verdict::NotBefore { at, because },
                Verdict::NotBefore { at: later, because: reason },
            ) => {
                let (at, because) = if later > at { (later, reason) } else { (at, because) };
                Verdict::NotBefore { at, because }
            }
        }
    }

    /// Takes the next free token of each bucket. That is one at the time at which it comes free, and
    /// not at which it will be used: whoever waits long for one bucket must not keep the others from what
    /// comes before.
    fn book(
        &mut self,
        limits: &Limits,
        budget: &Budget,
        name: &CertName,
        ask: &Ask<'_>,
        now: Timestamp,
    ) {
        // Who did not come in time has gone.
        self.booked.retain(|_, (at, _)| at.duration_until(now) < MISSED);
        tracing::trace!(certificate = %name, waiting = self.booked.len(), "waits for its turn");
        let ahead = self.ahead.get_or_insert_with(|| budget.clone());
        for (bucket, rate) in super::counted(limits, ask) {
            if super::is_spent_by_orders(&bucket) {
                super::take(ahead, bucket, rate, now);
            }
        }
    }
}

const MISSED: SignedDuration = SignedDuration::from_hours(1);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::budget::{Kind, Rate, untouched};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).unwrap()
    }

    fn limits() -> Limits {
        Limits {
            orders: Rate::new(3, Duration::from_mins(5)),
            certificates_per_domain: Rate::new(1, Duration::from_hours(24)),
            ..Limits::default()
        }
    }

    struct Queue {
        line: Line,
        budget: Budget,
    }

    impl Queue {
        fn new() -> Self {
            Self { line: Line::default(), budget: untouched(&"ca".parse().unwrap(), "") }
        }

        /// The second at which `name` has its turn; asked for at `secs`.
        fn turn(&mut self, name: &str, domain: &str, secs: i64, urgent: bool) -> Option<i64> {
            let name: CertName = name.parse().unwrap();
            let identifiers = [domain.parse().unwrap()];
            let ask = Ask { identifiers: &identifiers, kind: Kind::New, urgent };
            match self.line.ask(&limits(), &self.budget, &name, &ask, at(secs)) {
                Verdict::Possible => {
                    spend(&limits(), &mut self.budget, &ask, at(secs));
                    self.line.spent(&limits(), &name, &ask, at(secs));
                    None
                }
                Verdict::NotBefore { at: then, .. } => Some(then.as_second() - at(0).as_second()),
            }
        }
    }

    #[test]
    fn each_who_waits_has_a_turn_of_its_own_and_gets_it() {
        let mut queue = Queue::new();
        let domain = |i: i64| format!("d{i}.example");
        for i in 0..3 {
            assert_eq!(queue.turn(&format!("c{i}"), &domain(i), 0, false), None);
        }
        let turns: Vec<_> =
            (3..6).map(|i| queue.turn(&format!("c{i}"), &domain(i), 0, false).unwrap()).collect();
        assert_eq!(turns, [100, 200, 300]);
        assert_eq!(
            queue.turn("c5", &domain(5), 50, false),
            Some(300),
            "asking again changes nothing"
        );
        for (i, turn) in (3..6).zip(turns) {
            assert_eq!(queue.turn(&format!("c{i}"), &domain(i), turn, false), None);
        }
        assert!(queue.line.is_empty() && queue.line.ahead.is_none());
    }

    #[test]
    fn who_comes_later_does_not_go_first() {
        let mut queue = Queue::new();
        for i in 0..3 {
            queue.turn(&format!("c{i}"), &format!("d{i}.example"), 0, false);
        }
        assert_eq!(queue.turn("early", "e.example", 0, false), Some(100));
        assert_eq!(queue.turn("late", "l.example", 100, false), Some(200));
        assert_eq!(queue.turn("early", "e.example", 100, false), None);
    }

    #[test]
    fn waiting_long_for_a_domain_holds_up_no_other() {
        let mut queue = Queue::new();
        assert_eq!(queue.turn("a", "www.example.org", 0, false), None);
        let day = queue.turn("b", "mail.example.org", 0, false).unwrap();
        assert!(day >= 86_400, "{day}");
        assert_eq!(queue.turn("c", "example.net", 0, false), None);
        let next = queue.turn("d", "example.com", 0, false).unwrap();
        assert!(next <= 200, "{next}");
    }

    #[test]
    fn what_is_urgent_waits_behind_nobody_and_sends_nobody_to_the_end() {
        let mut queue = Queue::new();
        for i in 0..13 {
            queue.turn(&format!("c{i}"), &format!("d{i}.example"), 0, false);
        }
        assert_eq!(queue.turn("urgent", "u.example", 100, true), None);
        assert_eq!(queue.turn("c3", "d3.example", 100, false), Some(200));
        assert_eq!(queue.turn("c3", "d3.example", 200, false), None);
    }
}
