//! Errors as one line for operators.

use std::{error::Error, fmt::Write as _};

use chancery_shared::durable;

/// An error and all that it came from, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
        source = error.source();
    }
    text
}

/// A durable-file error with its cause and, for a full disk, what to do.
pub(crate) fn durable(error: &durable::Error) -> String {
    let remedy =
        if error.is_full() { "; free some space there, the agent goes on by itself" } else { "" };
    format!("{}{remedy}", chain(error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_cause_is_told_once() {
        let error = durable::write_file(Path::new("/nonexistent/x"), b"", 0o600).unwrap_err();
        let text = durable(&error);
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
        assert!(text.starts_with("cannot create /nonexistent/.x.tmp: "), "{text}");
    }
}
