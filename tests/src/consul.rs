//! Consul clusters of one or more servers, each of which can be killed, paused and cut off.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::authority::{Authority, ServerCertificate};
use crate::netns::Node;
use crate::place::Place;
use crate::process::{self, Process, Said};
use crate::{tls_client, tools, wait};

/// What kind of cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where each server runs.
    pub places: Vec<Place>,
    /// Whether the HTTP API speaks TLS only.
    pub tls: bool,
    /// Whether clients must show a certificate of the cluster's authority, too.
    pub client_certificates: bool,
    /// The rules of the token that clients get. With them all that no rule allows is denied.
    pub rules: Option<String>,
    /// The shortest session that can be had. Consul's own default is ten seconds.
    pub session_ttl_min: String,
}

impl Options {
    /// A cluster of this many servers on loopback, open to everybody.
    pub fn new(servers: usize) -> Self {
        Self {
            places: vec![Place::Loopback; servers],
            tls: false,
            client_certificates: false,
            rules: None,
            session_ttl_min: "10s".to_owned(),
        }
    }

    /// A cluster with a server on each of these nodes.
    pub fn on(nodes: &[Node]) -> Self {
        let places = nodes.iter().cloned().map(Place::Node).collect();
        Self { places, ..Self::new(0) }
    }
}

/// A running cluster. Its servers are numbered from 0.
pub struct ConsulCluster {
    folder: PathBuf,
    options: Options,
    servers: Vec<Server>,
    authority: Authority,
    client: ServerCertificate,
    token: Option<String>,
}

struct Server {
    name: String,
    folder: PathBuf,
    place: Place,
    http: SocketAddr,
    rpc: SocketAddr,
    serf: SocketAddr,
    process: Option<Process>,
}

impl ConsulCluster {
    /// Starts all servers with their files in `folder`, and waits until the cluster is healthy:
    /// sessions can be made.
    pub async fn start(folder: &Path, options: Options) -> Result<Self> {
        let authority = Authority::new()?;
        let mut servers = Vec::new();
        for (index, place) in options.places.iter().enumerate() {
            let name = format!("consul-{index}");
            let folder = folder.join(&name);
            fs::create_dir_all(&folder)?;
            servers.push(Server {
                name,
                folder,
                place: place.clone(),
                http: place.address(8500)?,
                rpc: place.address(8300)?,
                serf: place.address(8301)?,
                process: None,
            });
        }
        let folder = folder.to_owned();
        let client = authority.issue(&["client.chancery.example"])?;
        let mut cluster = Self { folder, options, servers, authority, client, token: None };
        cluster.write_certificates()?;
        for server in 0..cluster.servers.len() {
            cluster.spawn(server)?;
        }
        cluster.wait_until_healthy().await?;
        if let Some(rules) = cluster.options.rules.clone() {
            cluster.token = Some(cluster.make_token("chancery", &rules).await?);
        }
        Ok(cluster)
    }

