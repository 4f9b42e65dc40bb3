//! Events for the invariants' own tests.

use chancery_coordinator::{seal::Sealer, store::Operation};
use chancery_shared::number::Epoch;

use crate::sim::event::{Committed, Event};

pub(super) fn commit(
    node: Option<usize>,
    fence: Option<u64>,
    newest: u64,
    operations: &[Operation],
) -> Event<'_> {
    sealed(node, fence, newest, operations, None)
}

pub(super) fn sealed<'a>(
    node: Option<usize>,
    fence: Option<u64>,
    newest: u64,
    operations: &'a [Operation],
    sealer: Option<&'a Sealer>,
) -> Event<'a> {
    Event::Committed(Committed {
        node,
        fence: fence.map(Epoch),
        newest: Epoch(newest),
        operations,
        sealer,
    })
}
