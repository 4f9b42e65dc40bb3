//! The seal: what keeps private keys unreadable in the store.
//!
//! # How it works
//!
//! Every coordinator has the same *key file* ([`KeyFile`]). Its key wraps the *data keys*,
//! which stand in the store as one record, the *ring* ([`SealRing`]). The active data key
//! seals; all keys of the ring open. So a data key can be replaced while the fleet works, and
//! whoever reads the store or a backup of it has nothing without the file.
//!
//! Everything is sealed with AES-256-GCM. The additional data say what is sealed: the kind of
//! record, its name, its generation. A sealed value that somebody copies to another
//! record does not open there. The encoding of these data has a version and length
//! prefixes, and that of data keys begins with other bytes, so no two things
//! are ever authenticated by the same text.
//!
//! # Nonces
//!
//! Nonces are 96 random bits. That is safe for 2^32 seals under one key (NIST SP 800-38D
//! section 8.3: the chance of a repeated nonce then is 2^-32). A fleet with
//! 100,000 certificates that renews each of them every week seals two keys each time: some ten
//! million a year, which is 400 years to the bound. Counters would allow more and would be a
//! disaster after a restored backup, which random nonces survive.
//!
//! # Rotation
//!
//! [`rotation`] adds a data key, seals again what is under older ones, and drops these when
//! nothing needs them.
//!
//! # Memory
//!
//! Plaintext lives in [`Secret`], which is wiped when dropped and prints nothing. Buffers
//! are made with the room that they need, since one that grows leaves copies behind.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, RwLock},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use chancery_shared::{
    durable,
    name::{CertName, IssuerName},
    number::Generation,
    secret::Secret,
};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{
    election::SteppedDown,
    record::{self, DataKey, DecodeError, SealRing, Sealed, key},
    store::{self, Batch, Store},
};

mod key_file;
pub mod rotation;

pub use key_file::KeyFile;

/// What a sealed value belongs to. Bound in as additional data: it opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// What is sealed: `bundle`, `order`, `next-key`, `account`, `next-account`, `external-account`,
    /// `authority`.
    pub kind: &'static str,
    /// The name of the record that holds it.
    pub name: &'a str,
    /// The generation of the record, 0 if it has none.
    pub generation: Generation,
}

/// Seals and opens. Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Sealer {
    inner: Arc<Inner>,
}

struct Inner {
    wrapping: LessSafeKey,
    key_file: PathBuf,
    key_file_fingerprint: String,
    keys: RwLock<Keys>,
}

/// The data keys, unwrapped.
struct Keys {
    active: u32,
    all: BTreeMap<u32, Arc<LessSafeKey>>,
}

