//! DNS-01 on real name servers, with Pebble asking them.
//!
//! Run them with `cargo xtask test dns`.

mod bad_input;
mod clouds;
mod crash;
mod delegation;
mod persist;
mod providers;
mod rfc2136;
mod stage;
