//! What every backend is held to: the contract of the module above, sentence by sentence.
//!
//! A backend's tests implement [`Bench`] and call [`conformance_suite`], which makes one
//! test of each function here.

#![expect(missing_docs, reason = "the name of each function is the sentence that it checks")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chancery_shared::number::Revision;
use futures_util::future::join_all;

use super::{Batch, Campaign, Candidate, Change, Commit, Error, Fence, Store, Watch};

mod data;
mod registration;
mod term;
mod watch;

pub use self::{data::*, registration::*, term::*, watch::*};

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
            long_listings_are_whole,
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

pub async fn write(store: &Arc<dyn Store>, commits: usize) {
    let tasks = (0..commits).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(put("n", &n.to_string())).await })
    });
    for task in join_all(tasks).await {
        task.unwrap().unwrap();
    }
}

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
