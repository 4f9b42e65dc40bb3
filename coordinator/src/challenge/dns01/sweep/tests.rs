use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::{
    challenge::dns01::tests::{self as fake, challenge},
    events,
    metrics::Metrics,
    order::testing::{Moment, World},
};

/// A leader whose sweeper is at work.
struct Swept {
    world: World,
    dns: fake::World,
    sweeper: Arc<Sweeper>,
    _stop: DropGuard,
}

impl Swept {
    async fn new() -> Self {
        let (world, dns) = (World::new().await, fake::World::new(1_000));
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::default());
        let options = events::Options {
            node: "node-1".parse().unwrap(),
            clock: world.clock.clone(),
            epoch: Box::new(|| chancery_shared::number::Epoch(1)),
            metrics,
        };
        let (events, _) = Events::start(world.store.clone(), options, stop.clone());
        let (store, mirror) = (world.store.clone(), world.mirror.clone());
        let sweeper =
            Sweeper::new(store, mirror, events, world.clock.clone(), dns.dns01.clone()).into();
        Self { world, dns, sweeper, _stop: stop.drop_guard() }
    }

    /// Sweeps until `done`, and for a day at most.
    async fn until(&self, done: impl Future<Output = ()>) {
        tokio::select! {
            () = self.sweeper.run(&self.world.leadership) => {}
            done = timeout(Duration::from_hours(24), done) => done.unwrap(),
        }
    }

    /// Leaves a challenge whose value `provider` has, and ends some order.
    async fn leave(&self, number: usize, provider: &str) {
        let mut left = challenge(number);
        left.txt.as_mut().unwrap().provider = provider.parse().unwrap();
        left.order = uuid::Uuid::now_v7();
        self.world.put(key::challenge(&format!("token-{number}")), &left).await;
        self.world.declare(&format!("c{number}"), "main").await;
    }

    async fn is_there(&self, token: &str) -> bool {
        self.world.get::<Challenge>(&key::challenge(token)).await.is_some()
    }

    async fn until_gone(&self, token: &str) {
        while self.is_there(token).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_can_never_be_removed_holds_up_no_other() {
    let swept = Swept::new().await;
    swept.leave(0, "gone").await;
    let done = async {
        // By then it is looked at every ten minutes at most.
        tokio::time::sleep(Duration::from_hours(2)).await;
        for number in 1..20 {
            swept.leave(number, "fake").await;
            let token = format!("token-{number}");
            timeout(Duration::from_secs(10), swept.until_gone(&token)).await.unwrap();
        }
    };
    let began = tokio::time::Instant::now();
    swept.until(done).await;
    assert!(began.elapsed() < Duration::from_mins(125), "{:?}", began.elapsed());
    assert!(swept.is_there("token-0").await);
}

#[tokio::test(start_paused = true)]
async fn after_a_month_a_value_is_given_up_with_an_event() {
    let swept = Swept::new().await;
    swept.leave(0, "gone").await;
    let given_up = AtomicBool::new(false);
    swept
        .until(async {
            tokio::time::sleep(Duration::from_hours(1)).await;
            assert!(swept.is_there("token-0").await);
            swept.world.wall.jump(GIVES_UP);
            swept.until_gone("token-0").await;
            // Events are written on the side.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let events = swept.world.store.list(key::EVENTS).await.unwrap().entries;
            let mut told = events.iter().map(|event| String::from_utf8_lossy(&event.value));
            let words = ["dns.value-given-up", "_acme-challenge.n0.example.org", "by hand"];
            let is_it = |text: &str| words.iter().all(|word| text.contains(word));
            given_up.store(told.any(|text| is_it(&text)), SeqCst);
        })
        .await;
    assert!(given_up.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn what_a_live_order_has_had_elsewhere_is_removed_and_nothing_else_of_it() {
    let swept = Swept::new().await;
    let web = swept.world.declare("web", "main").await;
    swept.world.main.stall("challenge", Moment::Before);
    let (orders, leadership) = (swept.world.orders.clone(), swept.world.leadership.clone());
    let running =
        tokio::spawn(
            async move { orders.run(&leadership, &web, crate::order::Tries::default()).await },
        );
    swept.world.main.stalled().await;
    let token = swept.world.main.token.lock().unwrap().clone();
    let at = key::challenge(&token);
    let before: Challenge = swept.world.get(&at).await.unwrap();
    let (here, there) = (challenge(1).txt, challenge(2).txt);
    let moved = Challenge { txt: here, left: there.into_iter().collect(), ..before };
    swept.world.put(&at, &moved).await;
    swept
        .until(async {
            let is_swept = |found: Challenge| found.left.is_empty();
            while !is_swept(swept.world.get(&at).await.unwrap()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    let name = "remove _acme-challenge.n2.example.org";
    assert_eq!(swept.dns.said(), [name.to_owned(), format!("{name} done")]);
    let after: Challenge = swept.world.get(&at).await.unwrap();
    assert_eq!(after, Challenge { left: Vec::new(), ..moved });
    running.abort();
}
