//! Orders: from "this certificate is due" to a stored bundle.
//!
//! # One path
//!
//! First issue, renewal, and going on after a crash, a hand-over, a store error or a CA
//! error are the same code: read the journal; ask the pure [`stage`] machine for the next step,
//! given what the CA says; do it. [`Orders::run`] repeats that until the order is over.
//!
//! # What is written when
//!
//! | journal says | written before | if we die right then |
//! |---|---|---|
//! | nothing | – | the certificate is due still |
//! | `intended`, with the sealed key | newOrder | newOrder is sent by the successor. If it had been sent and its answer was lost, the CA keeps an orphan order that nobody finalizes; this is counted |
//! | `placed`, with the order URL | the challenges | the same order is taken up |
//! | `presented`, and the challenges in the store | telling the CA | the same challenges are still answered |
//! | `validated` | finalize | a CSR that got through shows as *processing* or *valid*; the key is in the journal |
//! | `finalized` | fetching the chain | it is fetched again |
//! | bundle and state, order gone | agents hear of it | they hear of it from the store |
//!
//! Before each outward step leadership is checked; behind that, each write is fenced by the
//! store (invariant 1), and the order's one place in the store keeps a second
//! order from beginning (invariant 2).
//!
//! # Errors
//!
//! [`Error::class`] says what follows: stop (no longer the leader), repeat the step (the store or the CA
//! was away) until the order's deadline, or end the order and note when to try again. Whoever has to
//! wait before a step is repeated gives its place to another order meanwhile ([`Outcome::Again`]).
//! As long as there is no order, little is lost by giving up: after a few tries that is a
//! failure, so that the operator can see why, and the next issuer gets its turn.

use std::{sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, name::CertName, number::Generation, number::Revision};

pub mod account;
mod begin;
mod budgets;
pub mod ca;
mod chain;
mod challenges;
mod drive;
mod error;
pub mod jose;
pub mod journal;
mod keys;
mod patience;
mod persist;
mod problem;
mod refuses;
mod replaces;
mod revoke;
mod risk;
mod spending;
pub mod stage;
mod standby;
mod unwanted;
mod wanted;

pub use error::{Class, Error, Refuses};
pub use keys::Generate;
pub(crate) use keys::public_key;
pub use patience::Tries;
pub use replaces::{Suggestion, identifier_of, replaces};

use self::{
    account::{Accounts, Connect},
    budgets::Budgets,
    drive::Drive,
    journal::{Entry, Journal},
    patience::{Pauses, Visit},
};
use crate::{
    challenge::dns01::Dns01,
    election::Leadership,
    events::Events,
    members::Peers,
    metrics::Metrics,
    mirror::Mirror,
    record::{CertificateSpec, CertificateState, EventKind, IssuerSpec},
    seal::Sealer,
    store::{self, Store},
};

/// How orders are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long one leader works on an order, waiting included.
    pub deadline: Duration,
    /// How long to wait after a first failed order; see [`crate::plan::wait_after`].
    pub retry_first: Duration,
}

/// How [`Orders::run`] ended.
#[derive(Debug)]
pub enum Outcome {
    /// The order is over.
    Over,
    /// It is to be gone on with after a while.
    Again {
        /// After how long.
        wait: Duration,
        /// To be passed on.
        tries: Tries,
    },
}

/// How one try ended.
enum Attempt {
    /// The certificate is there; the commit that says so.
    Done(Revision),
    /// There was nothing to do.
    Nothing,
}

/// What is to be ordered, and what that was decided upon.
#[derive(Debug)]
struct Wanted {
    spec: CertificateSpec,
    spec_revision: Revision,
    state: CertificateState,
    state_revision: Option<Revision>,
    /// The highest number of a bundle of it.
    present: Generation,
    /// Whether it is the standby; then `spec` and `state` are its own.
    is_standby: bool,
    issuer: IssuerSpec,
    reason: String,
    /// What it replaces, by its identifier in ACME.
    replaces: Option<String>,
    urgent: bool,
}

