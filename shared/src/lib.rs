//! What coordinator, agent and CLI all need, and nothing that only one of them needs.
//!
//! | module | holds |
//! |---|---|
//! | [`name`] | names and labels that cannot be made wrong |
//! | [`identifier`] | ACME identifiers (RFC 8555 section 9.7.7) |
//! | [`challenge_type`] | the challenges that can be asked for |
//! | [`number`] | epochs and generations |
//! | [`maintenance`] | when something may be done, by the clock on the wall |
//! | [`key_type`] | the key algorithms that can be asked for |
//! | [`clock`] | the one place that looks at a clock |
//! | [`secret`] | bytes that are wiped and never printed |
//! | [`x509`] | what Chancery reads from a certificate, and key-matches-chain |
//! | [`tls`] | client and server TLS with the internal CA |
//! | [`join_token`] | the credential that an operator hands to a new agent |
//! | [`durable`] | files written so that they survive kill -9 and power loss |
//! | [`dice`] | dice for jitter, which a simulation can load |
//! | [`revocation`] | why a certificate is revoked |
//! | [`retry`] | jittered back-off, in one place |
//! | [`telemetry`] | logs |
//! | [`failpoint`] | named places where a test may kill the process |

pub mod challenge_type;
pub mod clock;
pub mod dice;
pub mod durable;
pub mod failpoint;
pub mod identifier;
pub mod join_token;
pub mod key_type;
pub mod maintenance;
pub mod name;
pub mod number;
pub mod retry;
pub mod revocation;
pub mod secret;
pub mod telemetry;
pub mod tls;
pub mod wire;
pub mod x509;
