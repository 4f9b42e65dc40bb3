//! The coordinator dies, is told to end, or is paused in every stage of an order. Whatever
//! happens, the certificate arrives, and the CA sees no second order that it need not see.
//!
//! Places are reached in two ways: a crash point dies right behind a step of our own, a gate in
//! front of Pebble holds a request before Pebble has it or after Pebble has answered.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_tests::gate::{Endpoint, Hold, Moment};
use chancery_tests::scene::{self, Scene};
use chancery_tests::world::PATIENCE;
use chancery_tests::{ports, wait};
use http::StatusCode;

use crate::center::{Center, Front, Options, count};

/// What the CA and the operator may see of a crash.
#[derive(Clone, Copy)]
struct Traces {
    /// Orders at the CA.
    orders: usize,
    /// What the coordinator says of orders that it may have lost sight of.
    orphans: f64,
    /// Whether an order was there to be taken up.
    resumed: bool,
}

/// The order is taken up where it was.
const RESUMED: Traces = Traces { orders: 1, orphans: 0.0, resumed: true };
/// The crash was between the intent and the answer to newOrder, which the CA never got.
const NOT_SENT: Traces = Traces { orders: 1, orphans: 1.0, resumed: true };
/// As before, but the CA has made an order of which nobody has the URL.
const ORPHAN: Traces = Traces { orders: 2, orphans: 1.0, resumed: true };
/// Before or after all that has to do with an order.
const NO_ORDER: Traces = Traces { orders: 1, orphans: 0.0, resumed: false };

macro_rules! crashes {
    ($($name:ident: $body:expr;)*) => {$(
        #[test]
        fn $name() {
            scene::play(async |scene| $body(scene).await);
        }
    )*};
}

crashes! {
    killed_behind_the_intent: async |s| dies_at(s, "order::intended", NOT_SENT).await;
    killed_with_an_order_url_that_is_not_written_yet:
        async |s| dies_at(s, "order::before-placed", ORPHAN).await;
    killed_behind_the_order_url: async |s| dies_at(s, "order::placed", RESUMED).await;
    killed_behind_the_challenges: async |s| dies_at(s, "order::presented", RESUMED).await;
    killed_after_the_ca_was_told: async |s| dies_at(s, "order::told-ready", RESUMED).await;
    killed_behind_the_validation: async |s| dies_at(s, "order::validated", RESUMED).await;
    killed_after_finalize: async |s| dies_at(s, "order::before-finalized", RESUMED).await;
    killed_behind_finalize: async |s| dies_at(s, "order::finalized", RESUMED).await;
    killed_with_the_chain_in_memory: async |s| dies_at(s, "order::collected", RESUMED).await;
    killed_behind_the_bundle: async |s| dies_at(s, "order::issued", NO_ORDER).await;

    killed_before_the_account_is_made:
        async |s| dies_in(s, Endpoint::NewAccount, Moment::Before, NO_ORDER).await;
    killed_before_it_hears_of_the_account:
        async |s| dies_in(s, Endpoint::NewAccount, Moment::After, NO_ORDER).await;
    killed_before_the_ca_has_the_order:
        async |s| dies_in(s, Endpoint::NewOrder, Moment::Before, NOT_SENT).await;
    killed_before_it_hears_of_the_order:
        async |s| dies_in(s, Endpoint::NewOrder, Moment::After, ORPHAN).await;
    killed_while_it_reads_the_authorization:
        async |s| dies_in(s, Endpoint::Authorization, Moment::Before, RESUMED).await;
    killed_while_it_looks_at_the_order:
        async |s| dies_in(s, Endpoint::Order, Moment::After, RESUMED).await;
    killed_before_the_ca_hears_of_the_challenge:
        async |s| dies_in(s, Endpoint::Challenge, Moment::Before, RESUMED).await;
    killed_while_the_ca_validates:
        async |s| dies_in(s, Endpoint::Challenge, Moment::After, RESUMED).await;
    killed_before_the_ca_has_the_csr:
        async |s| dies_in(s, Endpoint::Finalize, Moment::Before, RESUMED).await;
    killed_before_it_hears_that_the_ca_has_the_csr:
        async |s| dies_in(s, Endpoint::Finalize, Moment::After, RESUMED).await;
    killed_before_the_chain_is_fetched:
        async |s| dies_in(s, Endpoint::Certificate, Moment::Before, RESUMED).await;
    killed_while_the_chain_is_fetched:
        async |s| dies_in(s, Endpoint::Certificate, Moment::After, RESUMED).await;
}

