//! Received bundles on disk, so that the agent works on without a coordinator.
//!
//! One file a certificate, mode 0600, replaced whole. A header with a checksum tells a
//! damaged file from a good one; a damaged one is as good as none, because the coordinator
//! sends again whatever the agent does not say it knows.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use chancery_proto::v1;
use chancery_shared::{durable, failpoint::crash_point, name::CertName, x509::Fingerprint};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::bundle::{self, Brief, Bundle};

/// The folder with the bundles.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Durable(#[from] durable::Error),
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("the cached bundle {} is damaged", path.display())]
    Damaged { path: PathBuf },
}

impl Cache {
    /// Opens the folder, makes it if necessary.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        durable::make_dir(&dir, 0o700)?;
        Ok(Self { dir })
    }

    /// What is in it. Damaged files are logged and left out.
    pub(crate) fn load(&self) -> Result<BTreeMap<CertName, Brief>, Error> {
        let list = |source| Error::List { path: self.dir.clone(), source };
        let mut briefs = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(list)? {
            let file = entry.map_err(list)?.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)) else {
                continue;
            };
            let Ok(certificate) = name.parse::<CertName>() else { continue };
            match self.get(&certificate) {
                Ok(Some(bundle)) => drop(briefs.insert(certificate, bundle.brief())),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%certificate, %error, "asking the coordinator for it again");
                }
            }
        }
        Ok(briefs)
    }

    /// Stores a bundle in place of its predecessor.
    pub(crate) fn put(&self, bundle: &Bundle) -> Result<(), Error> {
        let wire = bundle.to_wire();
        let mut contents = Zeroizing::new(Vec::with_capacity(HEADER + wire.encoded_len()));
        contents.extend_from_slice(MAGIC);
        contents.extend_from_slice(&[0; 32]);
        wire.encode(&mut *contents).expect("a vector grows");
        bundle::wipe(wire);
        let checksum = Fingerprint::of(&contents[HEADER..]);
        contents[MAGIC.len()..HEADER].copy_from_slice(checksum.as_bytes());
        durable::write_file(&self.path(bundle.certificate()), &contents, 0o600)?;
        crash_point("cache::stored");
        Ok(())
    }

    /// Reads a bundle; `None` if there is none.
    pub(crate) fn get(&self, certificate: &CertName) -> Result<Option<Bundle>, Error> {
        let path = self.path(certificate);
        let Some(contents) = durable::read_file(&path)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let bundle = decode(&contents).filter(|bundle| bundle.certificate() == certificate);
        bundle.map(Some).ok_or(Error::Damaged { path })
    }

    /// Forgets a certificate and its key.
    pub(crate) fn remove(&self, certificate: &CertName) -> Result<(), Error> {
        let path = self.path(certificate);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Remove { path, source })
            }
            _ => Ok(durable::sync_dir(&self.dir)?),
        }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, certificate: &CertName) -> PathBuf {
        self.dir.join(format!("{certificate}{SUFFIX}"))
    }
}

fn decode(contents: &[u8]) -> Option<Bundle> {
    let (checksum, body) = contents.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if Fingerprint::of(body).as_bytes() != checksum {
        return None;
    }
    Bundle::check(v1::Bundle::decode(body).ok()?).ok()
}

const SUFFIX: &str = ".bundle";
/// Version 1 of the format: this line, SHA-256 of the rest, then a protobuf `Bundle`.
const MAGIC: &[u8] = b"chancery-bundle-1\n";
const HEADER: usize = MAGIC.len() + 32;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::bundle::tests::bundle;

    fn open() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("bundles")).unwrap();
        (dir, cache)
    }

    #[test]
    fn bundles_come_back_as_they_went_in() {
        let (_dir, cache) = open();
        let (web, mail) = (bundle("web", 3), bundle("mail", 1));
        cache.put(&bundle("web", 2)).unwrap();
        cache.put(&web).unwrap();
        cache.put(&mail).unwrap();
        let loaded = cache.load().unwrap();
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded["web"], web.brief());
        let read = cache.get(web.certificate()).unwrap().unwrap();
        assert_eq!(*read.files().privkey, *web.files().privkey);
        let mode = fs::metadata(cache.path(web.certificate())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        cache.remove(web.certificate()).unwrap();
        cache.remove(web.certificate()).unwrap();
        assert!(cache.get(web.certificate()).unwrap().is_none());
    }

    #[test]
    fn a_damaged_or_misplaced_file_counts_as_absent() {
        let (_dir, cache) = open();
        let web = bundle("web", 1);
        cache.put(&web).unwrap();
        let path = cache.path(web.certificate());
        let mut contents = fs::read(&path).unwrap();
        fs::write(cache.path(&"mail".parse().unwrap()), &contents).unwrap();
        *contents.last_mut().unwrap() ^= 1;
        fs::write(&path, &contents).unwrap();
        assert!(matches!(cache.get(web.certificate()), Err(Error::Damaged { .. })));
        fs::write(cache.path(&"cut".parse().unwrap()), MAGIC).unwrap();
        assert!(cache.load().unwrap().is_empty());
    }
}
