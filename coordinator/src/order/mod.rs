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
//! was away) until the order's deadline, or end the order and note when to try again. As long as
//! there is no order, little is lost by giving up: after a few tries the place goes to another
//! certificate, and the operator can see why.

use std::{sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, failpoint::crash_point, name::CertName, retry::Policy};
use instant_acme::Account;

pub mod account;
pub mod ca;
mod drive;
mod error;
pub mod journal;
pub mod stage;

pub use error::{Class, Error};

use self::{
    account::Accounts,
    drive::Drive,
    journal::{Entry, Intent, Journal},
};
use crate::{
    election::Leadership,
    events::Events,
    metrics::Metrics,
    mirror::Mirror,
    plan,
    record::{CertificateSpec, EventKind, IssuerSpec, Stage},
    seal::Sealer,
    store::{self, Store},
};

/// How orders are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an order may take in all, waiting included.
    pub deadline: Duration,
    /// How long to wait after a first failed order; see [`plan::wait_after`].
    pub retry_first: Duration,
}

/// Makes orders.
pub struct Orders {
    mirror: Arc<Mirror>,
    journal: Journal,
    accounts: Accounts,
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
    /// Seals private keys.
    pub sealer: Sealer,
    /// Is told what happens.
    pub events: Events,
    /// Counts it.
    pub metrics: Arc<Metrics>,
    /// Says what time it is.
    pub clock: SharedClock,
}

impl Orders {
    /// Orders made with `parts`.
    pub fn new(parts: Parts, options: Options) -> Self {
        let Parts { store, mirror, sealer, events, metrics, clock } = parts;
        Self {
            journal: Journal::new(store.clone(), mirror.clone(), sealer.clone(), clock.clone()),
            accounts: Accounts::new(store, sealer),
            mirror,
            events,
            metrics,
            clock,
            options,
        }
    }

