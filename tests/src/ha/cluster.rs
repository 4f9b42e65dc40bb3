//! A cluster of either store.

use std::path::Path;

use anyhow::Result;

use crate::consul::{self, ConsulCluster};
use crate::coordinator::Store;
use crate::etcd::{self, EtcdCluster, Version};
use crate::netns::Node;

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// etcd 3.5.
    Etcd,
    /// Consul.
    Consul,
}

impl Kind {
    /// As one calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "Consul",
        }
    }
}

/// A running cluster of three.
pub enum Cluster {
    /// Of etcd.
    Etcd(EtcdCluster),
    /// Of Consul.
    Consul(ConsulCluster),
}

impl Cluster {
    /// Starts a cluster with a member on each of these nodes.
    pub async fn start(kind: Kind, folder: &Path, nodes: &[Node]) -> Result<Self> {
        Ok(match kind {
            Kind::Etcd => {
                let mut options = etcd::Options::on(Version::V3_5, nodes);
                // A loaded machine must not cost it elections that no fault has asked for.
                options.heartbeat_millis = 100;
                Self::Etcd(EtcdCluster::start(folder, options).await?)
            }
            Kind::Consul => {
                let options = consul::Options::on(nodes);
                Self::Consul(ConsulCluster::start(folder, options).await?)
            }
        })
    }

    /// What coordinators are told of it.
    pub fn store(&self) -> Store {
        match self {
            Self::Etcd(cluster) => Store::Etcd(cluster.endpoints()),
            Self::Consul(cluster) => Store::Consul(cluster.endpoints()),
        }
    }

    /// Which member is the store's own leader now.
    pub async fn leader(&self) -> Result<usize> {
        match self {
            Self::Etcd(cluster) => cluster.leader().await,
            Self::Consul(cluster) => cluster.leader().await,
        }
    }

    /// Kills a member at once.
    pub fn kill_9(&mut self, member: usize) -> Result<()> {
        match self {
            Self::Etcd(cluster) => cluster.kill_9(member),
            Self::Consul(cluster) => cluster.kill_9(member),
        }
    }

    /// Starts a member that was killed.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        match self {
            Self::Etcd(cluster) => cluster.restart(member),
            Self::Consul(cluster) => cluster.restart(member),
        }
    }

    /// Waits until all members that run are well.
    pub async fn wait_until_healthy(&mut self) -> Result<()> {
        match self {
            Self::Etcd(cluster) => cluster.wait_until_healthy().await,
            Self::Consul(cluster) => cluster.wait_until_healthy().await,
        }
    }
}
