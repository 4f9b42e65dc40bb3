//! Agents, how they join, and what they report.

use chancery_shared::{
    name::{AgentName, CertName, Labels, ServiceName},
    number::Generation,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, base64_bytes};

/// An enrolled agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// Its labels, as the operator set them.
    pub labels: Labels,
    /// When it joined.
    pub joined_at: Timestamp,
    /// The identity that it uses.
    pub identity: Identity,
    /// The identity that a rotation has issued, until the agent is seen with it.
    #[serde(default)]
    pub next_identity: Option<Identity>,
    /// What it said of itself when it was last heard.
    #[serde(default)]
    pub version: String,
    /// As `version`.
    #[serde(default)]
    pub hostname: String,
}

impl Record for Agent {
    const KIND: &'static str = "agent";
}

/// An identity certificate, by what cannot be forged of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of its public key.
    #[serde(with = "base64_bytes")]
    pub public_key_hash: Vec<u8>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: Timestamp,
}

/// A join token. Its secret half is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// SHA-256 of the secret half.
    #[serde(with = "base64_bytes")]
    pub secret_hash: Vec<u8>,
    /// The name that the agent will have.
    pub agent: AgentName,
    /// The labels that it will have.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// SHA-256 of the public key that used it. The same key may ask again, so that an
    /// agent which died before it stored the answer is not locked out.
    #[serde(default, with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<u8>,
}

impl Record for JoinToken {
    const KIND: &'static str = "token";
}

/// What an agent last reported of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The agent.
    pub agent: AgentName,
    /// The certificate.
    pub certificate: CertName,
    /// How far it has come.
    pub state: DeploymentState,
    /// Highest generation received.
    pub delivered: Generation,
    /// Generation on the stable path.
    pub installed: Generation,
    /// Generation last seen being served.
    pub served: Generation,
    /// Why it is not installed.
    #[serde(default)]
    pub message: String,
    /// When the agent says that this became so.
    pub changed_at: Timestamp,
    /// Failures of this generation in a row.
    #[serde(default)]
    pub failures: u32,
}

impl Record for Deployment {
    const KIND: &'static str = "deployment";
}

/// How far a deployment has come. As in the gRPC interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentState {
    /// Received, not switched to.
    Delivered,
    /// Switched, reloaded, seen being served.
    Installed,
    /// The files could not be written.
    InstallFailed,
    /// The service's configuration test failed.
    TestFailed,
    /// The reload failed; rolled back.
    ReloadFailed,
    /// Something else was being served; rolled back.
    ProbeFailed,
    /// No longer entitled; the files stay.
    Withdrawn,
}

impl DeploymentState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Installed,
        Self::InstallFailed,
        Self::TestFailed,
        Self::ReloadFailed,
        Self::ProbeFailed,
        Self::Withdrawn,
    ];

    /// The state's name for operators and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Installed => "installed",
            Self::InstallFailed => "install-failed",
            Self::TestFailed => "test-failed",
            Self::ReloadFailed => "reload-failed",
            Self::ProbeFailed => "probe-failed",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Whether somebody may have to look at it.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::InstallFailed | Self::TestFailed | Self::ReloadFailed | Self::ProbeFailed
        )
    }
}

/// What an agent last reported of its services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// One for each.
    pub services: Vec<Service>,
}

impl Record for Services {
    const KIND: &'static str = "services";
}

/// What an agent last reported of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Whether its last run worked.
    pub healthy: bool,
    /// Why not.
    #[serde(default)]
    pub message: String,
    /// When the agent says that this became so.
    pub changed_at: Timestamp,
    /// How often it was reloaded since the agent started.
    #[serde(default)]
    pub reloads: u64,
}
