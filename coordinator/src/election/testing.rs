//! Leadership for the tests of leader-only code.

use std::{sync::Arc, time::Duration};

use chancery_shared::clock::SharedClock;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Leadership, Options, Transfers, start};
use crate::{metrics::Metrics, store::Store};

/// Takes part in the election of `store` as `node` and waits until it is won. The node leads
/// until the guard is dropped.
pub(crate) async fn lead(
    store: Arc<dyn Store>,
    clock: SharedClock,
    node: &str,
) -> (Leadership, DropGuard) {
    let (term, _, guard) = lead_until(store, clock, node).await;
    (term, guard)
}

/// The same, and what makes it hand over.
pub(crate) async fn lead_until(
    store: Arc<dyn Store>,
    clock: SharedClock,
    node: &str,
) -> (Leadership, Transfers, DropGuard) {
    let shutdown = CancellationToken::new();
    let options = Options {
        node: node.parse().unwrap(),
        ttl: Duration::from_secs(15),
        drain: Duration::from_secs(1),
    };
    let election = start(store, clock, options, Arc::new(Metrics::default()), shutdown.clone());
    let mut leadership = election.subscribe();
    let term = leadership.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    (term, election.transfers(), shutdown.drop_guard())
}
