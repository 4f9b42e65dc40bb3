//! Who is at the other end of a connection, as far as TLS can tell.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use chancery_shared::{
    name::{AgentName, NodeName},
    x509::{Facts, public_key_hash},
};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::authority::{agent_of_uri, coordinator_of_uri};

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// What its identity certificate says, if it is an agent's; the internal CA has issued it.
    pub(super) identity: Option<Arc<PeerIdentity>>,
    /// What its identity certificate says, if it is a coordinator's.
    pub(super) coordinator: Option<Arc<CoordinatorIdentity>>,
}

impl Peer {
    /// Who showed `certificate`, whose chain and signature have been verified. `None` if it is
    /// not one that this CA makes for clients.
    pub(super) fn of(
        address: SocketAddr,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Option<Self> {
        let mut peer = Self { address, identity: None, coordinator: None };
        if let Some(certificate) = certificate {
            peer.identity = PeerIdentity::of(certificate).map(Arc::new);
            peer.coordinator = CoordinatorIdentity::of(certificate).map(Arc::new);
            if peer.identity.is_none() && peer.coordinator.is_none() {
                return None;
            }
        }
        Some(peer)
    }
}

/// What a coordinator's identity certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoordinatorIdentity {
    pub(super) node: NodeName,
    pub(super) not_after: Timestamp,
}

impl CoordinatorIdentity {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let facts = Facts::of(certificate).ok()?;
        let [uri] = facts.uris.as_slice() else { return None };
        Some(Self { node: coordinator_of_uri(uri)?, not_after: facts.not_after })
    }
}

/// What an identity certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerIdentity {
    pub(super) agent: AgentName,
    pub(super) public_key_hash: [u8; 32],
    pub(super) not_after: Timestamp,
}

impl PeerIdentity {
    /// Reads an identity certificate whose chain and signature have been verified. `None` if it is
    /// not one that this CA makes for agents.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let facts = Facts::of(certificate).ok()?;
        let [uri] = facts.uris.as_slice() else { return None };
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self {
            agent: agent_of_uri(uri)?,
            public_key_hash: public_key_hash(parsed.public_key().raw),
            not_after: facts.not_after,
        })
    }
}

/// A TLS connection whose handshake is done.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connection {
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: Peer) -> Self {
        Self { stream, peer }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
