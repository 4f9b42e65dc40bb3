//! Terms of leadership.

use chancery_shared::number::Epoch;
use futures_util::future::join_all;

use super::{Bench, candidate, is_conflict_on, is_fenced, next_commit, put, value, win};
use crate::{
    record::{self, Leader, key},
    store::{Batch, Campaign, Change, Fence},
};

pub async fn one_candidate_wins<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let campaigns = (0..8).map(|n| {
        let store = store.clone();
        tokio::spawn(
            async move { store.campaign(&candidate::<B>(&format!("node-{n}"))).await.unwrap() },
        )
    });
    let outcomes: Vec<_> = join_all(campaigns).await.into_iter().map(Result::unwrap).collect();
    let won = outcomes.iter().filter(|outcome| **outcome != Campaign::Lost).count();
    assert_eq!(won, 1, "{outcomes:?}");
    assert_eq!(store.campaign(&candidate::<B>("late")).await.unwrap(), Campaign::Lost);
}

pub async fn winning_writes_the_leader_record_in_one_step<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch(key::LEADER, start).await.unwrap();
    let fence = win::<B>(&*store, "a").await;
    let commit = next_commit(&mut watch).await;
    let Change::Put(entry) = &commit.changes[0] else { panic!("{commit:?}") };
    let leader: Leader = record::decode(&entry.key, &entry.value).unwrap();
    assert_eq!(entry.key, key::LEADER);
    assert_eq!((leader.node.as_str(), leader.epoch), ("a", fence.epoch));
    assert_eq!(u128::from(leader.ttl_millis), B::TTL.as_millis());
    assert_eq!(store.get(key::LEADER).await.unwrap().as_ref(), Some(entry));
    // Losing writes nothing.
    assert_eq!(store.campaign(&candidate::<B>("b")).await.unwrap(), Campaign::Lost);
    assert_eq!(store.get(key::LEADER).await.unwrap().as_ref(), Some(entry));
}

pub async fn a_fenced_batch_needs_the_current_lease<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    let fenced = |fence: &Fence| Batch::fenced(fence.clone()).put("x", fence.epoch.to_string());
    store.commit(fenced(&fence)).await.unwrap();
    // The fence is checked before the conditions, and with no operations as well.
    let refused = store.commit(Batch::fenced(fence.clone()).absent("x")).await;
    assert!(is_conflict_on(&refused, "x"), "{refused:?}");
    store.resign(&fence).await.unwrap();
    for batch in [fenced(&fence), Batch::fenced(fence.clone()), fenced(&fence).absent("x")] {
        let refused = store.commit(batch).await;
        assert!(is_fenced(&refused, &fence), "{refused:?}");
    }
    let next = win::<B>(&*store, "b").await;
    let refused = store.commit(fenced(&fence)).await;
    assert!(is_fenced(&refused, &fence), "{refused:?}");
    store.commit(fenced(&next)).await.unwrap();
    assert_eq!(value(&*store, "x").await, Some(next.epoch.to_string()));
    store.commit(put("x", "no fence asked for")).await.unwrap();
}

pub async fn a_fence_ends_with_its_lease<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    bench.let_pass(B::TTL * 2).await;
    // Nobody else leads yet, and the record may still stand.
    let refused = store.commit(Batch::fenced(fence.clone()).put("x", "1")).await;
    assert!(is_fenced(&refused, &fence), "{refused:?}");
    assert_eq!(value(&*store, "x").await, None);
    let next = win::<B>(&*store, "b").await;
    assert!(next.epoch > fence.epoch);
    store.commit(Batch::fenced(next).put("x", "2")).await.unwrap();
}

pub async fn a_fence_is_not_guessed_by_its_epoch<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    let other_lease = Fence { lease: format!("{}0", fence.lease), ..fence.clone() };
    let refused = store.commit(Batch::fenced(other_lease.clone()).put("x", "1")).await;
    assert!(is_fenced(&refused, &other_lease), "{refused:?}");
    assert!(is_fenced(&store.keep_alive(&other_lease).await, &other_lease));
    store.resign(&other_lease).await.unwrap();
    store.commit(Batch::fenced(fence).put("x", "1")).await.unwrap();
}

pub async fn keep_alive_extends_the_lease<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    for _ in 0..4 {
        bench.let_pass(B::TTL / 2).await;
        store.keep_alive(&fence).await.unwrap();
    }
    assert_eq!(store.campaign(&candidate::<B>("b")).await.unwrap(), Campaign::Lost);
    store.commit(Batch::fenced(fence).put("x", "1")).await.unwrap();
}

pub async fn an_expired_lease_cannot_be_kept_alive<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    bench.let_pass(B::TTL * 2).await;
    let refused = store.keep_alive(&fence).await;
    assert!(is_fenced(&refused, &fence), "{refused:?}");
    let next = win::<B>(&*store, "a").await;
    assert!(is_fenced(&store.keep_alive(&fence).await, &fence));
    store.keep_alive(&next).await.unwrap();
}

pub async fn resigning_frees_the_lease_at_once<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    let seen = store.list("").await.unwrap().revision;
    let mut watch = store.watch(key::LEADER, seen).await.unwrap();
    store.resign(&fence).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.changes, [Change::Delete { key: key::LEADER.to_owned() }]);
    let next = win::<B>(&*store, "b").await;
    assert!(next.epoch > fence.epoch);
}

pub async fn resigning_a_lost_lease_harms_nobody<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    store.resign(&fence).await.unwrap();
    store.resign(&fence).await.unwrap();
    let next = win::<B>(&*store, "b").await;
    store.resign(&fence).await.unwrap();
    store.keep_alive(&next).await.unwrap();
    store.commit(Batch::fenced(next).put("x", "1")).await.unwrap();
    assert!(store.get(key::LEADER).await.unwrap().is_some(), "the record of b stands");
}

pub async fn epochs_grow_for_ever<B: Bench>() {
    let mut bench = B::start().await;
    let mut last = Epoch(0);
    for round in 0..4 {
        let store = bench.store();
        let fence = win::<B>(&*store, "a").await;
        assert!(fence.epoch > last, "{} after {last} in round {round}", fence.epoch);
        last = fence.epoch;
        match round {
            0 => store.resign(&fence).await.unwrap(),
            1 => bench.let_pass(B::TTL * 2).await,
            // Somebody deletes the record by hand, and the lease ends.
            2 => {
                store.commit(Batch::unfenced().delete(key::LEADER)).await.unwrap();
                store.resign(&fence).await.unwrap();
            }
            _ => {}
        }
        drop(store);
        bench = bench.restart().await;
        bench.let_pass(B::TTL * 2).await;
    }
}
