//! Network namespaces for the machines of a test, joined by a bridge, and partitions between
//! them.
//!
//! Each network is a number that this process holds a lock on. The number makes the names of
//! its namespaces and links and its subnet, so that whatever carries a number that nobody holds
//! is a leftover of a process that died, and is swept.
//!
//! A cut is made where a packet would leave: the sender believes that the receiver has a
//! hardware address that nobody has. So packets vanish without a word, as they do in a real
//! partition; a route that is a black hole would tell the sender at once. Connections that
//! are open stay open, and go on after the cut has healed. Nothing but `ip` is needed.
//!
//! It needs root.

use std::env;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{process, tools};

/// A network of the test's own. Dropped, everything in it is removed, processes too.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    subnet: Arc<Subnet>,
}

/// A machine in a network: a name, an address, a network namespace.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    address: Ipv4Addr,
    /// `None` for the test's own side.
    namespace: Option<String>,
    device: String,
    // Whoever can still name a namespace keeps it from being another's.
    _subnet: Arc<Subnet>,
}

impl Network {
    /// An empty network. What dead processes left behind is removed first.
    pub fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run the tests as root"
        );
        sweep_leftovers()?;
        let subnet = Subnet::lock()?;
        // Made before the bridge, so that half a bridge is removed, too.
        let network = Self { nodes: Vec::new(), subnet: Arc::new(subnet) };
        let bridge = network.subnet.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", network.subnet.host()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    /// Adds a machine. Its name is short, of letters and digits.
    pub fn node(&mut self, name: &str) -> Result<Node> {
        let index = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let namespace = format!("{}-{name}", self.subnet.prefix());
        let (device, bridge) = (self.subnet.link(index), self.subnet.bridge());
        let address = self.subnet.address(index);
        ip(&["netns", "add", &namespace])?;
        ip(&["link", "add", &device, "type", "veth", "peer", "name", DEVICE, "netns", &namespace])?;
        ip(&["link", "set", &device, "master", &bridge, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
        ip(&["-n", &namespace, "link", "set", DEVICE, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        let node = Node {
            name: name.to_owned(),
            address,
            namespace: Some(namespace),
            device: DEVICE.to_owned(),
            _subnet: Arc::clone(&self.subnet),
        };
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// The test's own side: whatever listens outside of namespaces is reached at its address.
    pub fn host(&self) -> Node {
        Node {
            name: "host".to_owned(),
            address: self.subnet.host(),
            namespace: None,
            device: self.subnet.bridge(),
            _subnet: Arc::clone(&self.subnet),
        }
    }

    /// Lets nothing pass from one to the other. The way back stays open.
    pub fn block(&self, from: &Node, to: &Node) -> Result<()> {
        let address = to.address.to_string();
        from.ip(&[
            "neigh",
            "replace",
            &address,
            "lladdr",
            NOBODY,
            "dev",
            &from.device,
            "nud",
            "permanent",
        ])
    }

    /// Lets everything pass from one to the other again.
    pub fn unblock(&self, from: &Node, to: &Node) -> Result<()> {
        let address = to.address.to_string();
        let known = from.ip_says(&["neigh", "show", &address, "dev", &from.device])?;
        // Without a cut there is nothing to heal.
        if known.contains(NOBODY) {
            from.ip(&["neigh", "del", &address, "dev", &from.device])?;
        }
        Ok(())
    }

    /// Lets nothing pass between two, in either direction.
    pub fn cut(&self, one: &Node, other: &Node) -> Result<()> {
        self.block(one, other)?;
        self.block(other, one)
    }

    /// Lets everything pass between two again.
    pub fn heal(&self, one: &Node, other: &Node) -> Result<()> {
        self.unblock(one, other)?;
        self.unblock(other, one)
    }

    /// Lets everything pass everywhere again.
    pub fn heal_all(&self) -> Result<()> {
        let mut all = self.nodes.clone();
        all.push(self.host());
        for node in all {
            let known = node.ip_says(&["neigh", "show", "dev", &node.device])?;
            for line in known.lines().filter(|line| line.contains(NOBODY)) {
                let address = line.split_whitespace().next().context("no address")?;
                node.ip(&["neigh", "del", address, "dev", &node.device])?;
            }
        }
        Ok(())
    }
}

impl Node {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The command that runs `command` in the namespace, with the same arguments, environment
    /// and folder. The process that it starts becomes the program itself.
    pub fn inside(&self, command: &Command) -> Command {
        let Some(namespace) = &self.namespace else {
            return copy(Command::new(command.get_program()), command);
        };
        let mut wrapped = Command::new(ip_program().unwrap_or_else(|_| "ip".into()));
        wrapped.args(["netns", "exec", namespace]).arg(command.get_program());
        copy(wrapped, command)
    }

    /// Runs `work` with the network of this node, on a thread of its own. A socket that it makes and
    /// returns stays in that network, whoever uses it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(namespace) = &self.namespace else { return work() };
        let entered = || {
            let path = format!("/run/netns/{namespace}");
            let file = File::open(&path).with_context(|| format!("{path} cannot be opened"))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("{namespace} cannot be entered"))?;
            work()
        };
        // Ends with the thread: no other one is moved.
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        self.ip_says(words).map(drop)
    }

    fn ip_says(&self, words: &[&str]) -> Result<String> {
        match &self.namespace {
            Some(namespace) => ip(&[&["-n", namespace.as_str()], words].concat()),
            None => ip(words),
        }
    }
}

/// Adds the arguments, the environment and the folder of `from` to a command.
fn copy(mut command: Command, from: &Command) -> Command {
    command.args(from.get_args());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

/// The number of a network, and what is named after it.
#[derive(Debug)]
struct Subnet {
    number: u8,
    _lock: File,
}

impl Subnet {
    /// Takes a number that nobody else holds, and removes what carries it.
    fn lock() -> Result<Self> {
        for number in 0..NETWORKS {
            if let Some(subnet) = Self::try_lock(number)? {
                return Ok(subnet);
            }
        }
        bail!("all {NETWORKS} networks are taken by tests that run now")
    }

    fn try_lock(number: u8) -> Result<Option<Self>> {
        let folder = env::temp_dir().join("chancery-networks");
        fs::create_dir_all(&folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let file = File::create(folder.join(number.to_string()))
            .with_context(|| format!("no lock for networks in {}", folder.display()))?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let subnet = Self { number, _lock: file };
        subnet.sweep()?;
        Ok(Some(subnet))
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    fn bridge(&self) -> String {
        format!("{}br", self.prefix())
    }

    /// The host's end of the wire to a node. At most 15 letters.
    fn link(&self, index: u8) -> String {
        format!("{}v{index}", self.prefix())
    }

    fn address(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, index)
    }

    fn host(&self) -> Ipv4Addr {
        self.address(254)
    }

    /// Removes all that carries this number.
    fn sweep(&self) -> Result<()> {
        let prefix = format!("{}-", self.prefix());
        for namespace in namespaces()?.iter().filter(|name| name.starts_with(&prefix)) {
            for id in ip(&["netns", "pids", namespace])?.split_whitespace() {
                // One that is gone by now is what we want.
                let _ = process::signal(id.parse().context("not a process id")?, Signal::KILL);
            }
            ip(&["netns", "del", namespace])?;
        }
        let (bridge, wire) = (self.bridge(), format!("{}v", self.prefix()));
        for link in links()?.iter().filter(|link| **link == bridge || link.starts_with(&wire)) {
            // A wire goes by itself when the namespace at its other end goes.
            if let Err(error) = ip(&["link", "del", link])
                && links()?.contains(link)
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next process.
        let _ = self.sweep();
    }
}

/// Removes the networks of processes that are no more.
fn sweep_leftovers() -> Result<()> {
    let mut names = namespaces()?;
    names.extend(links()?);
    let number = |name: &String| -> Option<u8> {
        let rest = name.strip_prefix(PREFIX)?;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    };
    let mut numbers: Vec<u8> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        // Sweeps when nobody holds it.
        Subnet::try_lock(number)?;
    }
    Ok(())
}

fn namespaces() -> Result<Vec<String>> {
    let listed = ip(&["netns", "list"])?;
    Ok(listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
}

fn links() -> Result<Vec<String>> {
    let entries = fs::read_dir("/sys/class/net").context("links cannot be listed")?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn ip_program() -> Result<std::path::PathBuf> {
    tools::tool("ip")
}

fn ip(words: &[&str]) -> Result<String> {
    let output = Command::new(ip_program()?)
        .args(words)
        .output()
        .with_context(|| format!("`ip {}` could not be started", words.join(" ")))?;
    ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everything of ours begins with this, followed by a number.
const PREFIX: &str = "chy";
/// The node's end of its wire.
const DEVICE: &str = "eth0";
/// A hardware address that no link has: locally made ones have this first bit.
const NOBODY: &str = "02:00:00:00:00:00";
const NETWORKS: u8 = 200;
