//! Pebble and a coordinator that answers DNS-01 challenges.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use chancery_tests::coordinator::{self, Coordinator};
pub(crate) use chancery_tests::dns::rfc2136;
use chancery_tests::gate::Gate;
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::world::PATIENCE;
use chancery_tests::{dns, ports, wait};
use serde_json::Value;

/// A coordinator and its CA, which both ask one name server.
pub(crate) struct Stage {
    // Dropped in this order: those who ask before those who answer.
    pub(crate) coordinator: Coordinator,
    pub(crate) gate: Gate,
    pub(crate) pebble: Pebble,
    dns: SocketAddr,
    folder: PathBuf,
}

impl Stage {
    /// Starts both. `providers` is the TOML of the providers.
    pub(crate) async fn start(scene: &Scene, dns: SocketAddr, providers: &str) -> Result<Self> {
        let mut stage = Self::prepare(scene, dns, providers, |_| {}).await?;
        stage.coordinator.run().await?;
        Ok(stage)
    }

    /// Starts the CA; the coordinator is ready to be started.
    pub(crate) async fn prepare(
        scene: &Scene,
        dns: SocketAddr,
        providers: &str,
        change: impl FnOnce(&mut coordinator::Options),
    ) -> Result<Self> {
        let http01 = ports::free()?;
        let options = pebble::Options { dns: Some(dns), ..pebble::Options::new(http01) };
        let pebble = Pebble::start(&scene.folder("pebble")?, &options).await?;
        let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
        let mut options = coordinator::Options::new(http01);
        "info,chancery_coordinator=debug".clone_into(&mut options.log);
        options.more = format!(
            "\n[dns01]\nresolvers = [\"{dns}\"]\npropagation_deadline = \"20s\"\n{providers}"
        );
        change(&mut options);
        let coordinator = Coordinator::prepare(&scene.folder("coordinator")?, options).await?;
        Ok(Self { coordinator, gate, pebble, dns, folder: scene.path().to_owned() })
    }

    /// Declares one certificate for these names.
    pub(crate) async fn declare(&self, name: &str, identifiers: &[&str], more: &str) -> Result<()> {
        self.apply(&certificate(name, identifiers, more)).await
    }

    /// Declares the issuer and what is in `certificates`.
    pub(crate) async fn apply(&self, certificates: &str) -> Result<()> {
        self.coordinator.cli().apply(&self.folder, &self.document(certificates)?).await
    }

    pub(crate) fn document(&self, certificates: &str) -> Result<String> {
        let mut text = format!(
            "[[issuer]]\nname = \"pebble\"\ndirectory = {:?}\ntrust_roots = \"{}\"\n",
            self.gate.directory(),
            self.pebble.https_root_path().display()
        );
        write!(text, "{certificates}")?;
        Ok(text)
    }

    /// Waits until a generation is issued.
    pub(crate) async fn wait_until_issued(&self, name: &str, generation: u64) -> Result<Value> {
        let what = format!("generation {generation}");
        let condition = |shown: &Value| shown["generation"].as_u64() >= Some(generation);
        self.coordinator.cli().wait_for_certificate(name, &what, PATIENCE, condition).await
    }

    /// Waits until an order for it has failed; returns what an operator reads.
    pub(crate) async fn wait_until_failed(&self, name: &str) -> Result<String> {
        let condition = |shown: &Value| shown["failures"].as_u64() >= Some(1);
        let shown = self
            .coordinator
            .cli()
            .wait_for_certificate(name, "a failed order", PATIENCE, condition)
            .await?;
        Ok(shown["last_error"].to_string())
    }

    /// Waits until the name server has exactly these TXT values at a name.
    pub(crate) async fn wait_until_txt(&self, name: &str, expected: &[&str]) -> Result<()> {
        wait::until(&format!("the TXT values of {name}"), PATIENCE, async || {
            let values = dns::txt(self.dns, name).await?;
            anyhow::ensure!(values == expected, "{values:?}");
            Ok(())
        })
        .await
    }
}

/// The TOML of a certificate that may use DNS-01 alone.
pub(crate) fn certificate(name: &str, identifiers: &[&str], more: &str) -> String {
    format!(
        "\n[[certificate]]\nname = {name:?}\nidentifiers = {identifiers:?}\n\
         issuers = [\"pebble\"]\nlabels = {{ role = \"web\" }}\nchallenges = [\"dns-01\"]\n{more}\n"
    )
}
