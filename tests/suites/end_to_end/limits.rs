//! The CA's limits: what it would refuse is not sent, what it refuses is not sent again, and a
//! coordinator that comes after knows both.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::{Answer, Endpoint};
use chancery_tests::scene;
use chancery_tests::wait;
use serde_json::Value;

use crate::center::Center;

/// The declaration of certificates at an issuer with limits.
fn limited(center: &Center, certificates: &[&str], limits: &str) -> Result<String> {
    let toml = center.declaration(certificates)?;
    Ok(toml.replacen("[[issuer]]\n", &format!("[[issuer]]\nlimits = {limits}\n"), 1))
}

/// A certificate at an issuer without limits, which is the same CA.
fn free(center: &Center, certificate: &str) -> Result<String> {
    Ok(center.declaration(&[certificate])?.replace("\"pebble\"", "\"without-limits\""))
}

async fn budget(center: &Center) -> Result<Value> {
    let shown = center.cli().json(&["issuer", "budget", "pebble"]).await?;
    Ok(shown["budgets"][0].clone())
}

/// Waits until nothing but one certificate, which waits for the limits, is left to be issued. Returns
/// its name.
async fn held_back(center: &Center) -> Result<String> {
    wait::until("a certificate that waits", wait::SOON, async || {
        let budget = budget(center).await?;
        ensure!(budget["waiting"] == 1, "{budget}");
        let list = center.cli().json(&["cert", "list"]).await?;
        let certificates = list["certificates"].as_array().into_iter().flatten();
        let missing: Vec<_> = certificates.filter(|shown| shown["generation"] == 0).collect();
        ensure!(missing.len() == 1, "{missing:?}");
        Ok(missing[0]["name"].as_str().context("no name")?.to_owned())
    })
    .await
}

#[test]
fn what_the_limits_forbid_waits_also_for_the_next_leader_and_comes_when_they_are_raised() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let limits = "{ orders = \"2 per 40d\", reserve = \"0%\" }";
        let names = ["a", "b", "c"];
        center.apply(&limited(&center, &names, limits)?).await?;
        let waits = held_back(&center).await?;
        let shown = center.cli().certificate(&waits).await?;
        let decision = shown["decision"].as_str().context("no decision")?;
        ensure!(decision.contains("not before") && decision.contains("new orders"), "{shown}");
        ensure!(shown["failures"] == 0, "to wait is no failure: {shown}");
        let before = budget(&center).await?;
        ensure!(before["buckets"][0]["left"] == 0, "{before}");
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());

        let file = scene.path().join("more.toml");
        std::fs::write(&file, limited(&center, &["a", "b", "c", "d"], limits)?)?;
        let apply = ["apply", "--dry-run", "-f", &file.display().to_string()];
        let plan = center.cli().json(&apply).await?;
        let change = &plan["changes"][0];
        ensure!(change["name"] == "d" && change["causes_order"] == true, "{plan}");
        let because = change["because"].as_str().unwrap_or_default();
        ensure!(change["possible_at"].is_string() && because.contains("new orders"), "{plan}");
        let text = center.cli().text(&apply).await?;
        ensure!(text.contains("will be ordered, possible in"), "{text}");

        center.coordinator.process()?.kill_9()?;
        center.coordinator.run().await?;
        // When the next leader has ordered this one, it has had the other before it, too.
        let free = free(&center, "free")?;
        center.apply(&(limited(&center, &names, limits)? + &free)).await?;
        center.wait_until_issued("free", 1).await?;
        ensure!(held_back(&center).await? == waits);
        ensure!(center.gate.count(Endpoint::NewOrder) == 3, "{:?}", center.gate.seen());

        let raised = "{ orders = \"20 per 40d\", reserve = \"0%\" }";
        center.apply(&(limited(&center, &names, raised)? + &free)).await?;
        center.wait_until_issued(&waits, 1).await?;
        ensure!(center.new_orders() == 4, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn an_operator_who_insists_uses_the_reserve() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let limits = "{ orders = \"2 per 40d\", reserve = \"50%\" }";
        center.apply(&limited(&center, &["a", "b"], limits)?).await?;
        let waits = held_back(&center).await?;
        center.cli().json(&["cert", "renew", &waits]).await?;
        center.wait_until_issued(&waits, 1).await?;
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn a_ca_that_is_closed_for_an_hour_is_asked_by_nobody_until_then() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let closed = Answer::Unavailable { retry_after: Some("3600".to_owned()) };
        center.gate.answer(Endpoint::NewOrder, 1, closed);
        center.declare(&["first"]).await?;
        wait::until("the refusal", wait::SOON, async || {
            let budget = budget(&center).await?;
            ensure!(budget["refused"][0]["bucket"] == "requests", "{budget}");
            Ok(())
        })
        .await?;
        let asked = center.gate.seen().len();
        center.declare(&["first", "second"]).await?;
        center.coordinator.process()?.kill_9()?;
        center.coordinator.run().await?;
        center.declare(&["first", "second", "third"]).await?;
        wait::until("certificates that wait", wait::SOON, async || {
            let shown = center.cli().certificate("third").await?;
            let decision = shown["decision"].as_str().context("no decision")?;
            ensure!(decision.contains("the CA refuses all requests"), "{shown}");
            Ok(())
        })
        .await?;
        ensure!(center.gate.seen().len() == asked, "{:?}", center.gate.seen());
        Ok(())
    });
}
