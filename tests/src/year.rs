//! A year of the plan, in virtual time: the true decisions, the true budget, a CA of a few lines.
//!
//! Certificates of 90, 45 and six days at a CA with Let's Encrypt's limits, which it counts by itself as
//! tokens that come back one by one. It fails for hours and for a day, it announces that it
//! revokes a third of all certificates and does so, many certificates are declared at once, and some
//! names can never be validated. Nothing may expire but those, nobody may serve what is revoked,
//! no request may be refused, and the rate stays low. That this would notice is shown by leaving
//! out the budget, the spread, or the CA's renewal information.
//!
//! Journal, store and network have a simulation of their own ([`crate::sim`]); here time passes from one
//! decision to the next, so that a year of tens of thousands of certificates takes seconds.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use chancery_coordinator::{
    plan::{
        Facts, ari, ask_for,
        budget::{self, Limits, Line, Verdict},
        decide, is_urgent, renewal_of, urgent_at, wait_after,
    },
    record::{Budget, CertificateSpec, CertificateState, Failure, Issued, RenewalInfo},
};
use chancery_shared::{
    key_type::KeyType,
    name::{CertName, Labels},
    number::Generation,
    x509::Fingerprint,
};
use jiff::Timestamp;

mod ca;

use ca::Ca;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
const EPOCH: i64 = 1_800_000_000;
const ASK_EVERY: i64 = 6 * HOUR;

/// The CA does not answer from, to.
const OUTAGES: [(i64, i64); 4] = [
    (10 * DAY, 10 * DAY + 3 * HOUR),
    (75 * DAY, 75 * DAY + 6 * HOUR),
    (181 * DAY, 181 * DAY + 12 * HOUR),
    (270 * DAY, 271 * DAY),
];
/// When the CA announces that it revokes a third, and when it does.
const REVOCATION: i64 = 180 * DAY;
const REVOKED: i64 = REVOCATION + 5 * DAY;
/// When more are declared at once.
const MORE: i64 = 30 * DAY;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// How many there are at the beginning, at all times of their lives.
    pub certificates: usize,
    /// How many more are declared at once after a month.
    pub more: usize,
    /// How long it lasts.
    pub days: i64,
    /// Whether the CA's limits are mirrored.
    pub budget: bool,
    /// Whether the CA's windows are wide, and heard of one after the other.
    pub spread: bool,
    /// Whether the CA is asked for windows.
    pub ari: bool,
}

impl Try {
    /// A year of so many certificates, and a thousand or more of them at once, with everything on.
    pub fn year(certificates: usize) -> Self {
        let more = (certificates / 25).max(1_000);
        Self { certificates, more, days: YEAR / DAY, budget: true, spread: true, ari: true }
    }

    /// Lets it happen. Computes only, and is the same each time.
    pub fn run(self) -> Outcome {
        World::new(self).run()
    }
}

/// How it went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// newOrder requests that reached the CA.
    pub orders: u64,
    /// How many of those replaced a certificate by name, which costs nothing.
    pub replacements: u64,
    /// The first of those that the CA has refused.
    pub refused: Vec<String>,
    /// Certificates that expired, or were served after they had been revoked.
    pub expired: Vec<String>,
    /// Renewals in the busiest minute, but for the days of the revocation.
    pub most_a_minute: u64,
    /// Renewals in the busiest minute of the days of the revocation.
    pub most_a_minute_in_revocation: u64,
    /// Failed tries: at a CA that is away, or of names that cannot be validated.
    pub failures: u64,
    /// How often an order was held back by the mirror of the limits.
    pub held_back: u64,
    /// The longest that one of the certificates declared at once had to wait.
    pub longest_wait_secs: i64,
}

/// Seconds since the beginning as a time.
fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + secs).unwrap()
}

struct Certificate {
    spec: CertificateSpec,
    state: CertificateState,
    info: Option<RenewalInfo>,
    /// When what is being served is, or will be, revoked.
    revoked_at: Option<i64>,
    life: i64,
    /// Whether its names can be validated.
    well: bool,
    /// Whether the CA tells a window for it.
    has_window: bool,
    /// Whether it is among those that are revoked.
    doomed: bool,
    /// When it was last looked at, or will be; older entries of the agenda are void.
    next: i64,
}

/// The world of one try.
struct World {
    what: Try,
    certificates: Vec<Certificate>,
    agenda: BinaryHeap<Reverse<(i64, usize)>>,
    limits: Limits,
    budget: Budget,
    line: Line,
    ca: Ca,
    minutes: Vec<u32>,
    outcome: Outcome,
}

