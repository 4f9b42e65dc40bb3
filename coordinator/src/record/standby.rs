//! Bundles that are kept ready.

use chancery_shared::name::CertName;
use serde::{Deserialize, Serialize};

use super::{Bundle, CertificateState, Record};

/// The standby of a certificate: a bundle that no agent gets, until it is made the newest one. Written by the
/// leader alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The certificate.
    pub certificate: CertName,
    /// What is so for it. Its generation is a number that no other bundle of the certificate has, and stays
    /// when the bundle is gone.
    pub state: CertificateState,
    /// The bundle; `None` before the first, and after it was made the newest one.
    #[serde(default)]
    pub bundle: Option<Bundle>,
}

impl Standby {
    /// One that has nothing yet.
    pub fn none(certificate: CertName) -> Self {
        Self { certificate, state: CertificateState::default(), bundle: None }
    }
}

impl Record for Standby {
    const KIND: &'static str = "standby";
}
