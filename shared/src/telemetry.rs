//! Logs: one subscriber for all binaries, for people or for programs.
//!
//! Levels mean: `error` — a person has to act; `warn` — it will be tried again, but
//! somebody may want to know; `info` — what happened to certificates, agents and the
//! lease; `debug` — why; `trace` — each step. Secrets stand in none of them.

use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line a person can read, colored on a terminal.
    #[default]
    Human,
    /// One JSON object a line, with the fields of the enclosing spans.
    Json,
}

/// The `[log]` section of both configuration files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// How log lines look.
    pub format: Format,
    /// Which lines are written, in `tracing`'s filter syntax, such as `info` or
    /// `info,chancery_agent=debug`. The environment variable `CHANCERY_LOG` wins.
    pub filter: Option<String>,
}

/// The filter in the configuration or the environment cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log filter {text:?} cannot be read: write for example \"info\" or \"info,chancery_agent=debug\""
)]
pub struct InvalidFilter {
    text: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging to standard error. Call it once, before anything is logged.
///
/// # Panics
/// If a subscriber was installed before.
pub fn init(options: &Options) -> Result<(), InvalidFilter> {
    let text = std::env::var("CHANCERY_LOG")
        .ok()
        .or_else(|| options.filter.clone())
        .unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::from_str(&text)
        .map_err(|source| InvalidFilter { text: text.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.format {
        Format::Human => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