    /// Makes the order that `certificate` needs, or takes up the one in the journal, and
    /// returns when it is over or this term of leadership is. Dropping the future leaves the journal
    /// as it is; the next call goes on from there.
    #[tracing::instrument(skip_all, fields(%certificate, epoch = %leadership.epoch()))]
    pub async fn run(&self, leadership: &Leadership, certificate: &CertName) {
        let mut waits = STEP_RETRY.waits();
        let mut resuming = true;
        for tries in 1.. {
            let error = match self.attempt(leadership, certificate, &mut resuming).await {
                Ok(()) => return,
                Err(error) => error,
            };
            match error.class() {
                Class::Stop => {
                    if matches!(error, Error::Store(store::Error::Fenced { .. })) {
                        self.metrics.write_fenced();
                    }
                    tracing::info!("left to the next leader");
                    return;
                }
                Class::Repeat(least) => {
                    let wait = waits.next_wait().max(least);
                    if error.may_pass() && self.gives_up(certificate, tries, wait) {
                        self.fail(leadership, certificate, error).await;
                        return;
                    }
                    tracing::warn!(%error, wait_millis = wait.as_millis(), "the step is repeated");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = leadership.ended() => return,
                    }
                }
                Class::Fail(_) => {
                    self.fail(leadership, certificate, error).await;
                    return;
                }
            }
        }
    }

    /// Whether after so many tries, and before a wait as long as this, an order ends.
    fn gives_up(&self, certificate: &CertName, tries: u32, wait: Duration) -> bool {
        let view = self.mirror.read();
        let Some(order) = view.orders.get(certificate) else { return tries >= TRIES_TO_BEGIN };
        let next = self.clock.now().checked_add(wait);
        next.map_or(true, |next| next >= order.record.deadline)
    }

    /// One try at everything that is left to do, until the deadline. `resuming` tells whether an
    /// order in the journal is another run's, and becomes false when it is this one's.
    async fn attempt(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        resuming: &mut bool,
    ) -> Result<(), Error> {
        let live = self.journal.live(certificate).await?;
        let Some((spec, issuer)) = self.wanted(certificate, live.as_ref())? else {
            return Ok(());
        };
        let account = match self.accounts.open(leadership, &issuer).await {
            Err(Error::AccountUnknown) => {
                self.accounts.forget(leadership, &issuer.name).await?;
                return Err(Error::AccountUnknown);
            }
            other => other?,
        };
        let entry = match live {
            Some(entry) if *resuming => self.resume(leadership, entry).await?,
            Some(entry) => entry,
            None => {
                // Before it is certain: whatever is in the journal then, this run has put it there.
                *resuming = false;
                self.begin(leadership, &spec, &issuer, &account).await?
            }
        };
        *resuming = false;
        let left = self.clock.now().duration_until(entry.order.deadline);
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        let drive = Drive { orders: self, leadership, account: &account, entry, at_ca: None };
        let finished = if let Ok(finished) = tokio::time::timeout(left, drive.finish()).await {
            finished
        } else {
            let live = self.journal.live(certificate).await?;
            if live.as_ref().is_some_and(|entry| entry.order.stage == Stage::Intended) {
                self.metrics.order_possibly_orphaned(&issuer.name);
            }
            let stage = live.map_or("unknown", |entry| entry.order.stage.name());
            Err(Error::DeadlinePassed { stage })
        };
        if matches!(finished, Err(Error::AccountUnknown)) {
            self.accounts.forget(leadership, &issuer.name).await?;
        }
        finished
    }

    /// The certificate's specification and the issuer of its order; `None` if nothing is wanted.
    fn wanted(
        &self,
        certificate: &CertName,
        live: Option<&Entry>,
    ) -> Result<Option<(CertificateSpec, IssuerSpec)>, Error> {
        let view = self.mirror.read();
        let Some(spec) = view.certificates.get(certificate) else { return Ok(None) };
        let state = view.states.get(certificate).map(|state| &*state.record);
        let name = if let Some(entry) = live {
            entry.order.issuer.clone()
        } else {
            let facts = plan::Facts { spec: &spec.record, state, order: None };
            if !plan::decide(&facts, self.clock.now()).is_due(self.clock.now()) {
                return Ok(None);
            }
            let issuer = plan::issuer_for(&spec.record, state);
            issuer.ok_or_else(|| Error::BadIssuer("none is named".to_owned()))?.clone()
        };
        let issuer = view.issuers.get(&name).ok_or_else(|| {
            Error::BadIssuer(format!("{name} is not declared; apply a file that declares it"))
        })?;
        Ok(Some(((*spec.record).clone(), (*issuer.record).clone())))
    }

    async fn begin(
        &self,
        leadership: &Leadership,
        spec: &CertificateSpec,
        issuer: &IssuerSpec,
        account: &Account,
    ) -> Result<Entry, Error> {
        let decision = {
            let view = self.mirror.read();
            let state = view.states.get(&spec.name).map(|state| &*state.record);
            plan::decide(&plan::Facts { spec, state, order: None }, self.clock.now())
        };
        let intent = Intent {
            spec,
            issuer: &issuer.name,
            account: account.id(),
            reason: &decision.message,
            deadline: self.options.deadline,
        };
        let entry = self.journal.begin(leadership, &intent).await?;
        crash_point("order::intended");
        let message = format!(
            "ordering generation {} from {}: {}",
            entry.order.generation, issuer.name, decision.message
        );
        self.events.record(EventKind::OrderStarted, spec.name.as_str(), message);
        Ok(entry)
    }

    async fn resume(&self, leadership: &Leadership, entry: Entry) -> Result<Entry, Error> {
        let entry = self.journal.take_up(leadership, entry).await?;
        let stage = entry.order.stage.name();
        if entry.order.stage == Stage::Intended {
            self.metrics.order_possibly_orphaned(&entry.order.issuer);
        }
        let message = format!(
            "going on with the order for generation {} from stage {stage}",
            entry.order.generation
        );
        tracing::info!(stage, "an order is taken up again");
        self.events.record(EventKind::OrderResumed, entry.order.certificate.as_str(), message);
        Ok(entry)
    }

    async fn fail(&self, leadership: &Leadership, certificate: &CertName, error: Error) {
        tracing::warn!(%error, code = error.code(), "the order failed");
        let first_wait = self.options.retry_first;
        let recorded = match self.journal.live(certificate).await {
            Ok(Some(entry)) => {
                self.metrics.order_finished(&entry.order.issuer, error.code());
                self.journal.failed(leadership, &entry, &error, first_wait).await
            }
            Ok(None) => {
                self.journal.could_not_begin(leadership, certificate, &error, first_wait).await
            }
            Err(error) => Err(error),
        };
        let message = format!("the order failed: {error}");
        self.events.record(EventKind::OrderFailed, certificate.as_str(), message);
        // The journal stays as it is; the scheduler comes back to it.
        if let Err(error) = recorded {
            tracing::warn!(%error, "the failure could not be recorded");
        }
    }
}

/// So often it is tried to come as far as an order in the journal.
const TRIES_TO_BEGIN: u32 = 4;
/// Between tries of a step while the store or the CA is away.
const STEP_RETRY: Policy =
    Policy { first: Duration::from_millis(500), most: Duration::from_secs(30), factor: 2 };