    /// How many servers it has, running or not.
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// The URLs of the HTTP API, one a server.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.servers.len()).map(|server| self.endpoint(server)).collect()
    }

    /// The URL of one server's HTTP API.
    pub fn endpoint(&self, server: usize) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.servers[server].http)
    }

    /// Where one server's HTTP API listens.
    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].http
    }

    /// The node that one server runs on, when it runs on one.
    pub fn node(&self, server: usize) -> Option<&Node> {
        match &self.servers[server].place {
            Place::Node(node) => Some(node),
            Place::Loopback => None,
        }
    }

    /// The token that clients need, where there are rules.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The authority of servers and clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// PEM file of the root that signs for the servers, and for clients.
    pub fn root_path(&self) -> PathBuf {
        self.folder.join("consul-root.pem")
    }

    /// PEM files of a client's certificate and key.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("consul-client.crt"), self.folder.join("consul-client.key"))
    }

    /// Makes a token with these rules. Its name is that of a policy, too.
    pub async fn make_token(&self, name: &str, rules: &str) -> Result<String> {
        let made =
            self.consul(&["acl", "policy", "create", "-name", name, "-rules", rules]).await?;
        made.success().with_context(|| format!("the policy {name}"))?;
        let made = self
            .consul(&["acl", "token", "create", "-policy-name", name, "-format", "json"])
            .await?
            .success()
            .with_context(|| format!("the token {name}"))?;
        let token: Value = serde_json::from_str(&made.out).context("no token was printed")?;
        Ok(token["SecretID"].as_str().context("the token has no secret")?.to_owned())
    }

    /// Waits until there is a leader, and every server that runs is well in its eyes. From then on
    /// sessions can be made.
    pub async fn wait_until_healthy(&mut self) -> Result<()> {
        let mut up = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            if let Some(process) = &mut server.process {
                process.must_run()?;
                up.push(index);
            }
        }
        for index in &up {
            let what = format!("the health of consul-{index}");
            wait::until(&what, wait::SOON, async || {
                let passing = self.ask(*index, "/v1/health/state/passing").await?;
                let passing = passing.as_array().context("no list")?;
                for other in &up {
                    let name = format!("consul-{other}");
                    let well = |check: &Value| {
                        check["CheckID"] == "serfHealth" && check["Node"] == name.as_str()
                    };
                    ensure!(passing.iter().any(well), "{name} is not well");
                }
                Ok(())
            })
            .await?;
        }
        for server in &mut self.servers {
            if let Some(process) = &mut server.process {
                process.must_run()?;
            }
        }
        Ok(())
    }

    /// Which server leads now.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader of Consul", wait::SOON, async || {
            for (index, server) in self.servers.iter().enumerate() {
                if server.process.is_none() {
                    continue;
                }
                let asked = self.ask(index, "/v1/status/leader");
                // One that is paused or cut off must not hold up the question.
                let answer = tokio::time::timeout(std::time::Duration::from_millis(500), asked);
                if let Ok(Ok(Value::String(leader))) = answer.await
                    && let Some(found) =
                        self.servers.iter().position(|server| server.rpc.to_string() == leader)
                {
                    return Ok(found);
                }
            }
            bail!("no server knows one")
        })
        .await
    }

    /// Kills a server at once (SIGKILL), and waits until it is gone.
    pub fn kill_9(&mut self, server: usize) -> Result<()> {
        let mut process = self.servers[server].process.take().context("it is down already")?;
        process.kill_9()
    }

    /// Starts a server that was killed, with the data that it has.
    pub fn restart(&mut self, server: usize) -> Result<()> {
        ensure!(self.servers[server].process.is_none(), "it runs");
        self.spawn(server)
    }

    /// Stops a server in mid-step (SIGSTOP).
    pub fn pause(&self, server: usize) -> Result<()> {
        self.running(server)?.pause()
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self, server: usize) -> Result<()> {
        self.running(server)?.resume()
    }

    /// Runs `consul` against the first server that runs, with all rights, however it ends.
    pub async fn consul(&self, words: &[&str]) -> Result<Said> {
        let up = self.servers.iter().position(|server| server.process.is_some());
        let up = up.context("all servers are down")?;
        let mut command = Command::new(tools::tool("consul")?);
        command.args(words).env("CONSUL_HTTP_ADDR", self.endpoint(up));
        if self.options.rules.is_some() {
            command.env("CONSUL_HTTP_TOKEN", MASTER_TOKEN);
        }
        if self.options.tls {
            let (certificate, key) = self.client_certificate();
            command.env("CONSUL_CACERT", self.root_path());
            command.env("CONSUL_CLIENT_CERT", certificate).env("CONSUL_CLIENT_KEY", key);
        }
        process::run(&mut command, wait::SOON).await
    }

    /// Asks one server, with all rights.
    async fn ask(&self, server: usize, path: &str) -> Result<Value> {
        let address = self.servers[server].http;
        let path = match self.options.rules {
            Some(_) => format!("{path}?token={MASTER_TOKEN}"),
            None => path.to_owned(),
        };
        let (status, body) = if self.options.tls {
            let config = self.authority.client_config_showing(&self.client)?;
            tls_client::get(address, "127.0.0.1", &path, Arc::new(config)).await?
        } else {
            tls_client::get_plain(address, &path).await?
        };
        ensure!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} did not answer JSON: {body}"))
    }

    fn write_certificates(&self) -> Result<()> {
        if !self.options.tls {
            return Ok(());
        }
        fs::write(self.root_path(), self.authority.root_pem())?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        names.extend(self.servers.iter().map(|server| server.http.ip().to_string()));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.authority.issue(&names)?.write(&self.folder, "consul-server")?;
        self.client.write(&self.folder, "consul-client")?;
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let config = serde_json::to_vec_pretty(&self.config(index))?;
        let server = &mut self.servers[index];
        let path = server.folder.join("consul.json");
        fs::write(&path, config)?;
        let mut command = Command::new(tools::tool("consul")?);
        command.arg("agent").arg("-config-file").arg(&path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CONSUL") {
                command.env_remove(name);
            }
        }
        let mut command = server.place.inside(command);
        server.process = Some(Process::start(&server.name, &server.folder, &mut command)?);
        Ok(())
    }

    fn config(&self, index: usize) -> Value {
        let (options, server) = (&self.options, &self.servers[index]);
        let others: Vec<String> =
            self.servers.iter().map(|server| server.serf.to_string()).collect();
        let address = server.http.ip().to_string();
        // -1 is none.
        let port = i32::from(server.http.port());
        let (http, https) = if options.tls { (-1, port) } else { (port, -1) };
        let mut config = json!({
            "server": true,
            "node_name": server.name,
            "data_dir": server.folder.join("data"),
            "bootstrap_expect": self.servers.len(),
            "bind_addr": address,
            "client_addr": address,
            "retry_join": others,
            "retry_interval": "500ms",
            "ports": {
                "server": server.rpc.port(), "serf_lan": server.serf.port(), "serf_wan": -1,
                "http": http, "https": https, "dns": -1, "grpc": -1,
            },
            // As quick to elect another leader as it can be.
            "performance": { "raft_multiplier": 1 },
            "session_ttl_min": options.session_ttl_min,
            "limits": { "http_max_conns_per_client": 1000 },
            "leave_on_terminate": false,
            "disable_update_check": true,
            "log_level": "warn",
        });
        if options.tls {
            config["ca_file"] = json!(self.root_path());
            config["cert_file"] = json!(self.folder.join("consul-server.crt"));
            config["key_file"] = json!(self.folder.join("consul-server.key"));
            config["verify_incoming_https"] = json!(options.client_certificates);
        }
        if options.rules.is_some() {
            config["acl"] = json!({
                "enabled": true,
                "default_policy": "deny",
                // The servers register themselves with it; without that there are no sessions.
                "tokens": { "master": MASTER_TOKEN, "agent": MASTER_TOKEN },
            });
        }
        config
    }

    fn running(&self, server: usize) -> Result<&Process> {
        let server = &self.servers[server];
        server.process.as_ref().with_context(|| format!("{} is down", server.name))
    }
}

/// The token with all rights, where there are rules.
pub const MASTER_TOKEN: &str = "5ab6d2e8-0d3a-4f7c-9b58-2f1f3cd5b0aa";
