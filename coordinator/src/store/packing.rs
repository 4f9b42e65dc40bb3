//! Many writes in as few batches as every store takes.

use std::collections::BTreeSet;

use super::{Batch, Condition, Operation};

/// Puts groups of writes, each of which has to stay whole, into batches, in the order in which they
/// come.
#[derive(Debug)]
pub struct Packer {
    /// What each batch begins with: the fence.
    begin: Batch,
    batches: Vec<Batch>,
}

impl Packer {
    /// None yet; each will begin as `begin`.
    pub fn new(begin: Batch) -> Self {
        Self { begin, batches: Vec::new() }
    }

    /// Adds the conditions and operations of `group` to the last batch, or to a new one if that
    /// would be too large. A group that is too large by itself stays so, and the store will say that.
    pub fn add(&mut self, group: Batch) {
        if let Some(last) = self.batches.last_mut()
            && fits(last, &group)
        {
            merge(last, group);
            return;
        }
        let mut batch = self.begin.clone();
        merge(&mut batch, group);
        self.batches.push(batch);
    }

    /// The batches, none of them empty.
    pub fn finish(self) -> Vec<Batch> {
        self.batches
    }
}

fn fits(batch: &Batch, group: &Batch) -> bool {
    let keys: BTreeSet<&str> = keys(batch).chain(keys(group)).collect();
    let bytes = |batch: &Batch| batch.operations.iter().map(Operation::size).sum::<usize>();
    keys.len() <= Batch::MOST_KEYS && bytes(batch) + bytes(group) <= Batch::MOST_BYTES
}

fn keys(batch: &Batch) -> impl Iterator<Item = &str> {
    let conditions = batch.conditions.iter().map(Condition::key);
    conditions.chain(batch.operations.iter().map(Operation::key))
}

fn merge(batch: &mut Batch, group: Batch) {
    for condition in group.conditions {
        // Groups of one owner share its condition.
        if !batch.conditions.contains(&condition) {
            batch.conditions.push(condition);
        }
    }
    batch.operations.extend(group.operations);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_whole_and_in_order_and_no_batch_is_too_large() {
        let mut packer = Packer::new(Batch::unfenced().absent("fence"));
        for number in 0..100 {
            let one = format!("a/{number:03}");
            let group = Batch::unfenced().absent("owner").absent(&*one).put(&*one, "x");
            packer.add(group.put(format!("b/{number:03}"), "y"));
        }
        let batches = packer.finish();
        // Fence, owner, and 27 groups of two keys.
        assert_eq!(batches.len(), 4);
        let mut all = Vec::new();
        for batch in &batches {
            batch.check_size().unwrap();
            assert_eq!(batch.operations.len() % 2, 0);
            assert!(batch.conditions.contains(&Condition::Absent("fence".to_owned())));
            all.extend(batch.operations.iter().step_by(2).map(|put| put.key().to_owned()));
        }
        assert_eq!(all.len(), 100);
        assert!(all.is_sorted());
    }

    #[test]
    fn bytes_fill_a_batch_too() {
        let mut packer = Packer::new(Batch::unfenced());
        for number in 0..5 {
            let value = vec![0; Batch::MOST_BYTES / 2 - 10];
            packer.add(Batch::unfenced().put(format!("k{number}"), value));
        }
        let batches = packer.finish();
        assert_eq!(batches.len(), 3);
        assert!(batches.iter().all(|batch| batch.check_size().is_ok()));
    }
}
