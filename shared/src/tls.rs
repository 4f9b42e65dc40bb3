//! TLS between agents and coordinators: TLS 1.3, Chancery's internal CA, nothing else.
//!
//! A coordinator's certificate is issued for one fixed name, [`COORDINATOR_NAME`], so
//! that addresses, load balancers and port forwards need not be known to the
//! CA. An agent's identity certificate is for client authentication only, so it
//! cannot be used to pose as a coordinator.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::x509::Fingerprint;

/// The name in every coordinator's server certificate.
pub const COORDINATOR_NAME: &str = "coordinator.chancery.internal";

/// Makes aws-lc-rs the process's cryptography. Call it first in `main`; calling it
/// again changes nothing.
pub fn install_crypto() {
    // Fails only if a provider is installed already, which is then this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The cryptography that all of Chancery's TLS uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Configuration of a client that joins: it knows the root's fingerprint only, and
/// has no identity yet.
pub fn joining_client(ca_fingerprint: Fingerprint) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(PinnedRootVerifier { ca_fingerprint, provider: provider() });
    Ok(builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
        .http2())
}

/// Configuration of a client with an identity certificate. `chain` is the
/// identity certificate and its issuers, `root` the internal CA's certificate.
pub fn identified_client(
    root: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    Ok(builder()?.with_root_certificates(roots).with_client_auth_cert(chain, key)?.http2())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])
}

/// Adds gRPC's protocol to a configuration.
trait Http2 {
    fn http2(self) -> Self;
}

impl Http2 for ClientConfig {
    fn http2(mut self) -> Self {
        self.alpn_protocols = vec![b"h2".to_vec()];
        self
    }
}

/// Opens a gRPC channel to the coordinator at `address` (`host:port`). A peer that
/// goes silent is noticed within about 20 seconds.
pub async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |uri: tonic::transport::Uri| {
        let config = config.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(COORDINATOR_NAME).expect("a valid DNS name");
            let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    // The scheme is http because the connector already brings TLS.
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// Accepts a coordinator whose chain contains the certificate with the pinned
/// fingerprint and is valid under that certificate as the only root.
#[derive(Debug)]
struct PinnedRootVerifier {
    ca_fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRootVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.ca_fingerprint)
            .ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Both ends send HTTP/2 pings this often, also while nothing else is sent.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for this long is dead.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