/// Makes orders.
pub struct Orders {
    mirror: Arc<Mirror>,
    peers: Arc<Peers>,
    journal: Journal,
    accounts: Accounts,
    pauses: Pauses,
    /// Of questions about renewals: a CA may fail in these alone.
    question_pauses: Pauses,
    budgets: Budgets,
    answers_with: AnswersWith,
    events: Events,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    options: Options,
}

/// What an order works with.
#[derive(Clone)]
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its mirror.
    pub mirror: Arc<Mirror>,
    /// The other coordinators, which answer challenges too.
    pub peers: Arc<Peers>,
    /// Seals private keys.
    pub sealer: Sealer,
    /// Is told what happens.
    pub events: Events,
    /// Counts it.
    pub metrics: Arc<Metrics>,
    /// Says what time it is.
    pub clock: SharedClock,
}

/// What orders reach through to what is neither the store nor this process's one thread. The
/// default is the real thing; the simulation has its own.
#[derive(Clone)]
pub struct Outside {
    /// Makes the clients for CAs.
    pub connect: Connect,
    /// Makes the keys of certificates.
    pub generate: Generate,
    /// What challenges can be answered with.
    pub answers_with: AnswersWith,
}

/// What challenges can be answered with, beside HTTP-01.
#[derive(Clone, Default)]
pub struct AnswersWith {
    /// Answers DNS-01 challenges; without it none are.
    pub dns01: Option<Arc<Dns01>>,
    /// Whether this coordinator has a listener for TLS-ALPN-01, and so the others, which are
    /// configured alike.
    pub tls_alpn01: bool,
}

impl Default for Outside {
    fn default() -> Self {
        Self {
            connect: Arc::new(ca::connect),
            generate: Generate::default(),
            answers_with: AnswersWith::default(),
        }
    }
}

impl Orders {
    /// Orders made with `parts` at CAs that are reached through `outside`.
    pub fn new(parts: Parts, options: Options, outside: Outside) -> Self {
        let Parts { store, mirror, peers, sealer, events, metrics, clock } = parts;
        Self {
            journal: Journal::new(
                store.clone(),
                mirror.clone(),
                sealer.clone(),
                clock.clone(),
                outside.generate,
            ),
            accounts: Accounts::new(store.clone(), sealer, outside.connect),
            budgets: Budgets::new(store, clock.clone()),
            pauses: Pauses::default(),
            question_pauses: Pauses::default(),
            answers_with: outside.answers_with,
            mirror,
            peers,
            events,
            metrics,
            clock,
            options,
        }
    }

    /// Makes the order that `certificate` needs, or takes up the one in the journal. Returns when it
    /// is over, when this term of leadership is, or when it has to wait before it goes on: then
    /// the caller's place is free for another. Dropping the future leaves the journal as it is; the next call
    /// goes on from there.
    #[tracing::instrument(skip_all, fields(%certificate, epoch = %leadership.epoch()))]
    pub async fn run(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        mut tries: Tries,
    ) -> Outcome {
        let error = match self.attempt(leadership, certificate, &mut tries).await {
            Ok(Attempt::Done(revision)) => {
                self.shown(revision).await;
                return Outcome::Over;
            }
            // Whoever believed that there is something to do has an old view: let it catch up.
            Ok(Attempt::Nothing) => {
                return Outcome::Again { wait: CATCH_UP, tries: Tries::default() };
            }
            // Nothing was tried: it has its turn, and its whole deadline, when that has come.
            Err(Error::BudgetSpent { until, wait, reason }) => {
                tracing::debug!(%until, reason, "held back by the CA's limits");
                return Outcome::Again { wait, tries: Tries::held_back() };
            }
            Err(error) => error,
        };
        let class = match error.class() {
            Class::Repeat(least) if error.may_pass() => {
                self.repeat_or_give_up(certificate, &mut tries, least).await
            }
            class => class,
        };
        let least = match class {
            Class::Stop => {
                if matches!(error, Error::Store(store::Error::Fenced { .. })) {
                    self.metrics.write_fenced();
                }
                tracing::info!("left to the next leader");
                Duration::ZERO
            }
            Class::Repeat(least) => least,
            Class::Fail(_) => match self.fail(leadership, certificate, &error).await {
                Ok(()) => return Outcome::Over,
                Err(unrecorded) => {
                    // The journal stays as it is, and is come back to.
                    tracing::warn!(error = %unrecorded, "the failure could not be recorded");
                    Duration::ZERO
                }
            },
        };
        let wait = tries.failed(&error, least);
        if matches!(error, Error::IssuerPaused { .. }) {
            tracing::debug!(%error, wait_millis = wait.as_millis(), "the order waits");
        } else {
            tracing::warn!(%error, wait_millis = wait.as_millis(), "the step is repeated");
        }
        Outcome::Again { wait, tries }
    }

