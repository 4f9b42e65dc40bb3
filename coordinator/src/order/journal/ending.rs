//! The end of an order: it goes together with what it presented.

use super::{Entry, Error, Journal, MOST_TOKENS};
use crate::{
    election::Leadership,
    record::{self, Challenge, Order, key},
    store::Batch,
};

impl Journal {
    /// A batch that removes an order and exactly the challenges that it presented. One that
    /// another order has presented since (a CA may give the same authorization to two) stays. So does
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

    /// `batch` with the deletion of those of `tokens` that are the order's.
    async fn withdrawing(
        &self,
        mut batch: Batch,
        order: &Order,
        tokens: &[String],
    ) -> Result<Batch, Error> {
        for token in tokens {
            let at = key::challenge(token);
            let Some(found) = self.store.get(&at).await? else { continue };
            let is_ours = record::decode::<Challenge>(&at, &found.value)
                .map_or(true, |challenge| challenge.order == order.id && challenge.txt.is_none());
            if is_ours {
                batch = batch.unchanged(&at, Some(found.revision)).delete(&at);
            }
        }
        Ok(batch)
    }
}
