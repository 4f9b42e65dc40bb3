//! A coordinator's server certificate: made in memory, renewed where it is used.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Authority, Error};

/// The server certificate of this process. Makes itself a new one at half life, in the handshake
/// that comes upon it: there is no background task that could have died unnoticed, and an
/// idle coordinator does nothing.
pub struct ServerIdentity {
    authority: Arc<Authority>,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl ServerIdentity {
    /// Makes the first certificate.
    pub fn new(authority: Arc<Authority>) -> Result<Arc<Self>, Error> {
        let current = Mutex::new(Current::issue(&authority)?);
        Ok(Arc::new(Self { authority, current }))
    }

    /// The certificate to show now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().expect("no holder panics");
        if current.renew_at <= self.authority.clock.now() {
            match Current::issue(&self.authority) {
                Ok(fresh) => *current = fresh,
                // The old one is good for as long again.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the server certificate cannot be renewed");
                }
            }
        }
        current.key.clone()
    }
}

impl Current {
    fn issue(authority: &Authority) -> Result<Self, Error> {
        let (leaf, key, renew_at) = authority.issue_server()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
        // The root goes along: an agent that joins knows its fingerprint only.
        let chain = vec![leaf, authority.certificate.clone()];
        Ok(Self { key: Arc::new(CertifiedKey::new(chain, signer)), renew_at })
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerIdentity")
    }
}
