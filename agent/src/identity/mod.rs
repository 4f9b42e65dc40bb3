//! Who this agent is: a private key and the certificate chain that the coordinators' internal
//! CA issued for it.
//!
//! All of it is one file, `identity.pem`, replaced whole, so key and chain always belong
//! together. Before a join token is used, the key it will be used with is on disk
//! (`join-key.pem`): the coordinator binds a token to the first key that it sees, so an agent
//! that dies before it stored the answer asks again with the same key and gets its identity
//! after all.

mod join;
mod rotate;

use std::{fmt, fs, io, path::PathBuf};

use chancery_shared::{
    durable,
    failpoint::crash_point,
    key_type::KeyType,
    name::AgentName,
    secret::Secret,
    tls,
    x509::{self, Facts},
};
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject as _},
};
use zeroize::Zeroizing;

pub(crate) use self::{
    join::join,
    rotate::{earliest_next, rotation},
};

/// An identity that fits together.
#[derive(Clone)]
pub(crate) struct Identity {
    agent: AgentName,
    /// PKCS#8, DER.
    key: Secret,
    /// The identity certificate, then its issuers, root last.
    chain: Vec<CertificateDer<'static>>,
    facts: Facts,
}

/// Why an identity cannot be had, stored or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", crate::text::durable(.0))]
    Durable(durable::Error),
    #[error("cannot remove {}: {cause}", path.display())]
    Remove { path: PathBuf, cause: io::Error },
    #[error("the identity in {} is damaged ({reason}): remove the file and join again", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(String),
    #[error("a key pair could not be made")]
    Key(#[from] rcgen::Error),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
}

impl From<durable::Error> for Error {
    fn from(error: durable::Error) -> Self {
        Self::Durable(error)
    }
}

impl Identity {
    /// Checks that the parts fit together.
    fn new(
        agent: AgentName,
        key: Secret,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let leaf = chain.first().ok_or("it holds no certificate")?;
        if chain.len() < 2 {
            return Err("the certificate of the CA is missing".to_owned());
        }
        let facts = Facts::of(leaf).map_err(|error| error.to_string())?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret()));
        x509::check_key_matches(leaf, &private).map_err(|error| error.to_string())?;
        Ok(Self { agent, key, chain, facts })
    }

    pub(crate) fn agent(&self) -> &AgentName {
        &self.agent
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// When it is to be replaced: half-way through its life.
    pub(crate) fn rotate_at(&self) -> Timestamp {
        let life = self.facts.not_after.duration_since(self.facts.not_before);
        self.facts.not_before + life / 2
    }

    /// How to connect with this identity.
    pub(crate) fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let (root, chain) = self.chain.split_last().expect("checked when it was made");
        let key = PrivatePkcs8KeyDer::from(self.key.expose_secret().to_vec());
        tls::identified_client(root.clone(), chain.to_vec(), key.into())
    }

    fn root(&self) -> &CertificateDer<'static> {
        self.chain.last().expect("checked when it was made")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("agent", &self.agent)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

/// The files in the state folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The stored identity; `None` if this agent never joined.
    pub(crate) fn load(&self) -> Result<Option<Identity>, Error> {
        let path = self.path();
        let Some(text) = durable::read_file(&path)?.map(Zeroizing::new) else { return Ok(None) };
        let identity = decode(&text).map_err(|reason| Error::Damaged { path, reason })?;
        // A process that was killed right after it joined has left its key there twice. Any
        // other key belongs to a token that was not answered yet.
        if self.left_join_key()?.is_some_and(|key| key == identity.key) {
            self.forget_join_key()?;
        }
        Ok(Some(identity))
    }

    /// Replaces the stored identity.
    fn save(&self, identity: &Identity) -> Result<(), Error> {
        let header = format!("{HEADER}{}\n", identity.agent);
        let key = x509::key_to_pem(identity.key.expose_secret());
        let chain = x509::to_pem(identity.chain.iter().map(AsRef::as_ref));
        let parts = [header.as_str(), key.as_str(), chain.as_str()];
        // Sized once, so that no copy of the key is left behind by a growing buffer.
        let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|p| p.len()).sum()));
        for part in parts {
            text.push_str(part);
        }
        durable::write_file(&self.path(), text.as_bytes(), 0o600)?;
        crash_point("identity::stored");
        Ok(())
    }

    /// The key to join with: the one that an earlier attempt left, or a new one.
    fn join_key(&self) -> Result<Secret, Error> {
        if let Some(key) = self.left_join_key()? {
            return Ok(key);
        }
        let key = new_key()?;
        let text = x509::key_to_pem(key.expose_secret());
        durable::write_file(&self.join_key_path(), text.as_bytes(), 0o600)?;
        crash_point("identity::key_written");
        Ok(key)
    }

    /// The key that an attempt to join has left; `None` too if it cannot be read as one.
    fn left_join_key(&self) -> Result<Option<Secret>, Error> {
        let left = durable::read_file(&self.join_key_path())?.map(Zeroizing::new);
        let key = left.and_then(|text| PrivatePkcs8KeyDer::from_pem_slice(&text).ok());
        Ok(key.map(|key| Secret::new(key.secret_pkcs8_der().to_vec())))
    }

    /// The join key has become the identity's, or its token is of no use.
    fn forget_join_key(&self) -> Result<(), Error> {
        let path = self.join_key_path();
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(Error::Remove { path, cause })
            }
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("identity.pem")
    }

    fn join_key_path(&self) -> PathBuf {
        self.dir.join("join-key.pem")
    }
}

