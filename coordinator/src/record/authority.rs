//! The internal CA, the data keys, and who leads.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chancery_shared::{name::NodeName, number::Epoch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, base64_bytes};
use crate::store::Candidate;

/// The CA that issues agents' identities and coordinators' server certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its self-signed certificate, DER.
    #[serde(with = "base64_bytes")]
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 DER, sealed with kind `authority`, name `internal` and
    /// generation 0.
    pub key: Sealed,
}

impl Record for Authority {
    const KIND: &'static str = "authority";
}

/// Something that only a holder of the seal key file can read. Made and opened by
/// [`crate::seal`]; what it belongs to is bound in as additional data.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sealed {
    /// Which data key sealed it.
    pub data_key: u32,
    /// Nonce and ciphertext with its tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(data key {}, {} bytes)", self.data_key, self.bytes.len())
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        format!("{}:{}", sealed.data_key, BASE64_STANDARD.encode(&sealed.bytes))
    }
}

impl TryFrom<String> for Sealed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let malformed = "a sealed value has the form DATA_KEY:BASE64";
        let (data_key, bytes) = text.split_once(':').ok_or(malformed)?;
        Ok(Self {
            data_key: data_key.parse().map_err(|_| malformed)?,
            bytes: BASE64_STANDARD.decode(bytes).map_err(|_| malformed)?,
        })
    }
}

/// The data keys, each wrapped by the key in the seal key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRing {
    /// Tells which key file wraps them: 16 hexadecimal digits of a hash of its key.
    pub key_file_fingerprint: String,
    /// The one that seals now.
    pub active: u32,
    /// All that are still needed.
    pub keys: Vec<DataKey>,
}

impl Record for SealRing {
    const KIND: &'static str = "seal";
}

/// One wrapped data key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKey {
    /// Its number, starting from 1.
    pub id: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Nonce and ciphertext with its tag.
    #[serde(with = "base64_bytes")]
    pub wrapped: Vec<u8>,
}

/// Who leads. Written by the store itself, in the step that grants the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The node.
    pub node: NodeName,
    /// Number of the term.
    pub epoch: Epoch,
    /// When the term began.
    pub since: Timestamp,
    /// How long the lease lives without a keep-alive.
    pub ttl_millis: u64,
}

impl Leader {
    /// The record of a term that `candidate` has won.
    pub(crate) fn of(candidate: &Candidate, epoch: Epoch, since: Timestamp) -> Self {
        let ttl_millis = u64::try_from(candidate.ttl.as_millis()).unwrap_or(u64::MAX);
        Self { node: candidate.node.clone(), epoch, since, ttl_millis }
    }
}

impl Record for Leader {
    const KIND: &'static str = "leader";
}

/// Who is to lead after the present leader has handed over. Written by that leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nomination {
    /// The node that is to lead.
    pub node: NodeName,
    /// Number of the term that ends. It means nothing once there was a later one.
    pub epoch: Epoch,
    /// How long the others leave leadership to the node, counted from when they see this.
    pub hold_millis: u64,
}

impl Record for Nomination {
    const KIND: &'static str = "nomination";
}
