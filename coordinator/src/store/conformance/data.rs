//! Reading, listing and committing.

use std::sync::Arc;

use bytes::Bytes;
use chancery_shared::number::Revision;
use futures_util::future::join_all;

use super::{Bench, changed_keys, is_conflict_on, keys, next_commit, put, text, value, win};
use crate::store::{Batch, Entry, Error, Store};

pub async fn reads_show_what_was_committed<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    assert_eq!(store.get("a").await.unwrap(), None);
    let first = store.commit(put("a", "1")).await.unwrap();
    let entry = Entry { key: "a".to_owned(), value: Bytes::from("1"), revision: first };
    assert_eq!(store.get("a").await.unwrap(), Some(entry));
    let second = store.commit(put("a", "2").put("b", "3")).await.unwrap();
    assert!(second > first);
    let snapshot = store.list("").await.unwrap();
    assert_eq!(snapshot.revision, second);
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
    assert!(snapshot.entries.iter().all(|entry| entry.revision == second), "{snapshot:?}");
    let mut scanned = Vec::new();
    let revision = store.scan("", &mut |entry| scanned.push(entry)).await.unwrap();
    assert_eq!((revision, scanned), (snapshot.revision, snapshot.entries));
}

pub async fn an_empty_store_is_empty<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let snapshot = store.list("").await.unwrap();
    assert_eq!(snapshot.entries, []);
    store.watch("", snapshot.revision).await.unwrap();
}

pub async fn a_commit_writes_and_deletes_in_one_revision<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    store.commit(put("old", "1").put("kept", "1")).await.unwrap();
    let batch = Batch::unfenced().delete("old").put("new", "2").put("empty", "");
    let revision = store.commit(batch).await.unwrap();
    assert_eq!(keys(&*store, "").await, ["empty", "kept", "new"]);
    assert_eq!(value(&*store, "empty").await.as_deref(), Some(""));
    assert_eq!(store.get("new").await.unwrap().unwrap().revision, revision);
    assert_eq!(store.get("empty").await.unwrap().unwrap().revision, revision);
}

pub async fn what_changes_nothing_makes_no_commit<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let revision = store.commit(put("a", "1")).await.unwrap();
    let mut watch = store.watch("", revision).await.unwrap();
    assert_eq!(store.commit(Batch::unfenced()).await.unwrap(), revision);
    assert_eq!(store.commit(Batch::unfenced().delete("b")).await.unwrap(), revision);
    // Its conditions are checked all the same.
    let refused = store.commit(Batch::unfenced().absent("a")).await;
    assert!(is_conflict_on(&refused, "a"), "{refused:?}");
    assert_eq!(store.list("").await.unwrap().revision, revision);
    let next = store.commit(put("a", "2").delete("b")).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.revision, next, "nothing was told of what changed nothing");
    assert_eq!(changed_keys(&commit), ["a"]);
}

pub async fn a_conflict_leaves_nothing_behind<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let first = store.commit(put("taken", "1").put("kept", "1")).await.unwrap();
    let batch = put("new", "2").delete("kept").absent("free").absent("taken");
    let refused = store.commit(batch).await;
    assert!(is_conflict_on(&refused, "taken"), "{refused:?}");
    assert_eq!(keys(&*store, "").await, ["kept", "taken"]);
    assert_eq!(store.list("").await.unwrap().revision, first);
}

pub async fn conditions_hold_for_the_last_write_only<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let conditioned = |revision| put("a", "new").unchanged("a", revision);
    let refused = store.commit(conditioned(Some(Revision(1)))).await;
    assert!(is_conflict_on(&refused, "a"), "absent: {refused:?}");
    let first = store.commit(conditioned(None)).await.unwrap();
    let refused = store.commit(conditioned(None)).await;
    assert!(is_conflict_on(&refused, "a"), "present: {refused:?}");
    let elsewhere = store.commit(put("b", "1")).await.unwrap();
    let refused = store.commit(conditioned(Some(elsewhere))).await;
    assert!(is_conflict_on(&refused, "a"), "another key's revision: {refused:?}");
    let second = store.commit(conditioned(Some(first))).await.unwrap();
    let refused = store.commit(conditioned(Some(first))).await;
    assert!(is_conflict_on(&refused, "a"), "written since, with the same value: {refused:?}");
    store.commit(Batch::unfenced().delete("a").unchanged("a", Some(second))).await.unwrap();
    let refused = store.commit(conditioned(Some(second))).await;
    assert!(is_conflict_on(&refused, "a"), "deleted since: {refused:?}");
    // A condition may be about a key that the batch does not write.
    store.commit(put("c", "1").absent("a").unchanged("b", Some(elsewhere))).await.unwrap();
}

pub async fn a_listing_ends_where_its_prefix_ends<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let all = ["a", "a/", "a/1", "a/2", "a0", "a\u{10ffff}", "b/1"];
    let batch = all.iter().fold(Batch::unfenced(), |batch, key| batch.put(*key, "1"));
    store.commit(batch).await.unwrap();
    assert_eq!(keys(&*store, "a/").await, ["a/", "a/1", "a/2"]);
    assert_eq!(keys(&*store, "a").await, all[..6]);
    assert_eq!(keys(&*store, "b/").await, ["b/1"]);
    assert_eq!(keys(&*store, "").await, all);
    assert_eq!(keys(&*store, "c").await, [""; 0]);
}

