//! What hands do to the store: keys deleted, snapshots restored, writes that nobody should accept.

use anyhow::{Result, ensure};
use chancery_coordinator::record::key;
use chancery_coordinator::store::{Batch, Campaign, Error, Store};
use chancery_shared::number::Epoch;
use chancery_tests::consul::ConsulCluster;
use chancery_tests::scene::{Scene, play};
use chancery_tests::wait;

use super::{candidate, cluster, leader, open, options, sequence, text, win};

/// Consul, with all rights and no regard.
async fn kv(cluster: &ConsulCluster, words: &[&str]) -> Result<()> {
    cluster.consul(&[&["kv"], words].concat()).await?.success()?;
    Ok(())
}

#[test]
fn epochs_grow_whatever_is_deleted_by_hand() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 1).await?;
        let store = open(options(&cluster, "c/")).await?;
        let mut last = Epoch(0);
        for deleted in [&["c/lock"][..], &["c/records/leader"], &["c/head"], &["-recurse", "c/"]] {
            let fence = win(&*store, "a").await?;
            ensure!(fence.epoch > last, "{} after {last}, before {deleted:?}", fence.epoch);
            ensure!(leader(&*store).await?.epoch == fence.epoch);
            last = fence.epoch;
            kv(&cluster, &[&["delete"], deleted].concat()).await?;
            // A lock that is gone is leadership that is gone, whatever the session says.
            let kept = store.keep_alive(&fence).await;
            match deleted.last() {
                Some(&"c/lock" | &"c/") => {
                    ensure!(matches!(kept, Err(Error::Fenced { .. })), "{kept:?}");
                }
                _ => kept?,
            }
            store.resign(&fence).await?;
        }
        let fence = win(&*store, "a").await?;
        ensure!(fence.epoch > last);
        store.commit(Batch::fenced(fence).put("x", "1")).await?;
        Ok(())
    });
}

/// The epoch in the lock counts on where revisions begin anew.
#[test]
fn epochs_grow_when_the_records_move_to_another_consul() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 1).await?;
        let epoch = 1_000_000_000_000;
        kv(&cluster, &["put", "c/lock", &format!("{{\"epoch\":{epoch}}}")]).await?;
        let store = open(options(&cluster, "c/")).await?;
        ensure!(win(&*store, "a").await?.epoch == Epoch(epoch + 1));
        Ok(())
    });
}

/// This store checks no fence by itself, so the one who refuses is Consul.
#[test]
fn a_write_of_a_former_leader_is_refused_by_consul() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 1).await?;
        let former = open(options(&cluster, "c/")).await?;
        let other = open(options(&cluster, "c/")).await?;
        let fence = win(&*former, "a").await?;
        former.commit(Batch::fenced(fence.clone()).put("x", "of a")).await?;
        ensure!(other.campaign(&candidate("b")).await? == Campaign::Lost);
        kv(&cluster, &["delete", "c/lock"]).await?;
        let next = win(&*other, "b").await?;
        ensure!(next.epoch > fence.epoch);
        let refused = former.commit(Batch::fenced(fence.clone()).put("x", "stale")).await;
        ensure!(
            matches!(refused, Err(Error::Fenced { epoch }) if epoch == fence.epoch),
            "{refused:?}"
        );
        other.commit(Batch::fenced(next).put("y", "of b")).await?;
        ensure!(text(&*former, "x").await?.as_deref() == Some("of a"));
        ensure!(text(&*former, "y").await?.as_deref() == Some("of b"));
        ensure!(leader(&*former).await?.node.as_str() == "b");
        Ok(())
    });
}

/// After a snapshot was restored indexes have gone back; whoever watched has to list again.
#[test]
fn a_restored_snapshot_is_noticed_by_watches() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 1).await?;
        let store = open(options(&cluster, "c/")).await?;
        let snapshot = scene.path().join("snapshot");
        let snapshot = snapshot.to_str().expect("a plain path");
        store.commit(Batch::unfenced().put("kept", "1")).await?;
        cluster.consul(&["snapshot", "save", snapshot]).await?.success()?;
        let saved = sequence(&cluster, "c/").await?;
        for n in 0..5 {
            store.commit(Batch::unfenced().put("lost", n.to_string())).await?;
        }
        let seen = store.list("").await?;
        ensure!(seen.entries.len() == 2);
        let mut watch = store.watch("", seen.revision).await?;
        cluster.consul(&["snapshot", "restore", snapshot]).await?.success()?;
        ensure!(sequence(&cluster, "c/").await? == saved);
        let told = tokio::time::timeout(wait::SOON, watch.next()).await?;
        ensure!(matches!(told, Some(Err(Error::Compacted { .. }))), "{told:?}");
        let listed = store.list("").await?;
        ensure!(listed.entries.len() == 1 && listed.revision < seen.revision, "{listed:?}");
        let mut watch = store.watch("", listed.revision).await?;
        let after = store.commit(Batch::unfenced().put("new", "1")).await?;
        ensure!(after > seen.revision, "no revision is given twice");
        let told = tokio::time::timeout(wait::SOON, watch.next()).await?;
        ensure!(told.is_some_and(|told| told.is_ok_and(|commit| commit.revision == after)));
        Ok(())
    });
}

/// Whoever commits next begins a new store, and whoever watched the old one has to list again.
#[test]
fn a_wiped_prefix_is_a_new_store() {
    play(async |scene: &Scene| {
        let cluster = cluster(scene.path(), 1).await?;
        let store = open(options(&cluster, "c/")).await?;
        let other = open(options(&cluster, "c/")).await?;
        for n in 0..3 {
            store.commit(Batch::unfenced().put("a", n.to_string())).await?;
        }
        let seen = other.list("").await?.revision;
        let mut watch = other.watch("", seen).await?;
        kv(&cluster, &["delete", "-recurse", "c/"]).await?;
        ensure!(store.get("a").await?.is_none());
        store.commit(Batch::unfenced().put("b", "1").absent("a")).await?;
        let told = tokio::time::timeout(wait::SOON, watch.next()).await?;
        ensure!(matches!(told, Some(Err(Error::Compacted { .. }))), "{told:?}");
        let listed = other.list("").await?;
        ensure!(listed.entries.len() == 1 && listed.revision > seen, "{listed:?}");
        ensure!(store.get(key::LEADER).await?.is_none());
        Ok(())
    });
}
