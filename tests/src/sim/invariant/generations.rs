//! Invariant 4: generations only grow, in the store and on every agent. An agent goes back only to
//! what was in use before something that was never seen in use.

use std::collections::BTreeMap;

use chancery_coordinator::{
    record::{self, CertificateState, key},
    store::Operation,
};
use chancery_shared::name::CertName;

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// Newest in the store, by certificate.
    stored: BTreeMap<String, u64>,
    /// Highest that was seen in use, by agent and certificate.
    served: BTreeMap<(String, CertName), u64>,
}

impl Invariant for Generations {
    fn name(&self) -> &'static str {
        "4 generations"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Committed(commit) => {
                commit.operations.iter().try_for_each(|operation| self.written(operation))
            }
            Event::Served { agent, certificate, generation } => {
                let highest =
                    self.served.entry(((*agent).to_owned(), (*certificate).clone())).or_default();
                *highest = (*highest).max(*generation);
                Ok(())
            }
            Event::Installed(files) => {
                let at = (files.agent.to_owned(), files.certificate.clone());
                let floor = self.served.get(&at).copied().unwrap_or_default();
                if files.generation < floor {
                    return Err(format!(
                        "{} on {}: generation {} was installed after {floor} had been in use",
                        files.certificate, files.agent, files.generation
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Generations {
    fn written(&mut self, operation: &Operation) -> Result<(), String> {
        let Operation::Put(at, value) = operation else { return Ok(()) };
        let (name, generation) = if let Some(name) = at.strip_prefix(key::STATES) {
            let state: CertificateState =
                record::decode(at, value).map_err(|error| error.to_string())?;
            (name, state.generation.0)
        } else if let Some((name, generation)) =
            at.strip_prefix(key::BUNDLES).and_then(|rest| rest.split_once('/'))
        {
            let generation = generation.parse().map_err(|_| format!("{at} has no generation"))?;
            if self.stored.get(name).is_some_and(|newest| generation <= *newest) {
                return Err(format!("{at} was written although that generation had been"));
            }
            (name, generation)
        } else {
            return Ok(());
        };
        let newest = self.stored.entry(name.to_owned()).or_default();
        if generation < *newest {
            return Err(format!("{name} went back from generation {newest} to {generation}"));
        }
        *newest = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chancery_shared::number::Generation;

    use super::*;
    use crate::sim::{event::Installed, invariant::testing::commit};

    #[test]
    fn it_objects_to_going_back() {
        let mut invariant = Generations::default();
        let mut state = |generation| {
            let state = CertificateState {
                generation: Generation(generation),
                ..CertificateState::default()
            };
            let write = [Operation::Put("states/web".to_owned(), record::encode(&state))];
            invariant.observe(&commit(Some(0), Some(1), 1, &write))
        };
        state(2).unwrap();
        state(2).unwrap();
        assert!(state(1).is_err());
        let web: CertName = "web".parse().unwrap();
        let write = [Operation::Put(key::bundle(&web, Generation(2)), b"".as_slice().into())];
        assert!(invariant.observe(&commit(Some(0), Some(1), 1, &write)).is_err());
    }

    #[test]
    fn an_agent_goes_back_only_from_what_was_never_in_use() {
        let mut invariant = Generations::default();
        let web: CertName = "web".parse().unwrap();
        let (agent, certificate) = ("web-1", &web);
        let installed = |generation| {
            Event::Installed(Installed {
                agent,
                certificate,
                generation,
                fullchain: b"",
                privkey: b"",
            })
        };
        invariant.observe(&installed(1)).unwrap();
        invariant.observe(&Event::Served { agent, certificate, generation: 1 }).unwrap();
        invariant.observe(&installed(2)).unwrap();
        invariant.observe(&installed(1)).expect("rolled back");
        invariant.observe(&Event::Served { agent, certificate, generation: 2 }).unwrap();
        assert!(invariant.observe(&installed(1)).is_err());
    }
}
