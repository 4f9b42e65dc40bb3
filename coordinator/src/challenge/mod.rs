//! Answers to challenges (RFC 8555 section 8), one module for each type.

pub mod dns01;
pub mod dns_persist01;
pub mod http01;
mod listener;
pub mod tls_alpn01;
