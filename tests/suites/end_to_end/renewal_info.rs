//! What the CA suggests (RFC 9773) is obeyed: windows are asked for, shown and kept; what a CA wants
//! to have replaced is replaced at once, and its order says what it replaces.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::gate::{Answer, Endpoint};
use chancery_tests::scene;
use chancery_tests::wait;
use chancery_tests::world::{self, PATIENCE, World};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::center::{Center, count};

/// A window so many seconds from now, with the CA's page about it.
pub(crate) fn window(from_secs: i64, to_secs: i64) -> Value {
    let now = SystemClock::new().now();
    let at = |secs| (now + SignedDuration::from_secs(secs)).to_string();
    json!({
        "suggestedWindow": { "start": at(from_secs), "end": at(to_secs) },
        "explanationURL": PAGE,
    })
}

/// Sets the window of what a certificate is now.
pub(crate) async fn set_window(center: &Center, name: &str, window: &Value) -> Result<()> {
    let chain = center.cli().text(&["cert", "show", name, "--pem"]).await?;
    let end = "-----END CERTIFICATE-----\n";
    let leaf = chain.split_inclusive(end).next().context("no certificate")?;
    center.pebble.set_renewal_info(leaf, window).await
}

/// Has the CA asked now.
async fn ask(center: &Center, names: &str) -> Result<Value> {
    let drill = ["drill", "revocation", "--ask-ca", "--yes", "--timeout", "25s", "--certs", names];
    center.cli().json(&drill).await
}

/// What each order so far was to replace.
fn replaced(center: &Center) -> Vec<Option<String>> {
    let seen = center.gate.seen().into_iter();
    let orders = seen.filter(|seen| seen.endpoint == Endpoint::NewOrder && seen.succeeded());
    orders.map(|order| order.replaces).collect()
}

#[test]
fn a_window_is_asked_for_kept_and_shown_with_the_reason() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        let shown = center.wait_until_issued("www", 1).await?;
        let by_life: Timestamp = shown["renew_at"].as_str().context("no time")?.parse()?;
        // Before anybody has asked: the first question is put within half a minute.
        set_window(&center, "www", &window(24 * 3600, 48 * 3600)).await?;
        let suggested = async |shown: &Value| shown["decision_code"] == "suggested";
        let obeyed = async || {
            let shown = center.cli().certificate("www").await?;
            ensure!(suggested(&shown).await, "{shown}");
            Ok(shown)
        };
        let shown = wait::until("the CA's window", wait::SOON + SOONEST, obeyed).await?;
        let renew_at: Timestamp = shown["renew_at"].as_str().context("no time")?.parse()?;
        let until = SystemClock::new().now().duration_until(renew_at);
        ensure!((23..48).contains(&until.as_hours()), "{shown}");
        ensure!(renew_at < by_life, "{shown}");
        let decision = shown["decision"].as_str().context("no decision")?;
        ensure!(decision.contains(PAGE), "{shown}");
        let asked = center.gate.count(Endpoint::RenewalInfo);

        // The same instant for the next leader, which does not ask again.
        center.coordinator.process()?.kill_9()?;
        center.coordinator.run().await?;
        // When it has ordered another one, it has looked at this one before.
        center.declare(&["www", "other"]).await?;
        center.wait_until_issued("other", 1).await?;
        let shown = center.cli().certificate("www").await?;
        ensure!(shown["renew_at"].as_str() == Some(&renew_at.to_string()), "{shown}");
        // The other one may have been asked about meanwhile.
        let since = center.gate.count(Endpoint::RenewalInfo) - asked;
        ensure!(since <= 1, "{:?}", center.gate.seen());
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn what_the_ca_wants_replaced_now_is_replaced_by_an_order_that_says_so() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www", "mail"]).await?;
        center.wait_until_issued("www", 1).await?;
        center.wait_until_issued("mail", 1).await?;
        set_window(&center, "www", &window(-1, 2)).await?;
        let report = ask(&center, "www").await?;
        ensure!(report["certificates"][0]["generation"] == 2, "{report}");
        let orders = replaced(&center);
        ensure!(orders.len() == 3 && orders[..2] == [None, None], "{orders:?}");
        ensure!(orders[2].as_deref().is_some_and(|id| id.contains('.')), "{orders:?}");
        ensure!(center.cli().certificate("mail").await?["generation"] == 1);
        let events = center.events("www").await?;
        ensure!(events.iter().any(|event| event.message.contains(PAGE)), "{events:?}");
        center.check_bundle("www").await?;
        Ok(())
    });
}

#[test]
fn a_ca_that_has_replaced_it_already_is_asked_once_more_without() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        set_window(&center, "www", &window(-1, 2)).await?;
        center.gate.answer(Endpoint::NewOrder, 1, Answer::AlreadyReplaced);
        let report = ask(&center, "www").await?;
        ensure!(report["certificates"][0]["generation"] == 2, "{report}");
        ensure!(replaced(&center) == [None, None], "{:?}", center.gate.seen());
        let asked = center.gate.seen().into_iter();
        let tried = asked.filter(|seen| seen.replaces.is_some()).count();
        ensure!(tried == 1 && center.gate.count(Endpoint::NewOrder) == 3, "{tried}");
        let events = center.events("www").await?;
        ensure!(count(&events, "order.failed") == 0, "{events:?}");
        Ok(())
    });
}

#[test]
fn a_drill_tells_what_it_would_do_and_how_long_it_took_until_all_was_served() {
    scene::play(async |scene| {
        let world = World::start(scene, world::Options::new()?).await?;
        let names = ["www", "mail", "api"];
        world.declare(&names).await?;
        for name in names {
            world.wait_until_installed(name, 1).await?;
        }
        let cli = world.cli();
        let plan = cli.json(&["drill", "revocation", "--dry-run"]).await?;
        let parts = plan["certificates"].as_array().context("no plan")?;
        ensure!(parts.len() == 3, "{plan}");
        ensure!(
            parts.iter().all(|part| part["agents"] == 1 && part["skipped"].is_null()),
            "{plan}"
        );
        let unknown = cli.run(&["drill", "revocation", "--dry-run", "--certs", "nobody"]).await?;
        ensure!(unknown.status.code() == Some(4), "{unknown:?}");
        ensure!(cli.certificate("www").await?["generation"] == 1, "a dry run did something");

        let drill = ["drill", "revocation", "--yes", "--certs", "www,mail"];
        let report = cli.json(&drill).await?;
        let parts = report["certificates"].as_array().context("no report")?;
        ensure!(parts.len() == 2, "{report}");
        for part in parts {
            ensure!(part["generation"] == 2 && part["served_seconds"].is_number(), "{report}");
            let name = part["name"].as_str().context("no name")?;
            let shown = cli.certificate(name).await?;
            ensure!(shown["serial"] == world.served_serial(name).await?, "{shown}");
        }
        ensure!(cli.certificate("api").await?["generation"] == 1, "it took no part");
        let text = cli.text(&["drill", "revocation", "--yes", "--certs", "api"]).await?;
        ensure!(text.contains("1 of 1 replaced") && text.contains("s in all"), "{text}");
        cli.wait_for_certificate("api", "the end", PATIENCE, |shown| shown["generation"] == 2)
            .await?;
        Ok(())
    });
}

const PAGE: &str = "https://ca.example/incidents/7";
/// In which a new certificate's window is asked for.
const SOONEST: Duration = Duration::from_secs(30);
