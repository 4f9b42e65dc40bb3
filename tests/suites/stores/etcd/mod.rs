//! The store in etcd.

mod access;
mod bench;
mod cluster;
mod terms;

use std::{sync::Arc, time::Duration};

use chancery_coordinator::store::{
    Batch, Campaign, Candidate, Fence, Store,
    etcd::{EtcdStore, Options},
};
use chancery_shared::clock::SystemClock;
use chancery_tests::etcd::{self, EtcdCluster, Version};
use tempfile::TempDir;

/// What a coordinator needs to know of `cluster`, as an operator would write it.
fn options(cluster: &EtcdCluster) -> Options {
    Options {
        endpoints: cluster.endpoints(),
        prefix: "/chancery/".to_owned(),
        user: None,
        ca_file: None,
        identity: None,
        timeout: Duration::from_secs(5),
    }
}

async fn open(options: Options) -> Arc<EtcdStore> {
    EtcdStore::open(options, SystemClock::shared()).await.unwrap()
}

/// A cluster of so many members, and its files.
async fn cluster(members: usize) -> (TempDir, EtcdCluster) {
    start(etcd::Options::new(Version::V3_5, members)).await
}

async fn start(options: etcd::Options) -> (TempDir, EtcdCluster) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(folder.path(), options).await.unwrap();
    (folder, cluster)
}

fn put(key: &str, value: &str) -> Batch {
    Batch::unfenced().put(key, value.to_owned())
}

async fn value(store: &EtcdStore, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn win(store: &EtcdStore, node: &str, ttl: Duration) -> Fence {
    let candidate = Candidate { node: node.parse().unwrap(), ttl };
    match store.campaign(&candidate).await.unwrap() {
        Campaign::Won(fence) => fence,
        Campaign::Lost => panic!("{node} lost a campaign against nobody"),
    }
}