/// Kills the coordinator at a crash point, and lets another go on.
async fn dies_at(scene: &Scene, point: &str, traces: Traces) -> Result<()> {
    let (mut center, _front) = behind_a_front(scene).await?;
    center.coordinator.set_failpoints(&format!("{point}=return"));
    center.coordinator.run().await?;
    let epoch = center.epoch().await?;
    // Held until the declaration is certainly written: this is about the order.
    let mut hold = center.gate.hold(Endpoint::Directory, Moment::Before);
    center.declare(&["www"]).await?;
    hold.reached(wait::SOON).await?;
    hold.release();
    let status = center.coordinator.process()?.wait_for_end(PATIENCE).await?;
    ensure!(status.signal() == Some(9), "{point} ended otherwise: {status}");
    center.coordinator.set_failpoints("");
    center.coordinator.run().await?;
    goes_on(&center, epoch, traces).await
}

/// Kills the coordinator while a request to the CA is under way, and lets another go on.
async fn dies_in(scene: &Scene, endpoint: Endpoint, moment: Moment, traces: Traces) -> Result<()> {
    let (mut center, _front) = behind_a_front(scene).await?;
    center.coordinator.run().await?;
    let (epoch, hold) = in_mid_order(&center, endpoint, moment).await?;
    center.coordinator.process()?.kill_9()?;
    // What was held before the CA had it never gets there.
    wait::until_true("the connection's end", wait::SOON, || hold.is_abandoned()).await?;
    hold.release();
    center.coordinator.run().await?;
    goes_on(&center, epoch, traces).await
}

/// A coordinator that does not run yet. While it does not, the CA is kept waiting for answers
/// to its challenges: it would give the order up.
async fn behind_a_front(scene: &Scene) -> Result<(Center, Front)> {
    let mut options = Options::new()?;
    options.pebble.http01 = ports::free()?;
    let front = Front::open(options.pebble.http01, options.coordinator.http01).await?;
    Ok((Center::prepare(scene, options).await?, front))
}

/// Declares a certificate. Returns the epoch, and the request to the CA that is held.
async fn in_mid_order(center: &Center, endpoint: Endpoint, moment: Moment) -> Result<(u64, Hold)> {
    let epoch = center.epoch().await?;
    let mut hold = center.gate.hold(endpoint, moment);
    center.declare(&["www"]).await?;
    hold.reached(PATIENCE).await?;
    Ok((epoch, hold))
}

/// What must be so when a new term has gone on where the former one ended.
async fn goes_on(center: &Center, former_epoch: u64, traces: Traces) -> Result<()> {
    center.wait_until_issued("www", 1).await?;
    let orders = center.gate.orders();
    ensure!(orders.len() == traces.orders, "orders at the CA: {orders:?}");
    let orphans = center.metric("chancery_orders_possibly_orphaned_total").await?;
    ensure!((orphans - traces.orphans).abs() < 0.1, "{orphans} possible orphans are counted");
    check_finalized(center, orders.last().context("no order")?)?;
    let seen = center.gate.seen();
    let accounts = seen.iter().filter(|seen| {
        seen.endpoint == Endpoint::NewAccount && seen.status == Some(StatusCode::CREATED)
    });
    ensure!(accounts.count() == 1, "accounts: {seen:?}");
    let bundle = center.check_bundle("www").await?;
    ensure!(bundle.generation == 1, "generation {}", bundle.generation);
    center.check_no_challenge_is_left().await?;
    let epoch = center.epoch().await?;
    ensure!(epoch > former_epoch, "epoch {former_epoch} did not grow: {epoch}");
    let events = center.events("www").await?;
    let resumed = count(&events, "order.resumed");
    ensure!(resumed == usize::from(traces.resumed), "{events:?}");
    let late = events.iter().find(|event| event.kind == "certificate.issued");
    ensure!(late.is_none_or(|event| event.epoch == epoch), "{events:?}");
    Ok(())
}

