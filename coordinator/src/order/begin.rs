//! How an order is begun, and how one that another term has begun is taken up.

use chancery_shared::failpoint::crash_point;

use super::{Error, Orders, Wanted, account::Account, journal::Entry};
use crate::{
    election::Leadership,
    record::{EventKind, Stage},
};

impl Orders {
    pub(super) async fn begin(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        account: &Account,
    ) -> Result<Entry, Error> {
        if let Err(unknown) = wanted.check_profile(account) {
            // The CA may have more by the next try.
            self.accounts.close(&wanted.issuer.name).await;
            return Err(unknown);
        }
        let entry = self.begin_paid(leadership, wanted, account).await?;
        crash_point("order::intended");
        let message = format!(
            "ordering generation {} from {}: {}",
            entry.order.generation, wanted.issuer.name, wanted.reason
        );
        self.events.record(EventKind::OrderStarted, wanted.spec.name.as_str(), message);
        Ok(entry)
    }

    pub(super) async fn resume(
        &self,
        leadership: &Leadership,
        entry: Entry,
    ) -> Result<Entry, Error> {
        let entry = self.journal.take_up(leadership, entry, self.options.deadline).await?;
        let stage = entry.order.stage.name();
        if entry.order.stage == Stage::Intended {
            self.pay_again(leadership, &entry.order).await?;
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
}
