//! The table `store`: exactly one of its kinds.

use std::path::PathBuf;

use super::{
    reader::{Reader, Section},
    required_path,
};

/// Where coordinators keep what they agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In a file of this machine.
    Embedded {
        /// The file.
        path: PathBuf,
    },
}

/// Every kind of store that can be configured.
const KINDS: [&str; 1] = ["embedded"];

/// `None` if there is none, or something required of it is missing, which is then noted.
pub(super) fn read<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Option<StoreConfig> {
    let mut store = reader.table(root, "store");
    let named: Vec<&str> = KINDS.into_iter().filter(|kind| store.has(kind)).collect();
    let result = match named.as_slice() {
        [] => {
            let example = "store.embedded = { path = \"/var/lib/chancery/store.redb\" }";
            reader.missing(&store, "embedded", example);
            None
        }
        _ => read_embedded(reader, &mut store),
    };
    reader.finish(&store, &KINDS);
    result
}

fn read_embedded<'a>(reader: &mut Reader<'a>, store: &mut Section<'a>) -> Option<StoreConfig> {
    let mut embedded = reader.table(store, "embedded");
    let path = required_path(reader, &mut embedded, "path", "\"/var/lib/chancery/store.redb\"");
    reader.finish(&embedded, &["path"]);
    path.map(|path| StoreConfig::Embedded { path })
}
