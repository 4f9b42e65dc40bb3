//! Servers that die while they are used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_coordinator::store::consul::ConsulStore;
use chancery_coordinator::store::{Batch, Change, Error, Store};
use chancery_shared::number::Revision;
use chancery_tests::scene::{Scene, play};
use chancery_tests::wait;
use tokio::task::JoinSet;

use super::{cluster, open, options, text, win};

/// Counts up in one key, by two processes, until told to stop. Each count is marked with a key of its
/// own in the same batch, by which a lost answer is looked up.
async fn count(
    store: Arc<ConsulStore>,
    name: String,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<usize> {
    let mut own = 0;
    while !stop.load(Ordering::Relaxed) {
        let mark = format!("marks/{name}/{own}");
        match step(&*store, &mark).await {
            Ok(()) => {}
            Err(Error::Conflict { .. }) => continue,
            // Nothing has changed.
            Err(Error::Unavailable(_)) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(Error::OutcomeUnknown(_)) => {
                if !is_marked(&*store, &mark).await? {
                    continue;
                }
            }
            Err(error) => bail!("{error:?}"),
        }
        own += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(own)
}

async fn is_marked(store: &dyn Store, mark: &str) -> Result<bool> {
    let answer = async {
        loop {
            match store.get(mark).await {
                Ok(entry) => return entry.is_some(),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(wait::SOON, answer).await.context("nobody tells what was done")
}

async fn step(store: &dyn Store, mark: &str) -> Result<(), Error> {
    let entry = store.get("n").await?;
    let n: usize = entry.as_ref().map_or(0, |entry| {
        std::str::from_utf8(&entry.value).expect("a text").parse().expect("a number")
    });
    let revision = entry.map(|entry| entry.revision);
    let batch = Batch::unfenced().put("n", (n + 1).to_string()).put(mark, "1").absent(mark);
    store.commit(batch.unchanged("n", revision)).await.map(|_| ())
}

/// Follows the counter; every number has to come, once and in order.
async fn follow(store: Arc<ConsulStore>, after: Revision, last: Arc<AtomicUsize>) -> Result<()> {
    let mut seen = after;
    loop {
        let mut watch = match store.watch("n", seen).await {
            Ok(watch) => watch,
            Err(Error::Unavailable(_)) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) => bail!("{error:?}"),
        };
        while let Some(told) = watch.next().await {
            let commit = match told {
                Ok(commit) => commit,
                Err(Error::Unavailable(_)) => break,
                Err(error) => bail!("{error:?}"),
            };
            ensure!(commit.revision > seen);
            seen = commit.revision;
            let [Change::Put(entry)] = &commit.changes[..] else { bail!("{commit:?}") };
            let n: usize = std::str::from_utf8(&entry.value)?.parse()?;
            let before = last.swap(n, Ordering::Relaxed);
            ensure!(n == before + 1, "{n} was told after {before}");
        }
    }
}

#[test]
fn nothing_is_lost_or_done_twice_while_servers_die_and_the_quorum_is_lost() {
    play(async |scene: &Scene| {
        let mut cluster = cluster(scene.path(), 3).await?;
        let stores = [open(options(&cluster, "c/")).await?, open(options(&cluster, "c/")).await?];
        let observer = open(options(&cluster, "c/")).await?;
        let fence = win(&*stores[0], "a").await?;
        let start = observer.list("").await?.revision;
        let last = Arc::new(AtomicUsize::new(0));
        let follower = tokio::spawn(follow(observer, start, last.clone()));
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for (n, store) in stores.iter().enumerate() {
            for task in 0..2 {
                let name = format!("{n}-{task}");
                tasks.spawn(count(store.clone(), name, done.clone(), stop.clone()));
            }
        }
        let more = async |what: &str| {
            let target = done.load(Ordering::Relaxed) + 50;
            wait::until(what, wait::SOON, async || {
                let done = done.load(Ordering::Relaxed);
                if done >= target { Ok(()) } else { Err(format!("{done} of {target}")) }
            })
            .await
        };
        more("work while all is well").await?;
        for round in 0..2 {
            let leader = cluster.leader().await?;
            cluster.kill_9(leader)?;
            more(&format!("work after the death of a leader, round {round}")).await?;
            cluster.restart(leader)?;
            cluster.wait_until_healthy().await?;
        }
        // The lease of a session is bound to no server.
        stores[0].keep_alive(&fence).await?;
        let down: Vec<usize> = (0..2).collect();
        for server in &down {
            cluster.kill_9(*server)?;
        }
        let refused = stores[0].commit(Batch::unfenced().put("x", "1")).await;
        ensure!(
            matches!(refused, Err(Error::Unavailable(_) | Error::OutcomeUnknown(_))),
            "{refused:?}"
        );
        let health = stores[0].health().await?;
        ensure!(health.endpoints.iter().all(|endpoint| !endpoint.healthy), "{health:?}");
        for server in down {
            cluster.restart(server)?;
        }
        cluster.wait_until_healthy().await?;
        more("work after the quorum was lost").await?;
        stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        while let Some(own) = tasks.join_next().await {
            total += own??;
        }
        ensure!(text(&*stores[0], "n").await? == Some(total.to_string()), "{total} were counted");
        ensure!(stores[1].list("marks/").await?.entries.len() == total);
        wait::until("the follower to have seen all", wait::SOON, async || {
            let last = last.load(Ordering::Relaxed);
            if last == total { Ok(()) } else { Err(format!("{last} of {total}")) }
        })
        .await?;
        ensure!(!follower.is_finished(), "{:?}", follower.await);
        follower.abort();
        Ok(())
    });
}

/// The answer to a paused server's request never comes; the next server is asked.
#[test]
fn a_paused_server_costs_no_more_than_the_time_out() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 3).await?;
        let leader = cluster.leader().await?;
        let paused = (leader + 1) % 3;
        let mut options = options(&cluster, "c/");
        options.addresses.rotate_left(paused);
        options.timeout = Duration::from_secs(2);
        let store = open(options).await?;
        let fence = win(&*store, "a").await?;
        cluster.pause(paused)?;
        let first = Batch::fenced(fence.clone()).put("a", "1").absent("a");
        tokio::time::timeout(wait::SOON, store.commit(first)).await.context("the first")??;
        let second = Batch::fenced(fence.clone()).put("a", "2");
        tokio::time::timeout(wait::SOON, store.commit(second)).await.context("the second")??;
        store.keep_alive(&fence).await?;
        let health = store.health().await?;
        let healthy = health.endpoints.iter().filter(|endpoint| endpoint.healthy).count();
        ensure!(healthy == 2 && !health.endpoints[0].healthy, "{health:?}");
        cluster.resume(paused)?;
        Ok(())
    });
}