impl World {
    fn new(what: Try) -> Self {
        let limits = Limits::letsencrypt();
        let ca = Ca::new(limits.clone());
        let mut world = Self {
            what,
            certificates: Vec::new(),
            agenda: BinaryHeap::new(),
            limits,
            budget: budget::untouched(&"ca".parse().unwrap(), "https://ca.example/"),
            line: Line::default(),
            ca,
            minutes: vec![0; usize::try_from(what.days * DAY / MINUTE).unwrap() + 1],
            outcome: Outcome::default(),
        };
        for i in 0..what.certificates {
            world.declare(i);
            // Taken over at some time of their lives.
            let life = world.certificates[i].life;
            let age = i64::try_from(i * 7_919 % 10_007).unwrap() * (life / 2) / 10_007;
            world.issue(i, -age);
        }
        for i in what.certificates..what.certificates + what.more {
            world.declare(i);
            world.look_at(i, MORE);
        }
        world
    }

    fn declare(&mut self, i: usize) {
        let life = match i % 100 {
            0..10 => 160 * HOUR,
            10..70 => 90 * DAY,
            _ => 45 * DAY,
        };
        // Ten certificates to a domain, and one domain with hundreds.
        let domain =
            if i % 250 == 7 { "big.example".to_owned() } else { format!("d{}.example", i / 10) };
        let spec = CertificateSpec {
            name: format!("c{i}").parse::<CertName>().unwrap(),
            identifiers: vec![format!("n{i}.{domain}").parse().unwrap()],
            key_type: KeyType::EcdsaP256,
            reuse_key: false,
            key_ahead: false,
            standby: None,
            profile: None,
            issuers: vec!["ca".parse().unwrap()],
            challenges: Vec::new(),
            labels: Labels::default(),
            renew: None,
        };
        self.certificates.push(Certificate {
            spec,
            state: CertificateState::default(),
            info: None,
            revoked_at: None,
            life,
            well: i % 1_000 != 999,
            // Four in five, and five in twelve of those: a third.
            has_window: !i.is_multiple_of(5),
            doomed: !i.is_multiple_of(5) && i % 12 < 5,
            next: 0,
        });
    }

    /// What the CA issues at `now`, and what it says of it.
    fn issue(&mut self, i: usize, now: i64) {
        self.ca.serial += 1;
        let certificate = &mut self.certificates[i];
        if certificate.revoked_at.take().is_some_and(|at| at <= now) {
            self.outcome.expired.push(format!("{} was revoked", certificate.spec.name));
        }
        if let Some(issued) = &certificate.state.issued {
            self.ca.replaced.insert(issued.serial.clone());
        } else if now > MORE {
            self.outcome.longest_wait_secs = self.outcome.longest_wait_secs.max(now - MORE);
        }
        self.ca.issued_sets.insert(budget::set_of(&certificate.spec.identifiers));
        let serial = format!("{:x}", self.ca.serial);
        let (name, life) = (certificate.spec.name.clone(), certificate.life);
        certificate.state = CertificateState {
            generation: Generation(certificate.state.generation.0 + 1),
            issued: Some(Issued {
                serial: serial.clone(),
                fingerprint: Fingerprint::of(serial.as_bytes()),
                not_before: at(now - HOUR),
                not_after: at(now - HOUR + life),
                issuer: "ca".parse().unwrap(),
                issued_by: "CA".to_owned(),
                identifiers: certificate.spec.identifiers.clone(),
                key_type: KeyType::EcdsaP256,
                profile: None,
                stored_at: at(now),
            }),
            ..CertificateState::default()
        };
        // A day and a half around two thirds of the life; for short ones in proportion.
        let (middle, half) = (now + life * 2 / 3, (life / 60).min(18 * HOUR));
        let (start, end) =
            if self.what.spread { (middle - half, middle + half) } else { (middle, middle + 1) };
        certificate.info = (certificate.has_window && self.what.ari).then(|| RenewalInfo {
            certificate: name,
            serial,
            id: "a.b".to_owned(),
            start: at(start),
            end: at(end),
            explanation_url: None,
            ask_every_secs: u32::try_from(ASK_EVERY).unwrap(),
            moved: false,
            since: at(now),
        });
        let due = self.due(i, now);
        self.look_at(i, due);
    }

    /// When the certificate is looked at next, without the words.
    fn due(&self, i: usize, now: i64) -> i64 {
        let certificate = &self.certificates[i];
        let Some(issued) = &certificate.state.issued else { return now };
        let renewal = renewal_of(&certificate.spec, issued, certificate.info.as_ref());
        renewal.as_second() - EPOCH
    }

    fn look_at(&mut self, i: usize, when: i64) {
        // What is taken over may be overdue.
        let when = when.max(0);
        self.certificates[i].next = when;
        self.agenda.push(Reverse((when, i)));
    }

    /// The windows of a third are moved; each is heard of when it is asked for next.
    fn announce_revocation(&mut self) {
        for i in 0..self.certificates.len() {
            let certificate = &mut self.certificates[i];
            let Some(issued) = certificate.state.issued.as_ref().filter(|_| certificate.doomed)
            else {
                continue;
            };
            certificate.revoked_at = Some(REVOKED);
            let Some(info) = &mut certificate.info else { continue };
            let heard = ari::next_ask(&certificate.spec.name, issued, Some(info), at(REVOCATION));
            let heard = heard.as_second() - EPOCH;
            (info.start, info.end) = (at(REVOCATION), at(REVOCATION + 2 * DAY));
            if !self.what.spread {
                (info.start, info.end) = (at(REVOCATION - 1), at(REVOCATION));
            }
            let heard = if self.what.spread { heard } else { REVOCATION };
            if certificate.next > heard {
                let due = self.due(i, heard).max(heard);
                self.look_at(i, due);
            }
        }
    }

