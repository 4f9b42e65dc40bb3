//! The coordinator's configuration file. `docs/configuration.md` is its reference.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use chancery_shared::{name::NodeName, telemetry};

use crate::challenge::dns01;

mod agents;
mod consul;
mod dns;
mod etcd;
mod reader;
mod store;

pub use reader::{Problem, Problems};
use reader::{Reader, Section};
pub use store::StoreConfig;

use crate::store::consul::LEAST_TTL;

/// The coordinator's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node; unique among the coordinators of a fleet.
    pub node: NodeName,
    /// Where coordinators keep what they agree on.
    pub store: StoreConfig,
    /// The seal key file.
    pub seal_key_file: PathBuf,
    /// How long the lease lives without a keep-alive.
    pub lease_ttl: Duration,
    /// Where agents connect.
    pub agents_listen: SocketAddr,
    /// Where agents and the other coordinators reach this one, `host:port`, if that is not
    /// where it listens.
    pub agents_advertise: Option<String>,
    /// Life of an agent's identity certificate.
    pub identity_lifetime: Duration,
    /// Path of the admin socket.
    pub admin_socket: PathBuf,
    /// Group that may use the admin socket, beside its owner.
    pub admin_group: Option<String>,
    /// Where metrics and health are served.
    pub http_listen: SocketAddr,
    /// Where HTTP-01 challenges are answered.
    pub http01_listen: SocketAddr,
    /// How DNS-01 challenges are answered.
    pub dns01: dns01::Options,
    /// Where TLS-ALPN-01 challenges are answered, if they are.
    pub tls_alpn01_listen: Option<SocketAddr>,
    /// Orders at once at each issuer.
    pub orders_concurrency: usize,
    /// How long an order may take.
    pub orders_deadline: Duration,
    /// How long to wait after a first failed order.
    pub orders_retry_first: Duration,
    /// Logs.
    pub log: telemetry::Options,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The file has problems.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        Ok(Self::parse(path, &text)?)
    }

    /// Reads and checks the text of a file; all its problems at once.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let (mut reader, mut root) = Reader::open(path, text)?;
        let config = read(&mut reader, &mut root);
        reader.finish(&root, &ROOT_KEYS);
        match config {
            Some(config) if reader.is_clean() => Ok(config),
            _ => Err(reader.into_problems()),
        }
    }
}

const ROOT_KEYS: [&str; 13] = [
    "node",
    "store",
    "seal",
    "lease",
    "agents",
    "admin",
    "http",
    "http01",
    "tls_alpn01",
    "dns01",
    "dns",
    "orders",
    "log",
];

/// `None` only if something required is missing, which is then noted.
fn read<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Option<Config> {
    let node = read_node(reader, root);
    let store = store::read(reader, root);
    let seal_key_file = read_seal(reader, root);
    let lease_ttl = read_lease(reader, root, store.as_ref());
    let agents = agents::read(reader, root);
    let (admin_socket, admin_group) = read_admin(reader, root);
    let http_listen = read_listener(reader, root, "http", DEFAULT_HTTP);
    let http01_listen = read_listener(reader, root, "http01", DEFAULT_HTTP01);
    let tls_alpn01_listen = root
        .has("tls_alpn01")
        .then(|| read_listener(reader, root, "tls_alpn01", DEFAULT_TLS_ALPN01));
    let (orders_concurrency, orders_deadline, orders_retry_first) = read_orders(reader, root);
    let dns01 = dns::read(reader, root, orders_deadline);
    let log = read_log(reader, root);
    Some(Config {
        node: node?,
        store: store?,
        seal_key_file: seal_key_file?,
        lease_ttl,
        agents_listen: agents.listen,
        agents_advertise: agents.advertise,
        identity_lifetime: agents.identity_lifetime,
        admin_socket,
        admin_group,
        http_listen,
        http01_listen,
        dns01,
        tls_alpn01_listen,
        orders_concurrency,
        orders_deadline,
        orders_retry_first,
        log,
    })
}

fn read_node<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Option<NodeName> {
    if !root.has("node") {
        reader.missing(root, "node", "node = \"coordinator-1\"");
        return None;
    }
    reader.parsed(root, "node", str::parse, "")
}

