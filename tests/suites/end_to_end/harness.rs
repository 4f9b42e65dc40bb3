//! The harness itself: the other tests believe what it says.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::authority::Authority;
use chancery_tests::gate::{Answer, Endpoint, Gate, Moment};
use chancery_tests::nginx::{Nginx, Site};
use chancery_tests::pebble::{Options, Pebble};
use chancery_tests::scene::{self, Scene};
use chancery_tests::tls_client::{self, Trust, Visitor};
use chancery_tests::{ports, wait};
use http::StatusCode;

async fn pebble_and_gate(scene: &Scene) -> Result<(Pebble, Gate)> {
    let pebble = Pebble::start(&scene.folder("pebble")?, &Options::new(ports::free()?)).await?;
    let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
    Ok((pebble, gate))
}

/// A request through the gate, as an ACME client makes it.
async fn ask(gate: &Gate, pebble: &Pebble, path: &str) -> Result<(StatusCode, String)> {
    let trust = Trust::Roots(pebble.https_root().root_pem());
    let config = tls_client::client_config(&trust)?;
    tls_client::get(gate.address(), "127.0.0.1", path, config).await
}

#[test]
fn pebble_answers_through_the_gate_and_its_urls_stay_there() {
    scene::play(async |scene| {
        let (pebble, gate) = pebble_and_gate(scene).await?;
        let trust = Trust::Roots(pebble.https_root().root_pem());
        let config = tls_client::client_config(&trust)?;
        let host = gate.address().to_string();
        let (status, body) = tls_client::get(gate.address(), "127.0.0.1", "/dir", config).await?;
        ensure!(status == StatusCode::OK, "{status} {body}");
        let directory: serde_json::Value = serde_json::from_str(&body)?;
        let new_order = directory["newOrder"].as_str().context("no newOrder")?;
        ensure!(new_order == format!("https://{host}/order-plz"), "{new_order}");
        ensure!(gate.count(Endpoint::Directory) == 1, "{:?}", gate.seen());
        ensure!(gate.succeeded(Endpoint::Directory) == 1, "{:?}", gate.seen());
        ensure!(pebble.issuing_root().await?.contains("BEGIN CERTIFICATE"), "no root");
        Ok(())
    });
}

#[test]
fn the_gate_holds_a_request_before_and_after_the_server_has_it() {
    scene::play(async |scene| {
        let (pebble, gate) = pebble_and_gate(scene).await?;
        for (moment, reaches_the_server) in [(Moment::Before, false), (Moment::After, true)] {
            let already = gate.succeeded(Endpoint::Directory);
            let mut hold = gate.hold(Endpoint::Directory, moment);
            let asking = ask(&gate, &pebble, "/dir");
            tokio::pin!(asking);
            tokio::select! {
                early = &mut asking => anyhow::bail!("not held: {early:?}"),
                reached = hold.reached(wait::SOON) => reached?,
            }
            let reached = gate.succeeded(Endpoint::Directory) > already;
            ensure!(reached == reaches_the_server, "{moment:?}: {:?}", gate.seen());
            hold.release();
            ensure!(asking.await?.0 == StatusCode::OK);
        }
        // Nothing is held any more.
        ensure!(ask(&gate, &pebble, "/dir").await?.0 == StatusCode::OK);
        Ok(())
    });
}

#[test]
fn a_request_whose_client_dies_while_held_never_reaches_the_server() {
    scene::play(async |scene| {
        let (pebble, gate) = pebble_and_gate(scene).await?;
        let mut hold = gate.hold(Endpoint::Directory, Moment::Before);
        tokio::select! {
            early = ask(&gate, &pebble, "/dir") => anyhow::bail!("not held: {early:?}"),
            reached = hold.reached(wait::SOON) => reached?,
        }
        // The client is gone with its connection.
        wait::until_true("the end of the connection", wait::SOON, || hold.is_abandoned()).await?;
        hold.release();
        ensure!(ask(&gate, &pebble, "/dir").await?.0 == StatusCode::OK);
        ensure!(gate.count(Endpoint::Directory) == 2, "{:?}", gate.seen());
        ensure!(gate.succeeded(Endpoint::Directory) == 1, "{:?}", gate.seen());
        Ok(())
    });
}

