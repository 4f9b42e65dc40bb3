//! TLS-ALPN-01 (RFC 8737): every coordinator answers every challenge on a TLS listener of its own,
//! from its mirror.
//!
//! The CA connects to port 443 of the name, says `acme-tls/1` by ALPN and the name by SNI, and looks at the
//! certificate that it is shown: self-signed, for that name alone, with the digest of the key
//! authorization in a critical extension. It is made for each handshake, and nothing is ever said
//! over the connection. Whoever asks for anything else is turned away before it is answered.
//!
//! A handshake can show one certificate only. Where several orders want to prove the same name at the
//! same time, the order that has presented first is answered, and the others wait for it
//! ([`taken_by_another`]).

use std::{io, net::IpAddr, sync::Arc};

use chancery_shared::{challenge_type::ChallengeType, identifier::Identifier, tls::provider};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::listener;
use crate::{
    mirror::{Mirror, View},
    record::Challenge,
};

/// Why the listener cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// rustls refused the configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Answers until `shutdown`. Handshakes that run then are dropped: the CA asks again.
pub async fn serve(
    listener: TcpListener,
    mirror: Arc<Mirror>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(mirror)?));
    shutdown.run_until_cancelled_owned(accept(listener, acceptor)).await;
    Ok(())
}

fn server_config(mirror: Arc<Mirror>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Answers(mirror)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each validation has to see what is presented then.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) {
    listener::accept(listener, "TLS-ALPN-01", |tcp| {
        let acceptor = acceptor.clone();
        async move {
            if let Err(error) = handshake(&acceptor, tcp).await {
                tracing::debug!(%error, "TLS-ALPN-01 handshake failed");
            }
        }
    })
    .await;
}

/// The handshake is the answer (RFC 8737 section 3).
async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream) -> io::Result<()> {
    let mut stream = acceptor.accept(tcp).await?;
    stream.shutdown().await
}

struct Answers(Arc<Mirror>);

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks = hello.alpn()?.any(|protocol| protocol == PROTOCOL);
        let name = hello.server_name().filter(|_| asks)?;
        let challenge = presented(&self.0.read(), &identifier(name)?)?;
        match answer(&challenge) {
            Ok(certified) => {
                tracing::debug!(identifier = %challenge.identifier, "answered a challenge");
                Some(Arc::new(certified))
            }
            Err(error) => {
                tracing::warn!(%error, "a TLS-ALPN-01 answer could not be made");
                None
            }
        }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answers")
    }
}

/// What a server name asks for. An address is asked for by its name for reverse look-ups
/// (RFC 8738 section 6).
fn identifier(name: &str) -> Option<Identifier> {
    let name = name.to_ascii_lowercase();
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = reversed.rsplit('.').collect();
        return octets.join(".").parse::<std::net::Ipv4Addr>().ok()?.to_string().parse().ok();
    }
    if let Some(reversed) = name.strip_suffix(".ip6.arpa") {
        let mut nibbles = reversed.rsplit('.').map(|nibble| u8::from_str_radix(nibble, 16).ok());
        let mut octets = [0; 16];
        for octet in &mut octets {
            *octet = (nibbles.next()?? << 4) | nibbles.next()??;
        }
        let whole = nibbles.next().is_none();
        return whole.then(|| IpAddr::from(octets).to_string().parse().ok())?;
    }
    name.parse().ok()
}

/// The challenge that is answered for `identifier`: of several the one that was presented first.
fn presented(view: &View, identifier: &Identifier) -> Option<Arc<Challenge>> {
    let ours = view.challenges.values().filter(|challenge| {
        let challenge = &challenge.record;
        challenge.challenge_type == ChallengeType::TlsAlpn01 && challenge.identifier == *identifier
    });
    ours.min_by_key(|challenge| challenge.revision).map(|challenge| challenge.record.clone())
}

/// Whether another challenge than `ours` is answered for its identifier, so that our order has to wait
/// before it tells the CA. `view` has to show what the order has presented: then it shows all that came
/// before. Two orders that the CA gave the same challenge do not wait for each other.
pub fn taken_by_another(view: &View, ours: &Challenge) -> bool {
    presented(view, &ours.identifier)
        .is_some_and(|answered| answered.key_authorization != ours.key_authorization)
}

/// The certificate that answers (RFC 8737 section 3).
fn answer(challenge: &Challenge) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params =
        rcgen::CertificateParams::new([challenge.identifier.to_string()]).map_err(text)?;
    let authorization = challenge.key_authorization.as_bytes();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authorization);
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = rcgen::KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der);
    let signer = signer.map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}

/// RFC 8737 section 6.2.
const PROTOCOL: &[u8] = b"acme-tls/1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_by_their_reverse_names() {
        let asked = |name: &str| identifier(name).map(|identifier| identifier.to_string());
        assert_eq!(asked("WWW.example.org").as_deref(), Some("www.example.org"));
        assert_eq!(asked("1.2.0.192.in-addr.arpa").as_deref(), Some("192.0.2.1"));
        let reversed = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(asked(reversed).as_deref(), Some("2001:db8::1"));
        for bad in ["2.0.192.in-addr.arpa", "1.0.ip6.arpa", &format!("0.{reversed}"), "localhost"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