    fn run(mut self) -> Outcome {
        let end = self.what.days * DAY;
        let mut announced = false;
        while let Some(Reverse((now, i))) = self.agenda.pop() {
            if now >= end {
                break;
            }
            if !announced && now >= REVOCATION {
                announced = true;
                self.agenda.push(Reverse((now, i)));
                self.announce_revocation();
                continue;
            }
            if self.certificates[i].next == now {
                self.turn(i, now);
            }
        }
        self.take_stock()
    }

    /// One certificate whose time has come.
    fn turn(&mut self, i: usize, now: i64) {
        let time = at(now);
        let Certificate { spec, state, info, .. } = &self.certificates[i];
        let facts = Facts {
            spec,
            state: Some(state),
            order: None,
            renewal_info: info.as_ref(),
            freezes: &[],
            standby: None,
        };
        let decision = decide(&facts, time);
        if !decision.is_due(time) {
            let due = decision.due.as_second() - EPOCH;
            self.look_at(i, due.max(now + 1));
            return;
        }
        if let Some(issued) = &state.issued
            && issued.not_after <= time
            && self.certificates[i].well
        {
            self.outcome.expired.push(format!("{} at {now}", spec.name));
        }
        let replaces = info.as_ref().map(|info| info.serial.clone());
        let identifiers = spec.identifiers.clone();
        let urgent = is_urgent(Some(state), info.as_ref(), time);
        let ask = ask_for(&identifiers, Some(state), &spec.issuers[0], replaces.is_some(), urgent);
        let name = spec.name.clone();
        if self.what.budget {
            let verdict = self.line.ask(&self.limits, &self.budget, &name, &ask, time);
            if let Verdict::NotBefore { at: then, .. } = verdict {
                self.outcome.held_back += 1;
                let urgent = state.issued.as_ref().map(urgent_at).filter(|urgent| *urgent > time);
                let then = urgent.map_or(then, |urgent| then.min(urgent)).as_second() - EPOCH;
                self.look_at(i, then.max(now + 1));
                return;
            }
            budget::spend(&self.limits, &mut self.budget, &ask, time);
            self.line.spent(&self.limits, &name, &ask, time);
        }
        let outage = OUTAGES.iter().any(|(from, to)| (*from..*to).contains(&now));
        if outage {
            self.fail(i, now, Duration::from_hours(1));
            return;
        }
        self.count(now, self.certificates[i].state.issued.is_some());
        self.outcome.replacements += u64::from(replaces.is_some());
        if let Err(why) = self.ca.order(&identifiers, replaces.as_deref(), now) {
            if self.outcome.refused.len() < 10 {
                self.outcome.refused.push(format!("{name} at {now}: {why}"));
            }
            self.fail(i, now, Duration::MAX);
        } else if self.certificates[i].well {
            self.issue(i, now);
        } else {
            self.ca.failed(&identifiers, now);
            budget::give_back(&self.limits, &mut self.budget, &ask, time);
            budget::authorizations_failed(&self.limits, &mut self.budget, &identifiers, time);
            self.fail(i, now, Duration::MAX);
        }
    }

    fn fail(&mut self, i: usize, now: i64, most: Duration) {
        self.outcome.failures += 1;
        let state = &mut self.certificates[i].state;
        state.failures += 1;
        let wait = wait_after(state.failures, Duration::from_mins(1)).min(most);
        let retry_at = at(now) + wait;
        state.last_failure = Some(Failure {
            at: at(now),
            message: String::new(),
            code: "ca-unreachable".to_owned(),
            retry_at,
        });
        self.look_at(i, retry_at.as_second() - EPOCH);
    }

    fn count(&mut self, now: i64, renewal: bool) {
        self.outcome.orders += 1;
        self.minutes[usize::try_from(now / MINUTE).unwrap()] += u32::from(renewal);
    }

    fn take_stock(mut self) -> Outcome {
        let end = at(self.what.days * DAY);
        let days = self.what.days * DAY;
        for Certificate { spec, state, well, revoked_at, .. } in &self.certificates {
            let valid = state.issued.as_ref().is_some_and(|issued| issued.not_after > end)
                && revoked_at.is_none_or(|at| at > days);
            if *well && !valid {
                self.outcome.expired.push(format!("{} in the end", spec.name));
            }
        }
        let in_revocation = REVOCATION / MINUTE..REVOKED / MINUTE;
        for (minute, count) in (0_i64..).zip(&self.minutes) {
            let most = if in_revocation.contains(&minute) {
                &mut self.outcome.most_a_minute_in_revocation
            } else {
                &mut self.outcome.most_a_minute
            };
            *most = (*most).max(u64::from(*count));
        }
        self.outcome
    }
}
