//! Who may use Consul, and over which wire.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use chancery_coordinator::store::consul::{Identity, Options};
use chancery_coordinator::store::{Batch, Error, Store};
use chancery_tests::consul::{self, ConsulCluster};
use chancery_tests::scene::{Scene, play};
use chancery_tests::wait;

use super::{open, options, text, win};

const RULES: &str = "key_prefix \"c/\" { policy = \"write\" } \
                     session_prefix \"\" { policy = \"write\" }";

/// The message of an error that an operator has to see to.
async fn misconfigured(options: Options) -> Result<String> {
    let opened = tokio::time::timeout(wait::SOON, open(options));
    match opened.await.context("it waits for Consul, which does not help")? {
        Err(Error::Misconfigured(message)) => Ok(message),
        Err(other) => anyhow::bail!("{other:?} is something else"),
        Ok(_) => anyhow::bail!("it can be opened"),
    }
}

#[test]
fn a_token_that_may_too_little_is_told_what_it_needs() {
    play(async |scene: &Scene| {
        let rules = Some(RULES.to_owned());
        let cluster = ConsulCluster::start(
            scene.path(),
            consul::Options { rules, ..consul::Options::new(1) },
        )
        .await?;
        let token_file = scene.path().join("token");
        let with_token = |token: &str| -> Result<Options> {
            fs::write(&token_file, format!("{token}\n"))?;
            let token_file = Some(token_file.clone());
            Ok(Options { token_file, ..options(&cluster, "c/") })
        };
        let without = misconfigured(options(&cluster, "c/")).await?;
        ensure!(without.contains("store.consul.token_file"), "{without}");
        let unknown = "11111111-2222-3333-4444-555555555555";
        let message = misconfigured(with_token(unknown)?).await?;
        let path = token_file.display().to_string();
        ensure!(message.contains("ACL not found") && message.contains(&path), "{message}");
        ensure!(!message.contains(unknown), "the token is in {message}");
        let read_only = cluster.make_token("reader", "key_prefix \"c/\" { policy = \"read\" }");
        let message = misconfigured(with_token(&read_only.await?)?).await?;
        ensure!(message.contains("key_prefix \"c/\" { policy = \"write\" }"), "{message}");
        // Keys, but no sessions.
        let rules = "key_prefix \"c/\" { policy = \"write\" }";
        let keys_only = cluster.make_token("keys", rules).await?;
        let store = open(with_token(&keys_only)?).await?;
        store.commit(Batch::unfenced().put("a", "1")).await?;
        let refused = win(&*store, "a").await.unwrap_err().to_string();
        ensure!(refused.contains("session_prefix \"\" { policy = \"write\" }"), "{refused}");
        // A better token in the same file is taken up without a restart.
        fs::write(&token_file, cluster.token().unwrap_or_default())?;
        win(&*store, "a").await?;
        ensure!(text(&*store, "a").await?.as_deref() == Some("1"));
        let health = store.health().await?;
        ensure!(health.endpoints[0].healthy, "{health:?}");
        ensure!(health.version.contains("agent_prefix"), "{health:?}");
        Ok(())
    });
}

#[test]
fn tls_with_a_client_certificate_and_never_without() {
    play(async |scene: &Scene| {
        let tls =
            consul::Options { tls: true, client_certificates: true, ..consul::Options::new(1) };
        let cluster = ConsulCluster::start(scene.path(), tls).await?;
        let (cert_file, key_file) = cluster.client_certificate();
        let identity = Some(Identity { cert_file, key_file });
        let ca_file = Some(cluster.root_path());
        let whole = Options { ca_file, identity, ..options(&cluster, "c/") };
        let store = open(whole.clone()).await?;
        let fence = win(&*store, "a").await?;
        store.commit(Batch::fenced(fence).put("a", "1")).await?;
        for (options, expected) in [
            (Options { identity: None, ..whole.clone() }, "certificate"),
            (Options { ca_file: None, ..whole.clone() }, "UnknownIssuer"),
            (
                Options { addresses: vec![cluster.endpoint(0).replace("https", "http")], ..whole },
                "400",
            ),
        ] {
            let error = misconfigured(options).await?;
            ensure!(error.to_lowercase().contains(&expected.to_lowercase()), "{expected}: {error}");
        }
        Ok(())
    });
}
