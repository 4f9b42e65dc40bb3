//! Who is not entitled gets nothing: no bundle, no identity, and a clear word. What was refused
//! is written down.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_proto::v1::{ReportRequest, RotateIdentityRequest};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_shared::join_token::JoinToken;
use chancery_shared::x509::Fingerprint;
use chancery_shared::{secret::Secret, tls};
use chancery_tests::agent::Agent;
use chancery_tests::process::Said;
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use rustls_pki_types::CertificateDer;
use tonic::Code;

use crate::center::{Center, certificate, count};
use crate::peer::{Identity, client_config, refused_watch};

#[test]
fn an_agent_gets_what_its_labels_entitle_it_to_and_nothing_else() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let mut toml = center.declaration(&["web"])?;
        toml.push_str(&certificate("db", "pebble", "labels = { role = \"db\" }"));
        let both = "labels = { role = \"web\", site = \"ams\" }";
        toml.push_str(&certificate("ams", "pebble", both));
        toml.push_str(&certificate("nobody", "pebble", "labels = {}"));
        center.apply(&toml).await?;
        for name in ["web", "db", "ams", "nobody"] {
            center.wait_until_issued(name, 1).await?;
        }
        for (agent, labels, entitled) in [
            ("web-1", &["role=web"][..], &["web"][..]),
            ("web-2", &["role=web", "site=ams"], &["ams", "web"]),
            ("web-3", &["role=web", "site=fra"], &["web"]),
            ("db-1", &["role=db", "site=ams"], &["db"]),
            ("ams-1", &["site=ams"], &[]),
            ("bare", &[], &[]),
        ] {
            let bundles = center.join(agent, labels).await?.bundles().await?;
            let mut sent: Vec<_> =
                bundles.iter().map(|bundle| bundle.certificate.as_str()).collect();
            sent.sort_unstable();
            ensure!(sent == entitled, "{agent} got {sent:?}");
            let shown = center.cli().json(&["agent", "show", agent]).await?;
            ensure!(shown["entitled"] == serde_json::json!(entitled), "{shown}");
        }
        let nobody = center.cli().certificate("nobody").await?;
        ensure!(nobody["agents_entitled"] == 0, "{nobody}");
        Ok(())
    });
}

/// An agent with its files in a folder of its own, which runs not yet.
fn agent(scene: &Scene, center: &Center, folder: &str) -> Result<Agent> {
    Agent::prepare(&scene.folder(folder)?, folder, &[center.coordinator.agents_address()], &[])
}

/// Tries to join, which must be refused in one clear message. Nothing may be left behind.
async fn refused_join(agent: &Agent, token: &str, code: i32, words: &str) -> Result<Said> {
    let said = agent.join(token).await?;
    ensure!(said.status.code() == Some(code), "{said:?}");
    let last = said.err.lines().last().unwrap_or_default();
    ensure!(last.contains(words), "{words:?} is not in {last:?}");
    // Of a cut token hardly anything may be left to look for.
    let secret = token.split('.').nth(2).filter(|secret| secret.len() > 8);
    let told = secret.is_some_and(|secret| said.err.contains(secret));
    ensure!(!told, "the token is told: {}", said.err);
    ensure!(!agent.state_dir().join("identity.pem").exists(), "it has an identity");
    Ok(said)
}

/// Events of refusals about a subject.
async fn refusals(center: &Center, subject: &str, words: &str) -> Result<()> {
    wait::until(&format!("an event about {words:?}"), wait::SOON, async || {
        let events = center.events(subject).await?;
        let told = events
            .iter()
            .any(|event| event.kind == "agent.refused" && event.message.contains(words));
        ensure!(told, "{events:?}");
        Ok(())
    })
    .await
}

#[test]
fn a_token_lets_one_agent_join_once() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let token = center.cli().token("web-1", &["role=web"]).await?;
        let first = agent(scene, &center, "web-1")?;
        first.join(&token).await?.success()?;
        let thief = agent(scene, &center, "thief")?;
        refused_join(&thief, &token, 3, "used by another agent").await?;
        refusals(&center, "web-1", "a second time").await?;
        let shown = center.cli().json(&["agent", "list"]).await?;
        ensure!(shown["agents"].as_array().is_some_and(|all| all.len() == 1), "{shown}");
        // The first one is as good as before.
        first_agent_works(&center, first).await
    });
}

async fn first_agent_works(center: &Center, mut agent: Agent) -> Result<()> {
    agent.run()?;
    wait::until("the first agent to be connected", wait::SOON, async || {
        let shown = center.cli().json(&["agent", "show", "web-1"]).await?;
        ensure!(shown["state"] == "connected", "{shown}");
        Ok(())
    })
    .await
}

