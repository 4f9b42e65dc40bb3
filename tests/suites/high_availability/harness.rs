//! The clusters and the networks themselves: the other tests believe what they say.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_tests::authority::Authority;
use chancery_tests::consul::{self, ConsulCluster};
use chancery_tests::etcd::{self, EtcdCluster, Version};
use chancery_tests::haproxy::Haproxy;
use chancery_tests::netns::{Network, Node};
use chancery_tests::nginx::Site;
use chancery_tests::scene::{self, Scene};
use chancery_tests::{process, wait};

/// Writes a key through etcd, again and again until it is taken.
async fn put(cluster: &EtcdCluster, value: &str) -> Result<()> {
    wait::until("a write to etcd", wait::SOON, async || {
        cluster.etcdctl(&["put", "key", value]).await?.success().map(drop)
    })
    .await?;
    let read = cluster.etcdctl(&["get", "key", "--print-value-only"]).await?.success()?.out;
    ensure!(read.trim() == value, "{read}");
    Ok(())
}

async fn loses_and_regains_its_leader(scene: &Scene, version: Version) -> Result<()> {
    let options = etcd::Options::new(version, 3);
    let mut cluster = EtcdCluster::start(&scene.folder("etcd")?, options).await?;
    put(&cluster, "before").await?;
    let leader = cluster.leader().await?;
    cluster.kill_9(leader)?;
    ensure!(cluster.leader().await? != leader);
    put(&cluster, "without").await?;
    cluster.restart(leader)?;
    cluster.wait_until_healthy().await?;
    put(&cluster, "after").await
}

#[test]
fn etcd_3_4_loses_its_leader_and_gets_it_back() {
    scene::play(async |scene| loses_and_regains_its_leader(scene, Version::V3_4).await);
}

#[test]
fn etcd_3_5_loses_its_leader_and_gets_it_back() {
    scene::play(async |scene| loses_and_regains_its_leader(scene, Version::V3_5).await);
}

#[test]
fn etcd_lets_in_who_shows_a_certificate_and_a_password() {
    scene::play(async |scene| {
        for version in [Version::V3_4, Version::V3_5] {
            let mut options = etcd::Options::new(version, 1);
            options.tls = true;
            options.user = Some(etcd::User {
                name: "chancery".to_owned(),
                password: "open sesame".to_owned(),
                prefix: "/chancery/".to_owned(),
            });
            let folder = scene.folder(version.name())?;
            let cluster = EtcdCluster::start(&folder, options).await?;
            ensure!(cluster.etcdctl(&["put", "/other", "by root"]).await?.status.success());
            let ask = async |user: &str, key: &str, with_certificate: bool| {
                let mut command = Command::new(chancery_tests::tools::tool("etcdctl-3.5")?);
                command.arg("--endpoints").arg(cluster.endpoint(0)).args(["--user", user]);
                command.arg("--cacert").arg(cluster.root_path()).arg("--dial-timeout=1s");
                if with_certificate {
                    let (certificate, key) = cluster.client_certificate();
                    command.arg("--cert").arg(certificate).arg("--key").arg(key);
                }
                command.args(["put", key, "value"]);
                process::run(&mut command, wait::SOON).await
            };
            ask("chancery:open sesame", "/chancery/key", true).await?.success()?;
            let said = ask("chancery:open sesame", "/other", true).await?;
            ensure!(said.err.contains("permission denied"), "{said:?}");
            let said = ask("chancery:wrong", "/chancery/key", true).await?;
            ensure!(said.err.contains("authentication failed"), "{said:?}");
            let said = ask("chancery:open sesame", "/chancery/key", false).await?;
            ensure!(!said.status.success(), "{said:?}");
        }
        Ok(())
    });
}

/// Writes a key through Consul, again and again until it is taken.
async fn kv_put(cluster: &ConsulCluster, value: &str) -> Result<()> {
    wait::until("a write to Consul", wait::SOON, async || {
        cluster.consul(&["kv", "put", "key", value]).await?.success().map(drop)
    })
    .await?;
    let read = cluster.consul(&["kv", "get", "key"]).await?.success()?.out;
    ensure!(read.trim() == value, "{read}");
    Ok(())
}

