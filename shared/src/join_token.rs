//! The credential that an operator hands to a new agent.
//!
//! `chy1.<id>.<secret>.<fingerprint>`: which token it is (public), the secret half
//! (16 random bytes, stored only as a hash), and the SHA-256 of the internal CA's
//! certificate, so that the very first connection is already checked: the agent
//! trusts nobody whose chain does not end in that CA.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};

use crate::{secret::Secret, x509::Fingerprint};

/// A join token, whole.
#[derive(Clone)]
pub struct JoinToken {
    /// Which token it is. Not secret.
    pub id: String,
    /// What proves that its holder was given it.
    pub secret: Secret,
    /// SHA-256 of the internal CA's certificate.
    pub ca_fingerprint: Fingerprint,
}

/// The text is not a join token. Says nothing of the text: most of it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a whole join token: it has the form chy1.ID.SECRET.FINGERPRINT, as \
     `chancery agent token create` printed it"
)]
pub struct Malformed;

impl JoinToken {
    /// A token with a fresh identifier and a fresh secret.
    pub fn generate(ca_fingerprint: Fingerprint) -> Self {
        let id = BASE64.encode(Secret::random(ID_LENGTH).expose_secret());
        Self { id, secret: Secret::random(SECRET_LENGTH), ca_fingerprint }
    }

    /// The hash under which the secret half is stored.
    pub fn secret_hash(&self) -> [u8; 32] {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.secret.expose_secret());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The text that the operator is shown, once.
    pub fn expose(&self) -> String {
        let secret = BASE64.encode(self.secret.expose_secret());
        let fingerprint = BASE64.encode(self.ca_fingerprint.as_bytes());
        format!("{PREFIX}.{}.{secret}.{fingerprint}", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(id), Some(secret), Some(fingerprint), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let decode = |text: &str, length: usize| {
            BASE64.decode(text).ok().filter(|bytes| bytes.len() == length).ok_or(Malformed)
        };
        decode(id, ID_LENGTH)?;
        let fingerprint = decode(fingerprint, 32)?;
        Ok(Self {
            id: id.to_owned(),
            secret: Secret::new(decode(secret, SECRET_LENGTH)?),
            ca_fingerprint: Fingerprint::from_bytes(fingerprint.try_into().map_err(|_| Malformed)?),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("ca_fingerprint", &self.ca_fingerprint)
            .finish_non_exhaustive()
    }
}

/// Marks version 1 of the format, and lets secret scanners find leaked tokens.
const PREFIX: &str = "chy1";
const ID_LENGTH: usize = 9;
const SECRET_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_clipboard() {
        let token = JoinToken::generate(Fingerprint::from_bytes([7; 32]));
        let read: JoinToken = format!(" {}\n", token.expose()).parse().unwrap();
        assert_eq!(read.id, token.id);
        assert_eq!(read.secret_hash(), token.secret_hash());
        assert_eq!(read.ca_fingerprint, token.ca_fingerprint);
    }

    #[test]
    fn a_cut_token_is_refused_without_being_repeated() {
        let whole = JoinToken::generate(Fingerprint::from_bytes([7; 32])).expose();
        for cut in [&whole[..whole.len() - 4], "", "chy1", &whole[1..]] {
            assert_eq!(cut.parse::<JoinToken>().unwrap_err(), Malformed);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = JoinToken::generate(Fingerprint::from_bytes([7; 32]));
        let secret = token.expose().split('.').nth(2).unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }
}
