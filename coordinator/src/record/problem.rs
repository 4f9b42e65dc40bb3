//! What a CA last had against a certificate.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A problem document (RFC 7807, RFC 8555 section 6.7), and when the CA sent it. Bounded: see
/// `order::problem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProblem {
    /// When.
    pub at: Timestamp,
    /// What the CA said.
    #[serde(flatten)]
    pub problem: Problem,
}

/// A problem document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its type, such as `urn:ietf:params:acme:error:unauthorized`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What happened, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// One for each identifier that it is about (RFC 8555 section 6.7.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subproblems: Vec<Subproblem>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u32,
}

/// What a problem is for one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subproblem {
    /// The identifier, if the CA said which.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identifier: String,
    /// As of the problem.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// As of the problem.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
