//! Looking at what a service really serves, as any TLS client would.
//!
//! The certificate is compared, not judged: whether it is expired or its issuer unknown is
//! none of the probe's business. The handshake's signature is checked, so what is seen is
//! what the service has the key for.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chancery_shared::{
    tls,
    x509::{Facts, Fingerprint},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Asks `address` for `server_name` until the leaf `wanted` is served; after a reload, old
/// workers may answer for a moment. The error is a text for operators: what was seen last.
pub(super) async fn probe(
    address: &str,
    server_name: &str,
    wanted: Fingerprint,
    deadline: Instant,
) -> Result<(), String> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| format!("{server_name:?} is no name that a service can be asked for"))?;
    let mut pause = FIRST_PAUSE;
    loop {
        let limit = deadline.max(Instant::now() + LEAST_TIME);
        let seen = match timeout_at(limit, look(address, name.clone())).await {
            Ok(Ok(seen)) if Fingerprint::of(&seen.leaf) != wanted => describe(&seen.leaf),
            Ok(Ok(seen)) if seen.proved => return Ok(()),
            Ok(Ok(_)) => "the certificate is served, but not with its key".to_owned(),
            Ok(Err(error)) => error,
            Err(_) => "the handshake took too long".to_owned(),
        };
        if Instant::now() + pause >= deadline {
            return Err(format!("asked for {server_name} at {address}: {seen}"));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// What a service showed.
struct Seen {
    leaf: CertificateDer<'static>,
    /// It signed the handshake with the leaf's key.
    proved: bool,
}

/// One handshake.
async fn look(address: &str, name: ServerName<'static>) -> Result<Seen, String> {
    let recorder = Arc::new(Recorder { seen: Mutex::default(), provider: tls::provider() });
    let config = ClientConfig::builder_with_provider(recorder.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.map_err(|error| format!("no answer ({error})"))?;
    let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    // A service that wants a client certificate ends the handshake after it showed its own.
    let seen = recorder.seen().take();
    match (seen, handshake) {
        (Some(seen), handshake) => {
            if let Ok(mut stream) = handshake {
                use tokio::io::AsyncWriteExt as _;
                // Politeness: a service need not log a client that hung up on it.
                let _ = timeout(FIRST_PAUSE, stream.shutdown()).await;
            }
            Ok(seen)
        }
        (None, Err(error)) => Err(format!("no TLS handshake ({error})")),
        (None, Ok(_)) => Err("no certificate in the handshake".to_owned()),
    }
}

fn describe(leaf: &CertificateDer<'_>) -> String {
    match Facts::of(leaf) {
        Ok(facts) => {
            let names: Vec<String> = facts.names().collect();
            format!(
                "another certificate is served: serial {}, valid until {}, for {}",
                facts.serial,
                facts.not_after,
                if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
            )
        }
        Err(error) => format!("another certificate is served; {error}"),
    }
}

/// Accepts every certificate and remembers the leaf.
struct Recorder {
    seen: Mutex<Option<Seen>>,
    provider: Arc<CryptoProvider>,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the outcome of checking the handshake's signature.
    fn proved(
        &self,
        outcome: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if let Some(seen) = &mut *self.seen() {
            seen.proved = outcome.is_ok();
        }
        outcome
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen() = Some(Seen { leaf: end_entity.clone().into_owned(), proved: false });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.proved(verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.proved(verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A try may take this long even if the deadline is nearer, so that the last of many
/// certificates gets one fair try too.
const LEAST_TIME: Duration = Duration::from_secs(2);
