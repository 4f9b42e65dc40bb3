//! etcd clusters of one or more members, each of which can be killed, paused and cut off.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::authority::Authority;
use crate::netns::Node;
use crate::place::Place;
use crate::process::{self, Process, Said};
use crate::{tls_client, tools, wait};

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.4, the oldest that is supported.
    V3_4,
    /// 3.5.
    V3_5,
}

impl Version {
    /// `3.4` or `3.5`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V3_4 => "3.4",
            Self::V3_5 => "3.5",
        }
    }
}

/// A user besides root. Authentication is on as soon as there is one.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// The keys that it may read and write begin with this.
    pub prefix: String,
}

/// What kind of cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which etcd.
    pub version: Version,
    /// Where each member runs.
    pub places: Vec<Place>,
    /// Whether clients must speak TLS and show a certificate of the cluster's authority.
    pub tls: bool,
    /// Whether clients must log in, and as whom they can.
    pub user: Option<User>,
    /// The size of the database at which it takes no more writes, in bytes.
    pub quota_bytes: Option<u64>,
    /// How many revisions of a key are kept; the others are compacted every five minutes.
    pub kept_revisions: Option<u64>,
    /// The time between heartbeats of etcd's own leader. It has to fail for ten times as long
    /// to lose an election; the shortest lease is as long as fifteen, in whole seconds.
    pub heartbeat_millis: u32,
    /// Whether what is acknowledged is on the disk. Without, it survives the end of the process but
    /// not that of the machine, which no test makes.
    pub fsync: bool,
}

impl Options {
    /// A cluster of this many members on loopback, open to everybody, with quick elections.
    pub fn new(version: Version, members: usize) -> Self {
        Self {
            version,
            places: vec![Place::Loopback; members],
            tls: false,
            user: None,
            quota_bytes: None,
            kept_revisions: None,
            heartbeat_millis: 50,
            fsync: false,
        }
    }

    /// A cluster with a member on each of these nodes.
    pub fn on(version: Version, nodes: &[Node]) -> Self {
        let places = nodes.iter().cloned().map(Place::Node).collect();
        Self { places, ..Self::new(version, 0) }
    }
}

/// A running cluster. Its members are numbered from 0.
pub struct EtcdCluster {
    folder: PathBuf,
    options: Options,
    members: Vec<Member>,
    authority: Authority,
}

struct Member {
    name: String,
    folder: PathBuf,
    place: Place,
    client: SocketAddr,
    peer: SocketAddr,
    /// Where health and metrics are told without TLS.
    metrics: SocketAddr,
    process: Option<Process>,
}

impl EtcdCluster {
    /// Starts all members with their files in `folder`, and waits until the cluster is healthy.
    pub async fn start(folder: &Path, options: Options) -> Result<Self> {
        let authority = Authority::new()?;
        let mut members = Vec::new();
        for (index, place) in options.places.iter().enumerate() {
            let name = format!("etcd-{index}");
            let folder = folder.join(&name);
            fs::create_dir_all(&folder)?;
            members.push(Member {
                name,
                folder,
                place: place.clone(),
                client: place.address(2379)?,
                peer: place.address(2380)?,
                metrics: place.address(2381)?,
                process: None,
            });
        }
        let mut cluster = Self { folder: folder.to_owned(), options, members, authority };
        cluster.write_certificates()?;
        for member in 0..cluster.members.len() {
            cluster.spawn(member)?;
        }
        cluster.wait_until_healthy().await?;
        if let Some(user) = cluster.options.user.clone() {
            cluster.require_login(&user).await?;
        }
        Ok(cluster)
    }