    /// Whether a step is worth another try: not if that would be after the deadline, nor the
    /// [`TRIES_TO_BEGIN`]th without an order.
    async fn repeat_or_give_up(
        &self,
        certificate: &CertName,
        tries: &mut Tries,
        least: Duration,
    ) -> Class {
        let gives_up = match self.journal.live(certificate).await {
            Ok(Some(_)) => least >= self.time_left(tries),
            Ok(None) => tries.count() + 1 >= TRIES_TO_BEGIN,
            Err(_) => false,
        };
        if gives_up { Class::Fail(least) } else { Class::Repeat(least) }
    }

    /// One try at everything that is left to do, until the deadline.
    async fn attempt(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        tries: &mut Tries,
    ) -> Result<Attempt, Error> {
        let live = self.journal.live(certificate).await?;
        if let Some(switched) = self.switch_if_due(leadership, certificate, live.as_ref()).await? {
            return Ok(Attempt::Done(switched));
        }
        let live = self.give_up_unwanted(leadership, certificate, live, tries).await?;
        let Some(wanted) = self.wanted(certificate, live.as_ref()).await? else {
            return Ok(Attempt::Nothing);
        };
        let had_begun = live.is_some();
        self.may_ask(leadership, &wanted, live.as_ref()).await?;
        let last = tries.last().map(str::to_owned);
        let passed = |stage| Error::DeadlinePassed { stage, last };
        // Before there is an order its deadline does not run.
        let left = if had_begun { self.time_left(tries) } else { self.options.deadline };
        if left.is_zero() {
            return Err(passed(live.map_or("none", |entry| entry.order.stage.name())));
        }
        let visit = self.pauses.enter(&wanted.issuer.name, self.clock.monotonic())?;
        let work = Box::pin(self.proceed(leadership, &wanted, live, &visit, tries));
        let work = async {
            tokio::select! {
                biased;
                done = work => done.map(Attempt::Done),
                () = self.until_unwanted(certificate, &wanted) => Ok(Attempt::Nothing),
            }
        };
        let result = match tokio::time::timeout(left, work).await {
            Ok(result) => result,
            Err(_) => match self.journal.live(certificate).await? {
                None if had_begun => Ok(Attempt::Nothing),
                live => Err(passed(live.map_or("none", |entry| entry.order.stage.name()))),
            },
        };
        visit.ended(&result, self.clock.monotonic());
        result
    }

    /// Opens the account, begins the order or takes it up, and brings it to its end. Returns the
    /// revision that shows it.
    async fn proceed(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        live: Option<Entry>,
        visit: &Visit<'_>,
        tries: &mut Tries,
    ) -> Result<Revision, Error> {
        let result = self.proceed_at(leadership, wanted, live, visit, tries).await;
        if let Err(error @ (Error::CaBusy { .. } | Error::Paused { .. })) = &result
            && let Err(error) =
                self.note_refusal(leadership, &wanted.issuer, &wanted.spec.identifiers, error).await
        {
            tracing::warn!(%error, "the CA's refusal could not be written down");
        }
        result
    }

