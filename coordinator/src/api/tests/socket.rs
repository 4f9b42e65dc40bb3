//! The unix socket for operators.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::api::{Socket, SocketError, SocketOptions};

fn bind(path: &Path) -> Result<Socket, SocketError> {
    Socket::bind(&SocketOptions { path: path.to_owned(), group: None })
}

#[tokio::test]
async fn only_its_owner_and_group_may_open_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let _socket = bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn one_that_is_listened_on_is_not_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let first = bind(&path).unwrap();
    assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
    drop(first);
    assert!(!path.exists());
}

#[tokio::test]
async fn one_that_a_killed_process_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    // Dropping a listener leaves its file, as being killed does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = bind(&path).unwrap();
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn each_mistake_has_its_own_message() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/admin.sock");
    assert!(matches!(bind(&missing), Err(SocketError::NoDirectory(_))));
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let path = directory.path().join("admin.sock");
    let group = Some("no-such-group-anywhere".to_owned());
    let error = Socket::bind(&SocketOptions { path, group }).unwrap_err();
    assert!(error.to_string().contains("no such group"), "{error}");
}
