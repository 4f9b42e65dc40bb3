//! Two coordinators, one after the other, over one store: whatever the first was doing, the second
//! brings the same order to its end, and what the first still sends changes nothing.

use testing::Moment;

use super::*;

/// Each request of an order, and both sides of its effect.
const REQUESTS: [&str; 5] = ["new-order", "authz", "challenge", "finalize", "cert"];

/// The order of `web` as it is in the journal when the first leader gets stuck.
struct Stuck {
    world: World,
    web: CertName,
    /// The first leader, who does not know yet.
    first: tokio::task::JoinHandle<Outcome>,
    journaled: Option<Order>,
}

async fn stuck(request: &'static str, moment: Moment) -> Stuck {
    let world = World::new().await;
    let web = world.declare("web", "main").await;
    world.main.stall(request, moment);
    let (orders, leadership, name) = (world.orders.clone(), world.leadership.clone(), web.clone());
    let first = tokio::spawn(async move { orders.run(&leadership, &name, Tries::default()).await });
    world.main.stalled().await;
    let journaled = world.get(&key::order(&web)).await;
    Stuck { world, web, first, journaled }
}

async fn run_to_its_end(successor: &testing::Successor, certificate: &CertName) {
    let mut tries = Tries::default();
    while let Outcome::Again { wait, tries: next } =
        successor.orders.run(&successor.leadership, certificate, tries).await
    {
        assert!(next.count() < 5, "it does not get on: {next:?}");
        tokio::time::sleep(wait).await;
        tries = next;
    }
}

#[tokio::test(start_paused = true)]
async fn the_successor_goes_on_with_the_same_order_and_key() {
    for (request, moment) in
        REQUESTS.into_iter().flat_map(|r| [(r, Moment::Before), (r, Moment::After)])
    {
        let Stuck { mut world, web, first, journaled } = stuck(request, moment).await;
        let before = journaled.expect("it was written down before it was asked for");
        let second = world.successor("node-2").await;
        // The place of a killed process, which does nothing any more.
        first.abort();
        run_to_its_end(&second, &web).await;
        let state = world.state(&web).await;
        assert_eq!((state.generation, state.failures), (before.generation, 0), "{request}");
        // An order whose answer nobody has seen cannot be known of. There is no other reason for a
        // second one.
        let lost = request == "new-order" && moment == Moment::After;
        let placed = world.main.placed.load(SeqCst);
        assert_eq!(placed, if lost { 2 } else { 1 }, "{request} {moment:?}");
        let key_before = world.orders.journal.private_key(&before).unwrap();
        let bundle: record::Bundle =
            world.get(&key::bundle(&web, before.generation)).await.unwrap();
        let context = crate::seal::Context::bundle(&web, before.generation);
        let key_after = world.sealer.open(&context, &bundle.key).unwrap();
        assert_eq!(key_before.expose_secret(), key_after.expose_secret(), "{request}");
        assert!(world.store.list(key::CHALLENGES).await.unwrap().entries.is_empty(), "{request}");
        assert!(world.store.list(key::ORDERS).await.unwrap().entries.is_empty(), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_a_jump_of_the_wall_clock() {
    for request in ["authz", "challenge", "finalize", "cert"] {
        let Stuck { mut world, web, first, journaled } = stuck(request, Moment::Before).await;
        world.wall.jump(Duration::from_hours(1));
        assert!(journaled.unwrap().deadline < world.clock.now(), "{request}");
        let second = world.successor("node-2").await;
        first.abort();
        run_to_its_end(&second, &web).await;
        let state = world.state(&web).await;
        assert_eq!((state.generation.0, state.failures), (1, 0), "{request}");
        assert_eq!(world.main.placed.load(SeqCst), 1, "{request}: what the CA has is not wasted");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_former_leader_still_does_changes_nothing() {
    for (request, moment) in
        REQUESTS.into_iter().flat_map(|r| [(r, Moment::Before), (r, Moment::After)])
    {
        let Stuck { mut world, web, first, .. } = stuck(request, moment).await;
        let second = world.successor("node-2").await;
        while let Outcome::Again { wait, .. } =
            second.orders.run(&second.leadership, &web, Tries::default()).await
        {
            tokio::time::sleep(wait).await;
        }
        let (revision, asked) = (world.store.list("").await.unwrap(), world.main.asked_paths());
        // Now what was on the wire comes through, or its answer does.
        world.main.release();
        let outcome = tokio::time::timeout(Duration::from_mins(1), first).await.unwrap().unwrap();
        assert!(is_again(&outcome), "{request} {moment:?}: left to the one who leads");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let after = world.store.list("").await.unwrap();
        let orders = |entries: Vec<store::Entry>| -> Vec<_> {
            entries.into_iter().filter(|entry| !entry.key.starts_with(key::EVENTS)).collect()
        };
        assert_eq!(orders(after.entries), orders(revision.entries), "{request} {moment:?}");
        // The one that was stuck comes to the CA now; nothing follows it.
        let asked = asked + usize::from(moment == Moment::Before);
        assert_eq!(world.main.asked_paths(), asked, "{request} {moment:?}: it asks nothing more");
    }
}

#[tokio::test(start_paused = true)]
async fn challenges_of_orders_that_are_no_more_are_swept() {
    let Stuck { mut world, web, first, .. } = stuck("challenge", Moment::Before).await;
    let presented = world.store.list(key::CHALLENGES).await.unwrap().entries;
    assert_eq!(presented.len(), 2);
    let stray = Challenge {
        order: uuid::Uuid::now_v7(),
        certificate: web.clone(),
        identifier: "a.web.test".parse().unwrap(),
        challenge_type: chancery_shared::challenge_type::ChallengeType::Http01,
        key_authorization: "answer".to_owned(),
        txt: None,
        standing: None,
        left: Vec::new(),
    };
    for token in ["a_token_of_nobody_at_all-1", "a_token_of_nobody_at_all-2"] {
        world.put(key::challenge(token), &stray).await;
    }
    let second = world.successor("node-2").await;
    second.orders.sweep(&second.leadership).await.unwrap();
    let left = world.store.list(key::CHALLENGES).await.unwrap().entries;
    assert_eq!(left, presented, "that of the live order stays");
    world.put(key::challenge("a_token_of_nobody_at_all-3"), &stray).await;
    let error = world.orders.sweep(&world.leadership).await.unwrap_err();
    assert!(matches!(error, Error::Store(store::Error::Fenced { .. })), "{error}");
    first.abort();
}
