//! A client that speaks to a coordinator as an agent does, byte for byte as a test wants it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use chancery_proto::v1::agent_service_client::AgentServiceClient;
use chancery_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use chancery_proto::v1::watch_response::Event;
use chancery_proto::v1::{Bundle, JoinRequest, RotateIdentityRequest, WatchRequest, WatchResponse};
use chancery_shared::join_token::JoinToken;
use chancery_shared::tls;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// An identity that a coordinator has issued, or one that only looks like it.
pub(crate) struct Identity {
    address: SocketAddr,
    /// The identity certificate, then its issuers, root last.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub(crate) key: KeyPair,
}

impl Identity {
    /// Joins with a token, as an agent would. The inner error is what the coordinator says.
    pub(crate) async fn join(address: SocketAddr, token: &str) -> Result<Result<Self, Status>> {
        let fingerprint = token.parse::<JoinToken>()?.ca_fingerprint;
        Self::join_with(address, token, tls::joining_client(fingerprint)?).await
    }

    /// Joins with any text for a token, over a connection of this kind.
    pub(crate) async fn join_with(
        address: SocketAddr,
        token: &str,
        config: ClientConfig,
    ) -> Result<Result<Self, Status>> {
        let channel = tls::connect(&address.to_string(), Arc::new(config)).await?;
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let request =
            JoinRequest { token: token.to_owned(), csr_der: csr.der().to_vec(), info: None };
        let answer = EnrolmentServiceClient::new(channel).join(request).await;
        Ok(answer.map(|answer| {
            let chain = answer.into_inner().chain_der.into_iter().map(CertificateDer::from);
            Self { address, chain: chain.collect(), key }
        }))
    }

    /// The internal CA.
    pub(crate) fn root(&self) -> Result<CertificateDer<'static>> {
        self.chain.last().cloned().context("the identity has no chain")
    }

    /// TLS with this identity.
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        client_config(self.root()?, self.chain[..1].to_vec(), &self.key)
    }

    /// A client with this identity.
    pub(crate) async fn client(&self) -> Result<AgentServiceClient<Channel>> {
        let config = Arc::new(self.client_config()?);
        Ok(AgentServiceClient::new(tls::connect(&self.address.to_string(), config).await?))
    }

    /// Opens the stream of certificates.
    pub(crate) async fn watch(&self) -> Result<Streaming<WatchResponse>> {
        Ok(self.client().await?.watch(WatchRequest::default()).await?.into_inner())
    }

    /// All bundles to which this identity is entitled now.
    pub(crate) async fn bundles(&self) -> Result<Vec<Bundle>> {
        let mut stream = self.watch().await?;
        let mut bundles = Vec::new();
        while let Some(message) = stream.message().await? {
            match message.event {
                Some(Event::Bundle(bundle)) => bundles.push(bundle),
                Some(Event::Synced(_)) => return Ok(bundles),
                _ => {}
            }
        }
        bail!("the stream ended before it had told everything")
    }

    /// A fresh identity in the place of this one.
    pub(crate) async fn rotate(&self) -> Result<Self> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let request = RotateIdentityRequest { csr_der: csr.der().to_vec() };
        let answer = self.client().await?.rotate_identity(request).await?.into_inner();
        let chain = answer.chain_der.into_iter().map(CertificateDer::from).collect();
        Ok(Self { address: self.address, chain, key })
    }
}

/// TLS that trusts `root` and shows this certificate.
pub(crate) fn client_config(
    root: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
) -> Result<ClientConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(tls::identified_client(root, chain, key)?)
}

/// Tries to watch, and returns with what words it was refused. An error when anything at all
/// was sent: nothing may leak.
pub(crate) async fn refused_watch(address: SocketAddr, config: ClientConfig) -> Result<String> {
    let channel = match tls::connect(&address.to_string(), Arc::new(config)).await {
        Ok(channel) => channel,
        Err(error) => return Ok(format!("{:#}", anyhow::Error::from(error))),
    };
    let answer = AgentServiceClient::new(channel).watch(WatchRequest::default()).await;
    let refused = match answer {
        Err(status) => status,
        Ok(stream) => match stream.into_inner().message().await {
            Err(status) => status,
            Ok(Some(message)) => bail!("not refused, but sent {message:?}"),
            Ok(None) => bail!("the stream ended without a word"),
        },
    };
    ensure!(refused.code() != tonic::Code::Ok, "refused with OK");
    Ok(format!("{:?}: {}", refused.code(), refused.message()))
}
