//! What went wrong, in words, with its exit code.

use std::{error::Error as _, io, process::ExitCode, time::Duration};

use tonic::{Code, Status};

use crate::render::text::printable_lines;

/// The exit codes. They are documented in `docs/cli.md` and in `--help`: scripts
/// rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The operation failed or was refused.
    Failed = 1,
    /// The command line or a file is wrong. Nothing was changed.
    Usage = 2,
    /// The coordinator, or its store, cannot be reached.
    Unreachable = 3,
    /// No object of that name.
    NotFound = 4,
    /// The plan changed meanwhile, or this coordinator does not lead.
    Conflict = 5,
    /// The wait ended before what was waited for had happened.
    TimedOut = 6,
    /// `status`: something needs attention.
    Attention = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended without having done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    /// For a person; may have several lines. Empty: nothing is left to say.
    message: String,
}

impl Failure {
    /// A failure with the exit code `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// [`Exit::Failed`].
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// [`Exit::Usage`].
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The coordinator did not answer within `limit`.
    pub(crate) fn no_answer(limit: Duration) -> Self {
        Self::new(
            Exit::Unreachable,
            format!(
                "the coordinator gave no answer within {}; look at its log, or allow more with \
                 --timeout. A change that was asked for may still take effect",
                humantime::format_duration(limit)
            ),
        )
    }

    /// Writing to standard output failed. A reader that has seen enough (`| head`)
    /// is no failure: it ends the command quietly.
    pub(crate) fn writing(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::Ok, "")
        } else {
            Self::failed(format!("writing to standard output failed: {error}"))
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The message, if there is anything to say.
    pub(crate) fn message(&self) -> Option<&str> {
        (!self.message.is_empty()).then_some(&self.message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(source) = status.source() {
            // Made on this side: the connection broke, the coordinator did not answer so.
            return Self::new(
                Exit::Unreachable,
                format!("the connection to the coordinator was lost: {}", innermost(source)),
            );
        }
        let exit = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
            Code::NotFound => Exit::NotFound,
            Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
            _ => Exit::Failed,
        };
        let message = printable_lines(status.message());
        match (status.code(), message.is_empty()) {
            (Code::Unimplemented, _) => Self::new(
                exit,
                "the coordinator does not know this command: it is older than this program",
            ),
            (code, true) => Self::new(exit, format!("the coordinator refused: {code}")),
            (_, false) => Self::new(exit, message),
        }
    }
}

/// The deepest cause: the layers above it only say "transport error".
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_words_are_shown_as_they_are() {
        for (status, exit) in [
            (Status::not_found("certificate \"www\" does not exist"), Exit::NotFound),
            (Status::invalid_argument("issuer a: no directory\nissuer b: none"), Exit::Usage),
            (Status::failed_precondition("node-2 leads: ask it"), Exit::Conflict),
            (Status::aborted("the plan changed"), Exit::Conflict),
            (Status::unavailable("the store cannot be reached"), Exit::Unreachable),
            (Status::internal("oh"), Exit::Failed),
        ] {
            let message = status.message().to_owned();
            let failure = Failure::from(status);
            assert_eq!(failure.exit(), exit, "{message}");
            assert_eq!(failure.message(), Some(message.as_str()));
        }
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let failure = Failure::from(Status::internal("a\u{1b}[2Jb\nc"));
        assert_eq!(failure.message(), Some("a\u{fffd}[2Jb\nc"));
    }

    #[test]
    fn a_status_without_words_still_says_something() {
        let failure = Failure::from(Status::new(Code::PermissionDenied, ""));
        assert!(failure.message().unwrap().starts_with("the coordinator refused: "));
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let failure = Failure::writing(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.message()), (Exit::Ok, None));
    }
}
