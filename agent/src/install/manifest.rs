//! What a build was made of, so that it can be told whether it still is.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use chancery_shared::{durable, x509::Fingerprint};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Build, Error, because};
use crate::{bundle::Brief, config::Ownership};

/// The file `.manifest.json` of a build.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    build: Fingerprint,
    not_after: Timestamp,
    uid: u32,
    gid: u32,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    mode: u32,
    sha256: Fingerprint,
}

/// The fingerprint that a build of this bundle for these owners has.
pub(crate) fn expected(brief: &Brief, ownership: Ownership) -> Fingerprint {
    let Ownership { uid, gid, key_mode, public_mode } = ownership;
    let mut text = format!("{uid}:{gid}:{key_mode:o}:{public_mode:o}:").into_bytes();
    text.extend_from_slice(brief.content.as_bytes());
    Fingerprint::of(&text)
}

impl Manifest {
    /// The manifest of a build whose files are `files`: name, mode, contents.
    pub(super) fn new(brief: &Brief, ownership: Ownership, files: &[(&str, u32, &[u8])]) -> Self {
        let entry = |(name, mode, contents): &(&str, u32, &[u8])| Entry {
            name: (*name).to_owned(),
            mode: *mode,
            sha256: Fingerprint::of(contents),
        };
        Self {
            version: VERSION,
            build: expected(brief, ownership),
            not_after: brief.not_after,
            uid: ownership.uid,
            gid: ownership.gid,
            files: files.iter().map(entry).collect(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain data")
    }

    /// Whether the files in `dir` are as the manifest says.
    pub(super) fn holds(&self, dir: &Path) -> Result<bool, Error> {
        for entry in &self.files {
            let path = dir.join(&entry.name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(false) };
            let same_owner = metadata.uid() == self.uid && metadata.gid() == self.gid;
            if !metadata.is_file() || !same_owner || metadata.mode() & 0o7777 != entry.mode {
                return Ok(false);
            }
            // With room for the whole file: a buffer that grew would leave a copy of a key behind.
            let size = usize::try_from(metadata.len().min(MOST_SIZE)).unwrap_or_default();
            let mut contents = Zeroizing::new(Vec::with_capacity(size));
            File::open(&path)
                .and_then(|file| file.take(MOST_SIZE).read_to_end(&mut contents))
                .map_err(because("read", &path))?;
            if Fingerprint::of(&contents) != entry.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Looks at a build. A folder that is none, or one of another version, is taken and of no use: it
/// may be what the stable path points to, so that it must not be written over.
pub(super) fn read(dir: &Path) -> Result<Build, Error> {
    let text = durable::read_file(&dir.join(FILE))?;
    let manifest = text.and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    let manifest = manifest.filter(|manifest| manifest.version == VERSION);
    let unusable =
        || Build { fingerprint: Fingerprint::of(b""), intact: false, not_after: Timestamp::MIN };
    manifest.map_or_else(
        || Ok(unusable()),
        |manifest| {
            Ok(Build {
                fingerprint: manifest.build,
                intact: manifest.holds(dir)?,
                not_after: manifest.not_after,
            })
        },
    )
}

/// Name of the manifest within a build.
pub(super) const FILE: &str = ".manifest.json";
const VERSION: u32 = 1;
/// Whoever replaced a file by a huge one does not get the agent to swallow it.
const MOST_SIZE: u64 = 1024 * 1024;
