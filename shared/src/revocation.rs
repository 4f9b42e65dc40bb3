//! Why a certificate is revoked.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A reason for which the holder of a certificate can have it revoked (RFC 5280 section 5.3.1). Those
/// that are for CAs alone are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationReason {
    /// None is told.
    #[default]
    Unspecified,
    /// Somebody else has, or may have, the private key.
    KeyCompromise,
    /// The holder's name or other facts have changed.
    AffiliationChanged,
    /// Another certificate has taken its place.
    Superseded,
    /// The names are not used any more.
    CessationOfOperation,
    /// The holder is no longer entitled to it.
    PrivilegeWithdrawn,
}

/// The text names no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "reason {0:?} is not known: use unspecified, keyCompromise, affiliationChanged, superseded, \
     cessationOfOperation or privilegeWithdrawn"
)]
pub struct UnknownReason(String);

impl RevocationReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// Its name in RFC 5280.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }
}

impl FromStr for RevocationReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_name_however_its_letters_are_written() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(reason.as_str().to_lowercase().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        let error = "cACompromise".parse::<RevocationReason>().unwrap_err();
        assert!(error.to_string().contains("superseded"), "{error}");
    }
}