/// Loads the data keys, or makes the first one if the store has none. Of coordinators
/// that start at once, one makes it and the others load it.
pub async fn bootstrap(
    store: &dyn Store,
    key_file: &KeyFile,
    now: Timestamp,
) -> Result<Sealer, Error> {
    loop {
        if let Some(entry) = store.get(key::SEAL).await? {
            return Sealer::load(key_file, &record::decode(key::SEAL, &entry.value)?);
        }
        let (sealer, ring) = Sealer::create(key_file, now);
        let batch = Batch::unfenced().absent(key::SEAL).put(key::SEAL, record::encode(&ring));
        match store.commit(batch).await {
            Ok(_) => return Ok(sealer),
            // Somebody was faster, or it may have been us: what stands there decides.
            Err(store::Error::Conflict { .. } | store::Error::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Sealer {
    /// Unwraps the data keys of `ring`.
    pub fn load(key_file: &KeyFile, ring: &SealRing) -> Result<Self, Error> {
        let sealer = Self::without_keys(key_file);
        sealer.reload(ring)?;
        Ok(sealer)
    }

    /// Makes the first data key.
    pub fn create(key_file: &KeyFile, now: Timestamp) -> (Self, SealRing) {
        let sealer = Self::without_keys(key_file);
        let first = sealer.make_data_key(1, now);
        let ring = SealRing {
            key_file_fingerprint: sealer.inner.key_file_fingerprint.clone(),
            active: first.id,
            keys: vec![first],
        };
        sealer.reload(&ring).expect("what was wrapped with a key is unwrapped with it");
        (sealer, ring)
    }

    /// Takes over the data keys of `ring`, which this or another coordinator has changed.
    /// A ring that is older than the one in use is ignored: it was overtaken on its way.
    pub fn reload(&self, ring: &SealRing) -> Result<(), Error> {
        let inner = &*self.inner;
        if ring.key_file_fingerprint != inner.key_file_fingerprint {
            return Err(Error::WrongKeyFile {
                path: inner.key_file.clone(),
                found: inner.key_file_fingerprint.clone(),
                wanted: ring.key_file_fingerprint.clone(),
            });
        }
        let all = ring
            .keys
            .iter()
            .map(|wrapped| Ok((wrapped.id, Arc::new(self.unwrap(wrapped)?))))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        if !all.contains_key(&ring.active) {
            return Err(Error::RingDamaged(format!(
                "it has no key {}, the active one",
                ring.active
            )));
        }
        let mut keys = inner.keys.write().expect("no writer panics");
        if ring.active >= keys.active {
            *keys = Keys { active: ring.active, all };
        }
        Ok(())
    }

    /// Seals `plaintext` as what `context` says.
    pub fn seal(&self, context: &Context<'_>, plaintext: &[u8]) -> Sealed {
        let (data_key, key) = {
            let keys = self.inner.keys.read().expect("no writer panics");
            (keys.active, keys.all[&keys.active].clone())
        };
        Sealed { data_key, bytes: encrypt(&key, &context.additional_data(data_key), plaintext) }
    }

    /// Opens what was sealed as what `context` says.
    pub fn open(&self, context: &Context<'_>, sealed: &Sealed) -> Result<Secret, Error> {
        let key = {
            let keys = self.inner.keys.read().expect("no writer panics");
            keys.all.get(&sealed.data_key).cloned()
        };
        let Some(key) = key else {
            return Err(Error::UnknownDataKey {
                data_key: sealed.data_key,
                what: context.to_string(),
            });
        };
        decrypt(&key, &context.additional_data(sealed.data_key), &sealed.bytes)
            .ok_or_else(|| Error::NotOpened { what: context.to_string() })
    }

    /// The number of the data key that seals now.
    pub fn active_data_key(&self) -> u32 {
        self.inner.keys.read().expect("no writer panics").active
    }

    fn without_keys(key_file: &KeyFile) -> Self {
        let inner = Inner {
            wrapping: aes(key_file.key()),
            key_file: key_file.path().to_owned(),
            key_file_fingerprint: key_file.fingerprint(),
            keys: RwLock::new(Keys { active: 0, all: BTreeMap::new() }),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A new data key, wrapped.
    fn make_data_key(&self, id: u32, now: Timestamp) -> DataKey {
        let key = Secret::random(key_file::KEY_BYTES);
        let additional_data = self.wrapping_data(id);
        let wrapped = encrypt(&self.inner.wrapping, &additional_data, key.expose_secret());
        DataKey { id, created_at: now, wrapped }
    }

    fn unwrap(&self, wrapped: &DataKey) -> Result<LessSafeKey, Error> {
        decrypt(&self.inner.wrapping, &self.wrapping_data(wrapped.id), &wrapped.wrapped)
            .filter(|key| key.expose_secret().len() == key_file::KEY_BYTES)
            .map(|key| aes(&key))
            .ok_or_else(|| {
                Error::RingDamaged(format!("its key {} cannot be unwrapped", wrapped.id))
            })
    }

    /// What a wrapped data key is bound to.
    fn wrapping_data(&self, id: u32) -> Vec<u8> {
        let mut data = b"chancery-seal-v1 data key\0".to_vec();
        data.extend(id.to_be_bytes());
        data.extend(self.inner.key_file_fingerprint.as_bytes());
        data
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("key_file_fingerprint", &self.inner.key_file_fingerprint)
            .field("active", &self.active_data_key())
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// The private key of a bundle.
    pub fn bundle(certificate: &'a CertName, generation: Generation) -> Self {
        Self { kind: "bundle", name: certificate.as_str(), generation }
    }

    /// The private key of a bundle that is being ordered.
    pub fn order(certificate: &'a CertName, generation: Generation) -> Self {
        Self { kind: "order", name: certificate.as_str(), generation }
    }

    /// The private key of a certificate's next generation.
    pub fn next_key(certificate: &'a CertName) -> Self {
        Self { kind: "next-key", name: certificate.as_str(), generation: Generation(0) }
    }

    /// The key of an ACME account.
    pub fn account(issuer: &'a IssuerName) -> Self {
        Self { kind: "account", name: issuer.as_str(), generation: Generation(0) }
    }

    /// The key that an ACME account is to have next.
    pub fn next_account(issuer: &'a IssuerName) -> Self {
        Self { kind: "next-account", name: issuer.as_str(), generation: Generation(0) }
    }

    /// The key of an issuer's external account binding.
    pub fn external_account(issuer: &'a IssuerName) -> Self {
        Self { kind: "external-account", name: issuer.as_str(), generation: Generation(0) }
    }

    /// The key of the internal CA.
    pub fn authority() -> Self {
        Self { kind: "authority", name: "internal", generation: Generation(0) }
    }

    /// Unambiguous: whatever can have any length is preceded by its length.
    fn additional_data(&self, data_key: u32) -> Vec<u8> {
        let mut data = b"chancery-seal-v1 record\0".to_vec();
        data.extend(data_key.to_be_bytes());
        for text in [self.kind, self.name] {
            data.extend((text.len() as u64).to_be_bytes());
            data.extend(text.as_bytes());
        }
        data.extend(self.generation.0.to_be_bytes());
        data
    }
}

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} {} (generation {})", self.kind, self.name, self.generation)
    }
}

/// Why something could not be sealed or opened. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no key file.
    #[error(
        "there is no seal key file at {}: on the first coordinator run \
         `chancery-coordinator init --config FILE`; on a further one copy the file from the first",
        .0.display()
    )]
    KeyFileMissing(PathBuf),
    /// A key file is never replaced.
    #[error(
        "{} is there already and is not replaced: everything that was sealed with it would be lost",
        .0.display()
    )]
    KeyFileExists(PathBuf),
    /// Others may have read it.
    #[error(
        "the seal key file {} has mode {mode:04o}, so others than its owner may use it: \
         run `chmod 600 {}`",
        path.display(), path.display()
    )]
    KeyFileExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "{} is not a seal key file: it has to be one line, `chancery-seal-key-v1:` and 32 bytes in \
         base64; copy it again from another coordinator or from the backup",
        .0.display()
    )]
    KeyFileMalformed(PathBuf),
    /// It cannot be read or written.
    #[error("cannot {action} the seal key file {}", path.display())]
    KeyFileIo {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be made durable.
    #[error(transparent)]
    Durable(#[from] durable::Error),
    /// The store was sealed with another key file.
    #[error(
        "the seal key file {} has fingerprint {found}, but the store was sealed with the one \
         that has fingerprint {wanted}: copy that file from another coordinator or from the backup",
        path.display()
    )]
    WrongKeyFile {
        /// The file in use.
        path: PathBuf,
        /// Its fingerprint.
        found: String,
        /// The fingerprint that the store asks for.
        wanted: String,
    },
    /// The ring is not what this or another coordinator has written.
    #[error("the ring of data keys in the store is damaged: {0}; restore the store from a backup")]
    RingDamaged(String),
    /// The data key is not in the ring: it was dropped, or the newest ring has not arrived yet.
    #[error("{what} is sealed with data key {data_key}, which is not known here")]
    UnknownDataKey {
        /// The number of the key.
        data_key: u32,
        /// What was to be opened.
        what: String,
    },
    /// It was changed, or belongs to another record.
    #[error("{what} cannot be opened: its sealed value was changed or belongs to another record")]
    NotOpened {
        /// What was to be opened.
        what: String,
    },
    /// A record cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The term of leadership has ended.
    #[error(transparent)]
    SteppedDown(#[from] SteppedDown),
}

fn aes(key: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.expose_secret());
    LessSafeKey::new(key.expect("the key has the length that AES-256 asks for"))
}

/// A fresh nonce, the ciphertext and its tag.
fn encrypt(key: &LessSafeKey, additional_data: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).expect("the operating system's random source works");
    let mut bytes = Vec::with_capacity(NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
    bytes.extend(nonce);
    bytes.extend(plaintext);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(additional_data), &mut bytes[NONCE_LEN..])
        .expect("far less than the 64 GiB that AES-GCM can take");
    bytes.extend(tag.as_ref());
    bytes
}

/// The plaintext, or `None` if anything at all is not as it was sealed.
fn decrypt(key: &LessSafeKey, additional_data: &[u8], bytes: &[u8]) -> Option<Secret> {
    let (nonce, ciphertext) = bytes.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let opened = key.open_in_place(nonce, Aad::from(additional_data), &mut buffer).ok()?;
    let length = opened.len();
    buffer.truncate(length);
    Some(Secret::new(std::mem::take(&mut *buffer)))
}

#[cfg(test)]
mod tests;
