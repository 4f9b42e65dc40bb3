//! What the program prints besides its log.

/// A line on standard output.
#[expect(clippy::print_stdout, reason = "the answer to a command")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// An error on standard error.
#[expect(clippy::print_stderr, reason = "the last words of a command")]
pub(crate) fn error(text: &str) {
    eprintln!("{text}");
}
