//! How to reach Consul, and the files that this takes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chancery_shared::secret::Secret;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::store::Error;

/// How to reach Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// URLs of agents or servers, `http://host:8500` or `https://host:8501`, tried in turn.
    pub addresses: Vec<String>,
    /// What all keys begin with. Letters, digits, `-`, `_`, `.` and `/`; it ends with `/`.
    pub prefix: String,
    /// The file with the ACL token.
    pub token_file: Option<PathBuf>,
    /// PEM file of the roots that sign for Consul's certificates. None: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client's certificate chain and its key.
    pub identity: Option<Identity>,
    /// The datacenter. None: that of the agent.
    pub datacenter: Option<String>,
    /// How long Consul may take for a request.
    pub timeout: Duration,
}

/// Where a client certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file of the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file of the key.
    pub key_file: PathBuf,
}

impl Options {
    /// What is used where nothing else is said, at the agent of this machine.
    pub fn local() -> Self {
        Self {
            addresses: vec!["http://127.0.0.1:8500".to_owned()],
            prefix: "chancery/".to_owned(),
            token_file: None,
            ca_file: None,
            identity: None,
            datacenter: None,
            timeout: Duration::from_secs(5),
        }
    }

    /// TLS towards Consul.
    pub(super) fn tls(&self) -> Result<ClientConfig, Error> {
        let config = ClientConfig::builder_with_provider(chancery_shared::tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Misconfigured(error.to_string()))?
            .with_root_certificates(Arc::new(self.roots()?));
        let Some(identity) = &self.identity else { return Ok(config.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_slice(&read(&identity.key_file, "key_file")?)
            .map_err(|error| unusable(&identity.key_file, "key_file", &error))?;
        let chain = certificates(&identity.cert_file, "cert_file")?;
        config
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&identity.cert_file, "cert_file", &error))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for root in certificates(path, "ca_file")? {
                    roots.add(root).map_err(|error| unusable(path, "ca_file", &error))?;
                }
            }
            // Without any, a connection says what is missing, if there is one to https at all.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(roots)
    }

    /// The token in its file, as it is now.
    pub(super) fn token(&self) -> Result<Option<Secret>, Error> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let bytes = read(path, "token_file")?;
        let token = bytes.trim_ascii();
        let is_plain = |byte: &u8| byte.is_ascii_graphic();
        if token.is_empty() || !token.iter().all(is_plain) {
            return Err(unusable(path, "token_file", &"it has to hold one token, on one line"));
        }
        Ok(Some(Secret::new(token.to_vec())))
    }
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path, key)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, key, &error))?;
    if found.is_empty() {
        return Err(unusable(path, key, &"there is no certificate in it"));
    }
    Ok(found)
}

fn read(path: &Path, key: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    fs::read(path).map(Zeroizing::new).map_err(|error| unusable(path, key, &error))
}

fn unusable(path: &Path, key: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Misconfigured(format!("store.consul.{key} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token(text: &str) -> Result<Option<Secret>, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Options { token_file: Some(file.path().to_owned()), ..Options::local() }.token()
    }

    #[test]
    fn a_token_is_trimmed_and_has_to_be_one() {
        let token = with_token("0b3f-1\n").unwrap().unwrap();
        assert_eq!(token.expose_secret(), b"0b3f-1");
        for bad in ["", "\n", "a b", "a\nb"] {
            let error = with_token(bad).unwrap_err().to_string();
            assert!(error.contains("store.consul.token_file /"), "{error}");
        }
        assert_eq!(Options::local().token().unwrap(), None);
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let without_ca = Options { ca_file: Some(path.clone()), ..Options::local() };
        let identity = Identity { cert_file: path.clone(), key_file: "/no/such".into() };
        let without_key = Options { identity: Some(identity), ..Options::local() };
        for (options, expected) in [
            (without_ca, format!("store.consul.ca_file {}: there is no cert", path.display())),
            (without_key, "store.consul.key_file /no/such: ".to_owned()),
        ] {
            let error = options.tls().unwrap_err();
            assert!(matches!(error, Error::Misconfigured(_)), "{error:?}");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}