#[test]
fn consul_loses_its_leader_and_gets_it_back() {
    scene::play(async |scene| {
        let options = consul::Options::new(3);
        let mut cluster = ConsulCluster::start(&scene.folder("consul")?, options).await?;
        kv_put(&cluster, "before").await?;
        let leader = cluster.leader().await?;
        cluster.kill_9(leader)?;
        wait::until("another leader", wait::SOON, async || {
            ensure!(cluster.leader().await? != leader, "still the one that was killed");
            Ok(())
        })
        .await?;
        kv_put(&cluster, "without").await?;
        cluster.restart(leader)?;
        cluster.wait_until_healthy().await?;
        kv_put(&cluster, "after").await
    });
}

#[test]
fn consul_lets_in_who_has_a_token_and_a_certificate() {
    scene::play(async |scene| {
        let mut options = consul::Options::new(1);
        options.tls = true;
        options.client_certificates = true;
        options.rules = Some("key_prefix \"chancery/\" { policy = \"write\" }".to_owned());
        let cluster = ConsulCluster::start(&scene.folder("consul")?, options).await?;
        let ask = async |token: Option<&str>, key: &str, with_certificate: bool| {
            let mut command = Command::new(chancery_tests::tools::tool("consul")?);
            command.args(["kv", "put", key, "value"]);
            command.env("CONSUL_HTTP_ADDR", cluster.endpoint(0));
            command.env("CONSUL_CACERT", cluster.root_path());
            if with_certificate {
                let (certificate, key) = cluster.client_certificate();
                command.env("CONSUL_CLIENT_CERT", certificate).env("CONSUL_CLIENT_KEY", key);
            }
            if let Some(token) = token {
                command.env("CONSUL_HTTP_TOKEN", token);
            }
            process::run(&mut command, wait::SOON).await
        };
        let token = cluster.token().context("no token")?;
        ask(Some(token), "chancery/key", true).await?.success()?;
        for (token, key) in [(Some(token), "other"), (None, "chancery/key")] {
            let said = ask(token, key, true).await?;
            ensure!(said.err.contains("Permission denied"), "{said:?}");
        }
        let said = ask(Some(token), "chancery/key", false).await?;
        ensure!(!said.status.success(), "{said:?}");
        Ok(())
    });
}

#[test]
fn a_member_that_is_cut_off_leads_no_more_and_comes_back() {
    scene::play(async |scene| {
        let mut network = Network::new()?;
        let nodes: Vec<Node> =
            ["s0", "s1", "s2"].iter().map(|name| network.node(name)).collect::<Result<_>>()?;
        let options = etcd::Options::on(Version::V3_5, &nodes);
        let mut cluster = EtcdCluster::start(&scene.folder("etcd")?, options).await?;
        let leader = cluster.leader().await?;
        for other in (0..3).filter(|other| *other != leader) {
            network.cut(&nodes[leader], &nodes[other])?;
        }
        wait::until("another leader", wait::SOON, async || {
            let now = cluster.leader().await?;
            ensure!(now != leader, "{now} still");
            Ok(())
        })
        .await?;
        network.heal_all()?;
        cluster.wait_until_healthy().await?;
        put(&cluster, "after").await
    });
}

#[test]
fn a_consul_cluster_runs_in_a_network_of_its_own() {
    scene::play(async |scene| {
        let mut network = Network::new()?;
        let nodes: Vec<Node> =
            ["s0", "s1", "s2"].iter().map(|name| network.node(name)).collect::<Result<_>>()?;
        let options = consul::Options::on(&nodes);
        let mut cluster = ConsulCluster::start(&scene.folder("consul")?, options).await?;
        let leader = cluster.leader().await?;
        // A pause is a partition, too.
        cluster.pause(leader)?;
        wait::until("another leader", wait::SOON, async || {
            ensure!(cluster.leader().await? != leader, "still the one that is paused");
            Ok(())
        })
        .await?;
        cluster.resume(leader)?;
        cluster.wait_until_healthy().await?;
        kv_put(&cluster, "after").await
    });
}

