//! Registrations.

use std::time::Duration;

use super::{Bench, keys, next_commit, text, value};
use crate::{
    record::key,
    store::{Change, Error, Registration, Store},
};

/// The value of `key` once it is gone. A store may take its time with what has expired.
async fn until_gone(store: &dyn Store, key: &str) {
    let gone = async {
        while store.get(key).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the record goes in time");
}

fn member<B: Bench>(name: &str, value: &str) -> Registration {
    let key = key::member(&name.parse().unwrap());
    Registration { key, value: value.to_owned().into(), ttl: B::TTL }
}

pub async fn a_registration_is_told_and_stays_while_it_is_kept_alive<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch(key::MEMBERS, start).await.unwrap();
    let registered = store.register(&member::<B>("a", "here")).await.unwrap();
    let commit = next_commit(&mut watch).await;
    let Change::Put(entry) = &commit.changes[0] else { panic!("{commit:?}") };
    assert_eq!((entry.key.as_str(), text(&entry.value).as_str()), ("members/a", "here"));
    for _ in 0..4 {
        bench.let_pass(B::TTL / 2).await;
        store.keep_registered(&registered).await.unwrap();
    }
    assert_eq!(store.list(key::MEMBERS).await.unwrap().entries, std::slice::from_ref(entry));
}

pub async fn a_registration_ends_with_its_lease<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let kept = store.register(&member::<B>("kept", "here")).await.unwrap();
    let lost = store.register(&member::<B>("lost", "here")).await.unwrap();
    let seen = store.list("").await.unwrap().revision;
    let mut watch = store.watch(key::MEMBERS, seen).await.unwrap();
    for _ in 0..4 {
        bench.let_pass(B::TTL / 2).await;
        store.keep_registered(&kept).await.unwrap();
    }
    until_gone(&*store, &lost.key).await;
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.changes, [Change::Delete { key: lost.key.clone() }]);
    let refused = store.keep_registered(&lost).await;
    assert!(matches!(&refused, Err(Error::Expired { key }) if *key == lost.key), "{refused:?}");
    assert_eq!(keys(&*store, key::MEMBERS).await, [kept.key]);
}

pub async fn deregistering_deletes_the_record_at_once<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let registered = store.register(&member::<B>("a", "here")).await.unwrap();
    let seen = store.list("").await.unwrap().revision;
    let mut watch = store.watch(key::MEMBERS, seen).await.unwrap();
    store.deregister(&registered).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.changes, [Change::Delete { key: registered.key.clone() }]);
    store.deregister(&registered).await.unwrap();
    let refused = store.keep_registered(&registered).await;
    assert!(matches!(refused, Err(Error::Expired { .. })), "{refused:?}");
}

pub async fn a_later_registration_takes_the_record_over<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let former = store.register(&member::<B>("a", "former")).await.unwrap();
    let later = store.register(&member::<B>("a", "later")).await.unwrap();
    let refused = store.keep_registered(&former).await;
    assert!(matches!(refused, Err(Error::Expired { .. })), "{refused:?}");
    store.deregister(&former).await.unwrap();
    for _ in 0..4 {
        bench.let_pass(B::TTL / 2).await;
        store.keep_registered(&later).await.unwrap();
    }
    assert_eq!(value(&*store, &later.key).await.as_deref(), Some("later"));
}

/// Longer than any store takes to see that something has expired.
const PATIENCE: Duration = Duration::from_mins(1);
