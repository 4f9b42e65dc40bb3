//! Watches.

use std::time::Duration;

use chancery_shared::number::Revision;

use super::{Bench, changed_keys, next, next_commit, put, text, write};
use crate::store::{Batch, Change, Entry, Error, Store};

pub async fn a_watch_tells_each_commit_once_in_order_and_whole<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.list("").await.unwrap().revision;
    let mut watch = store.watch("", start).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..20 {
        let batch = put("a", &n.to_string()).put("b", "x").delete("a-gone");
        expected.push(store.commit(batch).await.unwrap());
    }
    let mut last = start;
    for (n, revision) in expected.iter().enumerate() {
        let commit = next_commit(&mut watch).await;
        assert_eq!(commit.revision, *revision);
        assert!(commit.revision > last);
        last = commit.revision;
        let entry = |key: &str, value: String| {
            Change::Put(Entry { key: key.to_owned(), value: value.into(), revision: *revision })
        };
        assert_eq!(commit.changes, [entry("a", n.to_string()), entry("b", "x".to_owned())]);
    }
    store.commit(Batch::unfenced().delete("a")).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.changes, [Change::Delete { key: "a".to_owned() }]);
}

pub async fn a_watch_tells_only_its_prefix<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.commit(put("a/0", "1")).await.unwrap();
    let mut watch = store.watch("a/", start).await.unwrap();
    store.commit(put("a0", "1").put("b/1", "1")).await.unwrap();
    let mixed = store.commit(put("a/1", "1").put("b/1", "2").delete("a/0")).await.unwrap();
    let commit = next_commit(&mut watch).await;
    assert_eq!(commit.revision, mixed);
    assert_eq!(changed_keys(&commit), ["a/1", "a/0"]);
}

pub async fn a_watch_starts_after_its_revision<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let mut revisions = vec![store.list("").await.unwrap().revision];
    for n in 0..10 {
        revisions.push(store.commit(put("a", &n.to_string())).await.unwrap());
    }
    for (n, after) in revisions.iter().enumerate() {
        let mut watch = store.watch("", *after).await.unwrap();
        for missed in &revisions[n + 1..] {
            assert_eq!(next_commit(&mut watch).await.revision, *missed);
        }
        let new = store.commit(put("b", &n.to_string())).await.unwrap();
        loop {
            // Those of the rounds before come first, in order.
            let commit = next_commit(&mut watch).await;
            assert!(commit.revision <= new);
            if commit.revision == new {
                break;
            }
        }
    }
}

pub async fn no_commit_falls_between_listing_and_watch<B: Bench>() {
    const COMMITS: usize = 200;
    let bench = B::start().await;
    let store = bench.store();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..COMMITS {
                store.commit(put("n", &n.to_string())).await.unwrap();
            }
        }
    });
    for _ in 0..10 {
        let snapshot = store.list("").await.unwrap();
        let mut watch = store.watch("", snapshot.revision).await.unwrap();
        let n = snapshot.entries.first().map(|entry| text(&entry.value).parse::<usize>().unwrap());
        let following = n.map_or(0, |n| n + 1);
        if following < COMMITS {
            let commit = next_commit(&mut watch).await;
            let Change::Put(entry) = &commit.changes[0] else { panic!("{commit:?}") };
            assert_eq!(text(&entry.value), following.to_string());
        }
    }
    writer.await.unwrap();
}

pub async fn a_watch_behind_the_history_is_compacted<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.commit(put("a", "1")).await.unwrap();
    store.commit(put("a", "2")).await.unwrap();
    bench.forget_history().await;
    let error = watch_until_error(&*store, start).await;
    assert!(matches!(error, Error::Compacted { after } if after == start), "{error}");
    assert!(error.is_transient());
    // The way back that the contract names.
    let snapshot = store.list("").await.unwrap();
    let mut watch = store.watch("", snapshot.revision).await.unwrap();
    let new = store.commit(put("b", "1")).await.unwrap();
    assert_eq!(next_commit(&mut watch).await.revision, new);
}

pub async fn a_watch_ahead_of_the_store_is_compacted<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let revision = store.commit(put("a", "1")).await.unwrap();
    let ahead = Revision(revision.0 + 1_000_000);
    let error = watch_until_error(&*store, ahead).await;
    assert!(matches!(error, Error::Compacted { after } if after == ahead), "{error}");
}

/// A backend may say it when the watch is opened, or as the first thing that it tells.
async fn watch_until_error(store: &dyn Store, after: Revision) -> Error {
    match store.watch("", after).await {
        Err(error) => error,
        Ok(mut watch) => next(&mut watch).await.expect("an error comes first").unwrap_err(),
    }
}

pub async fn a_watcher_that_does_not_read_is_dropped<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.list("").await.unwrap().revision;
    let mut slow = store.watch("", start).await.unwrap();
    let mut brisk = store.watch("", start).await.unwrap();
    let reader = tokio::spawn(async move {
        for _ in 0..B::MORE_THAN_QUEUE {
            next_commit(&mut brisk).await;
        }
    });
    write(&store, B::MORE_THAN_QUEUE).await;
    reader.await.expect("another's slowness costs a brisk reader nothing");
    // A backend may have patience for a moment.
    let end = async {
        while !slow.has_ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("it is dropped");
    let mut last = start;
    let error = loop {
        match next(&mut slow).await.expect("the error comes before the end") {
            Ok(commit) => {
                assert!(commit.revision > last);
                last = commit.revision;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Compacted { after } if after == last), "{error} at {last}");
    assert!(next(&mut slow).await.is_none(), "the watch is over");
}

pub async fn a_dropped_watch_harms_nobody<B: Bench>() {
    let bench = B::start().await;
    let store = bench.store();
    let start = store.list("").await.unwrap().revision;
    let dropped = store.watch("", start).await.unwrap();
    let mut kept = store.watch("", start).await.unwrap();
    drop(dropped);
    let revision = store.commit(put("a", "1")).await.unwrap();
    assert_eq!(next_commit(&mut kept).await.revision, revision);
}