/// Connects to an address as a program on a node would.
fn connect(from: &Node, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.enter(|| Ok(TcpStream::connect_timeout(&to, BLINK)?))?;
    stream.set_read_timeout(Some(BLINK))?;
    Ok(stream)
}

fn read(stream: &mut TcpStream) -> Result<String> {
    let mut buffer = [0; 9];
    let length = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Long for a packet, short for a test that waits in vain.
const BLINK: Duration = Duration::from_millis(300);

#[test]
fn a_cut_is_silent_has_a_direction_and_leaves_connections_open() {
    scene::play(async |_| {
        let mut network = Network::new()?;
        let (one, other) = (network.node("one")?, network.node("other")?);
        let host = network.host();
        let address = SocketAddr::from((one.address(), 7));
        let listener = one.enter(|| Ok(TcpListener::bind(address)?))?;
        let mut near = connect(&host, address)?;
        let (mut far, _) = listener.accept()?;
        far.set_read_timeout(Some(BLINK))?;
        near.write_all(b"first")?;
        ensure!(read(&mut far)? == "first");

        // The answer is lost, the question is not.
        network.block(&one, &host)?;
        near.write_all(b"second")?;
        ensure!(read(&mut far)? == "second");
        far.write_all(b"third")?;
        let silent = read(&mut near);
        ensure!(silent.is_err(), "the answer came through a cut: {silent:?}");
        ensure!(connect(&host, address).is_err(), "a new connection through a cut");
        ensure!(connect(&other, address).is_ok(), "the cut concerns another");
        network.heal(&one, &host)?;
        wait::until("what was lost", wait::SOON, async || {
            let found = read(&mut near)?;
            ensure!(found == "third", "{found}");
            Ok(())
        })
        .await?;

        network.cut(&one, &other)?;
        ensure!(connect(&other, address).is_err(), "a connection through a cut");
        ensure!(connect(&host, address).is_ok(), "the cut concerns another");
        network.heal_all()?;
        ensure!(connect(&other, address).is_ok(), "not healed");
        Ok(())
    });
}

#[test]
fn leftovers_of_the_dead_are_swept() {
    scene::play(async |_| {
        let ip = async |words: &[&str]| {
            let mut command = Command::new(chancery_tests::tools::tool("ip")?);
            process::run(command.args(words), wait::SOON).await?.success()
        };
        // The number of a network that nobody holds: the first are taken first.
        ip(&["netns", "add", "chy199-left"]).await?;
        ip(&["link", "add", "chy199br", "type", "bridge"]).await?;
        let network = Network::new()?;
        let seen = ip(&["netns", "list"]).await?.out + &ip(&["link"]).await?.out;
        if seen.contains("chy199") {
            bail!("not swept: {seen}");
        }
        drop(network);
        Ok(())
    });
}

#[test]
fn haproxy_reloads_to_another_certificate() {
    scene::play(async |scene| {
        let folder = scene.folder("haproxy")?;
        let root = Authority::new()?;
        let name = "www.chancery.example";
        let (old, new) = (root.issue(&[name])?, root.issue(&[name])?);
        let (certificate, key) = old.write(&folder, "site")?;
        let site = Site { names: vec![name.to_owned()], certificate, key };
        let haproxy = Haproxy::start(&folder, &[]).await?;
        haproxy.configure(std::slice::from_ref(&site))?;
        for expected in [&old, &new] {
            expected.write(&folder, "site")?;
            let words = haproxy.test_command();
            process::run(&mut Command::new(&words[0]), wait::SOON).await?.success()?;
            haproxy.reload().await?;
            wait::until("the certificate", wait::SOON, async || {
                let served = haproxy.served(name).await?;
                ensure!(served.chain[0] == expected.certificate, "{}", served.leaf.serial);
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}
