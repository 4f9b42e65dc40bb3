//! All that xtask prints. Progress goes to standard error, so that the standard
//! output of what it starts stays clean.
#![expect(clippy::print_stderr, reason = "printing is this module's job")]

use std::fmt::Display;

/// A step that begins.
pub(crate) fn step(text: impl Display) {
    eprintln!("==> {text}");
}

/// Something that a person should know, and that is no error.
pub(crate) fn note(text: impl Display) {
    eprintln!("    {text}");
}

/// What went wrong, with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
