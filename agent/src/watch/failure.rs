//! What went wrong with a coordinator, sorted by what follows from it.

use std::{error::Error, fmt, io};

use rustls::AlertDescription;
use tonic::{Code, Status};

use crate::text;

/// Why a coordinator could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It does not accept the identity or the token. Trying again does not help.
    Refused(String),
    /// Its certificate is not one of this fleet.
    Stranger(String),
    /// All else: try the next one, or later.
    Unavailable(String),
}

impl Failure {
    /// Of a call made with the identity.
    pub(crate) fn of_status(status: &Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::Refused(status.message().to_owned())
            }
            _ => Self::of_error(status, readable(status)),
        }
    }

    /// Of a call made with a join token.
    pub(crate) fn of_join(status: &Status) -> Self {
        match status.code() {
            // Its request is what the agent made of the token: another try is the same.
            Code::InvalidArgument => Self::Refused(status.message().to_owned()),
            _ => Self::of_status(status),
        }
    }

    /// Of a connection.
    pub(crate) fn of_transport(error: &tonic::transport::Error) -> Self {
        Self::of_error(error, text::chain(error))
    }

    /// Of a TLS connection without HTTP/2.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        Self::of_error(error, text::chain(error))
    }

    fn of_error(error: &(dyn Error + 'static), text: String) -> Self {
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Stranger(text),
            Some(rustls::Error::AlertReceived(alert)) if ABOUT_IDENTITY.contains(alert) => {
                Self::Refused(text)
            }
            // HTTP/2 keeps only the text of what it reads.
            None if ABOUT_IDENTITY
                .iter()
                .any(|alert| text.contains(&rustls::Error::AlertReceived(*alert).to_string())) =>
            {
                Self::Refused(text)
            }
            _ => Self::Unavailable(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Stranger(text) | Self::Unavailable(text) => {
                f.write_str(text)
            }
        }
    }
}

/// A status without tonic's metadata, which says nothing to an operator.
fn readable(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if text.is_empty() {
        status.code().description().clone_into(&mut text);
    }
    if let Some(source) = status.source() {
        let source = text::chain(source);
        if source.starts_with(&text) {
            text = source;
        } else if !text.contains(&source) {
            text = format!("{text}: {source}");
        }
    }
    text
}

/// The TLS error that an error came from. An IO error hides what it wraps from `source`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(wrapped) = wrapped
            && let Some(found) = tls_error(wrapped)
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}

/// Alerts with which a coordinator turns an identity down.
const ABOUT_IDENTITY: [AlertDescription; 9] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
    // A certificate whose signature is not of the CA it names.
    AlertDescription::DecryptError,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_retry_cannot_help_is_told_apart() {
        let of = |code| Failure::of_status(&Status::new(code, "text"));
        assert_eq!(of(Code::PermissionDenied), Failure::Refused("text".to_owned()));
        assert_eq!(of(Code::Unauthenticated), Failure::Refused("text".to_owned()));
        assert_eq!(of(Code::Unavailable), Failure::Unavailable("text".to_owned()));
        assert_eq!(of(Code::InvalidArgument), Failure::Unavailable("text".to_owned()));
        let of = |code| Failure::of_join(&Status::new(code, "text"));
        assert_eq!(of(Code::InvalidArgument), Failure::Refused("text".to_owned()));
    }

    #[test]
    fn a_tls_error_is_found_within_an_io_error() {
        let wrap = |error: rustls::Error| io::Error::other(io::Error::other(error));
        let stranger = wrap(rustls::CertificateError::UnknownIssuer.into());
        assert!(matches!(Failure::of_error(&stranger, String::new()), Failure::Stranger(_)));
        let refused = wrap(rustls::Error::AlertReceived(AlertDescription::CertificateExpired));
        assert!(matches!(Failure::of_error(&refused, String::new()), Failure::Refused(_)));
        let late = io::Error::other("connection error: received fatal alert: UnknownCA");
        let late = Failure::of_error(&late, late.to_string());
        assert!(matches!(late, Failure::Refused(_)));
        let other = wrap(rustls::Error::HandshakeNotComplete);
        assert!(matches!(Failure::of_error(&other, String::new()), Failure::Unavailable(_)));
    }
}
