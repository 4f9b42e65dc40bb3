//! Several issuers: the next one when one fails, the first one again when it is well, and another one
//! when an operator says so. With two real CAs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::{Answer, Endpoint, Gate, Moment};
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::PATIENCE;

use crate::center::{Center, certificate, count};

/// Another CA, which looks for answers where the first does.
async fn another(scene: &Scene, center: &Center) -> Result<(Pebble, Gate)> {
    let options = pebble::Options::new(center.coordinator.http01_address());
    let spare = Pebble::start(&scene.folder("spare")?, &options).await?;
    let gate = Gate::open(spare.address(), spare.https_root()).await?;
    Ok((spare, gate))
}

/// Both issuers, `pebble` and `spare`.
fn issuers(center: &Center, (spare, gate): &(Pebble, Gate)) -> Result<String> {
    let roots: &Path = spare.https_root_path();
    Ok(format!(
        "{}\n[[issuer]]\nname = \"spare\"\ndirectory = {:?}\ntrust_roots = \"{}\"\n",
        center.declaration(&[])?,
        gate.directory(),
        roots.display()
    ))
}

/// The certificate `www` of these issuers.
fn www(issuers: &str) -> String {
    certificate("www", "X", "").replace("[\"X\"]", issuers)
}

#[test]
fn the_next_issuer_has_its_turn_and_the_first_again_when_it_is_back() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let spare = another(scene, &center).await?;
        center.gate.answer(Endpoint::Directory, 1000, Answer::Cut);
        let both = www("[\"pebble\", \"spare\"]");
        center.apply(&format!("{}{both}", issuers(&center, &spare)?)).await?;
        // Each failure makes the next try wait ten times as long: an operator need not.
        for failures in 1..=3 {
            center
                .cli()
                .wait_for_certificate("www", "a failure", PATIENCE, |shown| {
                    shown["failures"].as_u64() >= Some(failures)
                })
                .await?;
            center.cli().text(&["cert", "renew", "www"]).await?;
        }
        let first = center.wait_until_issued("www", 1).await?;
        ensure!(first["issuer"] == "spare", "{first}");
        center.gate.answer_no_more();
        center.cli().text(&["cert", "renew", "www"]).await?;
        let second = center.wait_until_issued("www", 2).await?;
        ensure!(second["issuer"] == "pebble", "{second}");
        Ok(())
    });
}

#[test]
fn another_issuer_is_asked_at_once_although_an_order_hangs_at_the_former() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let spare = another(scene, &center).await?;
        let issuers = issuers(&center, &spare)?;
        let mut hold = center.gate.hold(Endpoint::Finalize, Moment::Before);
        center.apply(&format!("{issuers}{}", www("[\"pebble\"]"))).await?;
        hold.reached(PATIENCE).await?;
        center.apply(&format!("{issuers}{}", www("[\"spare\"]"))).await?;
        let issued = center.wait_until_issued("www", 1).await?;
        ensure!(issued["issuer"] == "spare" && issued["failures"] == 0, "{issued}");
        hold.release();
        let events = center.events("www").await?;
        ensure!(count(&events, "order.given-up") == 1, "{events:?}");
        ensure!(count(&events, "order.failed") == 0, "{events:?}");
        // And back, after failures that must not count for the other one.
        center.check_no_challenge_is_left().await?;
        spare.1.answer(Endpoint::NewOrder, 1000, Answer::Cut);
        center.cli().text(&["cert", "renew", "www"]).await?;
        wait::until_true("a try", PATIENCE, || spare.1.count(Endpoint::NewOrder) > 1).await?;
        center.apply(&format!("{issuers}{}", www("[\"pebble\"]"))).await?;
        let issued = center.wait_until_issued("www", 2).await?;
        ensure!(issued["issuer"].as_str().context("no issuer")? == "pebble", "{issued}");
        Ok(())
    });
}
