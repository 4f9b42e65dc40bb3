//! The end of an order: it goes together with what it presented.

use std::time::Duration;

use tokio::time::timeout;

use super::{Entry, Error, Journal, MOST_TOKENS};
use crate::{
    election::Leadership,
    record::{self, Challenge, Order, key},
    store::Batch,
};

impl Journal {
    /// A batch that removes an order and exactly the challenges that it alone has presented. One that
    /// another live order has as well (a CA may give the same authorization to two) stays for that. So does
    /// one with a TXT record, until the sweeper has removed that from the DNS.
    pub(in crate::order) async fn ending(
        &self,
        leadership: &Leadership,
        entry: &Entry,
    ) -> Result<Batch, Error> {
        let order = &entry.order;
        let at = key::order(&order.certificate);
        let tokens = order.stage.tokens();
        // More than fit go before: the order is over, and nobody asks for them any more.
        let (before, last) = tokens.split_at(tokens.len().saturating_sub(MOST_TOKENS));
        for chunk in before.chunks(MOST_TOKENS) {
            let batch = leadership.batch().unchanged(&at, Some(entry.revision));
            self.commit(self.withdrawing(batch, order, chunk).await?).await?;
        }
        let batch = leadership.batch().unchanged(&at, Some(entry.revision)).delete(&at);
        self.withdrawing(batch, order, last).await
    }

    /// `batch` with the deletion of those of `tokens` that no other order needs.
    async fn withdrawing(
        &self,
        mut batch: Batch,
        order: &Order,
        tokens: &[String],
    ) -> Result<Batch, Error> {
        for token in tokens {
            let at = key::challenge(token);
            let Some(found) = self.store.get(&at).await? else { continue };
            // Whoever has presented it is written down in the step that wrote it, or in an earlier one. Two that
            // end at once may leave it to each other, and then to the sweeper.
            let shown = timeout(SHOWN, self.mirror.wait_for(found.revision)).await.is_ok();
            let is_needed = !shown || self.mirror.read().is_needed_by_another(token, order.id);
            let is_in_dns = record::decode::<Challenge>(&at, &found.value)
                .is_ok_and(|challenge| challenge.is_in_dns());
            if !is_needed && !is_in_dns {
                batch = batch.unchanged(&at, Some(found.revision)).delete(&at);
            }
        }
        Ok(batch)
    }
}

/// For a mirror that is behind.
const SHOWN: Duration = Duration::from_secs(5);
