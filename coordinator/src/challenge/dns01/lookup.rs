//! What is asked of the DNS: where a name leads, in which zone it is, and who serves that.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup as Answers,
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

use super::Error;

/// Asks the resolvers of this machine, or those that are configured.
#[derive(Clone)]
pub(super) struct Lookup {
    resolver: TokioResolver,
}

/// An authoritative name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServer {
    /// Its name, or its address if that is how it was configured.
    pub(super) name: String,
    /// Its addresses: asking one is enough.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Lookup {
    /// Asks `resolvers`, or without any those of `/etc/resolv.conf`. The error is for people.
    pub(super) fn new(resolvers: &[SocketAddr]) -> Result<Self, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if resolvers.is_empty() {
            Resolver::builder(provider).map_err(|error| {
                format!("the system's resolvers cannot be read ({error}): set dns01.resolvers")
            })?
        } else {
            let servers = resolvers.iter().map(|address| server(*address)).collect();
            Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = TIMEOUT;
        options.attempts = 2;
        // A zone or a delegation that an operator has just mended is seen soon.
        options.positive_max_ttl = Some(Duration::from_secs(30));
        options.negative_max_ttl = Some(Duration::from_secs(5));
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver })
    }

    /// Where the TXT record for `name` has to stand: `name`, or where CNAME records lead (RFC 8555
    /// section 8.4 lets the CA follow them).
    pub(super) async fn target(&self, name: &str) -> Result<String, Error> {
        let mut chain = vec![name.to_owned()];
        loop {
            let last = chain.last().expect("it has the first");
            let Some(next) = self.cname(last).await? else {
                return Ok(last.clone());
            };
            let seen = chain.contains(&next);
            chain.push(next);
            let reason = if seen {
                "its CNAME records lead in a circle"
            } else if chain.len() > 1 + MOST_CNAMES {
                "there are too many CNAME records in a row"
            } else {
                continue;
            };
            let (name, chain) = (name.to_owned(), chain.join(" -> "));
            return Err(Error::Cname { name, reason, chain });
        }
    }

    async fn cname(&self, name: &str) -> Result<Option<String>, Error> {
        let asked = fqdn(name)?;
        let answers = match self.ask(&asked, RecordType::CNAME).await? {
            Found::Records(answers) => answers,
            Found::Nothing { .. } => return Ok(None),
        };
        Ok(answers.answers().iter().filter(|record| record.name == asked).find_map(|record| {
            match &record.data {
                RData::CNAME(target) => Some(plain(&target.0)),
                _ => None,
            }
        }))
    }

    /// The zone that `name` is in: the owner of the SOA record that answers for it
    /// (RFC 2308 section 2).
    pub(super) async fn zone(&self, name: &str) -> Result<String, Error> {
        let mut asked = fqdn(name)?;
        loop {
            let zone = match self.ask(&asked, RecordType::SOA).await? {
                Found::Records(answers) => {
                    let mut records = answers.answers().iter();
                    let soa = records.find(|record| record.record_type() == RecordType::SOA);
                    soa.map(|record| record.name.clone())
                }
                Found::Nothing { zone } => zone,
            };
            match zone {
                Some(zone) if zone.num_labels() > 0 => return Ok(plain(&zone)),
                None if asked.num_labels() > 1 => asked = asked.base_name(),
                _ => {
                    let reason = "the DNS knows no zone above it; create the zone, or see whether \
                                  its parent delegates to it";
                    return Err(Error::Zone { name: name.to_owned(), reason: reason.to_owned() });
                }
            }
        }
    }

    /// The authoritative name servers of `zone`, with their addresses.
    pub(super) async fn name_servers(&self, zone: &str) -> Result<Vec<NameServer>, Error> {
        let failed =
            |reason: &str| Error::Lookup { name: zone.to_owned(), reason: reason.to_owned() };
        let Found::Records(answers) = self.ask(&fqdn(zone)?, RecordType::NS).await? else {
            return Err(failed("the zone has no NS records"));
        };
        let mut servers = Vec::new();
        for record in answers.answers() {
            let RData::NS(server) = &record.data else { continue };
            let addresses = self.resolver.lookup_ip(server.0.clone()).await.map_err(|error| {
                failed(&format!("its name server {} has no address: {error}", server.0))
            })?;
            let mut addresses: Vec<SocketAddr> =
                addresses.iter().map(|address| SocketAddr::new(address, 53)).collect();
            // Whoever has no way to an IPv6 address hears so only after a while.
            addresses.sort_by_key(SocketAddr::is_ipv6);
            servers.push(NameServer { name: plain(&server.0), addresses });
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        if servers.is_empty() { Err(failed("the zone has no NS records")) } else { Ok(servers) }
    }

    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Found, Error> {
        found(self.resolver.lookup(name.clone(), record_type).await).map_err(|reason| {
            Error::Lookup { name: format!("{} ({record_type})", plain(name)), reason }
        })
    }
}

/// The TXT values at `name`, as one authoritative server has them. The error is for people.
pub(super) async fn txt_at(address: SocketAddr, name: &str) -> Result<Vec<String>, String> {
    let config = ResolverConfig::from_name_servers(vec![server(address)]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.recursion_desired = false;
    options.cache_size = 0;
    options.timeout = TIMEOUT;
    options.attempts = 1;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let name = fqdn(name).map_err(|error| error.to_string())?;
    match found(resolver.lookup(name, RecordType::TXT).await)? {
        Found::Nothing { .. } => Ok(Vec::new()),
        Found::Records(answers) => Ok(answers
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into()),
                _ => None,
            })
            .collect()),
    }
}

/// An answer.
enum Found {
    Records(Answers),
    /// There is no such name, or nothing of that type at it.
    Nothing {
        /// The zone that says so.
        zone: Option<Name>,
    },
}

fn found(answer: Result<Answers, NetError>) -> Result<Found, String> {
    match answer {
        Ok(answers) => Ok(Found::Records(answers)),
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { soa, .. }))) => {
            Ok(Found::Nothing { zone: soa.map(|record| record.name.clone()) })
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(format!("the answer is {code}")),
        Err(error) => Err(error.to_string()),
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn fqdn(name: &str) -> Result<Name, Error> {
    let parsed = Name::from_ascii(format!("{name}."));
    parsed.map_err(|error| Error::Lookup { name: name.to_owned(), reason: error.to_string() })
}

/// Lower case, without the trailing dot.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// CNAME records that are followed: far more than anybody needs; CAs follow about as many.
const MOST_CNAMES: usize = 8;
/// For one question to one server.
const TIMEOUT: Duration = Duration::from_secs(3);