pub async fn long_listings_are_whole<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    // More than a page in some folders, less in others, and keys beside the folders.
    let mut all = vec!["a".to_owned(), "c".to_owned()];
    for (folder, count) in [("a", 700), ("b", 1), ("c", 1100), ("c0", 20)] {
        all.extend((0..count).map(|number| format!("{folder}/{number:04}")));
    }
    all.sort();
    for chunk in all.chunks(Batch::MOST_KEYS) {
        let put = |batch: Batch, key: &String| batch.put(key, key.clone());
        store.commit(chunk.iter().fold(Batch::unfenced(), put)).await.unwrap();
    }
    for prefix in ["", "a", "a/", "c", "c/", "d"] {
        let wanted: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        assert_eq!(keys(&*store, prefix).await, wanted, "{prefix:?}");
        let mut scanned = Vec::new();
        store.scan(prefix, &mut |entry| scanned.push(entry.key)).await.unwrap();
        assert_eq!(scanned, wanted, "{prefix:?}");
    }
}

pub async fn listings_are_ordered_and_consistent<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                let value = n.to_string();
                store.commit(put("x", &value).put("y", value)).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let snapshot = store.list("").await.unwrap();
        let values: Vec<String> = snapshot.entries.iter().map(|entry| text(&entry.value)).collect();
        if let [x, y] = &values[..] {
            assert_eq!(x, y, "half of a batch in {snapshot:?}");
            assert!(snapshot.entries.iter().all(|entry| entry.revision == snapshot.revision));
        } else {
            assert_eq!(values, [""; 0]);
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

pub async fn concurrent_increments_are_not_lost<B: Bench>() {
    const TASKS: usize = 8;
    const TIMES: usize = 20;
    let bench = B::start().await;
    let store = bench.store();
    let increment = |store: Arc<dyn Store>| async move {
        for _ in 0..TIMES {
            loop {
                let entry = store.get("n").await.unwrap();
                let n: usize =
                    entry.as_ref().map_or(0, |entry| text(&entry.value).parse().unwrap());
                let batch = put("n", &(n + 1).to_string())
                    .unchanged("n", entry.map(|entry| entry.revision));
                match store.commit(batch).await {
                    Ok(_) => break,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let tasks = (0..TASKS).map(|_| tokio::spawn(increment(store.clone())));
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(value(&*store, "n").await, Some((TASKS * TIMES).to_string()));
}

pub async fn concurrent_creations_have_one_winner<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    // Most of these share a transaction where a backend groups them.
    let creations = (0..64).map(|n| {
        let (store, own) = (store.clone(), format!("own/{n}"));
        let batch = put("one", &own).put(own, "1").absent("one");
        tokio::spawn(async move { store.commit(batch).await })
    });
    let outcomes: Vec<_> = join_all(creations).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_conflict_on(outcome, "one")));
    let winner = value(&*store, "one").await.unwrap();
    assert_eq!(keys(&*store, "own/").await, [winner], "losers leave nothing behind");
}

pub async fn data_outlives_a_restart<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    store.commit(put("a", "1").put("gone", "1")).await.unwrap();
    let revision = store.commit(put("b", "2").delete("gone")).await.unwrap();
    let before = store.list("").await.unwrap();
    drop(store);
    let bench = bench.restart().await;
    let store = bench.store();
    assert_eq!(store.list("").await.unwrap(), before);
    let next = store.commit(put("c", "3").unchanged("b", Some(revision))).await.unwrap();
    assert!(next > revision);
}

/// A batch of so many keys, with values of so many bytes in all.
fn large(keys: usize, bytes: usize) -> Batch {
    let names: Vec<_> = (0..keys).map(|n| format!("k{n:03}")).collect();
    let mut left = bytes - names.iter().map(String::len).sum::<usize>();
    let share = left / keys + 1;
    names.into_iter().fold(Batch::unfenced(), |batch, name| {
        let size = share.min(left);
        left -= size;
        batch.put(name, vec![0xa5; size])
    })
}

pub async fn a_batch_that_is_too_large_is_refused<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let before = store.list("").await.unwrap();
    let too_many = large(Batch::MOST_KEYS, 1000).absent("one-more");
    for batch in [too_many, large(2, Batch::MOST_BYTES + 1)] {
        let refused = store.commit(batch).await;
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!(store.list("").await.unwrap(), before);
}

pub async fn the_largest_batch_is_taken<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let fence = win::<B>(&*store, "a").await;
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("k", start).await.unwrap();
    let mut batch = large(Batch::MOST_KEYS, Batch::MOST_BYTES);
    batch.fence = Some(fence);
    let keys: Vec<String> = batch.operations.iter().map(|o| o.key().to_owned()).collect();
    let batch = keys.iter().fold(batch, Batch::absent);
    let revision = store.commit(batch).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!((commit.revision, commit.changes.len()), (revision, Batch::MOST_KEYS));
    assert_eq!(store.list("k").await.unwrap().entries.len(), Batch::MOST_KEYS);
}

pub async fn a_healthy_store_says_so<B: Bench>() {
    let bench = B::start().await;
    let health = bench.store().health().await.unwrap();
    assert!(!health.version.is_empty());
    assert!(health.endpoints.iter().all(|endpoint| endpoint.healthy), "{health:?}");
}