#[test]
fn an_expired_forged_or_cut_token_lets_nobody_join() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let agent = agent(scene, &center, "web-1")?;
        let words = ["agent", "token", "create", "--name", "web-1", "--ttl", "1s"];
        let expiring = center.cli().json(&words).await?;
        let token = expiring["token"].as_str().context("no token")?.to_owned();
        let ends: jiff::Timestamp = expiring["expires_at"].as_str().context("no end")?.parse()?;
        let clock = SystemClock::new();
        wait::until_true("the token's end", wait::SOON, || clock.now() >= ends).await?;
        refused_join(&agent, &token, 3, "unknown, expired, or was used").await?;
        refusals(&center, "web-1", "expired join token").await?;

        let whole = center.cli().token("web-2", &["role=web"]).await?;
        let parsed: JoinToken = whole.parse()?;
        let forged = JoinToken { secret: Secret::random(16), ..parsed.clone() }.expose();
        refused_join(&agent, &forged, 3, "unknown, expired, or was used").await?;
        refusals(&center, "web-2", "forged join token").await?;

        let unknown = JoinToken::generate(parsed.ca_fingerprint).expose();
        refused_join(&agent, &unknown, 3, "unknown, expired, or was used").await?;
        refusals(&center, "127.0.0.1", "does not exist").await?;

        for cut in [&whole[..whole.len() - 5], &whole[..20], &whole[1..], ""] {
            refused_join(&agent, cut, 2, "not a whole join token").await?;
        }
        // One that does not stop at its own check hears the same from the coordinator.
        let config = tls::joining_client(parsed.ca_fingerprint)?;
        let address = center.coordinator.agents_address();
        let cut = Identity::join_with(address, &whole[..whole.len() - 5], config).await?;
        let Err(status) = cut else { bail!("joined with a cut token") };
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");

        let list = center.cli().json(&["agent", "list"]).await?;
        ensure!(list["agents"] == serde_json::json!([]), "{list}");
        // The forged and the cut ones have not used up the real one.
        agent.join(&whole).await?.success()?;
        Ok(())
    });
}

#[test]
fn a_coordinator_of_another_fleet_is_told_nothing() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let genuine = center.cli().token("web-1", &["role=web"]).await?;
        let parsed: JoinToken = genuine.parse()?;
        let other = Fingerprint::from_bytes([7; 32]);
        let foreign = JoinToken { ca_fingerprint: other, ..parsed }.expose();
        let agent = agent(scene, &center, "web-1")?;
        let words = "not a coordinator of the fleet that made this join token";
        refused_join(&agent, &foreign, 3, words).await?;
        // It hung up before it had said anything: nothing was refused, nothing is used up.
        let events = center.events("web-1").await?;
        ensure!(count(&events, "agent.refused") == 0, "{events:?}");
        agent.join(&genuine).await?.success()?;
        Ok(())
    });
}

#[test]
fn a_removed_agent_is_cut_off_at_once_and_for_good() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let mut real = agent(scene, &center, "web-1")?;
        let token = center.cli().token("web-1", &["role=web"]).await?;
        real.join(&token).await?.success()?;
        real.run()?;
        let installed = real.installed("www").join("fullchain.pem");
        wait::until_true("the installation", wait::SOON, || installed.exists()).await?;
        let raw = center.join("web-2", &["role=web"]).await?;
        let mut stream = raw.watch().await?;
        let mut client = raw.client().await?;
        client.report(ReportRequest::default()).await?;

        for name in ["web-1", "web-2"] {
            center.cli().text(&["agent", "remove", name, "--yes"]).await?;
        }
        // What was under way is cut …
        let cut = tokio::time::timeout(wait::SOON, async {
            while stream.message().await?.is_some() {}
            anyhow::Ok(())
        });
        let error = cut.await.context("the stream was not cut")?.err().context("no reason")?;
        ensure!(format!("{error:#}").contains("web-2 was removed"), "{error:#}");
        real.process()?.wait_for_log("does not accept this agent's identity", wait::SOON).await?;
        // … and nothing new begins.
        let refused =
            refused_watch(center.coordinator.agents_address(), raw.client_config()?).await?;
        ensure!(refused.contains("PermissionDenied: agent web-2 was removed"), "{refused}");
        let Err(status) = client.report(ReportRequest::default()).await else {
            bail!("a removed agent has reported")
        };
        ensure!(status.code() == Code::PermissionDenied, "{status:?}");
        let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
        let request = RotateIdentityRequest { csr_der: csr.der().to_vec() };
        let Err(status) = client.rotate_identity(request).await else {
            bail!("a removed agent got a new identity")
        };
        ensure!(status.code() == Code::PermissionDenied, "{status:?}");
        refusals(&center, "web-2", "removed").await?;
        // It does not come back with its old token, and its files are still there.
        let Err(status) = Identity::join(center.coordinator.agents_address(), &token).await? else {
            bail!("a removed agent came back with its old token")
        };
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        ensure!(installed.exists(), "its files were removed");
        Ok(())
    });
}

