//! Real name servers that take updates, each with the same zones, and a look into what they have.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

mod bind;
mod cloud;
mod knot;
mod powerdns;

pub use bind::Bind;
pub use cloud::{Cloud, Refusal, TOKEN};
pub use knot::Knot;
pub use powerdns::{API_KEY, PowerDns};

/// A TSIG key, and the file with it.
#[derive(Debug, Clone)]
pub struct TsigKey {
    /// Its name.
    pub name: String,
    /// Its secret, in base64.
    pub secret: String,
}

impl TsigKey {
    /// A key that is made up from its name: as good as any for a test.
    pub fn new(name: &str) -> Self {
        use base64::Engine as _;
        let secret = base64::prelude::BASE64_STANDARD.encode(format!("{name:-^32}"));
        Self { name: name.to_owned(), secret }
    }

    /// As `tsig-keygen` writes it.
    pub fn text(&self) -> String {
        format!(
            "key \"{}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{}\";\n}};\n",
            self.name, self.secret
        )
    }

    /// Writes it into `folder`.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(format!("{}.key", self.name));
        std::fs::write(&path, self.text())?;
        Ok(path)
    }
}

/// The TOML of an RFC 2136 provider.
pub fn rfc2136(name: &str, server: SocketAddr, key: &Path, zones: &[&str]) -> String {
    format!(
        "\n[dns.{name}]\nkind = \"rfc2136\"\nserver = \"{server}\"\ntsig_key_file = \"{}\"\n\
         zones = {zones:?}\nname_servers = [\"{server}\"]\n",
        key.display()
    )
}

/// A zone file with an address for each name, and `more` records.
fn zone_file(zone: &str, more: &str) -> String {
    let mut text = format!(
        "$TTL 60\n$ORIGIN {zone}.\n@ SOA ns1 hostmaster 1 60 60 3600 1\n@ NS ns1\n\
         @ A 127.0.0.1\nns1 A 127.0.0.1\nwww A 127.0.0.1\n"
    );
    writeln!(text, "{more}").expect("writing to a string works");
    text
}

/// The TXT values that the server at `address` has at a name.
pub async fn txt(address: SocketAddr, name: &str) -> Result<Vec<String>> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    let server = NameServerConfig::new(address.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.options_mut().timeout = Duration::from_secs(2);
    let resolver = builder.build()?;
    let answer = match resolver.lookup(format!("{name}."), RecordType::TXT).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
        Err(error) => return Err(anyhow!("{address} does not answer for {name}: {error}")),
    };
    let mut values: Vec<String> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
        .collect();
    values.sort();
    Ok(values)
}
