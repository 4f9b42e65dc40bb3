//! Terms of leadership that somebody meddles with.

use std::time::Duration;

use chancery_coordinator::store::{Batch, Error, Store as _};
use chancery_shared::number::Epoch;

use super::{cluster, open, options, value, win};

#[tokio::test]
async fn epochs_grow_also_when_their_keys_are_deleted_by_hand() {
    let (_folder, cluster) = cluster(1).await;
    let store = open(options(&cluster)).await;
    let mut last = Epoch(0);
    for deleted in
        [&["/chancery/records/leader"][..], &["/chancery/epoch"], &["/chancery/", "--prefix"]]
    {
        for _ in 0..2 {
            let fence = win(&store, "a", Duration::from_secs(5)).await;
            assert!(fence.epoch > last, "{} after {last}", fence.epoch);
            last = fence.epoch;
            let words = [&["del"], deleted].concat();
            cluster.etcdctl(&words).await.unwrap().success().unwrap();
            store.resign(&fence).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stale_write_is_refused_by_etcd_itself() {
    let (_folder, cluster) = cluster(1).await;
    let store = open(options(&cluster)).await;
    let stale = win(&store, "a", Duration::from_mins(1)).await;
    cluster.etcdctl(&["del", "/chancery/records/leader"]).await.unwrap().success().unwrap();
    let kept = store.keep_alive(&stale).await;
    assert!(matches!(kept, Err(Error::Fenced { .. })), "its lease lives on: {kept:?}");
    let next = win(&store, "b", Duration::from_mins(1)).await;
    // This one has just begun: it has seen no term, no lease and no leader key.
    let stranger = open(options(&cluster)).await;
    let refused = stranger.commit(Batch::fenced(stale.clone()).put("x", "stale")).await;
    assert!(matches!(refused, Err(Error::Fenced { epoch }) if epoch == stale.epoch), "{refused:?}");
    assert_eq!(value(&store, "x").await, None);
    stranger.commit(Batch::fenced(next).put("x", "next")).await.unwrap();
    assert_eq!(value(&store, "x").await.as_deref(), Some("next"));
}
