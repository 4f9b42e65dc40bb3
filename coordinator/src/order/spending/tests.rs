use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use chancery_shared::name::CertName;

use crate::{
    election::Leadership,
    order::{Orders, Outcome, Tries, testing::World},
    record::{Bucket, Budget, CertificateState, key},
    scheduler::Scheduler,
};

fn start(world: &World) -> tokio::task::JoinHandle<()> {
    lead(world, &world.orders, &world.leadership)
}

fn lead(
    world: &World,
    orders: &Arc<Orders>,
    leadership: &Leadership,
) -> tokio::task::JoinHandle<()> {
    let (mirror, clock) = (world.mirror.clone(), world.clock.clone());
    tokio::spawn(Scheduler::new(mirror, orders.clone(), clock, leadership.clone(), 8).run())
}

async fn budget(world: &World) -> Option<Budget> {
    world.get(&key::budget(&"main".parse().unwrap())).await
}

async fn issued(world: &World, names: &[CertName]) -> usize {
    let mut count = 0;
    for name in names {
        count += usize::from(world.state(name).await.issued.is_some());
    }
    count
}

async fn declare(world: &World, names: &[&str]) -> Vec<CertName> {
    futures_util::future::join_all(names.iter().map(|name| world.declare(name, "main"))).await
}

#[tokio::test(start_paused = true)]
async fn what_would_be_refused_is_not_sent_and_comes_when_it_is_possible() {
    let world = World::new().await;
    world.limited("main", "main", &[("orders", "3 per 3h"), ("reserve", "0%")]).await;
    let names = declare(&world, &["a", "b", "c", "d", "e"]).await;
    let _scheduler = start(&world);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((world.main.asked.load(SeqCst), issued(&world, &names).await), (3, 3));
    let kept = budget(&world).await.expect("it is kept in the store");
    assert!(kept.full_at_millis.contains_key(&Bucket::Orders));
    // Nobody is taken to have failed, and each of those who wait has a turn of its own.
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.main.asked.load(SeqCst), 4);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((world.main.asked.load(SeqCst), issued(&world, &names).await), (5, 5));
    for name in &names {
        assert_eq!(world.state(name).await.failures, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn higher_limits_and_an_operator_who_insists_end_the_wait_at_once() {
    let world = World::new().await;
    world.limited("main", "main", &[("orders", "4 per 40d"), ("reserve", "50%")]).await;
    let names = declare(&world, &["a", "b", "c", "d"]).await;
    let _scheduler = start(&world);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.main.asked.load(SeqCst), 2, "half is kept for emergencies");

    let mut waiting = Vec::new();
    for name in &names {
        if world.state(name).await.issued.is_none() {
            waiting.push(name.clone());
        }
    }
    let insisted = CertificateState {
        renewal_requested_at: Some(world.clock.now()),
        ..CertificateState::default()
    };
    world.put(key::state(&waiting[0]), &insisted).await;
    world.until(&waiting[0], |state| state.issued.is_some()).await;
    assert_eq!(world.main.asked.load(SeqCst), 3);

    world.limited("main", "main", &[("orders", "40 per 40d")]).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((world.main.asked.load(SeqCst), issued(&world, &names).await), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_asks_to_be_left_alone_is_left_alone_by_all() {
    let mut world = World::new().await;
    let wait = Duration::from_hours(2);
    world.main.busy.lock().unwrap().push(("being maintained".to_owned(), wait));
    let first = declare(&world, &["first"]).await;
    let _scheduler = start(&world);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.main.refused.load(SeqCst), 1);
    let refused = budget(&world).await.unwrap().refused;
    assert!(refused[&Bucket::Requests].message.contains("maintained"));

    // Another order, and another leader's, which knows only what the store says.
    let second = declare(&world, &["second"]).await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    let other = world.successor("node-2").await;
    let outcome = other.orders.run(&other.leadership, &second[0], Tries::default()).await;
    let Outcome::Again { wait, tries } = outcome else { panic!("{outcome:?}") };
    assert!(tries.are_held_back() && wait > Duration::from_hours(1), "{wait:?}");
    assert_eq!((world.main.asked.load(SeqCst), world.main.refused.load(SeqCst)), (0, 1));
    let _scheduler = lead(&world, &other.orders, &other.leadership);
    world.until(&first[0], |state| state.issued.is_some()).await;
    world.until(&second[0], |state| state.issued.is_some()).await;
    assert_eq!(world.main.refused.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_domain_holds_back_no_other() {
    let world = World::new().await;
    let body = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates (50) already issued for \"held.test\" in the last 168h0m0s"}"#;
    world.main.busy.lock().unwrap().push((body.to_owned(), Duration::from_hours(5)));
    let held = declare(&world, &["held"]).await;
    let _scheduler = start(&world);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let free = declare(&world, &["free"]).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((issued(&world, &held).await, issued(&world, &free).await), (0, 1));
    let began = world.clock.now();
    world.until(&held[0], |state| state.issued.is_some()).await;
    let hours = began.duration_until(world.clock.now()).as_hours();
    assert!((4..=5).contains(&hours), "{hours}");
}
