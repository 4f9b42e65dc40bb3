//! When a CA wants a certificate to be renewed.

use chancery_shared::name::CertName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;

/// What a CA last said about when to renew a certificate (RFC 9773 section 4.2). Written when it says
/// something else, not each time that it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalInfo {
    /// The certificate.
    pub certificate: CertName,
    /// Serial number of the one that it is about, hexadecimal. Of no use for its successor.
    pub serial: String,
    /// Its identifier in ACME (RFC 9773 section 4.1), for orders that replace it.
    pub id: String,
    /// Start of the suggested window.
    pub start: Timestamp,
    /// End of the suggested window.
    pub end: Timestamp,
    /// A page that says why.
    pub explanation_url: Option<String>,
    /// How long to wait before asking again.
    pub ask_every_secs: u32,
    /// Whether it said something else before of the same certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// When it said so first.
    pub since: Timestamp,
}

impl Record for RenewalInfo {
    const KIND: &'static str = "renewal-info";
}
