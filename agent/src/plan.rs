//! What to do next: from what is wanted and what was observed to actions.
//!
//! Pure: no files, no clock, no network, no tokio. The engine gathers a [`World`], asks for
//! a [`Plan`] and carries it out; then it looks again. A plan that was carried out in part,
//! because the process was killed or a step failed, needs no repair: the next one starts
//! from what is there.
//!
//! A certificate is *pending* at a service that was not yet seen with the wanted build. All
//! that is pending at one service is activated in one [`Batch`]: one test, one reload.
//! Services that share a pending certificate share its batch, because the switch is theirs
//! together; all other services are in batches of their own, so that none waits for
//! another's failure.

use std::collections::{BTreeMap, BTreeSet};

use chancery_shared::{
    clock::Monotonic,
    name::{CertName, ServiceName},
    number::Generation,
    x509::Fingerprint,
};

use crate::install::BuildName;

/// Everything that counts for the decision.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Monotonic,
    /// How many former builds stay on disk.
    pub(crate) keep: usize,
    pub(crate) certificates: BTreeMap<CertName, Certificate>,
    pub(crate) services: BTreeMap<ServiceName, Service>,
}

/// One certificate that this agent is entitled to and has received.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) generation: Generation,
    /// The fingerprint of the wanted build: content and ownership.
    pub(crate) build: Fingerprint,
    pub(crate) builds: BTreeMap<BuildName, Build>,
    /// Where the stable path points to.
    pub(crate) linked: Option<BuildName>,
    /// The services that use it, each with the build it was last seen with.
    pub(crate) services: BTreeMap<ServiceName, Option<Fingerprint>>,
    /// The last build that all services were seen with.
    pub(crate) good: Option<BuildName>,
    /// Failures of this generation in a row. 0: it is fresh.
    pub(crate) failures: u32,
    /// Not before this, because it failed itself.
    pub(crate) retry_at: Option<Monotonic>,
    /// In a batch that is running.
    pub(crate) busy: bool,
}

/// A build on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) intact: bool,
    pub(crate) expired: bool,
}

/// One local service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Service {
    /// Not before this, because its test or reload failed; a fresh certificate does not wait.
    pub(crate) retry_at: Option<Monotonic>,
    /// Its last test failed.
    pub(crate) test_failed: bool,
    /// In a batch that is running.
    pub(crate) busy: bool,
}

/// What to do, all of it independent of each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Builds to write; then plan again.
    pub(crate) stage: Vec<(CertName, BuildName)>,
    pub(crate) batches: Vec<Batch>,
    /// Builds to remove.
    pub(crate) prune: Vec<(CertName, BuildName)>,
    /// When something that waits is due.
    pub(crate) wake_at: Option<Monotonic>,
}

/// Certificates to switch and the services to tell, together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) switches: BTreeMap<CertName, Switch>,
    pub(crate) services: BTreeMap<ServiceName, Step>,
}

/// How the stable path of one certificate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) to: BuildName,
    /// Already there: a killed process left it so, or another service has it.
    pub(crate) done: bool,
    pub(crate) back: Back,
}

/// What a rollback does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// Back to this build.
    To(BuildName),
    /// There is no former build.
    Nothing,
    /// The build is in use already (another service serves it, or it was fine before a
    /// service was added): it stays.
    Stay,
}

/// What happens to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it is to be seen with.
    pub(crate) certificates: BTreeSet<CertName>,
    /// Test before anything is switched: if that fails already, the new files are not to
    /// blame and nothing is gained by switching.
    pub(crate) test_first: bool,
}

/// Decides.
pub(crate) fn plan(world: &World) -> Plan {
    let mut plan = Plan::default();
    let mut candidates = BTreeMap::new();
    for (name, certificate) in &world.certificates {
        if certificate.busy {
            continue;
        }
        let Some(target) = certificate.target() else {
            if certificate.due(world.now) {
                plan.stage.push((name.clone(), certificate.next_build()));
            } else {
                plan.wake(certificate.retry_at);
            }
            continue;
        };
        if certificate.settled(target) {
            plan.prune.extend(certificate.surplus(target, world.keep).map(|b| (name.clone(), b)));
        } else if certificate.due(world.now) {
            candidates.insert(name, (certificate, target));
        } else {
            plan.wake(certificate.retry_at);
        }
    }
    plan.add_batches(world, candidates);
    plan
}

