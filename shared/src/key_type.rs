//! The key algorithms that a certificate can ask for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Algorithm and size of a certificate's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// ECDSA on NIST P-256: the default, small and served by everything alive.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA on NIST P-384.
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// RSA with 2048 bits, for clients that know no ECDSA.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

/// The text names no key type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key type {0:?} is not known: use ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096")]
pub struct UnknownKeyType(String);

impl KeyType {
    /// All of them, the default first.
    pub const ALL: [Self; 5] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The name used in configuration files and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// A fresh key pair. RSA keys take up to a second of CPU: call it off the
    /// async threads.
    pub fn generate(self) -> Result<rcgen::KeyPair, rcgen::Error> {
        use rcgen::{KeyPair, RsaKeySize};
        match self {
            Self::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            Self::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
            Self::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        }
    }
}

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL
            .into_iter()
            .find(|key_type| key_type.as_str() == text)
            .ok_or_else(|| UnknownKeyType(text.to_owned()))
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_type_can_be_made_and_has_one_name() {
        for key_type in KeyType::ALL {
            assert_eq!(key_type.as_str().parse(), Ok(key_type));
            assert_eq!(serde_json::to_string(&key_type).unwrap(), format!("\"{key_type}\""));
        }
        // The slow RSA sizes are the same code with another constant.
        for key_type in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048] {
            let key = key_type.generate().unwrap();
            assert!(!key.serialize_der().is_empty());
        }
    }
}
