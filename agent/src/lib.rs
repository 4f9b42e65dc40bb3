//! Chancery's agent: receives the certificates that it is entitled to, installs them
//! atomically, tests, reloads and probes the local services, and rolls back what fails.
//!
//! | module | holds |
//! |---|---|
//! | [`app`] | the composition root: configuration in, a running agent out |
//! | [`config`] | `agent.toml`, every problem at once |
//! | `identity` | joining, storing and rotating who the agent is |
//! | `watch` | the connection: bundles in, reports out, the next coordinator when one fails |
//! | `bundle` | a received bundle, checked |
//! | `cache` | received bundles on disk |
//! | `state` | what has been done so far, on disk |
//! | `engine` | the reconciler: receives, looks, plans, carries out, records |
//! | `plan` | what to do next; pure: no IO, no clock |
//! | `install` | builds on disk and the one link that switches between them |
//! | `service` | test, reload, probe, and going back |
//! | `report` | what a coordinator is told |
//!
//! ```text
//! coordinator -> watch -> engine -> cache, plan, install, service
//!      ^           |        |
//!      +-- report -+<-------+
//! ```
//!
//! What holds, whatever fails: a private key is installed with its own chain and no other,
//! in one step; a generation below one seen before is never installed; a deployment counts
//! as installed only once its services were seen with it; without a coordinator everything
//! that is on disk goes on.

pub mod app;
mod bundle;
mod cache;
pub mod config;
mod engine;
mod identity;
mod install;
mod plan;
mod report;
mod service;
mod state;
#[cfg(test)]
mod testing;
mod text;
mod watch;

/// The environment variable that may hold a join token. It is not passed on to commands.
pub const TOKEN_VARIABLE: &str = "CHANCERY_JOIN_TOKEN";

/// The names of all places where a test may kill the process (see
/// [`chancery_shared::failpoint`]), in the order in which a joining agent passes them.
pub const CRASH_POINTS: &[&str] = &[
    "identity::key_written",
    "identity::join_answered",
    "identity::stored",
    "identity::rotation_answered",
    "cache::stored",
    "install::file_written",
    "install::build_synced",
    "install::build_renamed",
    "install::before_switch",
    "install::switched",
    "service::tested",
    "service::reloaded",
    "service::probed",
    "service::rolled_back",
    "state::before_save",
    "state::saved",
];
