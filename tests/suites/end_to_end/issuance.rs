//! Certificates are ordered when they must be, and only then; what the CA asks for is obeyed;
//! what fails is told and tried again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::authority::Authority;
use chancery_tests::gate::{Answer, Endpoint, Moment, Seen};
use chancery_tests::scene;
use chancery_tests::tls_client::{self, Trust};
use chancery_tests::wait;
use chancery_tests::world::{PATIENCE, server_name};
use http::StatusCode;
use jiff::fmt::rfc2822::DateTimePrinter;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::center::{Center, Front, Options, certificate, count};

#[test]
fn several_certificates_at_once_each_with_its_own_kind_of_key() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let mut toml = center.declaration(&["a", "b", "c", "d"])?;
        for name in ["e", "f"] {
            toml.push_str(&certificate(name, "pebble", "key_type = \"rsa-2048\""));
        }
        let names = "identifiers = [\"one.chancery.example\", \"two.chancery.example\"]";
        toml.push_str(&certificate("g", "pebble", names));
        let names = "identifiers = [\"127.0.0.1\", \"four.chancery.example\"]";
        toml.push_str(&certificate("h", "pebble", names));
        center.apply(&toml).await?;
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            center.wait_until_issued(name, 1).await?;
        }
        let bundles = center.join("web-1", &["role=web"]).await?.bundles().await?;
        ensure!(bundles.len() == 8, "{bundles:?}");
        for bundle in &bundles {
            let name = server_name(&bundle.certificate);
            let names = match bundle.certificate.as_str() {
                "g" => vec!["one.chancery.example", "two.chancery.example"],
                "h" => vec!["four.chancery.example", "127.0.0.1"],
                _ => vec![name.as_str()],
            };
            center.check(bundle, &names).await?;
            let rsa = ["e", "f"].contains(&bundle.certificate.as_str());
            ensure!(rsa_bits(&bundle.leaf_der)? == rsa.then_some(2048), "{bundle:?}");
        }
        ensure!(center.new_orders() == 8, "{:?}", center.gate.orders());
        ensure!(center.gate.count(Endpoint::NewAccount) == 1, "{:?}", center.gate.seen());
        // They ran beside one another: several were placed before the first was done.
        let seen = center.gate.seen();
        let fetched = seen.iter().position(|seen| seen.endpoint == Endpoint::Certificate);
        let before = &seen[..fetched.context("no chain was fetched")?];
        let placed = before.iter().filter(|seen| seen.endpoint == Endpoint::NewOrder).count();
        ensure!(placed >= 2, "one after the other: {before:?}");
        Ok(())
    });
}

#[test]
fn a_forced_renewal_is_a_new_generation_with_another_key() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        let first = center.wait_until_issued("www", 1).await?;
        ensure!(first["generation"] == 1, "{first}");
        let old = center.check_bundle("www").await?;
        let renewal = center.cli().json(&["cert", "renew", "www"]).await?;
        ensure!(renewal["generation"] == 2, "{renewal}");
        let second = center.wait_until_issued("www", 2).await?;
        ensure!(second["generation"] == 2 && second["serial"] != first["serial"], "{second}");
        // By its life, until the CA has been asked.
        let code = second["decision_code"].as_str().unwrap_or_default();
        ensure!(["lifetime", "suggested"].contains(&code), "{second}");
        let new = center.check_bundle("www").await?;
        ensure!(new.private_key_der != old.private_key_der, "the key was used again");
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        let events = center.events("www").await?;
        ensure!(count(&events, "certificate.renewal-requested") == 1, "{events:?}");
        ensure!(count(&events, "certificate.issued") == 2, "{events:?}");
        Ok(())
    });
}

