//! What arrives from a coordinator: checked, stored, and only then wanted.

use chancery_proto::v1;
use chancery_shared::{name::CertName, number::Generation};

use super::{Engine, wait_after};
use crate::{
    bundle::{Brief, Bundle},
    cache,
    state::Phase,
    text,
};

/// What the connection tells the engine.
#[derive(Debug)]
pub(crate) enum Event {
    /// A stream has begun.
    Connected,
    Bundle(Box<v1::Bundle>),
    /// The name of a certificate.
    Withdrawn(String),
    /// All differences at the start of the stream were sent.
    Synced,
    /// The stream has ended.
    Disconnected,
}

/// Why a bundle that fits together is not taken over all the same.
enum Refusal {
    /// A coordinator that lags behind sends these.
    Stale,
    /// It needs a person.
    Trouble(String),
    /// It is there already.
    Known,
}

impl Engine {
    /// Takes note of an event.
    pub(super) fn receive(&mut self, event: Event) {
        // A bundle shows its name and generation only.
        tracing::trace!(?event);
        match event {
            Event::Connected => self.gate.set_syncing(true),
            Event::Synced | Event::Disconnected => self.gate.set_syncing(false),
            Event::Withdrawn(name) => self.withdrawn(&name),
            Event::Bundle(wire) => self.bundle(*wire),
        }
    }

    /// Loads the cache. A bundle below what was once delivered is left alone.
    pub(super) fn load(&mut self) -> Result<(), cache::Error> {
        for (certificate, brief) in self.cache.load()? {
            self.meet(&certificate);
            let delivered = self.record(&certificate).delivered;
            if brief.generation < delivered {
                tracing::warn!(
                    %certificate,
                    generation = %brief.generation,
                    "the cached bundle is older than one that was delivered ({delivered}); waiting \
                     for the coordinator to send that again"
                );
                continue;
            }
            self.take_over(&certificate, brief);
        }
        Ok(())
    }

    fn bundle(&mut self, wire: v1::Bundle) {
        let name = wire.certificate.parse::<CertName>();
        let bundle = match (Bundle::check(wire), name) {
            (Ok(bundle), _) => bundle,
            (Err(error), Ok(certificate)) => {
                let message = format!("a received bundle was refused: {}", text::chain(&error));
                return self.trouble(&certificate, message);
            }
            (Err(error), Err(_)) => {
                return tracing::warn!("a received bundle was refused: {}", text::chain(&error));
            }
        };
        let certificate = bundle.certificate().clone();
        self.meet(&certificate);
        match self.refusal(&bundle) {
            Some(Refusal::Known) => tracing::debug!(%certificate, "received again"),
            Some(Refusal::Stale) => tracing::warn!(
                %certificate,
                generation = %bundle.generation(),
                "a bundle older than the known one was refused; the coordinator lags behind"
            ),
            Some(Refusal::Trouble(message)) => self.trouble(&certificate, message),
            None => {
                self.gate.arrived(self.clock.monotonic());
                self.troubles.remove(&certificate);
                self.uncached.insert(certificate, bundle);
                self.store_received();
            }
        }
    }

    /// Begins the record of a certificate. If the records were lost, what is linked counts as
    /// delivered, so that nothing older comes, and as good: it is activated again, but a
    /// failure of a service is no reason to take it away.
    fn meet(&mut self, certificate: &CertName) {
        if self.state.certificates.contains_key(certificate) {
            return;
        }
        let linked = self.layout.observe(certificate).ok().and_then(|observed| observed.linked);
        let record = self.record(certificate);
        record.good = linked;
        record.delivered = linked.map_or(Generation(0), |build| build.generation);
    }