fn read_seal<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Option<PathBuf> {
    let mut seal = reader.table(root, "seal");
    let path = required_path(reader, &mut seal, "key_file", "\"/etc/chancery/seal.key\"");
    reader.finish(&seal, &["key_file"]);
    path
}

fn read_lease<'a>(
    reader: &mut Reader<'a>,
    root: &mut Section<'a>,
    store: Option<&StoreConfig>,
) -> Duration {
    let mut lease = reader.table(root, "lease");
    let line = lease.line_of("ttl");
    let ttl = duration(reader, &mut lease, "ttl", DEFAULT_LEASE_TTL, 1..=600);
    if matches!(store, Some(StoreConfig::Consul(_))) && ttl < LEAST_TTL {
        let bound = humantime::format_duration(LEAST_TTL);
        let why = "Consul takes no shorter life for a session";
        reader.problem(line, format!("lease.ttl: with store.consul at least \"{bound}\"; {why}"));
    }
    reader.finish(&lease, &["ttl"]);
    ttl
}

fn read_admin<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> (PathBuf, Option<String>) {
    let mut admin = reader.table(root, "admin");
    let socket = reader.text(&mut admin, "socket");
    let group = reader.text(&mut admin, "group").map(|(_, group)| group);
    reader.finish(&admin, &["socket", "group"]);
    (socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), |(_, path)| PathBuf::from(path)), group)
}

fn read_listener<'a>(
    reader: &mut Reader<'a>,
    root: &mut Section<'a>,
    key: &str,
    default: &str,
) -> SocketAddr {
    let mut section = reader.table(root, key);
    let listen = address(reader, &mut section, default);
    reader.finish(&section, &["listen"]);
    listen
}

fn read_orders<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> (usize, Duration, Duration) {
    let mut orders = reader.table(root, "orders");
    let concurrency = reader.number(&mut orders, "concurrency", 1..=256);
    let deadline = duration(reader, &mut orders, "deadline", DEFAULT_DEADLINE, 1..=24 * 3600);
    let retry_first =
        duration(reader, &mut orders, "retry_first", DEFAULT_RETRY_FIRST, 1..=24 * 3600);
    reader.finish(&orders, &["concurrency", "deadline", "retry_first"]);
    (concurrency.unwrap_or(DEFAULT_CONCURRENCY) as usize, deadline, retry_first)
}

fn read_log<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> telemetry::Options {
    let mut log = reader.table(root, "log");
    let format = |text: &str| match text {
        "human" => Ok(telemetry::Format::Human),
        "json" => Ok(telemetry::Format::Json),
        _ => Err("unknown format"),
    };
    let format = reader.parsed(&mut log, "format", format, "write \"human\" or \"json\"");
    let filter = reader.text(&mut log, "filter").map(|(_, filter)| filter);
    reader.finish(&log, &["format", "filter"]);
    telemetry::Options { format: format.unwrap_or_default(), filter }
}

fn required_path<'a>(
    reader: &mut Reader<'a>,
    section: &mut Section<'a>,
    key: &str,
    example: &str,
) -> Option<PathBuf> {
    if !section.has(key) {
        reader.missing(section, key, &format!("{key} = {example}"));
        return None;
    }
    reader.text(section, key).map(|(_, path)| PathBuf::from(path))
}

fn address<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>, default: &str) -> SocketAddr {
    let remedy = format!("write an IP address and a port, such as \"{default}\"");
    reader
        .parsed(section, "listen", str::parse, &remedy)
        .unwrap_or_else(|| default.parse().expect("the default is an address"))
}

