//! Pure: what a coordinator answered, as text for people or JSON for programs.
//!
//! Nothing here looks at a clock or a terminal: both come in with [`View`], so that
//! every table is a snapshot in a test.

pub(crate) mod agent;
pub(crate) mod budget;
pub(crate) mod cert;
pub(crate) mod dns_record;
pub(crate) mod drill;
pub(crate) mod event;
pub(crate) mod issuer;
pub(crate) mod json;
pub(crate) mod lease;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod seal;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod when;

#[cfg(test)]
pub(crate) mod fixtures;

use chancery_proto::v1::DeploymentState;
use jiff::Timestamp;

/// What rendering needs to know of the outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Relative times count from here.
    pub(crate) now: Timestamp,
    /// Columns of the terminal; `None` if lines may be as long as they are.
    pub(crate) width: Option<u16>,
    /// Whether to paint.
    pub(crate) paint: Paint,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Paints nothing.
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    /// Paints with ANSI sequences.
    pub(crate) fn colored() -> Self {
        Self { on: true }
    }

    /// For what is new, or well.
    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// For what changes, or wants attention.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For what goes, or has failed.
    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    /// For headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The word for a deployment's state, in tables and in JSON.
pub(crate) fn deployment_state(state: DeploymentState) -> &'static str {
    match state {
        DeploymentState::Unspecified => "unknown",
        DeploymentState::Delivered => "delivered",
        DeploymentState::Installed => "installed",
        DeploymentState::InstallFailed => "install-failed",
        DeploymentState::TestFailed => "test-failed",
        DeploymentState::ReloadFailed => "reload-failed",
        DeploymentState::ProbeFailed => "probe-failed",
        DeploymentState::Withdrawn => "withdrawn",
    }
}
