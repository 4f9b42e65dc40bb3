//! The invariants of the design, one file for each. Each is shown what happens, as it happens,
//! and objects. None looks into a coordinator or an agent: what counts is what the store, the CA,
//! the disks and the services have seen.

mod convergence;
mod generations;
mod key_matches;
mod one_epoch;
mod one_order;
mod plaintext;
mod served;

use super::event::Event;

/// Something that has to hold, whatever fails.
pub trait Invariant: Send {
    /// Its number in the design, and its name.
    fn name(&self) -> &'static str;

    /// Takes note of `event`. What it says, if anything, is why the invariant no longer holds.
    fn observe(&mut self, event: &Event<'_>) -> Result<(), String>;
}

/// All of them, at the beginning of a simulation.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(one_epoch::OneEpoch::default()),
        Box::new(one_order::OneOrder::default()),
        Box::new(key_matches::KeyMatches),
        Box::new(generations::Generations::default()),
        Box::new(served::Served::default()),
        Box::new(plaintext::Plaintext::default()),
        Box::new(convergence::Convergence),
    ]
}

#[cfg(test)]
mod testing;
