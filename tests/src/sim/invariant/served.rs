//! Invariant 5: no deployment is reported successful before the served certificate was seen to be
//! the new one.

use std::collections::BTreeSet;

use chancery_coordinator::{
    record::{self, Deployment, DeploymentState, key},
    store::Operation,
};
use chancery_shared::name::CertName;

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Served {
    seen: BTreeSet<(String, CertName, u64)>,
}

impl Invariant for Served {
    fn name(&self) -> &'static str {
        "5 served"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Served { agent, certificate, generation } => {
                self.seen.insert(((*agent).to_owned(), (*certificate).clone(), *generation));
            }
            Event::Committed(commit) => {
                for operation in commit.operations {
                    let Operation::Put(at, value) = operation else { continue };
                    if !at.starts_with(key::DEPLOYMENTS) {
                        continue;
                    }
                    let found: Deployment =
                        record::decode(at, value).map_err(|error| error.to_string())?;
                    let seen =
                        (found.agent.to_string(), found.certificate.clone(), found.installed.0);
                    if found.state == DeploymentState::Installed && !self.seen.contains(&seen) {
                        return Err(format!(
                            "{at} says installed with generation {}, which was never seen there",
                            found.installed
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chancery_shared::number::Generation;

    use super::*;
    use crate::sim::{clock::beginning, invariant::testing::commit};

    #[test]
    fn it_objects_to_success_that_nobody_saw() {
        let mut invariant = Served::default();
        let certificate: CertName = "web".parse().unwrap();
        let report = |state| {
            let deployment = Deployment {
                agent: "web-1".parse().unwrap(),
                certificate: certificate.clone(),
                state,
                delivered: Generation(1),
                installed: Generation(1),
                served: Generation(1),
                message: String::new(),
                changed_at: beginning(),
                failures: 0,
            };
            let at = key::deployment(&deployment.agent, &certificate);
            [Operation::Put(at, record::encode(&deployment))]
        };
        let success = report(DeploymentState::Installed);
        let failure = report(DeploymentState::ProbeFailed);
        invariant.observe(&commit(Some(0), None, 1, &failure)).unwrap();
        assert!(invariant.observe(&commit(Some(0), None, 1, &success)).is_err());
        let seen = Event::Served { agent: "web-1", certificate: &certificate, generation: 1 };
        invariant.observe(&seen).unwrap();
        invariant.observe(&commit(Some(0), None, 1, &success)).unwrap();
    }
}
