//! What the agent asks of the machine that it is on, beside files.

use std::time::Duration;

use chancery_shared::x509::Fingerprint;
use tokio::time::Instant;
use tonic::async_trait;

use super::{command, probe};

/// A machine with services on it.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Runs a command to its end, for at most `limit`. The error is a text for operators. Dropping
    /// the future kills the command.
    async fn run(
        &self,
        argv: &[String],
        environment: &[(&str, String)],
        limit: Duration,
    ) -> Result<(), String>;

    /// Asks `address` for `server_name` until the leaf `wanted` is served, or until `deadline`. The error
    /// says what was seen instead.
    async fn probe(
        &self,
        address: &str,
        server_name: &str,
        wanted: Fingerprint,
        deadline: Instant,
    ) -> Result<(), String>;
}

/// This machine.
#[derive(Debug)]
pub(crate) struct ThisHost;

#[async_trait]
impl Host for ThisHost {
    async fn run(
        &self,
        argv: &[String],
        environment: &[(&str, String)],
        limit: Duration,
    ) -> Result<(), String> {
        command::run(argv, environment, limit).await
    }

    async fn probe(
        &self,
        address: &str,
        server_name: &str,
        wanted: Fingerprint,
        deadline: Instant,
    ) -> Result<(), String> {
        probe::probe(address, server_name, wanted, deadline).await
    }
}