    /// How many members it has, running or not.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The URLs for clients, one a member.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    /// The URL of one member.
    pub fn endpoint(&self, member: usize) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.members[member].client)
    }

    /// Where one member listens for clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    /// Where one member tells its metrics.
    pub fn metrics(&self, member: usize) -> SocketAddr {
        self.members[member].metrics
    }

    /// The node that one member runs on, when it runs on one.
    pub fn node(&self, member: usize) -> Option<&Node> {
        match &self.members[member].place {
            Place::Node(node) => Some(node),
            Place::Loopback => None,
        }
    }

    /// The authority of servers and clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// PEM file of the root that signs for the servers, and for clients.
    pub fn root_path(&self) -> PathBuf {
        self.folder.join("etcd-root.pem")
    }

    /// PEM files of a client's certificate and key.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("etcd-client.crt"), self.folder.join("etcd-client.key"))
    }

    /// Waits until every member that runs says that it is healthy: it has a leader, and its
    /// part of the cluster takes writes.
    pub async fn wait_until_healthy(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].process.is_some() {
                self.wait_until_member_healthy(index).await?;
            }
        }
        Ok(())
    }

    /// Waits until one member says that it is healthy.
    pub async fn wait_until_member_healthy(&mut self, member: usize) -> Result<()> {
        let member = &mut self.members[member];
        let metrics = member.metrics;
        let what = format!("the health of {}", member.name);
        let process = member.process.as_mut().with_context(|| format!("{what}: it is down"))?;
        process
            .wait_until(&what, wait::SOON, async || {
                let (_, body) = tls_client::get_plain(metrics, "/health").await?;
                // 3.5 adds a reason, which is empty.
                ensure!(body.contains("\"health\":\"true\""), "{body}");
                Ok(())
            })
            .await
    }

    /// Which member is etcd's own leader now.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader of etcd", wait::SOON, async || {
            for (index, member) in self.members.iter().enumerate() {
                if member.process.is_none() {
                    continue;
                }
                let asked = tls_client::get_plain(member.metrics, "/metrics");
                // One that is paused or cut off must not hold up the question.
                let answer = tokio::time::timeout(std::time::Duration::from_millis(500), asked);
                if let Ok(Ok((_, metrics))) = answer.await
                    && metrics.lines().any(|line| line == "etcd_server_is_leader 1")
                {
                    return Ok(index);
                }
            }
            bail!("no member says that it leads")
        })
        .await
    }

    /// Kills a member at once (SIGKILL), and waits until it is gone.
    pub fn kill_9(&mut self, member: usize) -> Result<()> {
        let mut process = self.members[member].process.take().context("it is down already")?;
        process.kill_9()
    }

    /// Starts a member that was killed, with the data that it has.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        ensure!(self.members[member].process.is_none(), "it runs");
        self.spawn(member)
    }

    /// Stops a member in mid-step (SIGSTOP).
    pub fn pause(&self, member: usize) -> Result<()> {
        self.running(member)?.pause()
    }

    /// Lets a paused member go on (SIGCONT).
    pub fn resume(&self, member: usize) -> Result<()> {
        self.running(member)?.resume()
    }

    /// Runs `etcdctl` against all members as root, however it ends.
    pub async fn etcdctl(&self, words: &[&str]) -> Result<Said> {
        let mut command = self.etcdctl_command(words)?;
        if self.options.user.is_some() {
            command.args(["--user", &format!("root:{ROOT_PASSWORD}")]);
        }
        process::run(&mut command, wait::SOON).await
    }

    /// The command `etcdctl` against all members, as nobody in particular.
    pub fn etcdctl_command(&self, words: &[&str]) -> Result<Command> {
        let program = format!("etcdctl-{}", self.options.version.name());
        let mut command = Command::new(tools::tool(&program)?);
        command.env("ETCDCTL_API", "3");
        command.args(["--endpoints", &self.endpoints().join(",")]);
        if self.options.tls {
            let (certificate, key) = self.client_certificate();
            command.arg("--cacert").arg(self.root_path());
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.args(words);
        Ok(command)
    }

    /// Makes root and the user, and turns authentication on.
    async fn require_login(&self, user: &User) -> Result<()> {
        let run = async |words: &[&str]| -> Result<()> {
            let said = process::run(&mut self.etcdctl_command(words)?, wait::SOON).await?;
            said.success().with_context(|| format!("etcdctl {}", words.join(" ")))?;
            Ok(())
        };
        run(&["user", "add", &format!("root:{ROOT_PASSWORD}")]).await?;
        run(&["user", "grant-role", "root", "root"]).await?;
        run(&["role", "add", &user.name]).await?;
        run(&["role", "grant-permission", &user.name, "--prefix=true", "readwrite", &user.prefix])
            .await?;
        run(&["user", "add", &format!("{}:{}", user.name, user.password)]).await?;
        run(&["user", "grant-role", &user.name, &user.name]).await?;
        run(&["auth", "enable"]).await
    }

    fn write_certificates(&self) -> Result<()> {
        if !self.options.tls {
            return Ok(());
        }
        fs::write(self.root_path(), self.authority.root_pem())?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        names.extend(self.members.iter().map(|member| member.client.ip().to_string()));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.authority.issue(&names)?.write(&self.folder, "etcd-server")?;
        self.authority.issue(&["client.chancery.example"])?.write(&self.folder, "etcd-client")?;
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let command = self.command(index)?;
        let member = &mut self.members[index];
        let mut command = member.place.inside(command);
        member.process = Some(Process::start(&member.name, &member.folder, &mut command)?);
        Ok(())
    }

    fn command(&self, index: usize) -> Result<Command> {
        let (options, member) = (&self.options, &self.members[index]);
        let mut command = Command::new(tools::tool(&format!("etcd-{}", options.version.name()))?);
        // Its settings can come from the environment as well; those would be somebody else's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        let client = self.endpoint(index);
        let peer = format!("http://{}", member.peer);
        let cluster: Vec<String> =
            self.members.iter().map(|m| format!("{}=http://{}", m.name, m.peer)).collect();
        let mut flag = |name: &str, value: &str| {
            command.arg(format!("--{name}={value}"));
        };
        flag("name", &member.name);
        flag("data-dir", &member.folder.join("data").display().to_string());
        flag("listen-client-urls", &client);
        flag("advertise-client-urls", &client);
        flag("listen-peer-urls", &peer);
        flag("initial-advertise-peer-urls", &peer);
        flag("listen-metrics-urls", &format!("http://{}", member.metrics));
        flag("initial-cluster", &cluster.join(","));
        flag("initial-cluster-state", "new");
        // The same folder is the same cluster: one that was killed finds itself again.
        flag("initial-cluster-token", &self.folder.display().to_string());
        flag("heartbeat-interval", &options.heartbeat_millis.to_string());
        flag("election-timeout", &(options.heartbeat_millis * 10).to_string());
        flag("logger", "zap");
        flag("log-level", "warn");
        if options.version == Version::V3_4 {
            // As 3.5 does by itself: one that comes back must not unseat the leader.
            flag("pre-vote", "true");
        } else if !options.fsync {
            flag("unsafe-no-fsync", "true");
        }
        if let Some(quota) = options.quota_bytes {
            flag("quota-backend-bytes", &quota.to_string());
        }
        if let Some(kept) = options.kept_revisions {
            flag("auto-compaction-mode", "revision");
            flag("auto-compaction-retention", &kept.to_string());
        }
        if options.tls {
            flag("client-cert-auth", "true");
            flag("trusted-ca-file", &self.root_path().display().to_string());
            flag("cert-file", &self.folder.join("etcd-server.crt").display().to_string());
            flag("key-file", &self.folder.join("etcd-server.key").display().to_string());
        }
        Ok(command)
    }

    fn running(&self, member: usize) -> Result<&Process> {
        let member = &self.members[member];
        member.process.as_ref().with_context(|| format!("{} is down", member.name))
    }
}

/// Of the user `root`, where clients have to log in.
pub const ROOT_PASSWORD: &str = "root-of-etcd";
