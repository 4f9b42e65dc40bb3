//! Files written so that they survive kill -9 and power loss: whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Error {
    /// Whether the disk (or a quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Adds the action and the path to an IO error.
fn because(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { action, path, source }
}

/// Puts `contents` at `path` in one step, with permission bits `mode`: a temporary
/// file beside it is written and fsynced, renamed over it, and the directory
/// fsynced. After a crash the former or the new contents stand there, never a mix.
/// The temporary file is removed on failure; a killed process may leave it, and the next
/// call for the same path overwrites it.
pub fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = temporary_beside(path);
    let written = write_new(&temporary, contents, mode).and_then(|()| {
        fs::rename(&temporary, path).map_err(because("rename a temporary file to", path))
    });
    if let Err(error) = written {
        // Best effort: the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(parent(path))
}

/// Writes and fsyncs a file, replacing what may stand there, without a directory fsync.
fn write_new(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(because("create", path))?;
    // `mode` above is subject to the umask and ignored for an existing file.
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(because("set the mode of", path))?;
    file.write_all(contents).map_err(because("write", path))?;
    file.sync_all().map_err(because("fsync", path))
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(because("fsync the directory", path))
}

/// Reads a file; `None` if it is not there.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(because("read", path)(error)),
    }
}

/// Makes a directory and its parents; `mode` is for those it makes.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(because("create the directory", path))
}

/// A lock file that one process holds. The kernel lets go of it when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; `Ok(None)` if another process holds it.
    pub fn acquire(path: &Path) -> Result<Option<Self>, Error> {
        use rustix::fs::{FlockOperation, flock};
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(because("open the lock file", path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(because("lock", path)(errno.into())),
        }
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_file(&path, b"old", 0o644).unwrap();
        write_file(&path, b"new", 0o600).unwrap();
        assert_eq!(read_file(&path).unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn the_error_names_action_and_path() {
        let error = write_file(Path::new("/nonexistent/dir/key"), b"", 0o600).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/dir/.key.tmp"), "{error}");
    }

    #[test]
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path).unwrap();
        assert!(first.is_some());
        assert!(Lock::acquire(&path).unwrap().is_none());
        drop(first);
        assert!(Lock::acquire(&path).unwrap().is_some());
    }
}
