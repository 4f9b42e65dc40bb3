//! How etcd is reached, and the files that it takes.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::Error;

/// How etcd is reached. Holds names of files, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Addresses of members, such as `https://etcd-1:2379`: all `http` or all `https`, at least one.
    pub endpoints: Vec<String>,
    /// What every key begins with. Ends with a slash.
    pub prefix: String,
    /// The user, if etcd asks for one.
    pub user: Option<User>,
    /// Certificates of the CAs that members' certificates come from; the system's if not given.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this coordinator shows, if etcd asks for one.
    pub identity: Option<ClientCertificate>,
    /// How long a request may take in all.
    pub timeout: Duration,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The file with its password. A line break at its end does not count.
    pub password_file: PathBuf,
}

/// The files of a certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and the intermediate ones after it.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

impl Options {
    /// Whether members are spoken to over TLS.
    fn is_tls(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.starts_with("https://"))
    }

    /// Reads every file, as it is now, and says what is wrong with all of them at once. Files are
    /// read again for each new connection, so that they can be replaced while this process runs.
    pub(super) fn read(&self) -> Result<Files, Error> {
        let mut problems = Vec::new();
        let password = self.user.as_ref().and_then(|user| note(&mut problems, password(user)));
        let roots = self.ca_file.as_ref().and_then(|path| note(&mut problems, roots(path)));
        let identity =
            self.identity.as_ref().and_then(|files| note(&mut problems, client_identity(files)));
        if problems.is_empty() {
            return Ok(Files { password, roots, identity });
        }
        Err(Error::Misconfigured(problems.join("; ")))
    }

    /// What the client of one member needs; without a user if etcd is known not to ask for one.
    pub(super) fn connect_options(&self, files: Files, with_user: bool) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_timeout(self.timeout)
            .with_connect_timeout(self.connect_timeout())
            .with_keep_alive(PING_EVERY, PING_PATIENCE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.is_tls() {
            let mut tls = TlsOptions::new().timeout(self.connect_timeout());
            tls = match files.roots {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some(KeyPair { certificate, key }) = files.identity {
                tls = tls.identity(Identity::from_pem(certificate.as_slice(), key.as_slice()));
            }
            options = options.with_tls(tls);
        }
        if let (true, Some(user), Some(password)) = (with_user, &self.user, files.password) {
            // The client needs it as long as it lives, for the next token.
            options = options.with_user(&user.name, password.as_str());
        }
        options
    }

    /// How long a connection may take: short, so that a member that is cut off leaves time for
    /// the next one.
    pub(super) fn connect_timeout(&self) -> Duration {
        (self.timeout / 3).min(LONGEST_CONNECT)
    }
}

/// What is in the files.
pub(super) struct Files {
    password: Option<Zeroizing<String>>,
    roots: Option<Vec<u8>>,
    identity: Option<KeyPair>,
}

/// A certificate and its key, in PEM.
struct KeyPair {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

fn note<T>(problems: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

fn read(key: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| format!("cannot read {} (store.etcd.{key}): {error}", path.display()))
}

fn password(user: &User) -> Result<Zeroizing<String>, String> {
    let path = &user.password_file;
    let bytes = read("password_file", path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| format!("{} (store.etcd.password_file) is no text", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{} (store.etcd.password_file) is empty", path.display()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn certificates(
    key: &str,
    path: &Path,
) -> Result<(Zeroizing<Vec<u8>>, Vec<CertificateDer<'static>>), String> {
    let pem = read(key, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(format!("{} (store.etcd.{key}) has no certificate in PEM", path.display()));
    }
    Ok((pem, found))
}

fn roots(path: &Path) -> Result<Vec<u8>, String> {
    certificates("ca_file", path).map(|(pem, _)| pem.to_vec())
}

fn client_identity(files: &ClientCertificate) -> Result<KeyPair, String> {
    let mut problems = String::new();
    let mut note = |problem: String| {
        let separator = if problems.is_empty() { "" } else { "; " };
        let _ = write!(problems, "{separator}{problem}");
    };
    let chain = certificates("cert_file", &files.cert_file).map_err(&mut note).ok();
    let key = read("key_file", &files.key_file)
        .and_then(|pem| match PrivateKeyDer::from_pem_slice(&pem) {
            Ok(key) => Ok((pem, key)),
            Err(_) => Err(format!(
                "{} (store.etcd.key_file) has no private key in PEM that is not encrypted",
                files.key_file.display()
            )),
        })
        .map_err(&mut note)
        .ok();
    let (Some((chain_pem, chain)), Some((key_pem, key))) = (chain, key) else {
        return Err(problems);
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        format!(
            "the key in {} (store.etcd.key_file) is not that of the certificate in {} \
             (store.etcd.cert_file): {error}",
            files.key_file.display(),
            files.cert_file.display()
        )
    })?;
    Ok(KeyPair { certificate: chain_pem, key: key_pem })
}

/// etcd ends connections that ping more often than each 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_CONNECT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(directory: &Path) -> Options {
        Options {
            endpoints: vec!["https://localhost:2379".to_owned()],
            prefix: "/chancery/".to_owned(),
            user: Some(User {
                name: "chancery".to_owned(),
                password_file: directory.join("password"),
            }),
            ca_file: Some(directory.join("ca.pem")),
            identity: Some(ClientCertificate {
                cert_file: directory.join("cert.pem"),
                key_file: directory.join("key.pem"),
            }),
            timeout: Duration::from_secs(5),
        }
    }

    fn certified() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn every_file_that_cannot_be_used_is_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let Err(Error::Misconfigured(message)) = options(directory.path()).read() else {
            panic!("there are no files");
        };
        for key in ["password_file", "ca_file", "cert_file", "key_file"] {
            assert!(message.contains(&format!("(store.etcd.{key})")), "{message}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let ((certificate, key), (_, another)) = (certified(), certified());
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("password", "secret\r\n");
        write("ca.pem", &certificate);
        write("cert.pem", &certificate);
        write("key.pem", &key);
        let files = options(directory.path()).read().ok().unwrap();
        assert_eq!(files.password.unwrap().as_str(), "secret");
        write("key.pem", &another);
        let Err(Error::Misconfigured(message)) = options(directory.path()).read() else {
            panic!("the key is another one");
        };
        assert!(message.contains("is not that of the certificate"), "{message}");
    }

    #[test]
    fn a_password_loses_one_line_break_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let user = User { name: "a".to_owned(), password_file: path.clone() };
        for (text, expected) in [("a", "a"), ("a\n", "a"), ("a b \n\n", "a b \n"), ("a\r\n", "a")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(password(&user).unwrap().as_str(), expected);
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(password(&user).unwrap_err().contains("is empty"));
    }
}