    /// What speaks against a bundle (invariant 4).
    fn refusal(&self, bundle: &Bundle) -> Option<Refusal> {
        let certificate = bundle.certificate();
        let generation = bundle.generation();
        if let Some(waiting) = self.uncached.get(certificate)
            && waiting.generation() >= generation
        {
            return Some(Refusal::Stale);
        }
        let record = self.state.certificates.get(certificate)?;
        let held = self.wanted.contains_key(certificate);
        if generation < record.delivered && held {
            return Some(Refusal::Stale);
        }
        if generation < record.delivered {
            return Some(Refusal::Trouble(format!(
                "generation {generation} was refused: this agent has had generation {} before and \
                 never goes back. If the coordinators' store was begun anew, stop this agent, \
                 remove {}, {} and the link {}, and start it again",
                record.delivered,
                self.file.path().display(),
                self.cache.dir().display(),
                self.layout.stable_path(certificate).display()
            )));
        }
        if generation > record.delivered {
            return None;
        }
        if record.content.is_some_and(|content| content != bundle.brief().content) {
            return Some(Refusal::Trouble(format!(
                "generation {generation} was refused: it was delivered before with another content"
            )));
        }
        held.then_some(Refusal::Known)
    }

    /// Writes received bundles to the cache. What cannot be written stays in memory, and is
    /// tried again.
    pub(super) fn store_received(&mut self) {
        let now = self.clock.monotonic();
        if self.waits.storage.is_some_and(|(at, _)| at > now) {
            return;
        }
        while let Some((certificate, bundle)) = self.uncached.pop_first() {
            match self.cache.put(&bundle) {
                Ok(()) => self.take_over(&certificate, bundle.brief()),
                Err(error) => {
                    let message = match &error {
                        cache::Error::Durable(error) => text::durable(error),
                        error => text::chain(error),
                    };
                    self.uncached.insert(certificate.clone(), bundle);
                    let failures = self.waits.storage.map_or(1, |(_, failures)| failures + 1);
                    let at = now.after(wait_after(self.config.retry, failures));
                    self.waits.storage = Some((at, failures));
                    return self.trouble(&certificate, message);
                }
            }
            self.troubles.remove(&certificate);
        }
    }

    /// A bundle is in the cache: from now on it is wanted.
    fn take_over(&mut self, certificate: &CertName, brief: Brief) {
        let record = self.record(certificate);
        let newer = brief.generation > record.delivered;
        record.delivered = brief.generation;
        record.content = Some(brief.content);
        let again = record.phase == Phase::Withdrawn;
        if newer {
            record.failures = 0;
        }
        if newer || again {
            self.waits.certificates.remove(certificate);
            self.set(certificate, Phase::Delivered, String::new());
        }
        self.wanted.insert(certificate.clone(), brief);
    }

    fn withdrawn(&mut self, name: &str) {
        let Ok(certificate) = name.parse::<CertName>() else {
            return tracing::warn!(name, "a certificate without a valid name was withdrawn");
        };
        self.gate.arrived(self.clock.monotonic());
        self.wanted.remove(&certificate);
        self.uncached.remove(&certificate);
        self.troubles.remove(&certificate);
        self.waits.certificates.remove(&certificate);
        if let Err(error) = self.cache.remove(&certificate) {
            // It is withdrawn again at the next connection, because it counts as known.
            tracing::warn!(%certificate, "its cached key stays: {}", text::chain(&error));
        }
        if self.state.certificates.contains_key(&certificate) {
            self.set(&certificate, Phase::Withdrawn, "the entitlement was withdrawn".to_owned());
        }
    }

    /// A cached bundle that was wanted cannot be read any more.
    pub(super) fn lost(&mut self, certificate: &CertName, why: &str) {
        self.wanted.remove(certificate);
        let message = format!("{why}; it is asked for again at the next connection");
        self.trouble(certificate, message);
    }

    /// Something is wrong with what was received; what is installed stays.
    pub(super) fn trouble(&mut self, certificate: &CertName, message: String) {
        self.set(certificate, Phase::InstallFailed, message.clone());
        self.troubles.insert(certificate.clone(), message);
    }

    /// The generation on the stable path, for reports.
    pub(super) fn note_linked(&mut self, certificate: &CertName, linked: Generation) {
        self.record(certificate).installed = linked;
    }
}
