//! What every backend is held to: the contract of the module above, sentence by sentence.
//!
//! A backend's tests implement [`Bench`] and call [`conformance_suite`], which makes one
//! test of each function here.

#![expect(missing_docs, reason = "the name of each function is the sentence that it checks")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chancery_shared::number::{Epoch, Revision};
use futures_util::future::join_all;

use super::{
    Batch, Campaign, Candidate, Change, Commit, Entry, Error, Fence, Registration, Store, Watch,
};
use crate::record::{self, Leader, key};

/// A backend on a test bench. Dropping it cleans up behind it.
#[async_trait]
pub trait Bench: Send + Sized {
    /// An empty store.
    async fn start() -> Self;

    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Lets time pass for leases.
    async fn let_pass(&self, time: Duration);

    /// Stops the store and starts it again, as far as it can be without losing what it holds. All
    /// handles to it are gone.
    async fn restart(self) -> Self;

    /// Makes the store forget its commits, so that a watch cannot start behind them.
    async fn forget_history(&self);

    /// Of leases. Long enough that a keep-alive after half of it comes in time on a busy machine.
    const TTL: Duration = Duration::from_secs(10);

    /// So many commits that a watcher which reads none of them is dropped.
    const MORE_THAN_QUEUE: usize;
}

/// Makes one test of each function of the suite, on one bench: `conformance_suite!(Bench)`. As an
/// expression, `conformance_suite!(@list Bench)` is all of them as [`Sentence`]s, for one who has to
/// run them in a way of his own.
#[macro_export]
macro_rules! conformance_suite {
    (@list $bench:ty) => {
        $crate::store::conformance::conformance_suite! { @all list $bench }
    };
    (@all $how:ident $bench:ty) => {
        $crate::store::conformance::conformance_suite! {
            @$how $bench:
            reads_show_what_was_committed,
            an_empty_store_is_empty,
            a_commit_writes_and_deletes_in_one_revision,
            what_changes_nothing_makes_no_commit,
            a_conflict_leaves_nothing_behind,
            conditions_hold_for_the_last_write_only,
            a_listing_ends_where_its_prefix_ends,
            listings_are_ordered_and_consistent,
            concurrent_increments_are_not_lost,
            concurrent_creations_have_one_winner,
            a_watch_tells_each_commit_once_in_order_and_whole,
            a_watch_tells_only_its_prefix,
            a_watch_starts_after_its_revision,
            no_commit_falls_between_listing_and_watch,
            a_watch_behind_the_history_is_compacted,
            a_watch_ahead_of_the_store_is_compacted,
            a_watcher_that_does_not_read_is_dropped,
            a_dropped_watch_harms_nobody,
            one_candidate_wins,
            winning_writes_the_leader_record_in_one_step,
            a_fenced_batch_needs_the_current_lease,
            a_fence_ends_with_its_lease,
            a_fence_is_not_guessed_by_its_epoch,
            keep_alive_extends_the_lease,
            an_expired_lease_cannot_be_kept_alive,
            resigning_frees_the_lease_at_once,
            resigning_a_lost_lease_harms_nobody,
            epochs_grow_for_ever,
            data_outlives_a_restart,
            a_batch_that_is_too_large_is_refused,
            the_largest_batch_is_taken,
            a_registration_is_told_and_stays_while_it_is_kept_alive,
            a_registration_ends_with_its_lease,
            deregistering_deletes_the_record_at_once,
            a_later_registration_takes_the_record_over,
            a_healthy_store_says_so,
        }
    };
    (@list $bench:ty: $($test:ident,)*) => {
        vec![$((
            stringify!($test),
            Box::pin($crate::store::conformance::$test::<$bench>())
                as $crate::store::conformance::Running,
        ),)*]
    };
    (@tests $bench:ty: $($test:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $crate::store::conformance::$test::<$bench>().await;
            }
        )*
    };
    ($bench:ty) => {
        $crate::store::conformance::conformance_suite! { @all tests $bench }
    };
}
pub use conformance_suite;

/// A function of the suite, under its name.
pub type Sentence = (&'static str, Running);
/// It panics if the backend does not keep to it.
pub type Running = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

pub fn put(key: &str, value: &str) -> Batch {
    Batch::unfenced().put(key, value.to_owned())
}

pub async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    assert_eq!(entry.key, key);
    Some(text(&entry.value))
}

fn text(value: &Bytes) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

pub fn candidate<B: Bench>(name: &str) -> Candidate {
    Candidate { node: name.parse().unwrap(), ttl: B::TTL }
}

pub async fn win<B: Bench>(store: &dyn Store, name: &str) -> Fence {
    match store.campaign(&candidate::<B>(name)).await.unwrap() {
        Campaign::Won(fence) => fence,
        Campaign::Lost => panic!("{name} lost a campaign against nobody"),
    }
}

fn is_conflict_on(result: &Result<Revision, Error>, expected: &str) -> bool {
    matches!(result, Err(Error::Conflict { key }) if key == expected)
}

fn is_fenced<T>(result: &Result<T, Error>, fence: &Fence) -> bool {
    matches!(result, Err(Error::Fenced { epoch }) if *epoch == fence.epoch)
}

/// The next commit of a watch. What never comes fails the test instead of hanging it.
async fn next(watch: &mut Watch) -> Option<Result<Commit, Error>> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("the watch is silent")
}

async fn next_commit(watch: &mut Watch) -> Commit {
    next(watch).await.expect("the watch goes on").expect("the watch works")
}

fn changed_keys(commit: &Commit) -> Vec<&str> {
    commit.changes.iter().map(Change::key).collect()
}

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

pub async fn write(store: &Arc<dyn Store>, commits: usize) {
    let tasks = (0..commits).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(put("n", &n.to_string())).await })
    });
    for task in join_all(tasks).await {
        task.unwrap().unwrap();
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
    reader.await.expect("another's slowness costs a brisk reader nothing");
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

pub async fn a_healthy_store_says_so<B: Bench>() {
    let bench = B::start().await;
    let health = bench.store().health().await.unwrap();
    assert!(!health.version.is_empty());
    assert!(health.endpoints.iter().all(|endpoint| endpoint.healthy), "{health:?}");
}

/// Longer than any store takes to see that something has expired.
const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod memory {
    use chancery_shared::clock::ManualClock;

    use super::*;
    use crate::store::{
        hub::{HISTORY_COMMITS, WATCH_QUEUE},
        memory::MemoryStore,
    };

    struct MemoryBench {
        clock: Arc<ManualClock>,
        store: Arc<MemoryStore>,
    }

    #[async_trait]
    impl Bench for MemoryBench {
        async fn start() -> Self {
            let clock = Arc::new(ManualClock::new("2026-01-02T03:04:05Z".parse().unwrap()));
            Self { store: MemoryStore::new(clock.clone()), clock }
        }

        fn store(&self) -> Arc<dyn Store> {
            self.store.clone()
        }

        async fn let_pass(&self, time: Duration) {
            self.clock.advance(time);
        }

        /// It is gone with its process, so there is nothing to start again.
        async fn restart(self) -> Self {
            self
        }

        async fn forget_history(&self) {
            write(&self.store(), HISTORY_COMMITS).await;
        }

        const MORE_THAN_QUEUE: usize = WATCH_QUEUE + 1;
    }

    conformance_suite!(MemoryBench);
}
