//! A fleet of certificates that were issued long ago, written into a store as a coordinator writes
//! what it has issued, without a CA that would have to issue them.
//!
//! Nothing in it is made up for show: each certificate has a key of its own, its chain verifies, and
//! its private key is sealed for it. It is as big as those of today's public CAs: room is taken by
//! what those carry besides the name (timestamps of logs, where to ask, by which policy).

use std::fmt::Write as _;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use chancery_coordinator::record::{self, Bundle, CertificateState, Chain, Issued, key};
use chancery_coordinator::seal::{Context, Sealer};
use chancery_coordinator::store::{Batch, Packer, Store};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_shared::identifier::Identifier;
use chancery_shared::key_type::KeyType;
use chancery_shared::name::CertName;
use chancery_shared::number::Generation;
use chancery_shared::x509::{Facts, Fingerprint};
use chancery_tests::world::server_name;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};
use tokio::task::JoinSet;

/// The issuer that all of them come from.
pub(crate) const ISSUER: &str = "public";

/// What was issued.
pub(crate) struct Fleet {
    certificates: Vec<Arc<Certificate>>,
    intermediate: Vec<u8>,
}

struct Certificate {
    name: CertName,
    identifier: Identifier,
    leaf: Vec<u8>,
    pkcs8: Vec<u8>,
    facts: Facts,
}

/// What the CA signs with.
type Signer = CertifiedIssuer<'static, KeyPair>;

impl Fleet {
    /// Issues this many, on all cores.
    pub(crate) fn issue(count: u32) -> Result<Self> {
        let signer = Arc::new(intermediate()?);
        let intermediate = signer.der().to_vec();
        let now = SystemClock::new().now();
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let share = count.div_ceil(u32::try_from(workers)?).max(1);
        let threads: Vec<_> = (0..count)
            .step_by(usize::try_from(share)?)
            .map(|first| {
                let signer = Arc::clone(&signer);
                let numbers = first..(first + share).min(count);
                thread::spawn(move || {
                    numbers.map(|number| Certificate::issue(number, &signer, now)).collect()
                })
            })
            .collect();
        let mut certificates = Vec::new();
        for thread in threads {
            let issued: Result<Vec<Certificate>> =
                thread.join().map_err(|_| anyhow!("a thread that issues has died"))?;
            certificates.extend(issued?.into_iter().map(Arc::new));
        }
        Ok(Self { certificates, intermediate })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.certificates.len()
    }

    /// The TOML that declares all of them.
    pub(crate) fn declaration(&self) -> String {
        let mut text =
            format!("[[issuer]]\nname = {ISSUER:?}\ndirectory = \"https://127.0.0.1:9/dir\"\n");
        for certificate in &self.certificates {
            let Certificate { name, identifier, .. } = &**certificate;
            let _ = write!(
                text,
                "\n[[certificate]]\nname = \"{name}\"\nidentifiers = [\"{identifier}\"]\n\
                 issuers = [{ISSUER:?}]\nlabels = {{ role = \"web\" }}\n"
            );
        }
        text
    }

    /// Writes what is so for each of them.
    pub(crate) async fn write_states(&self, store: &Arc<dyn Store>) -> Result<()> {
        let groups = self.certificates.iter().map(|certificate| {
            let state = record::encode(&certificate.state());
            Batch::unfenced().put(key::state(&certificate.name), state)
        });
        write(store, groups).await
    }

    /// Writes the bundle of each of them, its key sealed, and the chain that they share.
    pub(crate) async fn write_bundles(
        &self,
        store: &Arc<dyn Store>,
        sealer: &Sealer,
    ) -> Result<()> {
        let chain = Fingerprint::of(&self.intermediate);
        let der = self.intermediate.clone();
        let first = Batch::unfenced().put(key::chain(&chain), record::encode(&Chain { der }));
        let rest = self.certificates.iter().map(|certificate| {
            let at = key::bundle(&certificate.name, FIRST);
            Batch::unfenced().put(at, record::encode(&certificate.bundle(chain, sealer)))
        });
        write(store, std::iter::once(first).chain(rest)).await
    }
}

