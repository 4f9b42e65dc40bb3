//! The table `store`: exactly one of its kinds.

use std::path::PathBuf;

use super::{
    consul, etcd,
    reader::{Reader, Section},
    required_path,
};
use crate::store;

/// Where coordinators keep what they agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In a file of this machine.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// In etcd.
    Etcd(store::etcd::Options),
    /// In Consul.
    Consul(store::consul::Options),
}

/// Every kind of store that can be configured.
const KINDS: [&str; 3] = ["embedded", "etcd", "consul"];

/// `None` if there is none, or something required of it is missing, which is then noted.
pub(super) fn read<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Option<StoreConfig> {
    let mut store = reader.table(root, "store");
    let named: Vec<&str> = KINDS.into_iter().filter(|kind| store.has(kind)).collect();
    if named.is_empty() {
        let example = "store.embedded = { path = \"/var/lib/chancery/store.redb\" }";
        reader.missing(&store, "embedded", example);
    }
    if let [first, others @ ..] = named.as_slice() {
        for other in others {
            let line = store.line_of(other);
            let both = format!("store.{other}: there is store.{first} already; keep one of them");
            reader.problem(line, both);
        }
    }
    // Each that is named, so that nothing that is wrong with it stays untold.
    let mut result = None;
    for kind in named {
        result = match kind {
            "embedded" => read_embedded(reader, &mut store),
            "etcd" => etcd::read(reader, &mut store).map(StoreConfig::Etcd),
            _ => Some(StoreConfig::Consul(consul::read(reader, &mut store))),
        };
    }
    reader.finish(&store, &KINDS);
    result
}

/// The files of the certificate that this coordinator shows to its store, and of its key.
pub(super) fn read_certificate<'a>(
    reader: &mut Reader<'a>,
    section: &mut Section<'a>,
) -> Option<(PathBuf, PathBuf)> {
    let (cert_file, key_file) = reader.pair(
        section,
        ("cert_file", "a certificate needs its key; add key_file"),
        ("key_file", "a key needs its certificate; add cert_file"),
    )?;
    Some((cert_file.into(), key_file.into()))
}

/// The URL of one of a store's servers: scheme, host and port. `user` says what to write instead of a
/// user in it, `port` which port it has.
pub(super) fn server_url(
    url: &str,
    user: &'static str,
    port: &'static str,
) -> Result<String, &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "is no URL")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("does not begin with https:// or http://"),
    }
    if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
        return Err("has a path; write scheme, host and port only");
    }
    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err(user);
    }
    if authority.port_u16().is_none() {
        return Err(port);
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn read_embedded<'a>(reader: &mut Reader<'a>, store: &mut Section<'a>) -> Option<StoreConfig> {
    let mut embedded = reader.table(store, "embedded");
    let path = required_path(reader, &mut embedded, "path", "\"/var/lib/chancery/store.redb\"");
    reader.finish(&embedded, &["path"]);
    path.map(|path| StoreConfig::Embedded { path })
}