#[test]
fn what_has_not_changed_is_not_ordered_and_what_has_is_ordered_once() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let roots = center.declaration(&[])?;
        let declare = async |more: &str| -> Result<Value> {
            let toml = format!("{roots}{}", certificate("www", "pebble", more));
            let file = scene.path().join("fleet.toml");
            std::fs::write(&file, toml)?;
            center.cli().json(&["apply", "-f", &file.display().to_string(), "--yes"]).await
        };
        let names = "identifiers = [\"www.chancery.example\", \"chancery.example\"]";
        let plan = declare(names).await?;
        ensure!(plan["changes"].as_array().is_some_and(|changes| changes.len() == 2), "{plan}");
        center.wait_until_issued("www", 1).await?;

        let again = declare(names).await?;
        ensure!(again["changes"] == json!([]) && again["unchanged"] == 2, "{again}");
        let turned = "identifiers = [\"chancery.example\", \"www.chancery.example\"]";
        let plan = declare(turned).await?;
        ensure!(plan["changes"][0]["causes_order"] == false, "{plan}");
        let plan = declare(&format!("{turned}\nlabels = {{ role = \"mail\" }}")).await?;
        ensure!(plan["changes"][0]["causes_order"] == false, "{plan}");

        let more = "identifiers = [\"www.chancery.example\", \"more.chancery.example\"]";
        let plan = declare(more).await?;
        ensure!(plan["changes"][0]["causes_order"] == true, "{plan}");
        center.wait_until_issued("www", 2).await?;
        let bundles = center.join("web-1", &["role=web"]).await?.bundles().await?;
        let bundle = bundles.first().context("no bundle")?;
        ensure!(bundle.generation == 2, "{bundle:?}");
        center.check(bundle, &["www.chancery.example", "more.chancery.example"]).await?;
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn deleted_and_declared_again_it_goes_on_counting() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www", "mail"]).await?;
        center.wait_until_issued("www", 1).await?;
        center.wait_until_issued("mail", 1).await?;
        let agent = center.join("web-1", &["role=web"]).await?;
        ensure!(agent.bundles().await?.len() == 2);

        // Not named any more, but kept, because --prune was not given.
        center.declare(&["mail"]).await?;
        center.cli().certificate("www").await?;
        let file = scene.path().join("fleet.toml").display().to_string();
        let pruned = center.cli().json(&["apply", "-f", &file, "--prune", "--yes"]).await?;
        ensure!(pruned["changes"][0]["action"] == "delete", "{pruned}");
        let gone = center.cli().run(&["cert", "show", "www"]).await?;
        ensure!(gone.status.code() == Some(4), "{gone:?}");
        ensure!(agent.bundles().await?.len() == 1, "a deleted certificate is still sent");

        center.declare(&["www", "mail"]).await?;
        let shown = center.wait_until_issued("www", 1).await?;
        ensure!(shown["generation"] == 2, "{shown}");
        center.check_bundle("www").await?;
        Ok(())
    });
}

#[test]
fn deleted_in_mid_order_it_leaves_nothing_behind() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["mail"]).await?;
        center.wait_until_issued("mail", 1).await?;
        let mut hold = center.gate.hold(Endpoint::Finalize, Moment::Before);
        center.declare(&["www", "mail"]).await?;
        hold.reached(PATIENCE).await?;
        std::fs::write(scene.path().join("fleet.toml"), center.declaration(&["mail"])?)?;
        let file = scene.path().join("fleet.toml").display().to_string();
        center.cli().json(&["apply", "-f", &file, "--prune", "--yes"]).await?;
        center.check_no_challenge_is_left().await?;
        hold.release();
        center.declare(&["www", "mail"]).await?;
        center.wait_until_issued("www", 1).await?;
        center.check_bundle("www").await?;
        center.check_no_challenge_is_left().await?;
        ensure!(center.new_orders() == 3, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn a_ca_with_a_root_of_its_own_is_trusted_only_if_declared_so() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let other = scene.path().join("other-root.pem");
        std::fs::write(&other, Authority::new()?.root_pem())?;
        let good = center.declaration(&["www"])?;
        let roots = center.pebble.https_root_path().display().to_string();
        center.apply(&good.replace(&roots, &other.display().to_string())).await?;
        let shown = failed_once(&center, "www").await?;
        let error = shown["last_error"].as_str().unwrap_or_default();
        ensure!(error.contains("not trusted") && error.contains("trust_roots"), "{shown}");
        ensure!(shown["state"] == "failing", "{shown}");
        ensure!(center.gate.seen().is_empty(), "{:?}", center.gate.seen());
        center.apply(&good).await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        let shown = center.wait_until_issued("www", 1).await?;
        ensure!(shown["last_error"].is_null(), "{shown}");
        Ok(())
    });
}

