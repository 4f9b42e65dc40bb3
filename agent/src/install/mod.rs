//! Certificates as files that services read.
//!
//! ```text
//! <dir>/web -> .chancery/web/7          the stable path: one symbolic link
//! <dir>/.chancery/web/7/                a build: fullchain, privkey, cert, chain (.pem)
//! <dir>/.chancery/web/6/                former builds, for rollback
//! <dir>/.chancery/web/.tmp-8/           being written; removed at start
//! ```
//!
//! A build is written under a temporary name, every file fsynced, then its directory, then
//! renamed, then the parent fsynced: a directory with a build's name is always whole. The
//! stable path changes by one `rename` of a new symbolic link over the old one, so key and
//! chain change together and a reader finds the old or the new build, never neither. A
//! build is never written again: when its owner, group or mode should change, or when
//! somebody changed its files, the same generation gets a new *revision*
//! (`7.1`).
//!
//! Nothing here decides what to do: that is [`crate::plan`].

mod build;
mod manifest;
mod stage;
mod switch;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use chancery_shared::{durable, name::CertName, x509::Fingerprint};
use jiff::Timestamp;

pub(crate) use self::{build::BuildName, manifest::expected, stage::Staging};

/// The install folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

/// What stands on disk for one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) builds: BTreeMap<BuildName, Build>,
    /// What the stable path points to, if that is a build of ours.
    pub(crate) linked: Option<BuildName>,
}

/// A build on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    /// Content and ownership that it was made with.
    pub(crate) fingerprint: Fingerprint,
    /// Its files are still as they were made.
    pub(crate) intact: bool,
    pub(crate) not_after: Timestamp,
}

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    // The cause is part of the message, which goes to operators as it is.
    #[error("cannot {action} {}: {cause}{}", path.display(), remedy(cause.kind()))]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error(
        "{} exists and is not a link that this agent made: move it away, or set install.dir to \
         another folder; the agent does not replace files that it does not own",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "the file system of {} did not keep owner, group and mode as asked for: install to one \
         that does, or leave owner, group and mode out",
        path.display()
    )]
    NotKept { path: PathBuf },
    #[error("{}", crate::text::durable(.0))]
    Durable(durable::Error),
}

impl Layout {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The stable path of a certificate.
    pub(crate) fn stable_path(&self, certificate: &CertName) -> PathBuf {
        self.dir.join(certificate.as_str())
    }

    fn builds_dir(&self, certificate: &CertName) -> PathBuf {
        self.dir.join(BUILDS).join(certificate.as_str())
    }

    fn build_dir(&self, certificate: &CertName, build: BuildName) -> PathBuf {
        self.builds_dir(certificate).join(build.to_string())
    }

    /// Removes what a killed process left half done. Call it once, at the start.
    pub(crate) fn clean_up(&self) -> Result<(), Error> {
        let certificates = list(&self.dir.join(BUILDS))?;
        for certificate in certificates.into_iter().filter(|path| path.is_dir()) {
            for entry in list(&certificate)? {
                let name = entry.file_name().unwrap_or_default();
                if name.to_string_lossy().starts_with(TEMPORARY) {
                    tracing::debug!("removing {}, left by a killed process", entry.display());
                    remove(&entry)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at what stands on disk for a certificate.
    pub(crate) fn observe(&self, certificate: &CertName) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        for entry in list(&self.builds_dir(certificate))? {
            let name = entry.file_name().and_then(|name| name.to_str());
            let Some(name) = name.and_then(|name| name.parse().ok()) else { continue };
            observed.builds.insert(name, manifest::read(&entry)?);
        }
        observed.linked =
            self.link(certificate)?.filter(|build| observed.builds.contains_key(build));
        Ok(observed)
    }

    /// Where the stable path points to; an error if it is not a link of ours.
    fn link(&self, certificate: &CertName) -> Result<Option<BuildName>, Error> {
        let path = self.stable_path(certificate);
        match fs::read_link(&path) {
            Ok(target) => {
                let ours = Path::new(BUILDS).join(certificate.as_str());
                let build = target.strip_prefix(ours).ok().and_then(Path::to_str);
                let build = build.and_then(|build| build.parse().ok());
                build.map(Some).ok_or(Error::Foreign { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // EINVAL: something else than a symbolic link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(Error::Foreign { path })
            }
            Err(error) => Err(because("read the link", &path)(error)),
        }
    }
}

/// The entries of a folder; none if it does not exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(because("list", dir))?,
    };
    entries.map(|entry| Ok(entry.map_err(because("list", dir))?.path())).collect()
}

/// Removes a file, a link or a folder with all in it; fine if it does not exist.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(because("remove", path)),
    }
}

/// Makes a folder that every user may enter (the key files in it have modes of their own),
/// and those above it. Existing ones stay as they are.
fn make_public_dir(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_public_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(because("create the folder", path))?,
    }
    // Whatever the umask says: services have to get in.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(because("set the mode of", path))?;
    if let Some(parent) = path.parent() {
        durable::sync_dir(parent)?;
    }
    Ok(())
}

/// Adds the action and the path to an IO error.
fn because(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { action, path, cause }
}

impl From<durable::Error> for Error {
    fn from(error: durable::Error) -> Self {
        Self::Durable(error)
    }
}

/// What an operator can do about an IO error.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space there, the agent goes on by itself"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount it writable, or allow it with ReadWritePaths= in the agent's unit"
        }
        io::ErrorKind::PermissionDenied => {
            "; let the agent's user write there, and only root can set another owner"
        }
        _ => "",
    }
}

/// Folder of the builds, beside the stable paths. No certificate name starts with a dot.
const BUILDS: &str = ".chancery";
/// What the names of temporary files start with.
const TEMPORARY: &str = ".tmp-";
