//! The unix socket for operators.
//!
//! Its file mode is the access control, so the file never stands there with another one: the socket
//! is made under a temporary name, gets its group and mode, and only then its real name. A socket
//! file that a killed process left is replaced; one that somebody listens on is not.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;
use tonic::transport::server::UdsConnectInfo;

/// Where the socket is, and who may open it besides its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Path of the socket. Its directory has to exist.
    pub path: PathBuf,
    /// The group that may open it; the process's own if `None`.
    pub group: Option<String>,
}

/// The socket, listening.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket's file when it is dropped, if it still is this socket's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is missing.
    #[error("the admin socket cannot be made: its directory {0} does not exist")]
    NoDirectory(PathBuf),
    /// Somebody listens there.
    #[error("the admin socket {0} is in use: another coordinator is running with the same path")]
    InUse(PathBuf),
    /// Something else stands there.
    #[error("the admin socket cannot be made: {0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The group does not exist.
    #[error("the admin socket cannot be given to group {0:?}: there is no such group")]
    NoGroup(String),
    /// The system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Socket {
    /// Makes the socket and listens. Needs a tokio runtime.
    pub fn bind(options: &SocketOptions) -> Result<Self, SocketError> {
        let path = &options.path;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        if !directory.is_dir() {
            return Err(SocketError::NoDirectory(directory.to_owned()));
        }
        check_free(path)?;
        let group = options.group.as_deref().map(group_id).transpose()?;
        let temporary = temporary_beside(path);
        let made = make(&temporary, group).and_then(|listener| {
            fs::rename(&temporary, path).map_err(because("put in place", path))?;
            Ok(listener)
        });
        let listener = made.inspect_err(|_| {
            // Best effort: the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        })?;
        let inode = fs::metadata(path).map_err(because("look at", path))?.ino();
        Ok(Self { listener, file: SocketFile { path: path.clone(), inode } })
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // Left behind, it would be replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The user at the other end of a connection, as the kernel says.
pub(super) fn user(info: Option<&UdsConnectInfo>) -> String {
    let user = info.and_then(|info| info.peer_cred.as_ref()).map(tokio::net::unix::UCred::uid);
    match user {
        Some(uid) => match uzers::get_user_by_uid(uid) {
            Some(user) => user.name().to_string_lossy().into_owned(),
            None => format!("user {uid}"),
        },
        None => "an operator".to_owned(),
    }
}

/// Fails if something stands at `path` that must not be replaced.
fn check_free(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(because("look at", path)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(because("see who listens on", path)(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

fn make(path: &Path, group: Option<u32>) -> Result<UnixListener, SocketError> {
    // Left by a process of the same number that was killed.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(because("make a socket at", path))?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(because("set the group of", path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .map_err(because("set the mode of", path))?;
    Ok(listener)
}

fn group_id(name: &str) -> Result<u32, SocketError> {
    let group = uzers::get_group_by_name(name);
    group.map(|group| group.gid()).ok_or_else(|| SocketError::NoGroup(name.to_owned()))
}

/// Short, because the path of a socket may have only about 100 bytes.
fn temporary_beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".s{}", std::process::id()))
}

fn because(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { action, path, source }
}

const MODE: u32 = 0o660;