#[test]
fn a_ca_that_refuses_good_nonces_still_issues() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        options.pebble.refused_nonces = 30;
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let names = ["a", "b", "c", "d"];
        center.declare(&names).await?;
        for name in names {
            center.wait_until_issued(name, 1).await?;
        }
        let refused = center
            .gate
            .seen()
            .iter()
            .filter(|seen| seen.status == Some(StatusCode::BAD_REQUEST))
            .count();
        ensure!(refused > 0, "no nonce was refused");
        ensure!(center.new_orders() == names.len(), "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn a_busy_ca_is_asked_again_when_it_said_and_not_before() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let busy = |retry_after: &str| Answer::TooManyRequests {
            retry_after: Some(retry_after.to_owned()),
        };
        // As a date, it is rounded down to a second.
        let date = SystemClock::new().now() + Duration::from_secs(3);
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date)?;
        center.gate.answer(Endpoint::NewAccount, 1, busy(&date));
        center.gate.answer(Endpoint::NewOrder, 1, busy("2"));
        let unavailable = Answer::Unavailable { retry_after: Some("2".to_owned()) };
        center.gate.answer(Endpoint::Finalize, 1, unavailable);
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        for (endpoint, least_secs) in
            [(Endpoint::NewAccount, 1), (Endpoint::NewOrder, 2), (Endpoint::Finalize, 2)]
        {
            let pauses = pauses(&center.gate.seen(), endpoint);
            ensure!(pauses.len() == 1, "{endpoint:?}: {pauses:?}");
            ensure!(pauses[0] >= Duration::from_secs(least_secs), "{endpoint:?}: after {pauses:?}");
        }
        ensure!(center.new_orders() == 1, "{:?}", center.gate.orders());
        center.check_bundle("www").await?;
        Ok(())
    });
}

/// Waits for the first failure of a certificate's order. Returns what `cert show` says then.
async fn failed_once(center: &Center, name: &str) -> Result<Value> {
    center
        .cli()
        .wait_for_certificate(name, "a failure", PATIENCE, |shown| shown["failures"] == 1)
        .await
}

/// Times between requests of a kind.
fn pauses(seen: &[Seen], endpoint: Endpoint) -> Vec<Duration> {
    let times: Vec<_> =
        seen.iter().filter(|seen| seen.endpoint == endpoint).map(|seen| seen.at).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_ca_that_asks_for_hours_is_left_alone_and_the_operator_told() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let hours = Answer::TooManyRequests { retry_after: Some("7200".to_owned()) };
        center.gate.answer(Endpoint::NewOrder, 1, hours);
        center.declare(&["www"]).await?;
        let shown = failed_once(&center, "www").await?;
        let error = shown["last_error"].as_str().unwrap_or_default();
        ensure!(error.contains("too many requests, says the gate"), "{shown}");
        let next = shown["next_attempt"].as_str().context("no next attempt")?;
        let event = center.events("www").await?;
        ensure!(count(&event, "order.failed") == 1, "{event:?}");
        let status = center.cli().json(&["status"]).await?;
        ensure!(status["healthy"] == false && status["certificates"]["failing"] == 1, "{status}");
        let next: jiff::Timestamp = next.parse()?;
        let since: jiff::Timestamp = status["started_at"].as_str().context("no start")?.parse()?;
        ensure!(next.duration_since(since).as_secs() >= 7200, "{shown}");
        Ok(())
    });
}

