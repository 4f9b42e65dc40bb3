//! What is wanted and what there is, gathered for the plan.

use std::collections::{BTreeMap, BTreeSet};

use chancery_shared::{
    name::{CertName, ServiceName},
    number::Generation,
};

use super::Engine;
use crate::{
    bundle::Brief,
    install::{Observed, expected},
    plan::{Build, Certificate, Service, World},
    state::Phase,
};

impl Engine {
    /// Looks at the disk.
    pub(super) fn world(&mut self) -> World {
        let now = self.clock.monotonic();
        self.waits.certificates.retain(|_, at| *at > now);
        self.waits.services.retain(|_, at| *at > now);
        let busy: BTreeSet<CertName> = self
            .batches
            .values()
            .flat_map(|running| running.batch.switches.keys().cloned())
            .collect();
        let mut certificates = BTreeMap::new();
        for (name, brief) in self.wanted.clone() {
            match self.layout.observe(&name) {
                Ok(observed) => {
                    let linked = observed.linked.map_or(Generation(0), |build| build.generation);
                    self.note_linked(&name, linked);
                    let is_busy = busy.contains(&name);
                    let certificate = self.certificate(&name, &brief, observed, is_busy);
                    certificates.insert(name, certificate);
                }
                // Its wait is not over yet; nothing new to tell.
                Err(_) if self.waits.certificates.contains_key(&name) => {}
                Err(error) => self.install_failed(&name, &error.to_string()),
            }
        }
        World { now, keep: self.config.install.keep, certificates, services: self.services() }
    }

    fn certificate(
        &self,
        name: &CertName,
        brief: &Brief,
        observed: Observed,
        busy: bool,
    ) -> Certificate {
        let record = &self.state.certificates[name];
        let now = self.clock.now();
        let builds = observed.builds.into_iter().map(|(name, build)| {
            let expired = build.not_after <= now;
            (name, Build { fingerprint: build.fingerprint, intact: build.intact, expired })
        });
        let services = self.config.services_of(name).into_iter().map(|service| {
            let active = record.active.get(&service).map(|active| active.build);
            (service, active)
        });
        Certificate {
            generation: brief.generation,
            build: expected(brief, self.config.ownership_of(name)),
            builds: builds.collect(),
            linked: observed.linked,
            services: services.collect(),
            good: record.good,
            failures: record.failures,
            retry_at: self.waits.certificates.get(name).copied(),
            busy,
        }
    }

    fn services(&self) -> BTreeMap<ServiceName, Service> {
        let busy: BTreeSet<&ServiceName> =
            self.batches.values().flat_map(|running| running.batch.services.keys()).collect();
        let service = |name: &ServiceName| Service {
            retry_at: self.waits.services.get(name).copied(),
            test_failed: self.state.services.get(name).is_some_and(|record| record.test_failed),
            busy: busy.contains(name),
        };
        self.config.services.keys().map(|name| (name.clone(), service(name))).collect()
    }

    /// Records what has reached all of its services.
    pub(super) fn note_installed(&mut self, world: &World) {
        for (name, certificate) in &world.certificates {
            let Some(build) = certificate.installed() else { continue };
            if certificate.busy {
                continue;
            }
            let record = self.record(name);
            record.good = Some(build);
            record.failures = 0;
            match self.troubles.get(name).cloned() {
                None => self.set(name, Phase::Installed, String::new()),
                Some(message) => self.set(name, Phase::InstallFailed, message),
            }
        }
    }
}