/// The duration at `key`, such as "90s" or "10m", within a range of seconds.
fn duration<'a>(
    reader: &mut Reader<'a>,
    section: &mut Section<'a>,
    key: &str,
    default: Duration,
    range_secs: std::ops::RangeInclusive<u64>,
) -> Duration {
    let (least, most) = (*range_secs.start(), *range_secs.end());
    let parse = |text: &str| match humantime::parse_duration(text) {
        Ok(duration)
            if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&duration) =>
        {
            Ok(duration)
        }
        Ok(_) => Err("it is out of range".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let bound = |secs| humantime::format_duration(Duration::from_secs(secs));
    let remedy = format!("write a duration from \"{}\" to \"{}\"", bound(least), bound(most));
    reader.parsed(section, key, parse, &remedy).unwrap_or(default)
}

const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(10);
const DEFAULT_HTTP: &str = "127.0.0.1:9443";
const DEFAULT_HTTP01: &str = "0.0.0.0:80";
const DEFAULT_TLS_ALPN01: &str = "0.0.0.0:443";
const DEFAULT_SOCKET: &str = "/run/chancery/admin.sock";
const DEFAULT_CONCURRENCY: u32 = 32;
const DEFAULT_DEADLINE: Duration = Duration::from_mins(10);
const DEFAULT_RETRY_FIRST: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = include_str!("../../../docs/examples/coordinator.toml");

    fn problems(text: &str) -> Vec<String> {
        let problems = Config::parse(Path::new("c.toml"), text).unwrap_err();
        problems.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_example_file_is_valid_and_says_the_defaults() {
        let config = Config::parse(Path::new("coordinator.toml"), FULL).unwrap();
        let least = "node = \"n\"\nstore.embedded = { path = \"/s\" }\nseal.key_file = \"/k\"\n";
        let default = Config::parse(Path::new("c.toml"), least).unwrap();
        assert_eq!(config.lease_ttl, default.lease_ttl);
        assert_eq!(config.agents_listen, default.agents_listen);
        assert_eq!(config.identity_lifetime, default.identity_lifetime);
        assert_eq!(config.admin_socket, default.admin_socket);
        assert_eq!(config.http_listen, default.http_listen);
        assert_eq!(config.http01_listen, default.http01_listen);
        assert_eq!(config.orders_concurrency, default.orders_concurrency);
        assert_eq!(config.orders_deadline, default.orders_deadline);
        assert_eq!(config.orders_retry_first, default.orders_retry_first);
    }

    #[test]
    fn all_problems_are_told_at_once_with_line_and_remedy() {
        let lines = problems(
            "node = \"Node 1\"\n\
             nods = 1\n\
             [store]\n\
             embeded = { path = \"/s\" }\n\
             [lease]\n\
             ttl = \"10 parsecs\"\n\
             [orders]\n\
             concurrency = 0\n\
             [http]\n\
             listen = 9443\n\
             [log]\n\
             format = \"xml\"\n",
        );
        for expected in [
            "c.toml:1: node = \"Node 1\": node name \"Node 1\" is not valid",
            "c.toml:2: nods: unknown key",
            "c.toml:3: store.embedded is missing",
            "c.toml:4: store.embeded: unknown key; known here: embedded, etcd, consul",
            "c.toml:6: lease.ttl = \"10 parsecs\"",
            "c.toml:8: orders.concurrency: write a whole number from 1 to 256",
            "c.toml:10: http.listen: expected a text, found a whole number",
            "c.toml:12: log.format = \"xml\": unknown format; write \"human\" or \"json\"",
            "seal.key_file is missing; for example: key_file = \"/etc/chancery/seal.key\"",
        ] {
            assert!(
                lines.iter().any(|line| line.contains(expected)),
                "{expected:?} is not in {lines:#?}"
            );
        }
        assert_eq!(lines.len(), 9, "{lines:#?}");
    }

    #[test]
    fn the_example_for_etcd_is_valid_and_says_the_defaults() {
        let text = include_str!("../../../docs/examples/coordinator-etcd.toml");
        let config = Config::parse(Path::new("coordinator-etcd.toml"), text).unwrap();
        let StoreConfig::Etcd(options) = config.store else { panic!("{:?}", config.store) };
        let least = "node = \"n\"\nseal.key_file = \"/k\"\n\
                     [store]\netcd = { endpoints = [\"https://etcd-1:2379\"] }\n";
        let least = Config::parse(Path::new("c.toml"), least).unwrap();
        let StoreConfig::Etcd(default) = least.store else { panic!("{:?}", least.store) };
        assert_eq!((options.prefix, options.timeout), (default.prefix, default.timeout));
        assert_eq!(options.endpoints.len(), 3);
        assert!(options.user.is_some() && options.ca_file.is_some() && options.identity.is_some());
        assert!(default.user.is_none() && default.ca_file.is_none() && default.identity.is_none());
    }

    #[test]
    fn two_stores_and_what_is_wrong_with_each_are_told() {
        let lines = problems(
            "node = \"n\"\n\
             seal.key_file = \"/k\"\n\
             [store.embedded]\n\
             [store.etcd]\n\
             endpoints = [\"http://a:2379\", \"b:2379\", \"http://c\", \"http://a:2379/\"]\n\
             prefix = \"chancery\"\n\
             username = \"chancery\"\n\
             cert_file = \"/c\"\n\
             timeout = \"1h\"\n",
        );
        for expected in [
            "c.toml:3: store.embedded.path is missing",
            "c.toml:4: store.etcd: there is store.embedded already; keep one of them",
            "c.toml:5: store.etcd.endpoints: \"b:2379\"",
            "c.toml:5: store.etcd.endpoints: \"http://c\" has no port",
            "c.toml:5: store.etcd.endpoints: \"http://a:2379/\" is there twice",
            "c.toml:6: store.etcd.prefix = \"chancery\": it has to end with a slash",
            "c.toml:7: store.etcd.username: a user needs a password; add password_file",
            "c.toml:8: store.etcd.cert_file: a certificate needs its key; add key_file",
            "c.toml:8: store.etcd.cert_file: certificates are of use with https:// endpoints only",
            "c.toml:9: store.etcd.timeout = \"1h\": it is out of range",
        ] {
            assert!(
                lines.iter().any(|line| line.contains(expected)),
                "{expected:?} is not in {lines:#?}"
            );
        }
        assert_eq!(lines.len(), 10, "{lines:#?}");
    }

    #[test]
    fn the_example_for_consul_is_valid_and_says_the_defaults() {
        let text = include_str!("../../../docs/examples/coordinator-consul.toml");
        let config = Config::parse(Path::new("coordinator-consul.toml"), text).unwrap();
        let StoreConfig::Consul(options) = config.store else { panic!("{:?}", config.store) };
        let least = "node = \"n\"\nseal.key_file = \"/k\"\nstore.consul = {}\n";
        let least = Config::parse(Path::new("c.toml"), least).unwrap();
        let StoreConfig::Consul(default) = least.store else { panic!("{:?}", least.store) };
        assert_eq!((options.prefix, options.timeout), (default.prefix, default.timeout));
        assert_eq!(default.addresses, ["http://127.0.0.1:8500"]);
        assert_eq!(options.addresses.len(), 2);
        assert!(options.token_file.is_some() && options.ca_file.is_some());
        assert!(options.identity.is_some() && options.datacenter.is_some());
        assert!(default.token_file.is_none() && default.identity.is_none());
    }

    #[test]
    fn what_is_wrong_with_consul_is_told_all_at_once() {
        let lines = problems(
            "node = \"n\"\n\
             seal.key_file = \"/k\"\n\
             lease.ttl = \"9s\"\n\
             [store.consul]\n\
             addresses = [\"http://a:8500\", \"b:8500\", \"http://c\", \"http://a:8500/\"]\n\
             prefix = \"/chancery\"\n\
             datacenter = \"dc 1\"\n\
             key_file = \"/c\"\n\
             token = \"0b3f\"\n",
        );
        for expected in [
            "c.toml:3: lease.ttl: with store.consul at least \"10s\"; Consul takes no shorter",
            "c.toml:5: store.consul.addresses: \"b:8500\"",
            "c.toml:5: store.consul.addresses: \"http://c\" has no port",
            "c.toml:5: store.consul.addresses: \"http://a:8500/\" is there twice",
            "c.toml:6: store.consul.prefix = \"/chancery\": it has to end with a slash",
            "c.toml:7: store.consul.datacenter = \"dc 1\": write letters",
            "c.toml:8: store.consul.key_file: a key needs its certificate; add cert_file",
            "c.toml:8: store.consul.key_file: certificates are of use with https:// addresses only",
            "c.toml:9: store.consul.token: unknown key; known here: addresses, prefix, token_file",
        ] {
            assert!(
                lines.iter().any(|line| line.contains(expected)),
                "{expected:?} is not in {lines:#?}"
            );
        }
        assert_eq!(lines.len(), 9, "{lines:#?}");
    }

    #[test]
    fn a_text_that_is_no_toml_names_the_line() {
        let lines = problems("node = \"n\"\n[store\n");
        assert!(lines[0].starts_with("c.toml:2: "), "{lines:?}");
    }
}