#[test]
fn certificates_of_another_ca_and_of_none_open_nothing() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let genuine = center.join("web-1", &["role=web"]).await?;
        let address = center.coordinator.agents_address();
        let root = genuine.root()?;

        let key = KeyPair::generate()?;
        let foreign = foreign_ca(&root)?;
        let leaf = identity_params()?.signed_by(&key, &foreign)?.der().clone();
        let chain = vec![leaf, foreign.der().clone()];
        let refused = refused_watch(address, client_config(root.clone(), chain, &key)?).await?;
        ensure!(!refused.is_empty(), "no word");
        refusals(&center, "127.0.0.1", "not ours").await?;

        let own = identity_params()?.self_signed(&key)?.der().clone();
        refused_watch(address, client_config(root.clone(), vec![own], &key)?).await?;

        // The genuine certificate without its key.
        let stolen = tls::identified_client(
            root,
            genuine.chain[..1].to_vec(),
            rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        );
        ensure!(stolen.is_err(), "a key was taken that does not belong to the certificate");

        // No certificate at all.
        let fingerprint = Fingerprint::of(&genuine.root()?);
        let refused = refused_watch(address, tls::joining_client(fingerprint)?).await?;
        ensure!(refused.contains("Unauthenticated"), "{refused}");
        ensure!(refused.contains("identity certificate"), "{refused}");
        refusals(&center, "127.0.0.1", "showed no identity certificate").await?;

        ensure!(genuine.bundles().await?.len() == 1, "the genuine one is refused, too");
        Ok(())
    });
}

/// A CA that calls itself what the internal one is called.
fn foreign_ca(genuine: &CertificateDer<'_>) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    let name = chancery_shared::x509::Facts::of(genuine)?.issuer;
    let name = name.strip_prefix("CN=").unwrap_or(&name);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// What stands in the identity certificate of the agent `web-1`.
fn identity_params() -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "web-1");
    params.subject_alt_names = vec![SanType::URI("chancery://agent/web-1".try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

#[test]
fn a_superseded_identity_opens_nothing_any_more() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let old = center.join("web-1", &["role=web"]).await?;
        let mut stream = old.watch().await?;
        let new = old.rotate().await?;
        // Good until the new one is seen: the answer might have been lost.
        ensure!(old.bundles().await?.len() == 1);
        ensure!(new.bundles().await?.len() == 1);
        let address = center.coordinator.agents_address();
        let refused = refused_watch(address, old.client_config()?).await?;
        ensure!(
            refused.contains("PermissionDenied") && refused.contains("superseded"),
            "{refused}"
        );
        refusals(&center, "web-1", "superseded").await?;
        let cut = tokio::time::timeout(wait::SOON, async {
            while stream.message().await?.is_some() {}
            anyhow::Ok(())
        });
        ensure!(cut.await.context("the old stream was not cut")?.is_err(), "it ended in peace");
        ensure!(new.bundles().await?.len() == 1, "the new one is refused, too");
        Ok(())
    });
}

#[test]
fn an_agent_with_a_foreign_identity_says_what_to_do_and_keeps_its_files() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let mut real = agent(scene, &center, "web-1")?;
        let token = center.cli().token("web-1", &["role=web"]).await?;
        real.join(&token).await?.success()?;
        // Its certificate is replaced by one that another CA has issued for the same name and
        // the same key; the root that it trusts stays.
        let identity = real.state_dir().join("identity.pem");
        forge(&identity)?;
        real.run()?;
        real.process()?.wait_for_log("does not accept this agent's identity", wait::SOON).await?;
        let log = real.log()?;
        ensure!(log.contains("chancery agent token create"), "{log}");
        ensure!(!real.installed("www").exists(), "a stranger has installed a certificate");
        refusals(&center, "127.0.0.1", "not ours").await
    });
}

/// Replaces the certificate in an identity file.
fn forge(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let key = KeyPair::from_pem(&text)?;
    let (head, root) = text.rsplit_once(BEGIN).context("no root in it")?;
    let (head, _leaf) = head.rsplit_once(BEGIN).context("no certificate in it")?;
    let root_der = {
        use rustls_pki_types::pem::PemObject as _;
        CertificateDer::from_pem_slice(format!("{BEGIN}{root}").as_bytes())?
    };
    let foreign = foreign_ca(&root_der)?;
    let leaf = identity_params()?.signed_by(&key, &foreign)?.pem();
    std::fs::write(path, format!("{head}{leaf}{BEGIN}{root}"))?;
    Ok(())
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
