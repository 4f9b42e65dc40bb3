//! Carrying out a batch: switch all, test once, reload once, probe each; and back.
//!
//! | what fails | what stands afterwards | what the service was told |
//! |---|---|---|
//! | the test, with the former files already | the former files, never switched | nothing |
//! | the test, with the new files | the former files | nothing |
//! | the reload | the former files | reload again |
//! | a probe | the former files of the certificates not seen; the others stay | reload again |
//!
//! On a first install there are no former files. A failed test then removes the link again;
//! after a failed reload or probe it stays, because the files passed the test and a service
//! that is down (perhaps for want of these very files) could not start without them.
//!
//! Nothing is recorded on the way. Whoever kills the agent in the middle leaves a build on
//! the stable path that no service is recorded to have, so the next plan activates it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use chancery_shared::{
    failpoint::crash_point,
    name::{CertName, ServiceName},
    x509::Fingerprint,
};
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{Host, reload::reload};
use crate::{
    config::{Config, Probe},
    install::Layout,
    plan::{Back, Batch, Switch},
    state::Phase,
};

/// What does the work: knows the files and the services.
#[derive(Clone)]
pub(crate) struct Activator {
    pub(crate) config: Arc<Config>,
    pub(crate) layout: Layout,
    pub(crate) host: Arc<dyn Host>,
}

/// What there is to know of a certificate in a batch.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) leaf: Fingerprint,
    /// What a service is asked for to see it.
    pub(crate) server_name: Option<String>,
    pub(crate) identifiers: Vec<String>,
}

/// How a batch ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Services that were seen with a certificate.
    pub(crate) active: BTreeSet<(ServiceName, CertName)>,
    pub(crate) failed: BTreeMap<CertName, Failure>,
    /// Services that were tested, reloaded or probed.
    pub(crate) services: BTreeMap<ServiceName, Ran>,
}

/// Why a certificate is not in use everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) phase: Phase,
    pub(crate) message: String,
}

/// How the run of one service went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// How often it was told to reload.
    pub(crate) reloads: u64,
    pub(crate) test_failed: bool,
    /// Why it is not healthy.
    pub(crate) failure: Option<String>,
}

impl Activator {
    /// Carries out a batch. Dropping the future kills running commands and leaves the files
    /// as they are at that moment, as whole as always.
    pub(crate) async fn activate(
        &self,
        batch: &Batch,
        subjects: &BTreeMap<CertName, Subject>,
    ) -> Outcome {
        let steps = batch.services.iter();
        let mut run = Run {
            activator: self,
            batch,
            subjects,
            switches: batch.switches.clone(),
            steps: steps.map(|(name, step)| (name.clone(), step.certificates.clone())).collect(),
            outcome: Outcome::default(),
        };
        for (name, _) in batch.services.iter().filter(|(_, step)| step.test_first) {
            run.test_as_is(name).await;
        }
        run.switch().await;
        for name in batch.services.keys() {
            run.test(name).await;
        }
        crash_point("service::tested");
        for name in batch.services.keys() {
            run.reload(name).await;
        }
        crash_point("service::reloaded");
        for name in batch.services.keys() {
            run.probe(name).await;
        }
        crash_point("service::probed");
        run.outcome
    }
}

/// A batch that is being carried out.
struct Run<'a> {
    activator: &'a Activator,
    batch: &'a Batch,
    subjects: &'a BTreeMap<CertName, Subject>,
    /// Certificates that are still part of it.
    switches: BTreeMap<CertName, Switch>,
    /// Services that are still part of it, each with what it is to be seen with.
    steps: BTreeMap<ServiceName, BTreeSet<CertName>>,
    outcome: Outcome,
}