/// An error unless only the order with this URL was ever finalized, and not twice.
fn check_finalized(center: &Center, order: &str) -> Result<()> {
    let id = order.rsplit('/').next().unwrap_or_default();
    let mut finalized = center.gate.seen();
    finalized.retain(|seen| seen.endpoint == Endpoint::Finalize);
    let same = finalized.iter().all(|seen| seen.path.ends_with(id));
    ensure!(same && !finalized.is_empty(), "the order is {order}, finalized was {finalized:?}");
    // One that the coordinator hung up on may have got through without our hearing of it.
    let heard_of = finalized.iter().filter(|seen| seen.succeeded()).count();
    ensure!(heard_of <= 1, "finalized twice: {finalized:?}");
    Ok(())
}

#[test]
fn killed_in_a_renewal_the_former_generation_stays_until_the_new_one_is_whole() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let former = center.check_bundle("www").await?;
        let reader = center.join("web-1", &["role=web"]).await?;
        for (point, generation) in [("order::finalized", 2), ("order::collected", 3)] {
            center.coordinator.process()?.stop(wait::SOON).await?;
            center.coordinator.set_failpoints(&format!("{point}=return"));
            center.coordinator.run().await?;
            // It may die before it has answered.
            let _ = center.cli().run(&["cert", "renew", "www"]).await?;
            let status = center.coordinator.process()?.wait_for_end(PATIENCE).await?;
            ensure!(status.signal() == Some(9), "{point} ended otherwise: {status}");
            center.coordinator.set_failpoints("");
            let hold = center.gate.hold(Endpoint::Certificate, Moment::Before);
            center.coordinator.run().await?;
            let bundles = reader.bundles().await?;
            let whole = bundles.first().context("no bundle while it is renewed")?;
            ensure!(whole.generation == generation - 1, "{whole:?}");
            center.check(whole, &["www.chancery.example"]).await?;
            hold.release();
            center.wait_until_issued("www", generation).await?;
        }
        let bundle = center.check_bundle("www").await?;
        ensure!(bundle.private_key_der != former.private_key_der, "the key was used again");
        ensure!(center.new_orders() == 3, "{:?}", center.gate.orders());
        Ok(())
    });
}

#[test]
fn what_the_ca_gave_up_meanwhile_is_ordered_anew() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        // Nobody answers there, at first.
        options.pebble.http01 = ports::free()?;
        let (from, to) = (options.pebble.http01, options.coordinator.http01);
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let (epoch, hold) = in_mid_order(&center, Endpoint::Challenge, Moment::After).await?;
        center.coordinator.process()?.kill_9()?;
        drop(hold);
        wait::until_true("the end of the order at the CA", PATIENCE, || {
            center.pebble.log().contains("INVALID")
        })
        .await?;
        let _front = Front::open(from, to).await?;
        center.coordinator.run().await?;
        goes_on(&center, epoch, Traces { orders: 2, ..RESUMED }).await?;
        let events = center.events("www").await?;
        ensure!(count(&events, "order.failed") == 1, "{events:?}");
        Ok(())
    });
}

#[test]
fn told_to_end_it_parks_the_order_and_its_successor_takes_it_up() {
    scene::play(async |scene| {
        let mut center = Center::start(scene).await?;
        let (epoch, hold) = in_mid_order(&center, Endpoint::Finalize, Moment::Before).await?;
        let status = center.coordinator.process()?.stop(Duration::from_secs(5)).await?;
        ensure!(status.code() == Some(0), "{status}");
        wait::until_true("the connection's end", wait::SOON, || hold.is_abandoned()).await?;
        hold.release();
        center.coordinator.run().await?;
        goes_on(&center, epoch, RESUMED).await
    });
}

crashes! {
    paused_beyond_its_lease_while_the_ca_validates:
        async |s| paused(s, Endpoint::Challenge, Moment::After).await;
    paused_beyond_its_lease_before_the_ca_has_the_csr:
        async |s| paused(s, Endpoint::Finalize, Moment::Before).await;
}

/// Pauses the coordinator for longer than its lease is good, and lets the same one go on.
async fn paused(scene: &Scene, endpoint: Endpoint, moment: Moment) -> Result<()> {
    let mut center = Center::start(scene).await?;
    let (epoch, hold) = in_mid_order(&center, endpoint, moment).await?;
    center.coordinator.process()?.pause()?;
    // What is waited for here is time itself: that the lease has run out.
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    center.coordinator.process()?.resume()?;
    hold.release();
    center.wait_until_issued("www", 1).await?;
    goes_on(&center, epoch, RESUMED).await
}

/// As in [`Options::new`].
const LEASE: Duration = Duration::from_secs(2);
