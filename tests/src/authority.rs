//! A root certificate of the test's own, for the HTTPS of servers in the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

/// A root that signs certificates for servers on loopback.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate for a server or a client, with its key.
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// PEM of the certificate.
    pub certificate_pem: String,
    /// PEM of the key, PKCS#8.
    pub key_pem: String,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new root.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Chancery test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("no test root can be made")?;
        Ok(Self { issuer })
    }

    /// PEM of the root.
    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these DNS names and IP addresses.
    pub fn issue(&self, names: &[&str]) -> Result<ServerCertificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?
            .signed_by(&key, &self.issuer)
            .context("no test certificate can be signed")?;
        Ok(ServerCertificate {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A client that trusts this root and no other.
    pub fn client_config(&self) -> Result<ClientConfig> {
        client_config(&self.root_pem())
    }

    /// A client that trusts this root, and shows a certificate of it when it is asked for one.
    pub fn client_config_showing(&self, own: &ServerCertificate) -> Result<ClientConfig> {
        let config = with_roots(&self.root_pem())?;
        Ok(config.with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key())?)
    }
}

impl ServerCertificate {
    /// Writes `<name>.crt` and `<name>.key` into a folder, and returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let paths = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        fs::write(&paths.0, &self.certificate_pem)
            .and_then(|()| fs::write(&paths.1, &self.key_pem))
            .with_context(|| format!("{} cannot be written", paths.0.display()))?;
        Ok(paths)
    }

    /// A server that speaks HTTP/1.1 with this certificate.
    pub fn server_config(&self) -> Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(chancery_shared::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A client that trusts the roots in this PEM and no others.
pub fn client_config(roots_pem: &str) -> Result<ClientConfig> {
    Ok(with_roots(roots_pem)?.with_no_client_auth())
}

fn with_roots(roots_pem: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.context("the PEM of the roots cannot be read")?)?;
    }
    Ok(ClientConfig::builder_with_provider(chancery_shared::tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::new(roots)))
}
