//! Certificates ordered by when they are due: a pass in which nothing is due looks at one
//! entry, however many there are.

use std::collections::{BTreeSet, HashMap};

use chancery_shared::name::CertName;
use jiff::Timestamp;

/// An index by due time. Each name stands in it at most once.
#[derive(Debug, Default)]
pub struct DueIndex {
    by_time: BTreeSet<(Timestamp, CertName)>,
    by_name: HashMap<CertName, Timestamp>,
}

impl DueIndex {
    /// Sets when `name` is due, in place of what was set before.
    pub fn set(&mut self, name: CertName, due: Timestamp) {
        self.remove(&name);
        self.by_time.insert((due, name.clone()));
        self.by_name.insert(name, due);
    }

    /// Forgets `name`.
    pub fn remove(&mut self, name: &CertName) {
        if let Some(due) = self.by_name.remove(name) {
            self.by_time.remove(&(due, name.clone()));
        }
    }

    /// Whether `name` is due at `now` and has not been taken out yet.
    pub fn is_due(&self, name: &CertName, now: Timestamp) -> bool {
        self.by_name.get(name).is_some_and(|due| *due <= now)
    }

    /// When the first is due.
    pub fn first_due(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Takes out the first if it is due at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<CertName> {
        self.first_due().filter(|due| *due <= now)?;
        let (_, name) = self.by_time.pop_first()?;
        self.by_name.remove(&name);
        Some(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CertName {
        text.parse().unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn names_come_out_in_the_order_of_their_times_and_once() {
        let mut index = DueIndex::default();
        index.set(name("b"), at(20));
        index.set(name("a"), at(30));
        index.set(name("a"), at(10));
        index.set(name("c"), at(40));
        assert_eq!(index.len(), 3);
        assert_eq!(index.first_due(), Some(at(10)));
        assert_eq!(index.pop_due(at(25)), Some(name("a")));
        assert_eq!(index.pop_due(at(25)), Some(name("b")));
        assert_eq!(index.pop_due(at(25)), None);
        index.remove(&name("c"));
        assert!(index.is_empty());
    }
}
