//! The table `agents`: where agents connect, and how they find it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use rustls_pki_types::ServerName;

use super::{
    address, duration,
    reader::{Reader, Section},
};

/// What the table says.
pub(super) struct Agents {
    pub(super) listen: SocketAddr,
    pub(super) advertise: Option<String>,
    pub(super) identity_lifetime: Duration,
}

pub(super) fn read<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Agents {
    let mut agents = reader.table(root, "agents");
    let listen = address(reader, &mut agents, DEFAULT_LISTEN);
    let advertise = reader.parsed(&mut agents, "advertise", advertised, REMEDY);
    let identity_lifetime = duration(
        reader,
        &mut agents,
        "identity_lifetime",
        DEFAULT_IDENTITY_LIFETIME,
        10..=366 * 24 * 3600,
    );
    reader.finish(&agents, &["listen", "advertise", "identity_lifetime"]);
    Agents { listen, advertise, identity_lifetime }
}

/// `host:port`, if another machine could dial it.
fn advertised(text: &str) -> Result<String, &'static str> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match (address.ip().is_unspecified(), address.port()) {
            (true, _) => Err("nobody can dial that address: it stands for all of a machine's own"),
            (_, 0) => Err("nobody can dial port 0"),
            _ => Ok(text.to_owned()),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err("an IPv6 address stands in brackets");
    }
    if !matches!(ServerName::try_from(host), Ok(ServerName::DnsName(_))) {
        return Err("the host is neither a host name nor an IP address");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

const REMEDY: &str = "write the host and the port that agents and the other coordinators dial, such as \
     \"coordinator-1.example.org:7443\"";
const DEFAULT_LISTEN: &str = "0.0.0.0:7443";
const DEFAULT_IDENTITY_LIFETIME: Duration = Duration::from_hours(720);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_is_one_that_others_can_dial() {
        for good in ["c1.example.org:7443", "c1:1", "192.0.2.1:65535", "[2001:db8::1]:7443"] {
            assert_eq!(advertised(good).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("c1.example.org", "the port is missing"),
            ("0.0.0.0:7443", "nobody can dial that address"),
            ("[::]:7443", "nobody can dial that address"),
            ("192.0.2.1:0", "port 0"),
            ("c1:0", "from 1 to 65535"),
            ("c1:70000", "from 1 to 65535"),
            ("2001:db8::1:7443", "in brackets"),
            ("a b:7443", "neither a host name"),
            (":7443", "neither a host name"),
            ("https://c1:7443", "neither a host name"),
        ] {
            let error = advertised(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
