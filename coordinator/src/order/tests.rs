use std::sync::atomic::Ordering::SeqCst;

use chancery_shared::{number::Generation, x509::Fingerprint};
use testing::{DEADLINE, World};

use super::*;
use crate::{
    record::{self, Challenge, Issued, Order, Stage, key},
    store::Batch,
};

fn code(state: &CertificateState) -> &str {
    state.last_failure.as_ref().map_or("", |failure| &failure.code)
}

fn is_again(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Again { .. })
}

#[tokio::test(start_paused = true)]
async fn one_order_ends_in_a_bundle_and_leaves_nothing_behind() {
    let world = World::new().await;
    let web = world.declare("web", "main").await;
    assert!(!is_again(&world.run(&web, Tries::default()).await));
    assert_eq!(world.state(&web).await.generation, Generation(1));
    assert!(world.store.list(key::CHALLENGES).await.unwrap().entries.is_empty());
    assert!(world.store.list(key::ORDERS).await.unwrap().entries.is_empty());
    assert_eq!(world.mirror.read().bundles[&web].record.generation, Generation(1));
}

#[tokio::test(start_paused = true)]
async fn generations_go_on_above_what_agents_have() {
    let world = World::new().await;
    let web = world.declare("web", "main").await;
    world.delivered("agent-1", &web, 5).await;
    world.run(&web, Tries::default()).await;
    assert_eq!(world.state(&web).await.generation, Generation(6));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_none_reaches_no_key() {
    for token in ["../orders/web", "", "short", &"x".repeat(300), "a token of enough entropy 1"] {
        let world = World::new().await;
        token.clone_into(&mut world.main.token.lock().unwrap());
        let web = world.declare("web", "main").await;
        assert!(!is_again(&world.run(&web, Tries::default()).await));
        assert_eq!(code(&world.state(&web).await), "bad-issuance", "{token}");
        assert!(world.store.list(key::CHALLENGES).await.unwrap().entries.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn authorizations_that_are_not_the_orders_are_refused() {
    for authorized in [Some("b.else.test"), Some("a.web.test"), None] {
        let world = World::new().await;
        *world.main.authorizes.lock().unwrap() = authorized.map(str::to_owned);
        world.main.repeats_token.store(authorized.is_none(), SeqCst);
        let web = world.declare("web", "main").await;
        assert!(!is_again(&world.run(&web, Tries::default()).await));
        assert_eq!(code(&world.state(&web).await), "bad-issuance", "{authorized:?}");
        assert!(world.store.list(key::CHALLENGES).await.unwrap().entries.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_may_repeat_itself_but_not_without_end() {
    let world = World::new().await;
    world.main.repeat_issuer.store(2, SeqCst);
    let web = world.declare("web", "main").await;
    world.run(&web, Tries::default()).await;
    assert_eq!(world.mirror.read().bundles[&web].record.chain.len(), 2);

    world.main.repeat_issuer.store(100, SeqCst);
    let mail = world.declare("mail", "main").await;
    world.run(&mail, Tries::default()).await;
    assert_eq!(code(&world.state(&mail).await), "bad-issuance");
}

#[tokio::test(start_paused = true)]
async fn what_is_expired_at_birth_is_a_failure_and_not_a_reason_to_order_again() {
    let world = World::new().await;
    world.main.expired.store(true, SeqCst);
    let web = world.declare("web", "main").await;
    world.run(&web, Tries::default()).await;
    let state = world.state(&web).await;
    assert_eq!((code(&state), state.failures), ("bad-issuance", 1));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_behind_orders_nothing() {
    let world = World::new().await;
    let (web, gone) = (world.declare("web", "main").await, world.declare("gone", "main").await);
    world.mirror_stop.cancel();
    let now = world.clock.now();
    let issued = Issued {
        serial: "01".to_owned(),
        fingerprint: Fingerprint::of(b"leaf"),
        not_before: now,
        not_after: now + Duration::from_hours(90 * 24),
        issuer: "main".parse().unwrap(),
        issued_by: "CA".to_owned(),
        identifiers: vec!["a.web.test".parse().unwrap(), "b.web.test".parse().unwrap()],
        key_type: chancery_shared::key_type::KeyType::EcdsaP256,
        profile: None,
        stored_at: now,
    };
    let state = CertificateState {
        generation: Generation(1),
        issued: Some(issued),
        ..CertificateState::default()
    };
    world.put(key::state(&web), &state).await;
    world.commit(Batch::unfenced().delete(key::certificate(&gone))).await;
    assert!(is_again(&world.run(&web, Tries::default()).await));
    assert!(is_again(&world.run(&gone, Tries::default()).await));
    assert_eq!(world.main.asked.load(SeqCst), 0);
    assert_eq!(world.state(&gone).await, CertificateState::default());
}

#[tokio::test(start_paused = true)]
async fn a_dead_ca_is_a_recorded_failure_after_a_few_tries() {
    let world = World::new().await;
    world.main.dead.store(true, SeqCst);
    let web = world.declare("web", "main").await;
    let began = world.clock.monotonic();
    let mut tries = Tries::default();
    while let Outcome::Again { wait, tries: next } = world.run(&web, tries).await {
        assert!(world.clock.monotonic().since(began) < 2 * DEADLINE, "it never gives up");
        tokio::time::sleep(wait).await;
        tries = next;
    }
    let failure = world.state(&web).await.last_failure.unwrap();
    assert_eq!(failure.code, "ca-unreachable");
    assert!(failure.message.contains("cannot talk to main: refused"), "{}", failure.message);
}

#[tokio::test(start_paused = true)]
async fn an_order_is_not_asked_for_at_another_ca() {
    let world = World::new().await;
    let web = world.declare("web", "main").await;
    world.main.gate.forget_permits(1_000);
    {
        let running = world.run(&web, Tries::default());
        tokio::pin!(running);
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut running).await;
    }
    // Dropped while newOrder was under way: its answer is written down nevertheless.
    world.main.gate.add_permits(1);
    let journaled = async {
        loop {
            let order: Order = world.get(&key::order(&web)).await.unwrap();
            if let Some(url) = order.stage.url() {
                return url.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let url = tokio::time::timeout(Duration::from_mins(1), journaled).await.expect("journaled");
    assert_eq!(url, "https://main/order/1");

    world.issuer("main", "spare").await;
    let before = world.main.paths.lock().unwrap().len();
    assert!(!is_again(&world.run(&web, Tries::default()).await));
    assert_eq!(code(&world.state(&web).await), "order-unknown");
    assert_eq!(world.main.paths.lock().unwrap().len(), before);
}

/// An order of a new certificate that the CA has taken.
async fn placed(world: &World, name: &str) -> Entry {
    let name = world.declare(name, "main").await;
    let wanted = world.orders.wanted(&name, None).await.unwrap().unwrap();
    let journal = &world.orders.journal;
    let account = "https://main/account/1";
    let order = journal.intend(&world.leadership, &wanted, account, DEADLINE).await.unwrap();
    let entry = journal.begin(&world.leadership, &wanted, order, None).await.unwrap();
    let stage = Stage::Placed { url: format!("https://main/order/{name}") };
    journal.advance(&world.leadership, entry, stage).await.unwrap()
}

const TOKEN: &str = "a_token_of_enough_entropy-1";

/// Presents the one challenge that the CA gives to everybody, with a value at `place` if there is one.
async fn present(world: &World, entry: Entry, place: Option<&str>) -> Result<Entry, Error> {
    let txt = place.map(|name| record::TxtRecord {
        provider: "dns".parse().unwrap(),
        zone: "test".to_owned(),
        name: name.to_owned(),
        value: "value".to_owned(),
    });
    let answer = Challenge {
        order: entry.order.id,
        certificate: entry.order.certificate.clone(),
        identifier: "a.shared.test".parse().unwrap(),
        key_authorization: "answer".to_owned(),
        challenge_type: chancery_shared::challenge_type::ChallengeType::Http01,
        txt,
        left: Vec::new(),
        standing: None,
    };
    let answers = [(TOKEN.to_owned(), answer)].into();
    let entry = world.orders.journal.present(&world.leadership, entry, answers).await?;
    if !world.mirror_stop.is_cancelled() {
        world.mirror.wait_for(entry.revision).await;
    }
    Ok(entry)
}

async fn end(world: &World, entry: &Entry) {
    let error = Error::OrderUnknown(String::new());
    let journal = &world.orders.journal;
    let ended = journal.failed(&world.leadership, entry, &error, Duration::ZERO, None).await;
    world.mirror.wait_for(ended.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_two_orders_have_is_answered_until_both_are_over() {
    for first_ends_first in [true, false] {
        let world = World::new().await;
        let (web, mail) = (placed(&world, "web").await, placed(&world, "mail").await);
        let web = present(&world, web, None).await.unwrap();
        let mail = present(&world, mail, None).await.unwrap();
        let (first, second) = if first_ends_first { (&web, &mail) } else { (&mail, &web) };
        end(&world, first).await;
        assert!(world.get::<Challenge>(&key::challenge(TOKEN)).await.is_some());
        world.orders.sweep(&world.leadership).await.unwrap();
        assert!(world.get::<Challenge>(&key::challenge(TOKEN)).await.is_some());
        end(&world, second).await;
        assert_eq!(world.get::<Challenge>(&key::challenge(TOKEN)).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_in_the_dns_is_known_of_until_it_is_removed_from_there() {
    let world = World::new().await;
    let (web, mail) = (placed(&world, "web").await, placed(&world, "mail").await);
    let web = present(&world, web, Some("here.test")).await.unwrap();
    end(&world, &web).await;
    let mail = present(&world, mail, Some("there.test")).await.unwrap();
    let names = |challenge: &Challenge| {
        let txt = challenge.txt.iter().chain(&challenge.left);
        txt.map(|txt| txt.name.clone()).collect::<Vec<_>>()
    };
    let challenge: Challenge = world.get(&key::challenge(TOKEN)).await.unwrap();
    assert_eq!(names(&challenge), ["there.test", "here.test"]);
    // Back again: nothing of it is to be removed from there.
    let mail = present(&world, mail, Some("here.test")).await.unwrap();
    let challenge: Challenge = world.get(&key::challenge(TOKEN)).await.unwrap();
    assert_eq!(names(&challenge), ["here.test", "there.test"]);
    present(&world, mail, None).await.unwrap();
    let challenge: Challenge = world.get(&key::challenge(TOKEN)).await.unwrap();
    assert_eq!(names(&challenge), ["there.test", "here.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_has_changed_unseen_is_not_written_over() {
    let world = World::new().await;
    let (web, mail) = (placed(&world, "web").await, placed(&world, "mail").await);
    world.mirror_stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    present(&world, web, Some("here.test")).await.unwrap();
    let error = present(&world, mail, Some("there.test")).await.unwrap_err();
    assert!(matches!(error, Error::Store(store::Error::Conflict { .. })), "{error}");
    let challenge: Challenge = world.get(&key::challenge(TOKEN)).await.unwrap();
    assert_eq!(challenge.txt.unwrap().name, "here.test");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_nears_its_end_is_raised_when_it_cannot_be_renewed() {
    let world = World::new().await;
    let web = world.declare("web", "main").await;
    world.run(&web, Tries::default()).await;
    let mut state = world.state(&web).await;
    world.main.expired.store(true, SeqCst);
    for (days, is_raised) in [(20, false), (2, true)] {
        let issued = state.issued.as_mut().unwrap();
        issued.not_before = world.clock.now() - Duration::from_hours(24 * 70);
        issued.stored_at = issued.not_before;
        issued.not_after = world.clock.now() + Duration::from_hours(24 * days);
        world.put(key::state(&web), &state).await;
        let outcome = world.run(&web, Tries::default()).await;
        assert!(matches!(outcome, Outcome::Over), "{outcome:?}");
        // Events are written on the side.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let events = world.store.list(key::EVENTS).await.unwrap().entries;
        let raised = |value: &[u8]| String::from_utf8_lossy(value).contains("certificate.at-risk");
        let raised = events.iter().any(|event| raised(&event.value));
        assert_eq!(raised, is_raised, "with {days} days left");
        assert_eq!(world.state(&web).await.failures, 1);
    }
}

mod succession;
