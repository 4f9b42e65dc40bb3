//! What orders cost, and who pays: where orders meet [`super::budgets`].

use std::time::Duration;

use chancery_shared::{identifier::Identifier, name::IssuerName, number::Revision};
use instant_acme::Account;
use jiff::Timestamp;

use super::{
    Error, Orders, Wanted,
    budgets::Open,
    journal::{Collected, Entry},
};
use crate::{
    election::Leadership,
    plan::{self, budget::Ask},
    record::{CertificateState, Issued, IssuerSpec, Order, Stage},
};

impl Wanted {
    fn ask(&self) -> Ask<'_> {
        let identifiers = &self.spec.identifiers;
        let replaces = self.replaces.is_some();
        plan::ask_for(identifiers, Some(&self.state), &self.issuer.name, replaces, self.urgent)
    }
}

impl Wanted {
    /// Whether the CA's limits allow it now. If not, it is looked at again when they do, or when it has
    /// become urgent.
    fn check(&self, desk: &mut Open, now: Timestamp) -> Result<(), Error> {
        let verdict = desk.check(&self.spec.name, &self.ask(), now);
        verdict.map_err(|error| match (error, &self.state.issued) {
            (Error::BudgetSpent { until, wait, reason }, Some(issued)) if !self.urgent => {
                let urgent = Duration::try_from(now.duration_until(plan::urgent_at(issued)));
                let wait = urgent.map_or(wait, |urgent| wait.min(urgent));
                Error::BudgetSpent { until, wait, reason }
            }
            (error, _) => error,
        })
    }
}

impl Orders {
    /// Whether the CA may be asked at all: by its limits for what has not begun, and for
    /// what has, by its asking to be left alone.
    pub(super) async fn may_ask(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        live: Option<&Entry>,
    ) -> Result<(), Error> {
        let mut desk = self.budgets.open(leadership, &wanted.issuer).await?;
        let now = self.clock.now();
        if live.is_some() {
            return desk.check_requests(now);
        }
        wanted.check(&mut desk, now)
    }

    /// Writes the intent to order, and with it what that costs.
    pub(super) async fn begin_paid(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        account: &Account,
    ) -> Result<Entry, Error> {
        // Made before anybody is kept waiting.
        let intent = self.journal.intend(leadership, wanted, account.id(), self.options.deadline);
        let intent = intent.await?;
        let mut desk = self.budgets.open(leadership, &wanted.issuer).await?;
        let (name, now) = (&wanted.spec.name, self.clock.now());
        let ask = wanted.ask();
        // Others may have been faster.
        wanted.check(&mut desk, now)?;
        let Some(change) = desk.spend(name, &ask, now) else {
            drop(desk);
            return self.journal.begin(leadership, wanted, intent, None).await;
        };
        let entry = self.journal.begin(leadership, wanted, intent, Some(&change)).await?;
        desk.written(entry.revision);
        Ok(entry)
    }

    /// Writes down that the order is over without a certificate, and what that means for the
    /// budget.
    pub(super) async fn end_failed(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        error: &Error,
    ) -> Result<Revision, Error> {
        let order = &entry.order;
        let first_wait = self.options.retry_first;
        let mut desk = self.desk_of(leadership, &order.issuer).await?;
        let mut change = None;
        if let Some(desk) = &mut desk {
            let (state, _) = self.journal.state(&order.certificate).await?;
            let ask = asked(order, &state);
            let may_be_issued = matches!(order.stage, Stage::Finalized { .. });
            change = desk.failed(&ask, error, may_be_issued, self.clock.now());
        }
        let journal = &self.journal;
        let revision =
            journal.failed(leadership, entry, error, first_wait, change.as_ref()).await?;
        if let Some(desk) = desk {
            desk.written(revision);
        }
        Ok(revision)
    }

    /// Stores what was issued; the CA has validated all that it is for.
    pub(super) async fn end_issued(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        collected: Collected,
    ) -> Result<(Issued, Revision), Error> {
        let mut desk = self.desk_of(leadership, &entry.order.issuer).await?;
        let change = desk.as_mut().and_then(|desk| desk.issued(&entry.order.identifiers));
        if change.is_none() {
            // Nobody has to wait for this one.
            desk = None;
        }
        let ended = self.journal.issued(leadership, entry, collected, change.as_ref()).await?;
        if let Some(desk) = desk {
            desk.written(ended.1);
        }
        Ok(ended)
    }

    /// Keeps for the other orders, and for other leaders, what the CA has refused.
    pub(super) async fn note_refusal(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        identifiers: &[Identifier],
        error: &Error,
    ) -> Result<(), Error> {
        let mut desk = self.budgets.open(leadership, issuer).await?;
        if let Some(change) = desk.refused(identifiers, error, self.clock.now()) {
            let revision = self.journal.commit(change.add_to(leadership.batch())).await?;
            desk.written(revision);
        }
        Ok(())
    }

    /// Notes once more what an order costs that may have been sent before, and is sent again.
    pub(super) async fn pay_again(
        &self,
        leadership: &Leadership,
        order: &Order,
    ) -> Result<(), Error> {
        let Some(mut desk) = self.desk_of(leadership, &order.issuer).await? else { return Ok(()) };
        let (state, _) = self.journal.state(&order.certificate).await?;
        let ask = asked(order, &state);
        if let Some(change) = desk.spend(&order.certificate, &ask, self.clock.now()) {
            let revision = self.journal.commit(change.add_to(leadership.batch())).await?;
            desk.written(revision);
        }
        Ok(())
    }

    /// Makes an order one that replaces nothing, which costs more.
    pub(super) async fn without_replacing(
        &self,
        leadership: &Leadership,
        entry: Entry,
    ) -> Result<Entry, Error> {
        let order = Order { replaces: None, ..entry.order };
        let mut batch = leadership.batch();
        let mut desk = self.desk_of(leadership, &order.issuer).await?;
        if let Some(desk) = &mut desk {
            let (state, _) = self.journal.state(&order.certificate).await?;
            let (ask, now) = (asked(&order, &state), self.clock.now());
            desk.check(&order.certificate, &ask, now)?;
            if let Some(change) = desk.spend(&order.certificate, &ask, now) {
                batch = change.add_to(batch);
            }
        }
        let entry = self.journal.rewrite(batch, order, entry.revision).await?;
        if let Some(desk) = desk {
            desk.written(entry.revision);
        }
        Ok(entry)
    }

    /// The desk of an issuer, unless it was deleted.
    async fn desk_of(
        &self,
        leadership: &Leadership,
        issuer: &IssuerName,
    ) -> Result<Option<Open>, Error> {
        let issuer: Option<IssuerSpec> = self.journal.issuer(issuer).await?;
        match issuer {
            Some(issuer) => self.budgets.open(leadership, &issuer).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What an order in the journal has cost.
fn asked<'a>(order: &'a Order, state: &CertificateState) -> Ask<'a> {
    let replaces = order.replaces.is_some();
    plan::ask_for(&order.identifiers, Some(state), &order.issuer, replaces, true)
}

#[cfg(test)]
mod tests;
