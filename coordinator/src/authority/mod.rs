//! The internal CA: who may call itself a coordinator, and who an agent.
//!
//! One self-signed certificate, made by the first leader and kept in the store with its key
//! sealed. It issues three kinds of certificates that cannot stand in for each other:
//!
//! * **A coordinator's server certificate** names
//!   [`COORDINATOR_NAME`](chancery_shared::tls::COORDINATOR_NAME) and nothing else, is
//!   for server authentication only, and lives a day. Each process makes its own in memory and
//!   renews it at half life ([`ServerIdentity`]), so that no copy of it exists anywhere.
//! * **An agent's identity certificate** carries the agent's name as the URI
//!   `chancery://agent/NAME` and is for client authentication only. Of the agent's CSR
//!   nothing counts but its public key and the proof that it has the private one.
//!
//! * **A coordinator's identity certificate** carries the node's name as the URI
//!   `chancery://coordinator/NODE`, is for client authentication only, and lives a day. A
//!   coordinator makes one in memory for each connection to another. Enrolment can never issue one:
//!   what it issues has the URI of an agent, whatever a CSR asks for, and no agent's name has a slash.
//!
//! There is no revocation list: the coordinator looks at the agent's record on each call
//! (see [`crate::api`]), and an identity whose record is gone is worth nothing.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chancery_shared::{
    clock::SharedClock,
    key_type::KeyType,
    name::{AgentName, NodeName},
    number::Generation,
    secret::Secret,
    x509::{self, Fingerprint},
};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    election::Leadership,
    mirror::Mirror,
    record::{self, Identity, key},
    seal::{self, Sealer},
    store::{self, Store},
};

mod csr;
mod server;

pub use csr::{Csr, InvalidCsr};
pub use server::ServerIdentity;

/// How the internal CA issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an agent's identity certificate lives.
    pub identity_lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { identity_lifetime: Duration::from_hours(30 * 24) }
    }
}

/// The internal CA, opened.
pub struct Authority {
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
    issuer: Issuer<'static, KeyPair>,
    clock: SharedClock,
    options: Options,
}

/// An identity certificate, as it goes to the agent and as it is remembered.
#[derive(Clone, Debug)]
pub struct IssuedIdentity {
    /// The identity certificate, then the CA's. DER.
    pub chain: Vec<Bytes>,
    /// What is kept of it.
    pub record: Identity,
}

