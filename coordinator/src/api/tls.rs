//! The TLS listener: TLS 1.3, the internal CA, and nobody who can hold up the others.
//!
//! Each handshake runs in its own task with a time-out, and there is a bound on how many run at
//! once; accepting never waits for any of them.
//!
//! A client certificate of another CA ends the handshake. One of ours that has expired does not: the
//! call is then refused with a status that tells the agent what to do, instead of an alert
//! that looks to it like a network that does not work. No session is resumed, because resumption
//! would not look at the certificate again.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, tls::provider, x509::Facts};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
    version::TLS13,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Api, Error,
    peer::{Connection, Peer},
};
use crate::{
    authority::{Authority, ServerIdentity},
    metrics::Refusal,
};

/// The server side of TLS with `authority` as the only root.
pub(super) fn server_config(
    authority: &Arc<Authority>,
    clock: SharedClock,
) -> Result<ServerConfig, Error> {
    let tls = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(|error| tls(&error))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| tls(&error))?;
    let time = Arc::new(WallTime(clock));
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(Arc::new(AlsoExpired(verifier)))
        .with_cert_resolver(ServerIdentity::new(authority.clone())?);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts connections until `shutdown` and passes on those whose handshake worked.
pub(super) fn accept(
    listener: TcpListener,
    config: ServerConfig,
    api: Arc<Api>,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, connections) = mpsc::channel(READY);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let accepting = async move {
        let running = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely; at once it would not be better.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let Ok(permit) = running.clone().try_acquire_owned() else {
                tracing::debug!(%address, "closed a connection: too many handshakes at once");
                api.metrics.handshake_failed();
                continue;
            };
            let (acceptor, api, sender) = (acceptor.clone(), api.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = handshake(&acceptor, &api, tcp, address).await {
                    // Nobody takes it: the server stops.
                    let _ = sender.send(Ok(connection)).await;
                }
                drop(permit);
            });
        }
    };
    tokio::spawn(shutdown.run_until_cancelled_owned(accepting));
    ReceiverStream::new(connections)
}

async fn handshake(
    acceptor: &TlsAcceptor,
    api: &Api,
    tcp: TcpStream,
    address: SocketAddr,
) -> Option<Connection> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::debug!(%address, %error, "TLS handshake failed");
        api.metrics.handshake_failed();
    };
    // Small messages, each of which somebody waits for.
    if let Err(error) = tcp.set_nodelay(true) {
        failed(&error);
        return None;
    }
    let stream = match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Err(_) => {
            failed(&"it took too long");
            return None;
        }
        Ok(Err(error)) => {
            failed(&error);
            if let Some(reason) = refused_certificate(&error) {
                let message =
                    format!("a client at {address} showed an identity that is not ours: {reason}");
                api.refusals.refuse(Refusal::ForeignIdentity, address.ip().to_string(), message);
            }
            return None;
        }
        Ok(Ok(stream)) => stream,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(peer) = Peer::of(address, shown) else {
        let message = format!("a client at {address} showed a certificate that is no agent's");
        api.refusals.refuse(Refusal::ForeignIdentity, address.ip().to_string(), message);
        return None;
    };
    Some(Connection::new(stream, peer))
}

/// What was wrong with the client's certificate, if it was that.
fn refused_certificate(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => Some(reason),
        _ => None,
    }
}

/// Verifies client certificates, and lets expired ones pass. Whoever uses this has to look
/// at the end of validity of each: `authorize` and `forward` do, on every call.
#[derive(Debug)]
struct AlsoExpired(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AlsoExpired {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        let expired = matches!(
            verified,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        );
        let end = Facts::of(end_entity).ok().map(|facts| facts.not_after.as_second());
        match end.and_then(|end| u64::try_from(end).ok()).filter(|_| expired) {
            // All the rest is verified as of its last second.
            Some(end) => self.0.verify_client_cert(
                end_entity,
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(end)),
            ),
            None => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Our clock, as rustls wants it.
struct WallTime(SharedClock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

impl std::fmt::Debug for WallTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallTime")
    }
}

/// Handshakes at once.
const HANDSHAKES: usize = 1024;
/// A whole handshake, its network round trip included.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them.
const READY: usize = 64;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