impl Certificate {
    fn issue(number: u32, signer: &Signer, now: Timestamp) -> Result<Self> {
        let name = format!("www-{number:06}");
        let identifier = server_name(&name);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![identifier.clone()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identifier.as_str());
        params.serial_number = Some(SerialNumber::from(serial(number)));
        // Issued one after the other over weeks; none of them is due.
        let age = Duration::from_secs(u64::from(number) % (LIFE.as_secs() / 2));
        let from = time(now - age)?;
        (params.not_before, params.not_after) = (from, from + LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = EXTENSIONS
            .iter()
            .map(|(oid, bytes)| {
                let content = (0..*bytes).map(|_| fastrand::u8(..)).collect();
                CustomExtension::from_oid_content(oid, octets(content))
            })
            .collect();
        let leaf = params.signed_by(&key, signer)?.der().to_vec();
        let facts = Facts::of(&leaf)?;
        let (name, identifier) = (name.parse()?, identifier.parse()?);
        Ok(Self { name, identifier, leaf, pkcs8: key.serialize_der(), facts })
    }

    fn state(&self) -> CertificateState {
        let facts = Issued {
            serial: self.facts.serial.clone(),
            fingerprint: Fingerprint::of(&self.leaf),
            not_before: self.facts.not_before,
            not_after: self.facts.not_after,
            issuer: ISSUER.parse().expect("it is a name"),
            issued_by: self.facts.issuer.clone(),
            identifiers: vec![self.identifier.clone()],
            key_type: KeyType::default(),
            profile: None,
            stored_at: self.facts.not_before,
        };
        CertificateState { generation: FIRST, issued: Some(facts), ..CertificateState::default() }
    }

    fn bundle(&self, chain: Fingerprint, sealer: &Sealer) -> Bundle {
        Bundle {
            certificate: self.name.clone(),
            generation: FIRST,
            issuer: Some(ISSUER.parse().expect("it is a name")),
            leaf: self.leaf.clone(),
            chain: vec![chain],
            key: sealer.seal(&Context::bundle(&self.name, FIRST), &self.pkcs8),
            identifiers: vec![self.identifier.clone()],
        }
    }
}

fn intermediate() -> Result<Signer> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CountryName, "EX");
    params.distinguished_name.push(DnType::OrganizationName, "Public CA");
    params.distinguished_name.push(DnType::CommonName, "E7");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("no CA can be made")
}

fn time(at: Timestamp) -> Result<time::OffsetDateTime> {
    Ok(time::OffsetDateTime::from_unix_timestamp(at.as_second())?)
}

/// Eighteen bytes, as public CAs have them.
fn serial(number: u32) -> Vec<u8> {
    let mut serial = vec![6];
    serial.extend((0..13).map(|_| fastrand::u8(..)));
    serial.extend(number.to_be_bytes());
    serial
}

/// An OCTET STRING of up to 65,535 bytes, DER.
fn octets(content: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("the extensions below are short");
    let [high, low] = length.to_be_bytes();
    let mut der = vec![4, 0x82, high, low];
    der.extend(content);
    der
}

/// Writes groups in as few batches as the store takes, several at once.
async fn write(store: &Arc<dyn Store>, groups: impl Iterator<Item = Batch>) -> Result<()> {
    let mut packer = Packer::new(Batch::unfenced());
    groups.for_each(|group| packer.add(group));
    let mut running = JoinSet::new();
    for batch in packer.finish() {
        if running.len() == AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        let store = Arc::clone(store);
        running.spawn(async move { store.commit(batch).await.map(drop) });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Bytes of all entries whose key begins so, keys included, and how many there are.
pub(crate) async fn size(store: &Arc<dyn Store>, prefix: &str) -> Result<(usize, usize)> {
    let entries = store.list(prefix).await?.entries;
    let bytes = |key: &str, value: &Bytes| key.len() + value.len();
    Ok((entries.iter().map(|entry| bytes(&entry.key, &entry.value)).sum(), entries.len()))
}

const FIRST: Generation = Generation(1);
const LIFE: Duration = Duration::from_hours(90 * 24);
const AT_ONCE: usize = 16;
/// With so many random bytes each: the timestamps of two logs, where to ask for the issuer, where
/// revocations are listed, and the policy.
const EXTENSIONS: [(&[u64], usize); 4] = [
    (&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], 242),
    (&[1, 3, 6, 1, 5, 5, 7, 1, 1], 44),
    (&[2, 5, 29, 31], 36),
    (&[2, 5, 29, 32], 12),
];