type Candidates<'a> = BTreeMap<&'a CertName, (&'a Certificate, BuildName)>;

impl Plan {
    /// Notes when something is due.
    fn wake(&mut self, at: Option<Monotonic>) {
        self.wake_at = match (self.wake_at, at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    fn add_batches(&mut self, world: &World, mut candidates: Candidates<'_>) {
        let service = |name: &ServiceName| world.services.get(name).copied().unwrap_or_default();
        // When a batch ends, the engine plans again: nothing to wake for.
        candidates.retain(|_, (certificate, _)| !certificate.pending().any(|n| service(n).busy));
        let mut attempted = BTreeSet::new();
        for (certificate, _) in candidates.values() {
            let due = |name: &&ServiceName| {
                certificate.failures == 0 || service(name).retry_at.is_none_or(|at| at <= world.now)
            };
            attempted.extend(certificate.pending().filter(due));
        }
        candidates.retain(|_, (certificate, _)| {
            let waiting = certificate.pending().filter(|name| !attempted.contains(name));
            let waits: Vec<_> = waiting.map(|name| service(name).retry_at).collect();
            for at in &waits {
                self.wake(*at);
            }
            waits.is_empty()
        });
        while let Some((name, _)) = candidates.iter().next() {
            let together = connected(&candidates, name);
            let members = candidates.extract_if(.., |name, _| together.contains(*name)).collect();
            self.batches.push(batch(&members, &service));
        }
    }
}

/// The certificates that share services with `first`, directly or through others.
fn connected(candidates: &Candidates<'_>, first: &CertName) -> BTreeSet<CertName> {
    let mut together = BTreeSet::from([first.clone()]);
    let mut services: BTreeSet<&ServiceName> = BTreeSet::new();
    loop {
        let before = together.len();
        for (name, (certificate, _)) in candidates {
            if together.contains(*name) || certificate.pending().any(|s| services.contains(s)) {
                together.insert((*name).clone());
                services.extend(certificate.pending());
            }
        }
        if together.len() == before {
            return together;
        }
    }
}

fn batch(members: &Candidates<'_>, service: &impl Fn(&ServiceName) -> Service) -> Batch {
    let mut batch = Batch::default();
    for (name, (certificate, target)) in members {
        batch.switches.insert((*name).clone(), certificate.switch(*target));
        for using in certificate.pending() {
            let step = batch.services.entry(using.clone()).or_insert_with(|| Step {
                certificates: BTreeSet::new(),
                test_first: service(using).test_failed,
            });
            step.certificates.insert((*name).clone());
            // Without sound former files the test says nothing about the service.
            step.test_first &= certificate.formerly_sound();
        }
    }
    for step in batch.services.values_mut() {
        // If nothing is to be switched, the test itself is already the one with the files
        // as they are.
        step.test_first &= step.certificates.iter().any(|name| !batch.switches[name].done);
    }
    batch
}

impl Certificate {
    /// The wanted build, if it is on disk and sound.
    fn target(&self) -> Option<BuildName> {
        let wanted = |(name, build): &(&BuildName, &Build)| {
            name.generation == self.generation && build.fingerprint == self.build && build.intact
        };
        self.builds.iter().filter(wanted).map(|(name, _)| *name).next_back()
    }

    /// A name for the wanted build that no build on disk has.
    fn next_build(&self) -> BuildName {
        let last = self.builds.keys().rfind(|name| name.generation == self.generation);
        let revision = last.map_or(0, |name| name.revision + 1);
        BuildName { generation: self.generation, revision }
    }

    /// The services that were not seen with the wanted build yet.
    fn pending(&self) -> impl Iterator<Item = &ServiceName> {
        let services = self.services.iter();
        services.filter(|(_, active)| **active != Some(self.build)).map(|(name, _)| name)
    }

    fn settled(&self, target: BuildName) -> bool {
        self.linked == Some(target) && self.pending().next().is_none()
    }

    /// The build that is on the stable path and was seen at all services, if it is the
    /// wanted one: then there is nothing left to do.
    pub(crate) fn installed(&self) -> Option<BuildName> {
        self.target().filter(|target| self.settled(*target))
    }

    fn due(&self, now: Monotonic) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Whether what is installed now is whole and valid, so that a test with it means
    /// something.
    fn formerly_sound(&self) -> bool {
        let linked = self.linked.and_then(|name| self.builds.get(&name));
        linked.is_some_and(|build| build.intact && !build.expired)
    }

    fn switch(&self, to: BuildName) -> Switch {
        let served = self.services.values().any(|active| *active == Some(self.build));
        let was_good = self.good == Some(to);
        let usable = |name: &BuildName| {
            *name != to && self.builds.get(name).is_some_and(|build| build.intact)
        };
        // A build that was never linked and never good is nothing to go back to, but better
        // than none if what was good has gone.
        let older = |_| self.builds.keys().copied().rfind(|name| *name < to && usable(name));
        let back = if served || was_good {
            Back::Stay
        } else {
            self.good
                .filter(usable)
                .or_else(|| self.linked.filter(usable))
                .or_else(|| self.good.and_then(older))
                .map_or(Back::Nothing, Back::To)
        };
        Switch { to, done: self.linked == Some(to), back }
    }

    /// Former builds beyond those to keep, oldest first.
    fn surplus(&self, target: BuildName, keep: usize) -> impl Iterator<Item = BuildName> {
        let former: Vec<_> = self.builds.keys().copied().filter(|name| *name != target).collect();
        let surplus = former.len().saturating_sub(keep);
        former.into_iter().take(surplus)
    }
}

#[cfg(test)]
mod tests;
