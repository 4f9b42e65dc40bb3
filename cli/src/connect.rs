//! The way to the coordinator: gRPC over a unix socket, whose file permissions are
//! the access control.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use chancery_proto::v1::admin_service_client::AdminServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::failure::{Exit, Failure, innermost};

/// A client of the coordinator's admin service.
pub(crate) type Client = AdminServiceClient<Channel>;

/// Connects to the coordinator at `socket`. When the connection breaks later, the
/// client makes a new one at the next call.
pub(crate) async fn connect(socket: &Path, limit: Duration) -> Result<Client, Failure> {
    // The first connection is made here, where its error still is an error of the
    // operating system, and then handed to tonic.
    let first = match tokio::time::timeout(limit, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::new(Exit::Unreachable, explain(socket, &error))),
        Err(_) => return Err(Failure::no_answer(limit)),
    };
    let first = Arc::new(Mutex::new(Some(first)));
    let path: Arc<PathBuf> = Arc::new(socket.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.lock().ok().and_then(|mut first| first.take());
        let path = Arc::clone(&path);
        async move {
            match first {
                Some(stream) => io::Result::Ok(TokioIo::new(stream)),
                None => Ok(TokioIo::new(UnixStream::connect(path.as_path()).await?)),
            }
        }
    });
    // The authority is not looked up; HTTP/2 wants one.
    let channel = Endpoint::from_static("http://coordinator.chancery.internal")
        .connect_timeout(limit)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            let message = format!(
                "{} does not speak as a coordinator does: {}; is it the admin socket?",
                socket.display(),
                innermost(&error)
            );
            Failure::new(Exit::Unreachable, message)
        })?;
    Ok(AdminServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER_BYTES))
}

/// The answer to `call`, if it comes within `limit`.
pub(crate) async fn answer<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Failure::no_answer(limit)),
    }
}

/// Why the socket cannot be opened, and what to do about it.
fn explain(socket: &Path, error: &io::Error) -> String {
    let path = socket.display();
    let elsewhere = "name its socket with --socket or CHANCERY_SOCKET";
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket {path}: is the coordinator running on this host? \
             If it listens elsewhere, {elsewhere}"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "nobody listens on {path}: the coordinator is not running (start it), \
             or this is no coordinator's socket ({elsewhere})"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("you may not open {path}: {}", who_may_open(socket))
        }
        _ => format!("{path} cannot be opened: {error}; {elsewhere}"),
    }
}

/// Who may open the socket, as far as the file system tells us.
fn who_may_open(socket: &Path) -> String {
    // The first of socket, folder, … that we may look at is the one that shuts us out,
    // or the nearest to it that can be seen.
    let Some((path, metadata)) =
        socket.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?)))
    else {
        return "run this as a user that may".to_owned();
    };
    let user = uzers::get_user_by_uid(metadata.uid())
        .map_or_else(|| metadata.uid().to_string(), |user| user.name().display().to_string());
    let group = uzers::get_group_by_gid(metadata.gid())
        .map_or_else(|| metadata.gid().to_string(), |group| group.name().display().to_string());
    let group_may = if metadata.mode() & 0o070 == 0 {
        String::new()
    } else {
        format!(" or a member of group {group}")
    };
    format!(
        "{} is for user {user}{group_may} (mode {:04o})",
        path.display(),
        metadata.mode() & 0o7777
    )
}

/// A list of 100,000 certificates is about 30 MB.
const LARGEST_ANSWER_BYTES: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_missing_socket_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let failure = connect(&folder.path().join("no.sock"), LIMIT).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unreachable);
        let message = failure.message().unwrap();
        assert!(message.contains("no.sock: is the coordinator running on this host?"), "{message}");
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead.sock");
        drop(UnixListener::bind(&path).unwrap());
        let failure = connect(&path, LIMIT).await.unwrap_err();
        let message = failure.message().unwrap();
        assert!(message.contains("the coordinator is not running"), "{message}");
    }

    #[test]
    fn a_forbidden_socket_says_who_may_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let user = uzers::get_user_by_uid(metadata.uid()).unwrap();
        for (mode, for_group) in [(0o660, true), (0o600, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let message = explain(&path, &io::Error::from(io::ErrorKind::PermissionDenied));
            assert!(message.contains(&format!("for user {}", user.name().display())), "{message}");
            assert_eq!(message.contains("member of group"), for_group, "{message}");
            assert!(message.contains(&format!("{mode:04o}")), "{message}");
        }
    }
}