fn decode(text: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let agent = text.strip_prefix(HEADER).and_then(|rest| rest.lines().next());
    let agent = agent.ok_or("its first line is not that of an identity file")?;
    let agent = agent.parse().map_err(|error| format!("{error}"))?;
    let unreadable = |error: pem::Error| error.to_string();
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(unreadable)?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>();
    Identity::new(agent, Secret::new(key.secret_pkcs8_der().to_vec()), chain.map_err(unreadable)?)
}

fn new_key() -> Result<Secret, rcgen::Error> {
    Ok(Secret::new(KeyType::EcdsaP256.generate()?.serialize_der()))
}

/// A signing request for the key. Nothing but the key counts: the coordinator knows the name.
fn signing_request(key: &Secret) -> Result<Vec<u8>, rcgen::Error> {
    let key = PrivatePkcs8KeyDer::from(key.expose_secret());
    let key = rcgen::KeyPair::try_from(&key)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?;
    Ok(request.der().to_vec())
}

/// First line of version 1 of the file; the agent's name follows.
const HEADER: &str = "chancery-identity-1 ";

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An identity of a CA made for the test.
    pub(crate) fn identity(agent: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new([agent.to_owned()]).unwrap();
        let leaf = leaf.self_signed(&key).unwrap().der().clone();
        let key = Secret::new(key.serialize_der());
        Identity::new(agent.parse().unwrap(), key, vec![leaf.clone(), leaf]).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        (dir, store)
    }

    #[test]
    fn an_identity_is_one_closed_file() {
        let (dir, store) = store();
        assert!(store.load().unwrap().is_none());
        let web = identity("web-1");
        store.save(&identity("web-0")).unwrap();
        store.save(&web).unwrap();
        let read = store.load().unwrap().unwrap();
        assert_eq!(read.agent().as_str(), "web-1");
        assert_eq!((&read.chain, &read.key), (&web.chain, &web.key));
        read.client().unwrap();
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read_dir(dir.path()).unwrap().count()), (0o600, 1));
    }

    #[test]
    fn a_damaged_identity_says_what_to_do() {
        let (_dir, store) = store();
        let (one, other) = (identity("web-1"), identity("web-1"));
        store.save(&Identity { key: other.key, ..one.clone() }).unwrap();
        let mismatch = store.load().unwrap_err().to_string();
        assert!(mismatch.contains("does not belong"), "{mismatch}");
        for damaged in ["", "chancery-identity-1 web-1\n", "chancery-identity-2 web-1\n", "\0"] {
            fs::write(store.path(), damaged).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains("identity.pem") && error.contains("join again"), "{error}");
        }
        assert!(!format!("{one:?}").contains("key"));
    }

    #[test]
    fn a_join_key_stays_the_same_until_it_is_used() {
        let (_dir, store) = store();
        let first = store.join_key().unwrap();
        assert_eq!(store.join_key().unwrap(), first);
        assert!(!signing_request(&first).unwrap().is_empty());
        store.forget_join_key().unwrap();
        store.forget_join_key().unwrap();
        assert_ne!(store.join_key().unwrap(), first);
    }

    #[test]
    fn only_a_join_key_that_is_the_identitys_is_removed() {
        let (_dir, store) = store();
        let web = identity("web-1");
        store.save(&web).unwrap();
        let other = store.join_key().unwrap();
        store.load().unwrap().unwrap();
        assert_eq!(store.join_key().unwrap(), other, "a token may be bound to it");
        let text = x509::key_to_pem(web.key.expose_secret());
        durable::write_file(&store.join_key_path(), text.as_bytes(), 0o600).unwrap();
        store.load().unwrap().unwrap();
        assert!(!store.join_key_path().exists());
    }

    #[test]
    fn it_is_rotated_at_half_life() {
        let web = identity("web-1");
        let half = web.rotate_at().duration_since(web.facts.not_before);
        let rest = web.not_after().duration_since(web.rotate_at());
        assert!((half - rest).abs().as_secs() <= 1);
    }
}
