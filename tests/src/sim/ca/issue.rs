//! What the CA signs with: one key for all simulations, since nothing depends on it.

use std::{sync::LazyLock, time::Duration};

use chancery_shared::{key_type::KeyType, x509};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa,
    KeyPair, SanType, SerialNumber,
};

use super::super::clock::beginning;

/// Signs a request (RFC 2986) for exactly these names; a chain in PEM. `None` if it is for
/// others, or cannot be read.
pub(super) fn sign(
    csr: &[u8],
    names: &[String],
    serial: &[u8],
    now: Duration,
    life: Duration,
) -> Option<String> {
    let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).ok()?;
    let mut asked: Vec<&str> = csr
        .params
        .subject_alt_names
        .iter()
        .filter_map(|name| match name {
            SanType::DnsName(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    asked.sort_unstable();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    if asked != names {
        return None;
    }
    let now = (beginning() + now).as_second();
    let life = i64::try_from(life.as_secs()).ok()?;
    csr.params.not_before = time::OffsetDateTime::from_unix_timestamp(now - BACKDATED).ok()?;
    csr.params.not_after = time::OffsetDateTime::from_unix_timestamp(now + life).ok()?;
    csr.params.serial_number = Some(SerialNumber::from_slice(&serial[..16]));
    let leaf = csr.signed_by(&*ISSUER).ok()?;
    Some(x509::to_pem([leaf.der().as_ref(), ISSUER.der().as_ref()]))
}

static ISSUER: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyType::EcdsaP256.generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("it can be signed")
});

/// As CAs do, for clients whose clocks are behind.
const BACKDATED: i64 = 60;