#[test]
fn a_ca_that_hangs_holds_up_its_own_orders_only() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        // Fewer places than orders that hang.
        options.coordinator.concurrency = 2;
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let mut toml = center.declaration(&["a", "b", "c"])?;
        let holds: Vec<_> =
            (0..3).map(|_| center.gate.hold(Endpoint::NewOrder, Moment::Before)).collect();
        center.apply(&toml).await?;
        wait::until_true("two orders that hang", wait::SOON, || {
            center.gate.count(Endpoint::NewOrder) >= 2
        })
        .await?;
        let (gate, direct) = (center.gate.directory(), center.pebble.directory());
        let issuer = center.declaration(&[])?.replace("\"pebble\"", "\"direct\"");
        toml.push_str(&issuer.replace(&gate, &direct));
        toml.push_str(&certificate("www", "direct", ""));
        center.apply(&toml).await?;
        center.wait_until_issued("www", 1).await?;
        ensure!(center.gate.succeeded(Endpoint::NewOrder) == 0, "{:?}", center.gate.orders());
        ensure!(center.gate.count(Endpoint::NewOrder) == 2, "{:?}", center.gate.seen());
        drop(holds);
        for name in ["a", "b", "c"] {
            center.wait_until_issued(name, 1).await?;
        }
        Ok(())
    });
}

#[test]
fn a_ca_that_is_not_there_is_told_and_tried_again() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let nobody = format!("https://{}/dir", chancery_tests::ports::free()?);
        let good = center.declaration(&["www"])?;
        center.apply(&good.replace(&center.gate.directory(), &nobody)).await?;
        let shown = failed_once(&center, "www").await?;
        let error = shown["last_error"].as_str().unwrap_or_default();
        ensure!(error.contains("refused") && error.contains(&nobody[8..20]), "{shown}");
        ensure!(shown["next_attempt"].is_string(), "{shown}");
        let status = center.cli().run(&["status"]).await?;
        ensure!(status.status.code() == Some(10) && status.out.contains("www"), "{status:?}");
        center.apply(&good).await?;
        center.wait_until_issued("www", 1).await?;
        Ok(())
    });
}

#[test]
fn an_answer_that_is_lost_is_counted_as_a_possible_orphan() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.gate.answer(Endpoint::NewOrder, 1, Answer::CutAfter);
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        let orphans = center.metric("chancery_orders_possibly_orphaned_total").await?;
        ensure!((orphans - 1.0).abs() < 0.1, "{orphans} possible orphans are counted");
        center.check_bundle("www").await?;
        Ok(())
    });
}

#[test]
fn tls_alpn_01_proves_names_and_addresses_also_for_two_orders_at_once() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        let listen = chancery_tests::ports::free()?;
        options.pebble.tls_alpn01 = Some(listen);
        // Nobody answers HTTP-01 where Pebble would look.
        options.pebble.http01 = chancery_tests::ports::free()?;
        options.coordinator.more = format!("[tls_alpn01]\nlisten = \"{listen}\"\n");
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let mut toml = center.declaration(&[])?;
        for (name, identifier) in
            [("a", "shared.chancery.example"), ("b", "shared.chancery.example"), ("c", "127.0.0.1")]
        {
            let more = format!("challenges = [\"tls-alpn-01\"]\nidentifiers = [{identifier:?}]");
            toml.push_str(&certificate(name, "pebble", &more));
        }
        center.apply(&toml).await?;
        for name in ["a", "b", "c"] {
            center.wait_until_issued(name, 1).await?;
            let events = center.events(name).await?;
            ensure!(count(&events, "order.failed") == 0, "{events:?}");
        }
        ensure!(center.new_orders() == 3, "{:?}", center.gate.orders());
        let shown = tls_client::served(listen, "shared.chancery.example", &Trust::Anybody).await;
        ensure!(shown.is_err(), "who does not ask for acme-tls/1 is shown {shown:?}");
        Ok(())
    });
}

