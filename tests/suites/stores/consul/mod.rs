//! The Consul store on real Consul servers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chancery_coordinator::record::{self, Leader, key};
use chancery_coordinator::store::consul::{ConsulStore, Options};
use chancery_coordinator::store::{Campaign, Candidate, Error, Fence, Store};
use chancery_shared::clock::SystemClock;
use chancery_tests::consul::{self, ConsulCluster};
use serde_json::Value;

mod access;
mod by_hand;
mod contract;
mod failures;

/// A cluster of so many servers, with its files in `folder`.
async fn cluster(folder: &Path, servers: usize) -> Result<ConsulCluster> {
    ConsulCluster::start(folder, consul::Options::new(servers)).await
}

/// What reaches all servers of a cluster.
fn options(cluster: &ConsulCluster, prefix: &str) -> Options {
    let (addresses, prefix) = (cluster.endpoints(), prefix.to_owned());
    Options { addresses, prefix, ..Options::local() }
}

async fn open(options: Options) -> Result<Arc<ConsulStore>, Error> {
    ConsulStore::open(options, SystemClock::shared()).await
}

fn candidate(name: &str) -> Candidate {
    Candidate { node: name.parse().expect("a name"), ttl: Duration::from_secs(10) }
}

async fn win(store: &dyn Store, name: &str) -> Result<Fence> {
    match store.campaign(&candidate(name)).await? {
        Campaign::Won(fence) => Ok(fence),
        Campaign::Lost => anyhow::bail!("{name} lost a campaign against nobody"),
    }
}

/// Who leads, by the record.
async fn leader(store: &dyn Store) -> Result<Leader> {
    let entry = store.get(key::LEADER).await?.context("there is no leader record")?;
    Ok(record::decode(&entry.key, &entry.value)?)
}

async fn text(store: &dyn Store, key: &str) -> Result<Option<String>> {
    let entry = store.get(key).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// The number in the head, which a test moves by hand.
async fn sequence(cluster: &ConsulCluster, prefix: &str) -> Result<u64> {
    let head = cluster.consul(&["kv", "get", &format!("{prefix}head")]).await?.success()?;
    let head: Value = serde_json::from_str(&head.out)?;
    head["sequence"].as_u64().context("the head has no number")
}
