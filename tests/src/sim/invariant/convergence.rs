//! Invariant 7: when faults stop, everything comes to be as it should, before anything expires.

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Debug)]
pub(super) struct Convergence;

impl Invariant for Convergence {
    fn name(&self) -> &'static str {
        "7 convergence"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Ended { missing: [] } => Ok(()),
            Event::Ended { missing } => {
                Err(format!("faults have ended, but {}", missing.join("; ")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_objects_to_what_is_missing() {
        let mut invariant = Convergence;
        assert!(invariant.observe(&Event::Ended { missing: &[] }).is_ok());
        let missing = ["web has no certificate".to_owned()];
        assert!(invariant.observe(&Event::Ended { missing: &missing }).is_err());
    }
}