    async fn proceed_at(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        live: Option<Entry>,
        visit: &Visit<'_>,
        tries: &mut Tries,
    ) -> Result<Revision, Error> {
        let issuer = &wanted.issuer;
        let still = || visit.check(self.clock.monotonic());
        let account = self.accounts.open(leadership, issuer, still).await?;
        let entry = match live {
            Some(entry) if entry.order.epoch != leadership.epoch() => {
                self.resume(leadership, entry).await?
            }
            Some(entry) => entry,
            None => {
                let entry = self.begin(leadership, wanted, &account).await?;
                tries.order_since(self.clock.monotonic());
                entry
            }
        };
        let drive = Drive::new(self, leadership, issuer, &account, entry);
        let finished = drive.finish().await;
        if matches!(finished, Err(Error::AccountUnknown)) {
            self.accounts.forget(leadership, &issuer.name, account.id()).await?;
        }
        if matches!(finished, Err(Error::Rejected { .. }))
            && !self.accounts.is_current(&issuer.name, &account).await
        {
            // It was signed by a key that has just been given up.
            return Err(Error::AccountChanged);
        }
        finished
    }

    /// Where is counted what happens.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Removes what orders have presented that are no more: at the beginning of a term.
    pub async fn sweep(&self, leadership: &Leadership) -> Result<(), Error> {
        let swept = self.journal.sweep(leadership).await?;
        if swept > 0 {
            tracing::warn!(swept, "removed challenges of orders that are no more");
        }
        Ok(())
    }

    /// Until the order's deadline. Counted in monotonic time, and anew by each leader: an order that
    /// the CA still keeps is worth finishing, whatever a wall clock says, and the CA itself
    /// ends one that is too old.
    fn time_left(&self, tries: &mut Tries) -> Duration {
        let now = self.clock.monotonic();
        self.options.deadline.saturating_sub(now.since(tries.order_since(now)))
    }

    /// Writes down that the order is over without a certificate, or that it could not begin.
    async fn fail(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        error: &Error,
    ) -> Result<(), Error> {
        let first_wait = self.options.retry_first;
        let journal = &self.journal;
        let (revision, is_standby) = if let Some(entry) = journal.live(certificate).await? {
            let revision = self.end_failed(leadership, &entry, error).await?;
            self.metrics.order_finished(&entry.order.issuer, error.code());
            (revision, entry.order.standby)
        } else {
            let is_standby = self.is_turn_of_standby(certificate).await?;
            let recorded =
                journal.could_not_begin(leadership, certificate, is_standby, error, first_wait);
            // Deleted meanwhile: nobody waits for it.
            let Some(revision) = recorded.await? else { return Ok(()) };
            (revision, is_standby)
        };
        tracing::warn!(%error, code = error.code(), is_standby, "the order failed");
        let whose = if is_standby { "for its standby " } else { "" };
        let message = format!("the order {whose}failed: {error}");
        self.events.record(EventKind::OrderFailed, certificate.as_str(), message);
        self.shown(revision).await;
        if !is_standby {
            self.raise_if_at_risk(certificate, error);
        }
        Ok(())
    }

    /// Waits until the mirror shows `revision`, but not for long: what is written is written.
    async fn shown(&self, revision: Revision) {
        let _ = tokio::time::timeout(OWN_WRITE, self.mirror.wait_for(revision)).await;
    }
}

/// So often it is tried to come as far as an order in the journal.
const TRIES_TO_BEGIN: u32 = 4;
/// For a mirror that is behind.
const CATCH_UP: Duration = Duration::from_secs(1);
const OWN_WRITE: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
