//! What should not be there: challenges without their order.

use chancery_shared::number::Revision;

use super::{Error, Journal};
use crate::{election::Leadership, record::key, store};

impl Journal {
    /// Removes the challenges of orders that are no more: an order ends together with those that it
    /// presented, so there are none, unless somebody has written into the store by hand or a defect
    /// has left them. How many. What somebody has presented anew meanwhile stays.
    ///
    /// The mirror may be behind. An order is begun before it presents and does not come back once it has
    /// ended, so one that a consistent view does not show beside its challenge is no more.
    pub(in crate::order) async fn sweep(&self, leadership: &Leadership) -> Result<usize, Error> {
        let mut swept = 0;
        for (token, revision) in self.strays() {
            let at = key::challenge(&token);
            let batch = leadership.batch().unchanged(&at, Some(revision)).delete(&at);
            match self.store.commit(batch).await {
                Ok(_) => swept += 1,
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(swept)
    }

    fn strays(&self) -> Vec<(String, Revision)> {
        let view = self.mirror.read();
        // What is in the DNS goes after the value there has gone (`challenge::dns01`).
        let strays = view.strays().filter(|(_, found)| !found.record.is_in_dns());
        strays.map(|(token, found)| (token.clone(), found.revision)).collect()
    }
}
