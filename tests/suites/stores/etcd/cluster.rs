//! A cluster whose members die, hang and come back.

use std::{sync::Arc, time::Duration};

use chancery_coordinator::store::{Batch, Error, Store as _, Watch, etcd::EtcdStore};
use chancery_shared::number::Revision;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{cluster, open, options, put, value, win};

/// Adds one to `n`, once, whatever the store does.
async fn increment(store: &EtcdStore, mark: &str) {
    loop {
        let (n, done) = match tokio::try_join!(store.get("n"), store.get(mark)) {
            Ok(found) => found,
            Err(Error::Unavailable(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        if done.is_some() {
            return;
        }
        let count = n.as_ref().map_or(0, |entry| {
            String::from_utf8(entry.value.to_vec()).unwrap().parse::<u32>().unwrap()
        });
        let batch = put("n", &(count + 1).to_string())
            .unchanged("n", n.map(|entry| entry.revision))
            .put(mark, "1")
            .absent(mark);
        match store.commit(batch).await {
            Ok(_) => return,
            Err(Error::Conflict { .. } | Error::Unavailable(_) | Error::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_die_lose_and_double_no_write() {
    const TASKS: u32 = 4;
    const TIMES: u32 = 60;
    let (_folder, mut cluster) = cluster(3).await;
    let store = open(options(&cluster)).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..TIMES {
                increment(&store, &format!("marks/{task}-{n}")).await;
            }
        });
    }
    // The one that is asked, then the one that leads: in mid-write, and back.
    for round in 0..3 {
        let victim = if round == 0 { 0 } else { cluster.leader().await.unwrap() };
        cluster.kill_9(victim).unwrap();
        cluster.leader().await.unwrap();
        cluster.restart(victim).unwrap();
        cluster.wait_until_healthy().await.unwrap();
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(value(&store, "n").await, Some((TASKS * TIMES).to_string()));
    let marks = store.list("marks/").await.unwrap().entries.len();
    assert_eq!(marks, (TASKS * TIMES) as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_a_member_that_hangs() {
    let ttl = Duration::from_secs(5);
    let (_folder, cluster) = cluster(3).await;
    let store = open(options(&cluster)).await;
    let fence = win(&store, "a", ttl).await;
    store.keep_alive(&fence).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let follower = (leader + 1) % cluster.size();
    // The store may be served by any of them; each of them hangs once.
    for member in [follower, leader, (leader + 2) % cluster.size()] {
        cluster.pause(member).unwrap();
        let began = Instant::now();
        while let Err(error) = store.keep_alive(&fence).await {
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
        }
        let took = began.elapsed();
        assert!(took < ttl * 2 / 3, "member {member} hangs; kept alive after {took:?}");
        store.commit(Batch::fenced(fence.clone()).put("x", member.to_string())).await.unwrap();
        cluster.resume(member).unwrap();
        cluster.leader().await.unwrap();
        store.keep_alive(&fence).await.unwrap();
    }
}

/// Follows `prefix` as the mirror does: opens the watch again where it ended.
struct Follower {
    store: Arc<EtcdStore>,
    watch: Option<Watch>,
    told: Revision,
    opened: usize,
}

impl Follower {
    fn new(store: &Arc<EtcdStore>, after: Revision) -> Self {
        Self { store: store.clone(), watch: None, told: after, opened: 0 }
    }

    /// The revision of the next commit.
    async fn next(&mut self) -> Revision {
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, self.wait()).await.expect("the watch is silent")
    }

    async fn wait(&mut self) -> Revision {
        loop {
            let Some(watch) = &mut self.watch else {
                match self.store.watch("", self.told).await {
                    Ok(watch) => {
                        self.opened += 1;
                        self.watch = Some(watch);
                    }
                    Err(Error::Unavailable(_)) => sleep(Duration::from_millis(100)).await,
                    Err(error) => panic!("{error}"),
                }
                continue;
            };
            match watch.next().await {
                Some(Ok(commit)) => {
                    self.told = commit.revision;
                    return commit.revision;
                }
                None | Some(Err(Error::Unavailable(_))) => self.watch = None,
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }
}

async fn write(store: &EtcdStore, n: u32) -> Revision {
    loop {
        match store.commit(put("n", &n.to_string())).await {
            Ok(revision) => return revision,
            // Written twice does no harm here, but is told twice.
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_while_every_member_restarts() {
    let (_folder, mut cluster) = cluster(3).await;
    let store = open(options(&cluster)).await;
    let start = store.list("").await.unwrap().revision;
    let mut follower = Follower::new(&store, start);
    let mut expected = vec![write(&store, 0).await];
    assert_eq!(follower.next().await, expected[0]);
    for member in 0..3 {
        cluster.kill_9(member).unwrap();
        cluster.leader().await.unwrap();
        let written = write(&store, 1).await;
        assert_eq!(follower.next().await, written, "while {member} is down");
        cluster.restart(member).unwrap();
        cluster.wait_until_healthy().await.unwrap();
        expected.push(written);
        // What is compacted was told already, and so does it no harm.
        let compact = cluster.etcdctl(&["compact", &written.0.to_string()]).await.unwrap();
        compact.success().unwrap();
    }
    assert!(expected.is_sorted());
    assert_eq!(follower.opened, 1, "one watch for all of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_told_and_its_return_needs_no_restart() {
    let (_folder, mut cluster) = cluster(3).await;
    let store = open(options(&cluster)).await;
    let start = write(&store, 0).await;
    let mut watch = store.watch("", start).await.unwrap();
    for member in [0, 1] {
        cluster.kill_9(member).unwrap();
    }
    let began = Instant::now();
    let refused = store.commit(put("n", "lost")).await;
    assert!(
        matches!(refused, Err(Error::Unavailable(_) | Error::OutcomeUnknown(_))),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let health = store.health().await.unwrap();
    assert!(health.warnings.iter().any(|warning| warning.contains("by quorum")), "{health:?}");
    assert!(!health.endpoints[0].healthy, "{health:?}");
    // The watcher learns that it follows nothing, instead of waiting in silence.
    let told = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
    assert!(matches!(told, Some(Err(Error::Unavailable(_)))), "{told:?}");
    for member in [0, 1] {
        cluster.restart(member).unwrap();
    }
    cluster.wait_until_healthy().await.unwrap();
    let written = write(&store, 1).await;
    let mut follower = Follower::new(&store, start);
    while follower.next().await < written {}
    assert_eq!(follower.told, written);
    let health = store.health().await.unwrap();
    assert!(health.endpoints.iter().all(|endpoint| endpoint.healthy), "{health:?}");
    assert_eq!(health.warnings, [""; 0]);
}
