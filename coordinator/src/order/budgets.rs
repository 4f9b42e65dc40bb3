//! The budgets at work: read from the store once in a term, spent from with the step that
//! spends, and corrected by what CAs say.
//!
//! One desk for each issuer. Whoever spends holds its desk until the store has taken the write, so that two
//! orders cannot spend the same token; a desk whose write failed, or whose answer was lost, is read
//! again. An issuer without limits that has refused nothing costs no write and holds nobody up.
//!
//! A budget that cannot be read stops no renewal: it is left as it is and counted from the start, and the CA's
//! refusals are obeyed all the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use chancery_shared::{
    clock::SharedClock,
    identifier::Identifier,
    name::{CertName, IssuerName},
    number::{Epoch, Revision},
};
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;

use super::{Error, error::Refuses};
use crate::{
    election::Leadership,
    events::printable,
    plan::budget::{self, Ask, Limits, Line, Verdict},
    record::{self, Bucket, Budget, IssuerSpec, Paused, Refused, key},
    store::{Batch, Store},
};

/// All budgets.
pub(super) struct Budgets {
    store: Arc<dyn Store>,
    clock: SharedClock,
    desks: Mutex<HashMap<IssuerName, Arc<tokio::sync::Mutex<Desk>>>>,
}

/// One issuer's budget.
#[derive(Default)]
struct Desk {
    /// As of which term this is; `None`: it has to be read.
    read_in: Option<Epoch>,
    declared: BTreeMap<String, String>,
    limits: Limits,
    budget: Option<Budget>,
    revision: Option<Revision>,
    /// Whether what is stored is of a version that we do not know, and must stay.
    foreign: bool,
    line: Line,
}

/// A desk that is ours for a moment.
pub(super) struct Open {
    desk: OwnedMutexGuard<Desk>,
    epoch: Epoch,
    at: String,
    /// What is being written.
    next: Option<Budget>,
}

/// What a step adds to its batch.
#[derive(Clone, Debug)]
pub(super) struct Change {
    at: String,
    former: Option<Revision>,
    value: Bytes,
}

impl Change {
    /// The batch with this in it.
    pub(super) fn add_to(&self, batch: Batch) -> Batch {
        batch.unchanged(&self.at, self.former).put(&self.at, self.value.clone())
    }
}

impl Budgets {
    pub(super) fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Self { store, clock, desks: Mutex::default() }
    }

    /// Waits for the desk of an issuer and reads its budget if need be.
    pub(super) async fn open(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
    ) -> Result<Open, Error> {
        let desk = {
            let mut desks = self.desks.lock().expect("no holder panics");
            desks.entry(issuer.name.clone()).or_default().clone()
        };
        let mut desk = desk.lock_owned().await;
        let (epoch, at) = (leadership.epoch(), key::budget(&issuer.name));
        if desk.read_in != Some(epoch) {
            let stored = self.store.get(&at).await?;
            desk.revision = stored.as_ref().map(|entry| entry.revision);
            let read = stored.map(|entry| record::decode::<Budget>(&entry.key, &entry.value));
            desk.foreign = matches!(&read, Some(Err(_)));
            if let Some(Err(error)) = &read {
                tracing::error!(%error, "a budget cannot be read; it is left as it is, and not counted");
            }
            desk.budget = read.and_then(Result::ok);
            desk.read_in = Some(epoch);
        }
        if desk.budget.as_ref().is_none_or(|budget| budget.directory != issuer.directory) {
            desk.budget = Some(budget::untouched(&issuer.name, &issuer.directory));
            desk.line = Line::default();
        }
        if desk.declared != issuer.limits || desk.limits == Limits::default() {
            // Checked when it was applied; what a newer version has applied may be unknown here.
            desk.limits = Limits::of(&issuer.limits, &issuer.directory).unwrap_or_default();
            desk.declared.clone_from(&issuer.limits);
            desk.line = Line::default();
        }
        if let Some(budget) = &desk.budget {
            desk.budget =
                Some(budget::under(budget, &issuer.limits, self.clock.now()).into_owned());
        }
        Ok(Open { desk, epoch, at, next: None })
    }
}

impl Open {
    /// Whether the order can be made now. [`Error::BudgetSpent`] says when, if not.
    pub(super) fn check(
        &mut self,
        name: &CertName,
        ask: &Ask<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let desk = &mut *self.desk;
        let Some(budget) = &desk.budget else { return Ok(()) };
        match desk.line.ask(&desk.limits, budget, name, ask, now) {
            Verdict::Possible => Ok(()),
            Verdict::NotBefore { at, because } => Err(Error::BudgetSpent {
                until: at,
                wait: wait(now, at),
                reason: because.to_string(),
            }),
        }
    }

