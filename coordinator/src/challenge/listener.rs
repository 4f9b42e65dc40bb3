//! What listens to the whole world: anybody may connect to what answers challenges, so there are bounds for
//! how many do at once and for how long.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Hands each connection to `serve`, for [`LONGEST`] at most. What comes beside [`AT_ONCE`] others is closed.
/// `what` is for the log.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    what: &'static str,
    serve: impl Fn(TcpStream) -> F,
) {
    let running = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of file descriptors, most likely; at once it would not be better.
                tracing::warn!(%error, "cannot accept a connection for {what}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(permit) = running.clone().try_acquire_owned() else { continue };
        let serving = timeout(LONGEST, serve(tcp));
        tokio::spawn(async move {
            if serving.await.is_err() {
                tracing::debug!("a connection for {what} took too long");
            }
            drop(permit);
        });
    }
}

/// Connections at once.
pub(super) const AT_ONCE: usize = 512;
/// A whole connection, its network round trips included.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
