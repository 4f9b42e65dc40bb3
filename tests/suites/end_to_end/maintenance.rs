//! Freezes hold renewals back, are seen, and are lifted.

use anyhow::{Context as _, Result, ensure};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::scene;
use chancery_tests::world::PATIENCE;
use jiff::{SignedDuration, Timestamp};

use crate::center::Center;
use crate::renewal_info::{set_window, window};

/// Freezes `role=web`, from yesterday until so many hours from now.
fn freeze(until_hours: i64) -> String {
    let now = SystemClock::new().now();
    let at = |hours| now + SignedDuration::from_hours(hours);
    let (from, to) = (at(-24), at(until_hours));
    format!(
        "[[freeze]]\nname = \"sale\"\nfrom = \"{from}\"\nto = \"{to}\"\nreason = \"the sale\"\n\
         labels = {{ role = \"web\" }}\n"
    )
}

#[test]
fn a_freeze_holds_a_renewal_back_is_shown_and_is_lifted() {
    scene::play(async |scene| play(&Center::start(scene).await?).await);
}

async fn play(center: &Center) -> Result<()> {
    let declared = center.declaration(&["www"])?;
    center.apply(&format!("{declared}\n{}", freeze(24))).await?;
    // A first order does not wait.
    center.wait_until_issued("www", 1).await?;
    // The CA suggests a time that has all but passed.
    set_window(center, "www", &window(-300 * 24 * 3600, 2 * 3600)).await?;
    let ask = ["drill", "revocation", "--ask-ca", "--yes", "--certs", "www", "--timeout", "1s"];
    let asked = center.cli().run(&ask).await?;
    ensure!(asked.status.code() == Some(6), "{asked:?}");
    let shown = center
        .cli()
        .wait_for_certificate("www", "the freeze", PATIENCE, |shown| {
            shown["decision_code"] == "freeze"
        })
        .await?;
    let decision = shown["decision"].as_str().context("no decision")?;
    ensure!(
        decision.contains("the end of freeze sale") && decision.contains("the sale"),
        "{shown}"
    );
    ensure!(shown["state"] == "valid", "{shown}");
    let renew_at: Timestamp = shown["renew_at"].as_str().context("no time")?.parse()?;
    // No longer than until the end of the window, if the CA is taken to have moved it.
    ensure!(SystemClock::new().now().duration_until(renew_at).as_hours() >= 1, "{shown}");
    ensure!(center.new_orders() == 1, "{:?}", center.gate.orders());

    center.apply(&format!("{declared}\n{}", freeze(-1))).await?;
    center.wait_until_issued("www", 2).await?;
    ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
    Ok(())
}
