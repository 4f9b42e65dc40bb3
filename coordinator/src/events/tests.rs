//! Writing events down.

use std::sync::atomic::{AtomicU64, Ordering};

use chancery_shared::clock::SystemClock;

use super::*;
use crate::{
    mirror::Mirror,
    store::{Campaign, Candidate, Entry, Error, Fence, Snapshot, Watch, memory::MemoryStore},
};

/// What the next commits do.
const WORK: u64 = 0;
const UNAVAILABLE: u64 = 1;
/// Applied, and not known to be.
const UNKNOWN: u64 = 2;

struct Odd {
    inner: Arc<MemoryStore>,
    mode: AtomicU64,
}

#[async_trait::async_trait]
impl Store for Odd {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.inner.list(prefix).await
    }

    async fn commit(&self, batch: Batch) -> Result<chancery_shared::number::Revision, Error> {
        match self.mode.load(Ordering::SeqCst) {
            WORK => self.inner.commit(batch).await,
            UNAVAILABLE => Err(Error::Unavailable("away".to_owned())),
            _ => {
                self.mode.store(WORK, Ordering::SeqCst);
                self.inner.commit(batch).await?;
                Err(Error::OutcomeUnknown("the connection broke".to_owned()))
            }
        }
    }

    async fn watch(
        &self,
        prefix: &str,
        after: chancery_shared::number::Revision,
    ) -> Result<Watch, Error> {
        self.inner.watch(prefix, after).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.inner.campaign(candidate).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.keep_alive(fence).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.resign(fence).await
    }

    async fn register(
        &self,
        registration: &store::Registration,
    ) -> Result<store::Registered, Error> {
        self.inner.register(registration).await
    }

    async fn keep_registered(&self, registered: &store::Registered) -> Result<(), Error> {
        self.inner.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &store::Registered) -> Result<(), Error> {
        self.inner.deregister(registered).await
    }

    async fn health(&self) -> Result<store::Health, Error> {
        self.inner.health().await
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

fn store(mode: u64) -> Arc<Odd> {
    Arc::new(Odd { inner: MemoryStore::new(SystemClock::shared()), mode: AtomicU64::new(mode) })
}

fn start(
    store: &Arc<Odd>,
    node: &str,
) -> (Events, JoinHandle<()>, CancellationToken, Arc<Metrics>) {
    let (metrics, shutdown) = (Arc::new(Metrics::default()), CancellationToken::new());
    let options = Options {
        node: node.parse().unwrap(),
        clock: SystemClock::shared(),
        epoch: Box::new(|| Epoch(7)),
        metrics: metrics.clone(),
    };
    let (events, task) = Events::start(store.clone(), options, shutdown.clone());
    (events, task, shutdown, metrics)
}

async fn stored(store: &Odd) -> Vec<Event> {
    let entries = store.list(key::EVENTS).await.unwrap().entries;
    entries.iter().map(|entry| record::decode(&entry.key, &entry.value).unwrap()).collect()
}

#[tokio::test]
async fn what_is_recorded_before_the_end_is_written() {
    let store = store(WORK);
    let (events, task, shutdown, _) = start(&store, "node-1");
    for n in 0..100 {
        events.record(EventKind::OrderFailed, "www", format!("event {n}"));
    }
    shutdown.cancel();
    task.await.unwrap();
    let events = stored(&store).await;
    assert_eq!(events.len(), 100);
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event.sequence, n as u64 + 1);
        assert_eq!(event.message, format!("event {n}"));
        assert_eq!((event.node.as_str(), event.epoch), ("node-1", Epoch(7)));
    }
}

#[tokio::test]
async fn only_the_newest_stay() {
    let store = store(WORK);
    let (events, task, shutdown, _) = start(&store, "node-1");
    for n in 0..KEPT + 300 {
        // Not faster than they are written, or some are dropped.
        while events.queue.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        events.record(EventKind::OrderFailed, "www", format!("event {n}"));
    }
    shutdown.cancel();
    task.await.unwrap();
    let events = stored(&store).await;
    assert_eq!(events.len(), KEPT);
    assert_eq!(events[0].message, "event 300");
    assert_eq!(events[KEPT - 1].sequence, KEPT as u64 + 300);
}

#[tokio::test]
async fn two_coordinators_share_one_sequence() {
    let store = store(WORK);
    let (one, first, stop_one, _) = start(&store, "node-1");
    let (two, second, stop_two, _) = start(&store, "node-2");
    for n in 0..200 {
        one.record(EventKind::OrderFailed, "www", format!("{n}"));
        two.record(EventKind::OrderFailed, "www", format!("{n}"));
        tokio::task::yield_now().await;
    }
    stop_one.cancel();
    stop_two.cancel();
    first.await.unwrap();
    second.await.unwrap();
    let events = stored(&store).await;
    assert_eq!(events.len(), 400);
    for node in ["node-1", "node-2"] {
        let of = events.iter().filter(|event| event.node.as_str() == node);
        let messages: Vec<_> = of.map(|event| event.message.parse::<u32>().unwrap()).collect();
        assert_eq!(messages, (0..200).collect::<Vec<_>>(), "{node}");
    }
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_not_repeated() {
    let store = store(UNKNOWN);
    let (events, task, shutdown, _) = start(&store, "node-1");
    events.record(EventKind::OrderFailed, "www", "once");
    let mirror = Mirror::start(store.clone(), CancellationToken::new()).await.unwrap();
    mirror.wait_for(chancery_shared::number::Revision(1)).await;
    events.record(EventKind::OrderFailed, "www", "twice");
    shutdown.cancel();
    task.await.unwrap();
    let messages: Vec<_> = stored(&store).await.into_iter().map(|event| event.message).collect();
    assert_eq!(messages, ["once", "twice"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_store_loses_only_what_does_not_fit() {
    let store = store(UNAVAILABLE);
    let (events, task, shutdown, metrics) = start(&store, "node-1");
    events.record(EventKind::OrderFailed, "www", "first");
    // Taken from the queue and being tried.
    while events.queue.capacity() < QUEUE {
        tokio::task::yield_now().await;
    }
    for n in 0..QUEUE + 5 {
        events.record(EventKind::OrderFailed, "www", format!("event {n}"));
    }
    assert_eq!(metrics.events_dropped(), 5);
    store.mode.store(WORK, Ordering::SeqCst);
    while stored(&store).await.len() < KEPT {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shutdown.cancel();
    task.await.unwrap();
    let events = stored(&store).await;
    assert_eq!(events.last().unwrap().message, format!("event {}", QUEUE - 1));
}

#[tokio::test]
async fn a_store_that_stays_away_does_not_hold_up_the_end() {
    let store = store(UNAVAILABLE);
    let (events, task, shutdown, metrics) = start(&store, "node-1");
    for _ in 0..3 {
        events.record(EventKind::OrderFailed, "www", "lost");
    }
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(metrics.events_dropped(), 3);
}

#[test]
fn texts_cannot_talk_to_a_terminal() {
    assert_eq!(printable("  a\u{1b}[31mb\u{7}\nc ", 100), "a [31mb \nc");
    assert_eq!(printable("aaaaaaaaaa", 8), "aaaaa…");
    // Cut between characters, not within one.
    assert_eq!(printable("ääääääää", 10), "äää…");
    assert_eq!(printable("exact", 5), "exact");
}
