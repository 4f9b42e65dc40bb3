//! The contract of stores on etcd, a server for each test: it counts revisions for all who write to it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chancery_coordinator::store::{
    Store,
    conformance::{Bench, conformance_suite},
    etcd::EtcdStore,
};
use chancery_tests::etcd::{self, EtcdCluster, Version};
use tempfile::TempDir;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::{open, options};

/// What `make` brings, on a thread of its own: the harness's futures stay on the thread that began them,
/// and those of a bench do not.
async fn aside<T, F>(make: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(make())).await.unwrap()
}

struct EtcdBench<const MINOR: u8> {
    store: Arc<EtcdStore>,
    cluster: EtcdCluster,
    folder: TempDir,
}

#[async_trait]
impl<const MINOR: u8> Bench for EtcdBench<MINOR> {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let version = if MINOR == 4 { Version::V3_4 } else { Version::V3_5 };
        let path = folder.path().to_owned();
        let start =
            move || async move { EtcdCluster::start(&path, etcd::Options::new(version, 1)).await };
        let cluster = aside(start).await.unwrap();
        Self { store: open(options(&cluster)).await, cluster, folder }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn let_pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn restart(self) -> Self {
        let Self { store, mut cluster, folder } = self;
        drop(store);
        cluster.kill_9(0).unwrap();
        cluster.restart(0).unwrap();
        // At once: a coordinator that starts before its store waits for it.
        let store = open(options(&cluster)).await;
        Self { store, cluster, folder }
    }

    async fn forget_history(&self) {
        // The newest revision stays, whoever made it.
        self.cluster.etcdctl(&["put", "/elsewhere", "1"]).await.unwrap().success().unwrap();
        let revision = self.store.list("").await.unwrap().revision.to_string();
        self.cluster.etcdctl(&["compact", &revision]).await.unwrap().success().unwrap();
    }

    /// 2 s, as etcd counts: so one that is to be gone after twice this has half a second to go in.
    const TTL: Duration = Duration::from_millis(1500);

    /// A write is answered before every watcher was told of it, so not all may have arrived when
    /// the watcher begins to read.
    const MORE_THAN_QUEUE: usize = 1025 + 512;
}

mod v3_4 {
    use super::*;
    conformance_suite!(EtcdBench<4>);
}

mod v3_5 {
    use super::*;
    conformance_suite!(EtcdBench<5>);
}