#[test]
fn the_gate_answers_as_a_busy_ca_and_cuts_connections() {
    scene::play(async |scene| {
        let (pebble, gate) = pebble_and_gate(scene).await?;
        let busy = Answer::TooManyRequests { retry_after: Some("7".to_owned()) };
        gate.answer(Endpoint::Directory, 2, busy);
        gate.answer(Endpoint::Directory, 1, Answer::BadNonce);
        gate.answer(Endpoint::Directory, 1, Answer::Cut);
        gate.answer(Endpoint::Directory, 1, Answer::CutAfter);
        for (status, kind) in [
            (StatusCode::TOO_MANY_REQUESTS, "error:rateLimited"),
            (StatusCode::TOO_MANY_REQUESTS, "error:rateLimited"),
            (StatusCode::BAD_REQUEST, "error:badNonce"),
        ] {
            let (got, body) = ask(&gate, &pebble, "/dir").await?;
            ensure!(got == status && body.contains(kind), "{got} {body}");
        }
        ensure!(gate.succeeded(Endpoint::Directory) == 0, "{:?}", gate.seen());
        ensure!(ask(&gate, &pebble, "/dir").await.is_err(), "not cut");
        ensure!(gate.succeeded(Endpoint::Directory) == 0, "{:?}", gate.seen());
        ensure!(ask(&gate, &pebble, "/dir").await.is_err(), "not cut");
        ensure!(gate.succeeded(Endpoint::Directory) == 1, "{:?}", gate.seen());
        ensure!(ask(&gate, &pebble, "/dir").await?.0 == StatusCode::OK);
        Ok(())
    });
}

#[test]
fn nginx_reloads_to_another_certificate_while_a_visitor_loses_nothing() {
    scene::play(async |scene| {
        let folder = scene.folder("nginx")?;
        let root = Authority::new()?;
        let name = "www.chancery.example";
        let (old, new) = (root.issue(&[name])?, root.issue(&[name])?);
        let (certificate, key) = old.write(&folder, "site")?;
        let site = Site { names: vec![name.to_owned()], certificate, key };
        let nginx = Nginx::start(&folder, &[]).await?;
        ensure!(nginx.served(name).await.is_err(), "TLS without a site");

        nginx.configure(std::slice::from_ref(&site))?;
        nginx.reload().await?;
        let wait_for = async |what: &str, certificate: &rustls_pki_types::CertificateDer<'_>| {
            wait::until(what, wait::SOON, async || {
                let served = nginx.served(name).await?;
                ensure!(served.chain[0] == *certificate, "serial {}", served.leaf.serial);
                Ok(())
            })
            .await
        };
        wait_for("the first certificate", &old.certificate).await?;

        let visitor = Visitor::start(nginx.address(), name, &Trust::Roots(root.root_pem()))?;
        new.write(&folder, "site")?;
        nginx.reload().await?;
        wait_for("the second certificate", &new.certificate).await?;
        // Answers of both: it had time to see the change.
        let tally = visitor.stop_after(20).await?;
        ensure!(tally.failures.is_empty(), "{:?}", tally.failures);
        ensure!(tally.answered >= 20, "{tally:?}");
        Ok(())
    });
}

#[test]
fn nginx_refuses_a_spoilt_configuration_and_its_commands_are_counted() {
    scene::play(async |scene| {
        let nginx = Nginx::start(&scene.folder("nginx")?, &[]).await?;
        let commands = nginx.counted_commands()?;
        let test = async || {
            let mut command = std::process::Command::new(&commands.test);
            chancery_tests::process::run(&mut command, wait::SOON).await
        };
        ensure!(test().await?.status.success());
        nginx.spoil_config()?;
        let said = test().await?;
        ensure!(!said.status.success() && said.err.contains("no_such_directive"), "{said:?}");
        nginx.configure(&[])?;
        test().await?.success()?;
        ensure!((commands.tests(), commands.reloads()) == (3, 0));
        Ok(())
    });
}

#[test]
fn a_client_that_trusts_another_root_is_refused() {
    scene::play(async |scene| {
        let pebble = Pebble::start(&scene.folder("pebble")?, &Options::new(ports::free()?)).await?;
        let other = Trust::Roots(Authority::new()?.root_pem());
        let config = tls_client::client_config(&other)?;
        let refused = tls_client::get(pebble.address(), "127.0.0.1", "/dir", config).await;
        ensure!(refused.is_err(), "{refused:?}");
        Ok(())
    });
}
