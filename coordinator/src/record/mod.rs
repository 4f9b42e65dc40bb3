//! What is kept in the store, and how it is encoded.
//!
//! A stored value is one JSON object `{"kind":"order","version":1,"data":{…}}`: legible
//! to the person who looks into etcd at 3 AM, with binary fields in base64. A reader refuses
//! a `version` that it does not know, with a message that says so, instead of
//! guessing. Within a version, fields may be added with a default; anything else is a new
//! version with a conversion from the old one. `golden/` holds one file for each kind
//! and version; a test decodes and re-encodes them all.
//!
//! Keys are in [`key`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

mod account;
mod agent;
mod authority;
mod budget;
mod certificate;
mod event;
#[cfg(test)]
mod golden;
pub mod key;
mod member;
mod next_key;
mod order;
mod problem;
mod renew;
mod renewal_info;
mod revocation;
mod standby;

pub use account::{Account, AccountChange, AccountChangeEnd, AccountDeed};
pub use agent::{Agent, Deployment, DeploymentState, Identity, JoinToken, Service, Services};
pub use authority::{Authority, DataKey, Leader, Nomination, SealRing, Sealed};
pub use budget::{Bucket, Budget, Paused, Refused, UnknownBucket};
pub use certificate::{
    Bundle, CertificateSpec, CertificateState, Chain, ExternalAccount, Failure, Issued, IssuerSpec,
};
pub use event::{Event, EventKind};
pub use member::{Instance, Member};
pub use next_key::NextKey;
pub use order::{Challenge, Order, Stage, StandingRecord, TxtRecord};
pub use problem::{LastProblem, Problem, Subproblem};
pub use renew::{Freeze, RenewTimes};
pub use renewal_info::RenewalInfo;
pub use revocation::{Revocation, RevocationEnd, Revoked};
pub use standby::Standby;

/// A value that can be kept in the store.
pub trait Record: Serialize + DeserializeOwned {
    /// Names the type in the stored value.
    const KIND: &'static str;
    /// Version of the encoding that is written.
    const VERSION: u32 = 1;
}

/// Why a stored value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer Chancery wrote it.
    #[error(
        "{key} holds a record of kind {kind} in version {found}, which this version of Chancery \
         does not know (it knows up to {known}): upgrade this coordinator"
    )]
    TooNew {
        /// Where it stands.
        key: String,
        /// What it is.
        kind: &'static str,
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// It is damaged, or something else wrote it.
    #[error("{key} does not hold a record of kind {kind}: {reason}")]
    Damaged {
        /// Where it stands.
        key: String,
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    kind: &'a str,
    version: u32,
    data: &'a T,
}

/// The envelope, without a look at what is in it.
#[derive(Deserialize)]
struct Label {
    kind: String,
    version: u32,
}

#[derive(Deserialize)]
struct Incoming<'a, T> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    version: u32,
    data: T,
}

/// The stored form of `record`.
///
/// # Panics
/// Never for the types of this module: all their maps have text keys.
pub fn encode<T: Record>(record: &T) -> Bytes {
    let outgoing = Outgoing { kind: T::KIND, version: T::VERSION, data: record };
    serde_json::to_vec(&outgoing).expect("records have text keys").into()
}

/// Reads the stored form of a record that stands at `key`.
pub fn decode<T: Record>(key: &str, value: &[u8]) -> Result<T, DecodeError> {
    // All at once, for what is as it should be: whoever reads a hundred thousand feels a second look.
    let incoming = serde_json::from_slice::<Incoming<'_, T>>(value);
    if let Ok(Incoming { kind, version, data }) = incoming
        && kind == T::KIND
        && version <= T::VERSION
    {
        return Ok(data);
    }
    Err(why_not::<T>(key, value))
}

/// Why a stored form is not that of such a record.
fn why_not<T: Record>(key: &str, value: &[u8]) -> DecodeError {
    let damaged =
        |reason: String| DecodeError::Damaged { key: key.to_owned(), kind: T::KIND, reason };
    let label: Label = match serde_json::from_slice(value) {
        Ok(label) => label,
        Err(error) => return damaged(error.to_string()),
    };
    if label.kind != T::KIND {
        return damaged(format!("it says that it is of kind {:?}", label.kind));
    }
    if label.version > T::VERSION {
        return DecodeError::TooNew {
            key: key.to_owned(),
            kind: T::KIND,
            found: label.version,
            known: T::VERSION,
        };
    }
    match serde_json::from_slice::<Incoming<'_, T>>(value) {
        Ok(_) => damaged("it cannot be read".to_owned()),
        Err(error) => damaged(error.to_string()),
    }
}

/// Serde adapter: bytes as base64 text.
pub(crate) mod base64_bytes {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<T: AsRef<[u8]>, S: Serializer>(
        bytes: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, T: From<Vec<u8>>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(T::from).map_err(D::Error::custom)
    }
}
