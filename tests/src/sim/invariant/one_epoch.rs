//! Invariant 1: the store accepts no write from an epoch older than the current one, what only a
//! leader may write carries its fence, and nobody acts as the leader once its lease has ended.

use chancery_coordinator::{record::key, store::Operation};
use chancery_shared::number::Epoch;

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OneEpoch {
    newest: Epoch,
}

impl Invariant for OneEpoch {
    fn name(&self) -> &'static str {
        "1 one-epoch"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Elected { node, epoch, still_leading } => {
                if *epoch <= self.newest {
                    return Err(format!("epoch {epoch} was given out after {}", self.newest));
                }
                self.newest = *epoch;
                if let Some(other) = still_leading.first() {
                    return Err(format!(
                        "node {node} leads with epoch {epoch} while node {other} would still act \
                         as the leader"
                    ));
                }
            }
            Event::Outward { node, leads: false } => {
                return Err(format!("node {node} asked a CA after its lease had ended"));
            }
            Event::Committed(commit) => {
                if let Some(epoch) = commit.fence.filter(|epoch| *epoch < commit.newest) {
                    return Err(format!(
                        "a write of epoch {epoch} was accepted although {} is the newest",
                        commit.newest
                    ));
                }
                if commit.node.is_some() && commit.fence.is_none() {
                    let keys = commit.operations.iter().map(Operation::key);
                    let mut owned =
                        keys.filter(|key| LEADERS.iter().any(|folder| key.starts_with(folder)));
                    if let Some(key) = owned.next() {
                        return Err(format!("{key} was written without a fence"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What only a leader writes.
const LEADERS: &[&str] = &[
    key::ORDERS,
    key::CHALLENGES,
    key::BUNDLES,
    key::CHAINS,
    key::STATES,
    key::ACCOUNTS,
    key::AUTHORITY,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariant::testing::commit;

    fn elected(epoch: u64, still_leading: Vec<usize>) -> Event<'static> {
        Event::Elected { node: 1, epoch: Epoch(epoch), still_leading }
    }

    #[test]
    fn it_objects_to_old_epochs_and_to_two_leaders() {
        let mut invariant = OneEpoch::default();
        assert!(invariant.observe(&elected(2, vec![])).is_ok());
        assert!(invariant.observe(&elected(2, vec![])).is_err());
        assert!(invariant.observe(&elected(3, vec![0])).is_err());
        assert!(invariant.observe(&Event::Outward { node: 0, leads: true }).is_ok());
        assert!(invariant.observe(&Event::Outward { node: 0, leads: false }).is_err());
        let write = [Operation::Delete("orders/web".to_owned())];
        assert!(invariant.observe(&commit(Some(0), Some(3), 3, &write)).is_ok());
        assert!(invariant.observe(&commit(Some(0), Some(2), 3, &write)).is_err());
        assert!(invariant.observe(&commit(Some(0), None, 3, &write)).is_err());
        assert!(invariant.observe(&commit(None, None, 3, &write)).is_ok());
    }
}