    /// Whether an order that is under way may go on: it may not while all requests are refused.
    pub(super) fn check_requests(&self, now: Timestamp) -> Result<(), Error> {
        let refused =
            self.desk.budget.as_ref().and_then(|budget| budget.refused.get(&Bucket::Requests));
        match refused.filter(|refused| refused.until > now) {
            None => Ok(()),
            Some(refused) => Err(Error::CaBusy {
                message: refused.message.clone(),
                retry_after: Some(wait(now, refused.until)),
                refuses: Refuses::Requests,
                problem: None,
            }),
        }
    }

    /// Spends what the order costs.
    pub(super) fn spend(
        &mut self,
        name: &CertName,
        ask: &Ask<'_>,
        now: Timestamp,
    ) -> Option<Change> {
        let desk = &mut *self.desk;
        desk.line.spent(&desk.limits, name, ask, now);
        self.change(|limits, budget| budget::spend(limits, budget, ask, now))
    }

    /// Notes how an order ended without a certificate.
    pub(super) fn failed(
        &mut self,
        ask: &Ask<'_>,
        error: &Error,
        may_be_issued: bool,
        now: Timestamp,
    ) -> Option<Change> {
        self.change(|limits, budget| {
            if !may_be_issued {
                budget::give_back(limits, budget, ask, now);
            }
            if let Error::Rejected { failed, .. } = error {
                budget::authorizations_failed(limits, budget, failed, now);
            }
            note_refusal(budget, ask.identifiers, error, now);
        })
    }

    /// Notes what the CA has refused.
    pub(super) fn refused(
        &mut self,
        identifiers: &[Identifier],
        error: &Error,
        now: Timestamp,
    ) -> Option<Change> {
        self.change(|_, budget| note_refusal(budget, identifiers, error, now))
    }

    /// Notes that the CA has issued, and so has validated all identifiers.
    pub(super) fn issued(&mut self, identifiers: &[Identifier]) -> Option<Change> {
        self.change(|_, budget| {
            budget::authorized(budget, identifiers);
        })
    }

    /// Notes that the store has taken the change.
    pub(super) fn written(mut self, revision: Revision) {
        if let Some(next) = self.next.take() {
            let desk = &mut *self.desk;
            (desk.budget, desk.revision) = (Some(next), Some(revision));
            desk.read_in = Some(self.epoch);
        }
    }

    /// `None` if nothing changes. Until [`Self::written`] says otherwise, the desk has to be read again.
    fn change(&mut self, how: impl FnOnce(&Limits, &mut Budget)) -> Option<Change> {
        let desk = &mut *self.desk;
        let present = desk.budget.as_ref()?;
        let mut next = present.clone();
        how(&desk.limits, &mut next);
        if next == *present {
            return None;
        }
        if desk.foreign {
            desk.budget = Some(next);
            return None;
        }
        let value = record::encode(&next);
        self.next = Some(next);
        desk.read_in = None;
        Some(Change { at: self.at.clone(), former: desk.revision, value })
    }
}

/// Keeps what a refusal says in the budget, if it says when it is over or what is paused.
fn note_refusal(budget: &mut Budget, identifiers: &[Identifier], error: &Error, now: Timestamp) {
    match error {
        Error::CaBusy { message, retry_after: Some(wait), refuses, .. } => {
            let bucket = match refuses {
                Refuses::Requests => Bucket::Requests,
                Refuses::Orders => Bucket::Orders,
                Refuses::Domain(domain) => Bucket::Domain(domain.clone()),
                Refuses::Failed(identifier) => Bucket::Failed(identifier.clone()),
                Refuses::Set => budget::set_of(identifiers),
                Refuses::This => return,
            };
            let until = now.checked_add(*wait).unwrap_or(Timestamp::MAX);
            let known = budget.refused.get(&bucket);
            // Told again: no reason to write.
            if known.is_some_and(|known| known.until.checked_add(SAME).is_ok_and(|end| end > until))
            {
                return;
            }
            let message = printable(message, MOST_TOLD);
            budget::refuse(budget, bucket, Refused { at: now, until, message });
        }
        Error::Paused { message, link, .. } => {
            let named: Vec<&Identifier> = identifiers
                .iter()
                .filter(|identifier| message.contains(identifier.as_str().trim_start_matches("*.")))
                .collect();
            let named = if named.is_empty() { identifiers.iter().collect() } else { named };
            for identifier in named {
                let message = printable(message, MOST_TOLD);
                let paused = Paused { since: now, message, link: link.clone() };
                budget.paused.insert(identifier.clone(), paused);
            }
        }
        _ => {}
    }
}

fn wait(now: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(until)).unwrap_or_default()
}

/// Two times so close together are the same refusal.
const SAME: Duration = Duration::from_secs(5);
const MOST_TOLD: usize = 500;