#[test]
fn an_order_ends_at_its_deadline_and_is_tried_again() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        "3s".clone_into(&mut options.coordinator.deadline);
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let mut hold = center.gate.hold(Endpoint::Finalize, Moment::Before);
        center.declare(&["www"]).await?;
        hold.reached(wait::SOON).await?;
        center.wait_until_issued("www", 1).await?;
        let events = center.events("www").await?;
        let failed = events.iter().find(|event| event.kind == "order.failed");
        let failed = failed.context("no event of the failure")?;
        ensure!(failed.message.contains("deadline"), "{failed:?}");
        ensure!(center.new_orders() == 1 + count(&events, "order.failed"), "{events:?}");
        center.check_no_challenge_is_left().await?;
        Ok(())
    });
}

#[test]
fn a_validation_that_fails_is_told_with_the_cas_reason_and_renew_tries_at_once() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        // Nobody answers where Pebble looks.
        options.pebble.http01 = chancery_tests::ports::free()?;
        "1h".clone_into(&mut options.coordinator.retry_first);
        let looked_at = options.pebble.http01;
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        center.declare(&["www"]).await?;
        let shown = failed_once(&center, "www").await?;
        let error = shown["last_error"].as_str().unwrap_or_default();
        ensure!(error.contains("refused") && error.contains("www.chancery.example"), "{shown}");
        ensure!(shown["state"] == "failing" && shown["order"].is_null(), "{shown}");
        let next: jiff::Timestamp = shown["next_attempt"].as_str().context("none")?.parse()?;
        let events = center.events("www").await?;
        let failed = events.iter().find(|event| event.kind == "order.failed");
        ensure!(failed.is_some_and(|event| event.message.contains("refused")), "{events:?}");
        let text = center.cli().text(&["cert", "show", "www"]).await?;
        ensure!(text.contains("refused"), "{text}");
        let told = &shown["last_problem"]["subproblems"][0];
        ensure!(told["identifier"] == "www.chancery.example", "{shown}");
        let of = told["type"].as_str().unwrap_or_default();
        ensure!(of.starts_with("urn:ietf:params:acme:error:"), "{shown}");
        ensure!(text.contains("Last problem of the CA") && text.contains(of), "{text}");
        center.check_no_challenge_is_left().await?;

        let _front = Front::open(looked_at, center.coordinator.http01_address()).await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        let shown = center.wait_until_issued("www", 1).await?;
        ensure!(shown["failures"] == 0 && shown["last_error"].is_null(), "{shown}");
        ensure!(shown["last_problem"].is_null(), "{shown}");
        let issued: jiff::Timestamp = shown["not_before"].as_str().context("none")?.parse()?;
        ensure!(issued < next, "it was tried at {issued}, not before {next}");
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn one_account_is_made_however_often_the_coordinator_starts() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        for name in ["a", "b", "c"] {
            center.declare(&[name]).await?;
            center.wait_until_issued(name, 1).await?;
            let status = center.coordinator.process()?.stop(Duration::from_secs(5)).await?;
            ensure!(status.success(), "{status}");
            center.coordinator.run().await?;
        }
        ensure!(center.gate.count(Endpoint::NewAccount) == 1, "{:?}", center.gate.seen());
        ensure!(center.new_orders() == 3, "{:?}", center.gate.orders());
        for name in ["a", "b", "c"] {
            center.check_bundle(name).await?;
        }
        Ok(())
    });
}

/// The size of the RSA key in a certificate; none if it is of another kind.
fn rsa_bits(leaf: &[u8]) -> Result<Option<usize>> {
    let leaf = CertificateDer::from(leaf);
    let (_, parsed) = X509Certificate::from_der(&leaf)?;
    let key = parsed.public_key().parsed()?;
    Ok(match &key {
        PublicKey::RSA(_) => Some(key.key_size()),
        _ => None,
    })
}
