//! Dice for jitter and for picking one of several. Never for secrets.
//!
//! Each thread has its own, which begin at random; a simulation sets how those of its thread fall.

/// A number from 0 up to, but not including, 1.
pub fn roll() -> f64 {
    fastrand::f64()
}

/// A number below `sides`.
///
/// # Panics
///
/// If `sides` is 0.
pub fn pick(sides: usize) -> usize {
    fastrand::usize(..sides)
}

/// Makes all later numbers on this thread follow from `seed`; those of back-off ([`crate::retry`])
/// too.
pub fn load(seed: u64) {
    fastrand::seed(seed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Policy;

    #[test]
    fn loaded_dice_fall_alike() {
        let falls = || {
            load(7);
            let mut waits = Policy::CONNECT.waits();
            (roll().to_bits(), pick(1_000_000), waits.next_wait(), waits.next_wait())
        };
        assert_eq!(falls(), falls());
    }
}