/// Why the internal CA cannot be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("the internal CA cannot be kept in the store")]
    Store(#[from] store::Error),
    /// The record cannot be decoded.
    #[error("the internal CA cannot be read")]
    Decode(#[from] record::DecodeError),
    /// The key cannot be unsealed: another seal key file, or damage.
    #[error("the internal CA's key cannot be unsealed")]
    Seal(#[from] seal::Error),
    /// The key is not that of the certificate.
    #[error("the internal CA's record is damaged")]
    Mismatch(#[from] x509::Error),
    /// A certificate cannot be made.
    #[error("the internal CA cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A key cannot be used for TLS.
    #[error("the internal CA's certificates cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The coordinator stops before the CA was made.
    #[error("stopped before the internal CA was there")]
    Stopped,
}

/// Makes the internal CA if the store has none. Called by every new leader; a second call, or a
/// second leader, changes nothing.
pub async fn ensure(
    store: &dyn Store,
    leadership: &Leadership,
    sealer: &Sealer,
    clock: &SharedClock,
) -> Result<(), Error> {
    if store.get(key::AUTHORITY).await?.is_some() {
        return Ok(());
    }
    let record = generate(sealer, clock.now())?;
    let batch =
        leadership.batch().absent(key::AUTHORITY).put(key::AUTHORITY, record::encode(&record));
    match store.commit(batch).await {
        Ok(_) => {
            let fingerprint = Fingerprint::of(&record.certificate);
            tracing::info!(%fingerprint, "made the internal CA");
            Ok(())
        }
        // Somebody else was faster, which is as good.
        Err(store::Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the internal CA is in the store (the first leader makes it) and opens it.
/// Cancel-safe.
pub async fn load(
    mirror: &Mirror,
    sealer: &Sealer,
    clock: SharedClock,
    options: Options,
) -> Result<Arc<Authority>, Error> {
    let mut touched = mirror.touched();
    loop {
        let record = mirror.read().authority.as_ref().map(|known| known.record.clone());
        if let Some(record) = record {
            return Ok(Arc::new(Authority::open(&record, sealer, clock, options)?));
        }
        if let Err(RecvError::Closed) = touched.recv().await {
            return Err(Error::Stopped);
        }
    }
}

impl Authority {
    /// Opens the CA of `record`.
    pub fn open(
        record: &record::Authority,
        sealer: &Sealer,
        clock: SharedClock,
        options: Options,
    ) -> Result<Self, Error> {
        let certificate = CertificateDer::from(record.certificate.clone());
        let key = sealer.open(&CONTEXT, &record.key)?;
        let der = PrivatePkcs8KeyDer::from(key.expose_secret());
        x509::check_key_matches(&certificate, &PrivateKeyDer::Pkcs8(der.clone_key()))?;
        let key = KeyPair::try_from(&der)?;
        Ok(Self {
            fingerprint: Fingerprint::of(&certificate),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            clock,
            options,
        })
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the CA's certificate, as it stands in join tokens.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Issues an identity certificate for the key in `csr`.
    pub fn issue_identity(&self, name: &AgentName, csr: &Csr) -> Result<IssuedIdentity, Error> {
        let now = self.clock.now();
        let not_after = self.not_after(now, self.options.identity_lifetime);
        let mut params = leaf_params(name.as_str(), now, not_after);
        params.subject_alt_names = vec![SanType::URI(agent_uri(name).as_str().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(csr.public_key(), &self.issuer)?;
        let facts = x509::Facts::of(leaf.der())?;
        Ok(IssuedIdentity {
            chain: vec![
                Bytes::copy_from_slice(leaf.der()),
                Bytes::copy_from_slice(&self.certificate),
            ],
            record: Identity {
                public_key_hash: csr.public_key_hash().to_vec(),
                serial: facts.serial,
                not_after: facts.not_after,
            },
        })
    }

    /// Issues an identity certificate for the coordinator `node`: the chain to show, and its key.
    pub fn issue_coordinator(
        &self,
        node: &NodeName,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let now = self.clock.now();
        let mut params = leaf_params(node.as_str(), now, self.not_after(now, SERVER_LIFETIME));
        params.subject_alt_names =
            vec![SanType::URI(format!("{COORDINATOR_URI}{node}").as_str().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyType::EcdsaP256.generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// Issues a certificate for a coordinator's server, with its key, and says when to renew it.
    fn issue_server(&self) -> Result<(CertificateDer<'static>, KeyPair, Timestamp), Error> {
        let now = self.clock.now();
        let not_after = self.not_after(now, SERVER_LIFETIME);
        let mut params = leaf_params(chancery_shared::tls::COORDINATOR_NAME, now, not_after);
        params.subject_alt_names =
            vec![SanType::DnsName(chancery_shared::tls::COORDINATOR_NAME.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyType::EcdsaP256.generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf.der().clone(), key, now + SERVER_LIFETIME / 2))
    }

    /// `lifetime` from now, but never past the CA's own end.
    fn not_after(&self, now: Timestamp, lifetime: Duration) -> Timestamp {
        let end = x509::Facts::of(&self.certificate).map_or(now, |facts| facts.not_after);
        now.checked_add(lifetime).unwrap_or(end).min(end)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The URI that stands for an agent in its identity certificate.
pub fn agent_uri(name: &AgentName) -> String {
    format!("{AGENT_URI}{name}")
}

/// The agent that an identity certificate's URI stands for.
pub fn agent_of_uri(uri: &str) -> Option<AgentName> {
    uri.strip_prefix(AGENT_URI)?.parse().ok()
}

/// The coordinator that an identity certificate's URI stands for.
pub fn coordinator_of_uri(uri: &str) -> Option<NodeName> {
    uri.strip_prefix(COORDINATOR_URI)?.parse().ok()
}

/// A fresh CA.
fn generate(sealer: &Sealer, now: Timestamp) -> Result<record::Authority, Error> {
    let key = KeyType::EcdsaP256.generate()?;
    let mut params = CertificateParams::default();
    // Part of the name, so that the certificates of two fleets can be told apart by eye.
    let mark = Fingerprint::of(&rcgen::PublicKeyData::subject_public_key_info(&key)).to_string();
    params.distinguished_name = named(&format!("Chancery internal CA {}", &mark[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    params.not_before = at(now - BACKDATED);
    params.not_after = at(now + CA_LIFETIME);
    let certificate = params.self_signed(&key)?;
    let secret = Secret::new(key.serialize_der());
    Ok(record::Authority {
        certificate: certificate.der().to_vec(),
        key: sealer.seal(&CONTEXT, secret.expose_secret()),
    })
}

/// What both kinds of end-entity certificates share.
fn leaf_params(common_name: &str, now: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(random_serial());
    // A short life must not be over by half before it begins: agents rotate then.
    let backdated = BACKDATED.min(not_after.duration_since(now).unsigned_abs() / 10);
    params.not_before = at(now - backdated);
    params.not_after = at(not_after);
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// 127 random bits: positive, as RFC 5280 section 4.1.2.2 wants it, and not derived from the key,
/// so that two certificates of one key differ.
fn random_serial() -> SerialNumber {
    let random = Secret::random(16);
    let mut bytes = random.expose_secret().to_vec();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes)
}

fn at(time: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(time.as_second())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

/// What the sealed key is bound to.
const CONTEXT: seal::Context<'static> =
    seal::Context { kind: "authority", name: "internal", generation: Generation(0) };
const AGENT_URI: &str = "chancery://agent/";
const COORDINATOR_URI: &str = "chancery://coordinator/";
const CA_LIFETIME: Duration = Duration::from_hours(3652 * 24);
const SERVER_LIFETIME: Duration = Duration::from_hours(24);
/// So that an agent whose clock is slow does not refuse what was just made.
const BACKDATED: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests;
