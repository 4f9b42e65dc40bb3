//! Whether a coordinator that breaks connections off does so because of the identity.
//!
//! In TLS 1.3 a client is done with the handshake before the server has looked at its
//! certificate. A server that turns it down answers with an alert and hangs up; but HTTP/2
//! on the client's side is already writing, finds the connection closed, and often never
//! reads why. So after a failure without a reason this makes one connection that only
//! listens.

use std::{sync::Arc, time::Duration};

use chancery_shared::tls::COORDINATOR_NAME;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::Failure;

/// What the coordinator at `address` says to this identity; `None` if nothing against it.
pub(super) async fn verdict(address: &str, config: ClientConfig) -> Option<Failure> {
    let listening = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from(COORDINATOR_NAME).expect("a valid DNS name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        // A coordinator that is content begins to speak HTTP/2.
        stream.read_u8().await
    };
    let error = timeout(PATIENCE, listening).await.ok()?.err()?;
    match Failure::of_io(&error) {
        Failure::Unavailable(_) => None,
        verdict => Some(verdict),
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
