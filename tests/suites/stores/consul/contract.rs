//! The contract of all stores, on Consul.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use chancery_coordinator::store::conformance::{Bench, conformance_suite};
use chancery_coordinator::store::consul::{ConsulStore, LEAST_TTL, Options};
use chancery_coordinator::store::{Error, Store};
use chancery_tests::consul::ConsulCluster;
use chancery_tests::scene::{Scene, play};
use chancery_tests::{tls_client, wait};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{cluster, open, options, sequence};

/// All at once on one server, because most of them wait for sessions to expire.
#[test]
fn consul_keeps_the_contract() {
    play(async |scene: &Scene| {
        let shared = Arc::new(cluster(&scene.folder("shared")?, 1).await?);
        let mut running = JoinSet::new();
        let mut names = std::collections::HashMap::new();
        for (name, sentence) in conformance_suite!(@list ConsulBench) {
            let own = RESTARTING.contains(&name);
            let folder = scene.folder(name)?;
            let ground = Ground { shared: shared.clone(), own: own.then_some(folder) };
            let task = running.spawn(GROUND.scope(ground, sentence));
            names.insert(task.id(), name);
        }
        let mut failed = Vec::new();
        while let Some(ended) = running.join_next_with_id().await {
            if let Err(error) = ended {
                failed.push(names[&error.id()]);
            }
        }
        ensure!(failed.is_empty(), "Consul does not keep these: {failed:?}");
        Ok(())
    });
}

/// Those that restart the store need a server that nobody else uses.
const RESTARTING: [&str; 2] = ["epochs_grow_for_ever", "data_outlives_a_restart"];

tokio::task_local! {
    static GROUND: Ground;
}

/// Where a bench stands.
#[derive(Clone)]
struct Ground {
    shared: Arc<ConsulCluster>,
    /// The folder for a server of its own.
    own: Option<std::path::PathBuf>,
}

struct ConsulBench {
    store: Arc<ConsulStore>,
    options: Options,
    shared: Arc<ConsulCluster>,
    own: Option<ConsulCluster>,
}

impl ConsulBench {
    fn cluster(&self) -> &ConsulCluster {
        self.own.as_ref().unwrap_or(&self.shared)
    }

    /// Waits until none of the sessions that were made under the prefix is left.
    async fn sessions_ended(&self) -> Result<()> {
        let address = self.cluster().address(0);
        let prefix = &self.options.prefix;
        wait::until("the end of all sessions", Duration::from_mins(1), async || {
            let (_, body) = tls_client::get_plain(address, "/v1/session/list").await?;
            let sessions: Vec<Value> = serde_json::from_str(&body)?;
            let names = sessions.iter().filter_map(|session| session["Name"].as_str());
            let left: Vec<&str> = names.filter(|name| name.starts_with(prefix)).collect();
            ensure!(left.is_empty(), "there are {left:?}");
            Ok(())
        })
        .await
    }
}

/// What waits with the harness's own means, which no task of several threads may hold across an
/// await.
fn in_place<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

static BENCHES: AtomicUsize = AtomicUsize::new(0);

#[async_trait]
impl Bench for ConsulBench {
    async fn start() -> Self {
        let Ground { shared, own } = GROUND.get();
        let own = own.map(|folder| in_place(cluster(&folder, 1)).unwrap());
        let prefix = format!("bench-{}/", BENCHES.fetch_add(1, Ordering::Relaxed));
        let options = options(own.as_ref().unwrap_or(&shared), &prefix);
        let store = open(options.clone()).await.unwrap();
        Self { store, options, shared, own }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// What the suite lets a lease expire by is a matter of waiting for it: Consul takes up to twice the
    /// TTL. Anything shorter really passes.
    async fn let_pass(&self, time: Duration) {
        if time < Self::TTL * 2 {
            tokio::time::sleep(time).await;
        } else {
            in_place(self.sessions_ended()).unwrap();
        }
    }

    async fn restart(self) -> Self {
        let Self { store, options, shared, own } = self;
        let mut own = own.expect("a test that restarts the store stands in RESTARTING");
        drop(Arc::into_inner(store).expect("all handles are gone"));
        own.kill_9(0).unwrap();
        own.restart(0).unwrap();
        // At once: a coordinator that starts before its store waits for it.
        let store = open(options.clone()).await.unwrap();
        Self { store, options, shared, own: Some(own) }
    }

    /// As though others had committed more than the journal holds while this process slept.
    async fn forget_history(&self) {
        let prefix = &self.options.prefix;
        let seen = self.store.list("").await.unwrap().revision;
        let mut watch = self.store.watch("", seen).await.unwrap();
        let later = in_place(sequence(self.cluster(), prefix)).unwrap() + 5000;
        let head = format!("{{\"version\":1,\"sequence\":{later}}}");
        let key = format!("{prefix}head");
        let put = in_place(self.cluster().consul(&["kv", "put", &key, &head]));
        put.unwrap().success().unwrap();
        let told = tokio::time::timeout(wait::SOON, watch.next()).await.unwrap();
        assert!(matches!(told, Some(Err(Error::Compacted { .. }))), "{told:?}");
    }

    /// The least that Consul takes.
    const TTL: Duration = LEAST_TTL;

    /// One more than wait for a watcher.
    const MORE_THAN_QUEUE: usize = 1025;
}
