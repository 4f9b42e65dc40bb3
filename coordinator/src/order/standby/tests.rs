use std::sync::atomic::Ordering::SeqCst;

use chancery_shared::{number::Generation, revocation::RevocationReason, x509};

use super::*;
use crate::{
    order::{
        Outcome, Tries,
        testing::{Moment, World},
    },
    record::{Bundle, CertificateSpec, CertificateState, Order, Revoked, Standby, key},
    seal::Context,
    store::Store as _,
};

/// A certificate of `main` with a standby of `spare`, both issued.
async fn with_standby(world: &World) -> CertName {
    let name = world.declare("www", "main").await;
    let spec: CertificateSpec = world.get(&key::certificate(&name)).await.unwrap();
    let spec = CertificateSpec { standby: Some("spare".parse().unwrap()), ..spec };
    world.put(key::certificate(&name), &spec).await;
    for _ in 0..2 {
        over(world, &name).await;
    }
    name
}

async fn over(world: &World, name: &CertName) {
    let outcome = Box::pin(world.run(name, Tries::default())).await;
    assert!(matches!(outcome, Outcome::Over), "{outcome:?}");
}

async fn standby(world: &World, name: &CertName) -> Standby {
    world.get(&key::standby(name)).await.unwrap()
}

async fn wish(world: &World, name: &CertName) {
    let mut state = world.state(name).await;
    state.switch_requested_at = Some(world.clock.now());
    world.put(key::state(name), &state).await;
}

/// The newest bundle, whose key has to be that of its leaf.
async fn newest(world: &World, name: &CertName) -> (CertificateState, Bundle) {
    let state = world.state(name).await;
    let bundle: Bundle = world.get(&key::bundle(name, state.generation)).await.unwrap();
    let context = Context::bundle(name, state.generation);
    let pkcs8 = world.sealer.open(&context, &bundle.key).unwrap();
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8.expose_secret());
    let pair = rcgen::KeyPair::try_from(&der).unwrap();
    let of_key = x509::Fingerprint::of(&rcgen::PublicKeyData::subject_public_key_info(&pair));
    assert_eq!(of_key, x509::public_key_of(&bundle.leaf).unwrap());
    (state, bundle)
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_kept_beside_what_is_served_and_takes_over() {
    let world = World::new().await;
    let name = with_standby(&world).await;
    let (state, first) = newest(&world, &name).await;
    assert_eq!(state.generation, Generation(1));
    let kept = standby(&world, &name).await;
    assert_eq!(kept.state.generation, Generation(2));
    let bundle = kept.bundle.unwrap();
    assert_ne!(bundle.leaf, first.leaf);
    assert!(world.get::<Bundle>(&key::bundle(&name, Generation(2))).await.is_none());

    let asked = world.main.asked_paths();
    wish(&world, &name).await;
    over(&world, &name).await;
    let (state, served) = newest(&world, &name).await;
    assert_eq!((state.generation, served.leaf), (Generation(3), bundle.leaf));
    assert_eq!(state.issued.unwrap().issuer.as_str(), "spare");
    assert_eq!(state.switch_requested_at, None);
    let emptied = standby(&world, &name).await;
    assert_eq!((emptied.bundle, emptied.state.generation), (None, Generation(2)));
    assert_eq!(world.main.asked_paths(), asked, "no CA is asked");

    // The next one comes from the CA that does not serve, and no number is given twice.
    over(&world, &name).await;
    let next = standby(&world, &name).await;
    assert_eq!(next.state.generation, Generation(4));
    assert_eq!(next.state.issued.unwrap().issuer.as_str(), "main");
    assert!(matches!(world.run(&name, Tries::default()).await, Outcome::Again { .. }));
    let mut state = world.state(&name).await;
    state.renewal_requested_at = Some(world.clock.now());
    world.put(key::state(&name), &state).await;
    over(&world, &name).await;
    let (state, _) = newest(&world, &name).await;
    assert_eq!(state.generation, Generation(5));
    assert_eq!(state.issued.unwrap().issuer.as_str(), "main");
    over(&world, &name).await;
    assert_eq!(standby(&world, &name).await.state.issued.unwrap().issuer.as_str(), "spare");
}

#[tokio::test(start_paused = true)]
async fn only_a_few_bundles_are_kept_although_numbers_are_left_out() {
    let world = World::new().await;
    let name = with_standby(&world).await;
    for _ in 0..4 {
        wish(&world, &name).await;
        over(&world, &name).await;
        over(&world, &name).await;
    }
    let kept = world.store.list(&format!("{}{name}/", key::BUNDLES)).await.unwrap().entries;
    assert_eq!(kept.len(), 3);
    newest(&world, &name).await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_waits_for_no_order_that_hangs() {
    let world = World::new().await;
    let name = with_standby(&world).await;
    let mut state = world.state(&name).await;
    state.renewal_requested_at = Some(world.clock.now());
    world.put(key::state(&name), &state).await;
    world.main.stall("finalize", Moment::Before);
    let running = tokio::spawn({
        let (orders, leadership) = (world.orders.clone(), world.leadership.clone());
        let name = name.clone();
        async move { orders.run(&leadership, &name, Tries::default()).await }
    });
    world.main.stalled().await;
    let revoked = Revoked {
        generation: state.generation,
        reason: RevocationReason::Superseded,
        at: world.clock.now(),
    };
    world.put(key::state(&name), &CertificateState { revoked: Some(revoked), ..state }).await;
    let Outcome::Again { tries, .. } = running.await.unwrap() else { panic!("it is not over") };
    assert!(matches!(world.run(&name, tries).await, Outcome::Over));
    assert!(world.get::<Order>(&key::order(&name)).await.is_none());
    let (state, _) = newest(&world, &name).await;
    assert_eq!(state.issued.unwrap().issuer.as_str(), "spare");
    assert!(state.revoked.is_none() && state.renewal_requested_at.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_cannot_be_had_is_no_failure_of_the_certificate() {
    let world = World::new().await;
    let name = world.declare("www", "main").await;
    let spec: CertificateSpec = world.get(&key::certificate(&name)).await.unwrap();
    let spec = CertificateSpec { standby: Some("nowhere".parse().unwrap()), ..spec };
    world.put(key::certificate(&name), &spec).await;
    over(&world, &name).await;
    over(&world, &name).await;
    let failed = standby(&world, &name).await;
    assert_eq!((failed.state.failures, failed.bundle), (1, None));
    assert_eq!(failed.state.last_failure.unwrap().code, "bad-issuer");
    let state = world.state(&name).await;
    assert_eq!((state.failures, state.generation), (0, Generation(1)));
    assert_eq!(world.main.asked.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn another_leader_switches_when_the_first_has_died_after_the_wish() {
    let mut world = World::new().await;
    let name = with_standby(&world).await;
    wish(&world, &name).await;
    let successor = world.successor("node-2").await;
    let run = successor.orders.run(&successor.leadership, &name, Tries::default());
    assert!(matches!(Box::pin(run).await, Outcome::Over));
    let (state, _) = newest(&world, &name).await;
    assert_eq!(state.generation, Generation(3));
    // The one before has nothing left to do, and could not.
    wish(&world, &name).await;
    Box::pin(world.run(&name, Tries::default())).await;
    assert_eq!(world.state(&name).await.generation, Generation(3));
}
