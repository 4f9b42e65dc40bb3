use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{
    order::testing::World,
    record::{self, CertificateState, key},
    store::Batch,
};

fn start(world: &World, concurrency: usize) -> tokio::task::JoinHandle<()> {
    let (mirror, orders) = (world.mirror.clone(), world.orders.clone());
    let leadership = world.leadership.clone();
    let scheduler = Scheduler::new(mirror, orders, world.clock.clone(), leadership, concurrency);
    tokio::spawn(scheduler.run())
}

/// Waits until so many newOrder requests have come to the main CA.
async fn asked(world: &World, count: usize) {
    let coming = async {
        while world.main.asked.load(SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), coming).await.expect("they come");
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_ordered_once_and_what_is_asked_for_once_more() {
    let world = World::new().await;
    let early = world.declare("early", "main").await;
    let scheduler = start(&world, 4);
    world.until(&early, |state| state.generation.0 == 1).await;
    let late = world.declare("late", "main").await;
    world.until(&late, |state| state.generation.0 == 1).await;
    assert_eq!(world.main.placed.load(SeqCst), 2);

    let state = world.state(&late).await;
    let asked_for = CertificateState { renewal_requested_at: Some(world.clock.now()), ..state };
    world.put(key::state(&late), &asked_for).await;
    world.until(&late, |state| state.generation.0 == 2).await;
    assert_eq!(world.state(&late).await.renewal_requested_at, None);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.main.placed.load(SeqCst), 3, "nothing is ordered without need");
    assert!(!scheduler.is_finished());
}

#[tokio::test(start_paused = true)]
async fn no_more_orders_than_places_run_at_once() {
    let world = World::new().await;
    world.main.gate.forget_permits(1_000);
    let names = ["a", "b", "c"].map(|name| world.declare(name, "main"));
    let names = futures_util::future::join_all(names).await;
    let _scheduler = start(&world, 2);
    asked(&world, 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.main.asked.load(SeqCst), 2);
    world.main.gate.add_permits(3);
    for name in &names {
        world.until(name, |state| state.generation.0 == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_ca_does_not_hold_up_the_orders_of_another() {
    let world = World::new().await;
    world.main.dead.store(true, SeqCst);
    for i in 0..20 {
        world.declare(&format!("dead-{i}"), "main").await;
    }
    let _scheduler = start(&world, 2);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let refused = world.main.refused.load(SeqCst);
    assert!((1..20).contains(&refused), "asked {refused} times in a minute");
    let began = world.clock.monotonic();
    let well = world.declare("well", "spare").await;
    world.until(&well, |state| state.generation.0 == 1).await;
    let took = world.clock.monotonic().since(began);
    assert!(took < Duration::from_secs(5), "{took:?}");

    world.main.dead.store(false, SeqCst);
    for i in 0..20 {
        let name = format!("dead-{i}").parse().unwrap();
        world.until(&name, |state| state.generation.0 == 1).await;
    }
    assert_eq!(world.main.placed.load(SeqCst), 20);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_does_not_stop_the_others() {
    let world = World::new().await;
    let bad = world.declare("bad", "main").await;
    world.commit(Batch::unfenced().put(key::state(&bad), "{}")).await;
    let _scheduler = start(&world, 1);
    let good = world.declare("good", "main").await;
    world.until(&good, |state| state.generation.0 == 1).await;
    assert!(world.mirror.read().damaged.contains_key(&key::state(&bad)));
    let repaired = CertificateState::default();
    world.commit(Batch::unfenced().put(key::state(&bad), record::encode(&repaired))).await;
    world.until(&bad, |state| state.generation.0 == 1).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_term_ends_nothing_new_is_started() {
    let mut world = World::new().await;
    let scheduler = start(&world, 1);
    drop(world.lease.take());
    tokio::time::timeout(Duration::from_mins(1), scheduler).await.expect("it ends").unwrap();
    world.declare("web", "main").await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.main.asked.load(SeqCst), 0);
}
