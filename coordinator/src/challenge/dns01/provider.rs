//! What a DNS provider has to be able to do.

use std::fmt;

use async_trait::async_trait;
use chancery_shared::identifier::Identifier;

/// Adds and removes one value of a TXT record.
///
/// # Contract
///
/// Both calls are idempotent, and touch exactly the value that they are given: others at the same
/// name belong to another order, another coordinator, or to somebody else altogether. Nobody else
/// in this process changes the same name meanwhile (see [`super::Dns01`]), so that a provider whose API
/// knows only whole record sets may read, change and write.
///
/// A failed or dropped call may have done what it was to do. It is bounded in time by the caller, unless
/// the provider says that it does that itself.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// Adds the value.
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure>;

    /// Removes the value, if it is there.
    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure>;

    /// The zones that it is responsible for at present, if it knows that by itself and the configuration names
    /// none; `None` for everything.
    fn zones(&self) -> Option<Vec<String>> {
        None
    }

    /// Whether its calls end in time by themselves.
    fn is_bounded(&self) -> bool {
        false
    }
}

/// A value of a TXT record, and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Txt<'a> {
    /// The zone, without a trailing dot.
    pub zone: &'a str,
    /// The name of the record, likewise.
    pub name: &'a str,
    /// The value.
    pub value: &'a str,
    /// What the CA validates.
    pub identifier: &'a Identifier,
    /// The challenge's token, for hooks that compute the value themselves.
    pub token: &'a str,
    /// The key authorization, likewise (RFC 8555 section 8.1).
    pub key_authorization: &'a str,
}

/// Why a provider failed. Says what to do, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It does not let us, and will not until somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// It does not have the zone.
    #[error("{0}")]
    NoZone(String),
    /// It cannot be reached, or cannot do it now.
    #[error("{0}")]
    Unavailable(String),
}
