//! How long whoever waits has to wait, so that nobody waits in a place that another could use.
//!
//! An order whose step is to be repeated gives its place back, and takes its [`Tries`] along. An issuer
//! that cannot be reached is left alone by *all* its orders for a while, then asked by one of
//! them ([`Pauses`]): a dead CA costs the orders of the others next to nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use chancery_shared::{
    clock::Monotonic,
    name::IssuerName,
    retry::{Policy, Waits},
};

use super::Error;

/// What an order remembers from one try to the next.
#[derive(Debug)]
pub struct Tries {
    waits: Box<Waits>,
    count: u32,
    since: Option<Monotonic>,
    last: Option<String>,
    held_back: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            waits: Box::new(STEP_RETRY.waits()),
            count: 0,
            since: None,
            last: None,
            held_back: false,
        }
    }
}

impl Tries {
    /// Those of an order that was not tried, because the CA's limits forbid it for now.
    pub(super) fn held_back() -> Self {
        Self { held_back: true, ..Self::default() }
    }

    /// Whether it only waits for the CA's limits: what is known of them, or of the certificate,
    /// may change before that.
    pub fn are_held_back(&self) -> bool {
        self.held_back
    }

    /// Since when this process has been working on the order that is in the journal. The first
    /// call decides.
    pub(super) fn order_since(&mut self, now: Monotonic) -> Monotonic {
        *self.since.get_or_insert(now)
    }

    /// How many have failed.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Why the last one failed.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Notes that a try failed. How long to wait, at least `least`.
    pub(super) fn failed(&mut self, error: &Error, least: Duration) -> Duration {
        self.count += 1;
        if let Error::IssuerPaused { reason, wait } = error {
            self.last.get_or_insert_with(|| reason.clone());
            return *wait;
        }
        self.last = Some(error.to_string());
        self.waits.next_wait().max(least)
    }
}

/// The issuers that cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    issuers: Mutex<HashMap<IssuerName, Pause>>,
}

#[derive(Debug)]
struct Pause {
    until: Monotonic,
    waits: Waits,
    reason: String,
    /// Whether an order is trying now whether it answers again.
    probing: bool,
}

impl Pauses {
    /// Asks to talk to `issuer`. [`Error::IssuerPaused`] while it is left alone.
    pub(super) fn enter(&self, issuer: &IssuerName, now: Monotonic) -> Result<Visit<'_>, Error> {
        let mut issuers = self.issuers();
        let mut probe = false;
        if let Some(pause) = issuers.get_mut(issuer) {
            pause.check(now)?;
            if pause.probing {
                return Err(Error::IssuerPaused { reason: pause.reason.clone(), wait: PROBING });
            }
            pause.probing = true;
            probe = true;
        }
        Ok(Visit { pauses: self, issuer: issuer.clone(), probe })
    }

    /// Whether `issuer` is left alone now, for those who ask it for something else than orders.
    pub(super) fn check(&self, issuer: &IssuerName, now: Monotonic) -> Result<(), Error> {
        self.issuers().get(issuer).map_or(Ok(()), |pause| pause.check(now))
    }

    fn issuers(&self) -> MutexGuard<'_, HashMap<IssuerName, Pause>> {
        self.issuers.lock().expect("no holder panics")
    }
}

impl Pause {
    fn check(&self, now: Monotonic) -> Result<(), Error> {
        let wait = self.until.since(now);
        if wait.is_zero() {
            return Ok(());
        }
        Err(Error::IssuerPaused { reason: self.reason.clone(), wait })
    }
}

/// Leave to talk to an issuer.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    pauses: &'a Pauses,
    issuer: IssuerName,
    probe: bool,
}

impl Visit<'_> {
    /// Whether there still is leave, after something that took long.
    pub(super) fn check(&self, now: Monotonic) -> Result<(), Error> {
        self.pauses.check(&self.issuer, now)
    }

    /// Notes how it went.
    pub(super) fn ended<T>(&self, result: &Result<T, Error>, now: Monotonic) {
        let mut issuers = self.pauses.issuers();
        match result {
            Err(Error::CaUnreachable(reason) | Error::AnswerLost(reason)) => {
                let pause = issuers.entry(self.issuer.clone()).or_insert_with(|| Pause {
                    until: now,
                    waits: STEP_RETRY.waits(),
                    reason: String::new(),
                    probing: false,
                });
                // Those who were there together count as one.
                if pause.until <= now {
                    pause.until = now.after(pause.waits.next_wait());
                    pause.reason.clone_from(reason);
                }
            }
            // These say nothing about the CA.
            Err(Error::Store(_) | Error::SteppedDown | Error::IssuerPaused { .. }) => {}
            // It talks, whatever it says.
            Ok(_) | Err(_) => {
                issuers.remove(&self.issuer);
            }
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(pause) = self.pauses.issuers().get_mut(&self.issuer)
        {
            pause.probing = false;
        }
    }
}

/// Between tries of a step while the store or the CA is away.
const STEP_RETRY: Policy =
    Policy { first: Duration::from_millis(500), most: Duration::from_secs(30), factor: 2 };
/// While another order finds out whether the issuer answers again.
const PROBING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    #[test]
    fn one_order_asks_for_all_whether_the_issuer_is_back() {
        let pauses = Pauses::default();
        let (dead, well): (IssuerName, IssuerName) =
            ("dead".parse().unwrap(), "well".parse().unwrap());
        let away: Result<(), Error> = Err(Error::CaUnreachable("refused".to_owned()));
        let both = [pauses.enter(&dead, at(0)).unwrap(), pauses.enter(&dead, at(0)).unwrap()];
        for visit in &both {
            visit.ended(&away, at(1));
        }
        drop(both);
        let error = pauses.enter(&dead, at(2)).unwrap_err();
        assert!(matches!(&error, Error::IssuerPaused { reason, .. } if reason == "refused"));
        assert!(pauses.enter(&well, at(2)).is_ok());

        // Twice half a second with jitter at most: two failures at once counted as one.
        let probe = pauses.enter(&dead, at(1_100)).unwrap();
        assert!(pauses.enter(&dead, at(1_100)).is_err(), "one is enough");
        drop(probe);
        let probe = pauses.enter(&dead, at(1_100)).unwrap();
        probe.ended(&Ok(()), at(1_200));
        drop(probe);
        assert!(pauses.enter(&dead, at(1_200)).is_ok());
        assert!(pauses.issuers().is_empty());
    }
}