impl Run<'_> {
    /// Tests a service before anything changes. If that fails, it leaves the batch, and so
    /// do the certificates that no other service waits for.
    async fn test_as_is(&mut self, name: &ServiceName) {
        let Some(certificates) = self.step(name) else { return };
        let Err(why) = self.run_test(name, &certificates).await else { return };
        let message = format!(
            "{name}: the configuration test fails with the files as they are, so no new file is \
             to blame and none was switched: {why}"
        );
        self.steps.remove(name);
        self.ran(name).test_failed = true;
        for certificate in &certificates {
            if !self.steps.values().any(|step| step.contains(certificate)) {
                self.switches.remove(certificate);
            }
        }
        self.fail(name, &certificates, Phase::TestFailed, &message);
    }

    /// Points the stable paths to the new builds.
    async fn switch(&mut self) {
        for (certificate, switch) in self.switches.clone() {
            if switch.done {
                continue;
            }
            if let Err(error) = self.activator.layout.switch(&certificate, switch.to) {
                self.leave(&certificate);
                let failure = Failure { phase: Phase::InstallFailed, message: error.to_string() };
                self.outcome.failed.insert(certificate, failure);
            }
            // Fsyncs take their time: let the connection answer its pings meanwhile.
            tokio::task::yield_now().await;
        }
    }

    /// Tests a service with the new files. If that fails, they go back.
    async fn test(&mut self, name: &ServiceName) {
        let Some(certificates) = self.step(name) else { return };
        let Err(why) = self.run_test(name, &certificates).await else {
            self.ran(name).test_failed = false;
            return;
        };
        self.steps.remove(name);
        self.ran(name).test_failed = true;
        let went = self.back(&certificates, Removal::Unlink);
        let message = format!(
            "{name}: the configuration test failed, so the service was not reloaded; {}: {why}",
            went.words
        );
        self.fail(name, &certificates, Phase::TestFailed, &message);
    }

    /// Reloads a service. If that fails, its files go back and it is reloaded again.
    async fn reload(&mut self, name: &ServiceName) {
        let Some(certificates) = self.step(name) else { return };
        let Err(why) = self.run_reload(name, &certificates).await else { return };
        self.steps.remove(name);
        let mut went = self.back(&certificates, Removal::Keep);
        self.reload_again(&mut went).await;
        let message = format!("{name}: the reload failed; {}: {why}", went.words);
        self.fail(name, &certificates, Phase::ReloadFailed, &message);
    }

    /// Looks at what a reloaded service serves. Certificates that are not seen go back.
    async fn probe(&mut self, name: &ServiceName) {
        let Some(certificates) = self.step(name) else { return };
        let missed = match &self.activator.config.services[name].probe {
            Some(probe) => self.missed(probe, &certificates).await,
            None => BTreeMap::new(),
        };
        let seen = certificates.into_iter().filter(|name| !missed.contains_key(name));
        self.outcome.active.extend(seen.map(|certificate| (name.clone(), certificate)));
        if missed.is_empty() {
            return;
        }
        let mut went = self.back(&missed.keys().cloned().collect(), Removal::Keep);
        self.reload_again(&mut went).await;
        for (certificate, why) in missed {
            let message = format!(
                "{name} does not serve the new certificate after its reload; {}: {why}. Check \
                 that its configuration uses the files in {}; if it does not use this certificate \
                 at all, leave it out of `certificates` of this service",
                went.words,
                self.activator.layout.stable_path(&certificate).display()
            );
            self.fail(name, &BTreeSet::from([certificate]), Phase::ProbeFailed, &message);
        }
    }

    /// Probes for certificates; returns those not seen, with what was seen instead.
    async fn missed(
        &self,
        by: &Probe,
        certificates: &BTreeSet<CertName>,
    ) -> BTreeMap<CertName, String> {
        let deadline = Instant::now() + by.timeout;
        let host = &*self.activator.host;
        let looked_for = certificates.iter().map(|certificate| {
            let subject = &self.subjects[certificate];
            let name = by.sni.clone().or_else(|| subject.server_name.clone());
            (certificate.clone(), name, subject.leaf)
        });
        let looked_for: Vec<_> = looked_for.collect();
        let probes = stream::iter(looked_for).map(|(certificate, name, leaf)| async move {
            let seen = match name {
                Some(name) => host.probe(&by.address, &name, leaf, deadline).await,
                None => Err("it has no name by which a service could be asked for it".to_owned()),
            };
            (certificate, seen)
        });
        let seen: Vec<_> = probes.buffer_unordered(PROBES_AT_ONCE).collect().await;
        let missed = seen.into_iter().filter_map(|(name, seen)| Some((name, seen.err()?)));
        missed.collect()
    }

    /// Puts the former builds of certificates back; those that went leave the batch.
    fn back(&mut self, certificates: &BTreeSet<CertName>, removal: Removal) -> Went {
        let mut went = Went::default();
        let mut words = BTreeSet::new();
        for certificate in certificates {
            let Some(switch) = self.switches.get(certificate).copied() else { continue };
            let layout = &self.activator.layout;
            let done = match (switch.back, removal) {
                (Back::To(build), _) => {
                    words.insert("the former files are back".to_owned());
                    layout.switch(certificate, build)
                }
                (Back::Nothing, Removal::Unlink) => {
                    words.insert("there are no former files, so the link was removed".to_owned());
                    layout.unlink(certificate)
                }
                (Back::Nothing, Removal::Keep) => {
                    words.insert("there are no former files, so the new ones stay".to_owned());
                    continue;
                }
                (Back::Stay, _) => {
                    words.insert("the files stay, because they are in use".to_owned());
                    continue;
                }
            };
            match done {
                Ok(()) => drop(went.certificates.insert(certificate.clone())),
                Err(error) => {
                    tracing::error!(%certificate, %error, "the former files could not be put back");
                    words.insert(format!("the former files could not be put back ({error})"));
                }
            }
            self.leave(certificate);
        }
        crash_point("service::rolled_back");
        went.words = words.into_iter().collect::<Vec<_>>().join(", ");
        went
    }

    /// Reloads once more each service that may have loaded what went back.
    async fn reload_again(&mut self, went: &mut Went) {
        for (name, step) in &self.batch.services {
            let told = self.outcome.services.get(name).is_some_and(|ran| ran.reloads > 0);
            if !told || step.certificates.is_disjoint(&went.certificates) {
                continue;
            }
            match self.run_reload(name, &step.certificates).await {
                Ok(()) => {
                    let _ = write!(went.words, ", {name} was reloaded again");
                }
                Err(why) => {
                    tracing::error!(service = %name, "the reload with the former files: {why}");
                    let _ = write!(went.words, ", reloading {name} again failed too ({why})");
                }
            }
        }
    }

    async fn run_test(&self, name: &ServiceName, of: &BTreeSet<CertName>) -> Result<(), String> {
        let service = &self.activator.config.services[name];
        let Some(test) = &service.test else { return Ok(()) };
        tracing::debug!(service = %name, "testing the configuration");
        self.activator.host.run(test, &self.environment(of), service.test_timeout).await
    }

    async fn run_reload(
        &mut self,
        name: &ServiceName,
        of: &BTreeSet<CertName>,
    ) -> Result<(), String> {
        let service = &self.activator.config.services[name];
        self.ran(name).reloads += 1;
        tracing::info!(service = %name, certificates = of.len(), "reloading");
        let host = &*self.activator.host;
        reload(host, &service.reload, &self.environment(of), service.reload_timeout).await
    }

    /// Certbot's variables for hooks; several values are separated by a space.
    fn environment(&self, certificates: &BTreeSet<CertName>) -> [(&'static str, String); 2] {
        let path = |name| self.activator.layout.stable_path(name).display().to_string();
        let lineages: Vec<String> = certificates.iter().map(path).collect();
        let domains: Vec<&str> = certificates
            .iter()
            .flat_map(|name| &self.subjects[name].identifiers)
            .map(String::as_str)
            .collect();
        [("RENEWED_LINEAGE", lineages.join(" ")), ("RENEWED_DOMAINS", domains.join(" "))]
    }

    /// What a service is still to be seen with, if it is still part of the batch.
    fn step(&self, name: &ServiceName) -> Option<BTreeSet<CertName>> {
        self.steps.get(name).filter(|step| !step.is_empty()).cloned()
    }

    /// Takes a certificate out of the batch.
    fn leave(&mut self, certificate: &CertName) {
        self.switches.remove(certificate);
        for step in self.steps.values_mut() {
            step.remove(certificate);
        }
        self.outcome.active.retain(|(_, active)| active != certificate);
    }

    fn ran(&mut self, name: &ServiceName) -> &mut Ran {
        self.outcome.services.entry(name.clone()).or_default()
    }

    fn fail(&mut self, by: &ServiceName, of: &BTreeSet<CertName>, phase: Phase, message: &str) {
        let message = message.to_owned();
        for certificate in of {
            let failure = Failure { phase, message: message.clone() };
            self.outcome.failed.insert(certificate.clone(), failure);
        }
        self.ran(by).failure = Some(message);
    }
}

/// What a rollback has done.
#[derive(Default)]
struct Went {
    /// What is back at its former build, or gone.
    certificates: BTreeSet<CertName>,
    /// The same for the message.
    words: String,
}

/// What a rollback does where there is no former build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    Unlink,
    Keep,
}

/// How many handshakes run at the same time.
const PROBES_AT_ONCE: usize = 8;
