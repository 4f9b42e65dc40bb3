//! The only module that prints, and that asks.
//!
//! What a command was asked for goes to standard output; remarks, warnings,
//! questions and errors go to standard error, so that `chancery ... -o json | jq`
//! and `TOKEN=$(chancery agent token create ...)` get nothing else.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    args::{ColorChoice, Format},
    failure::Failure,
    render::{Paint, View},
};

/// Where a command's words go, and in what shape.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    stdout_is_terminal: bool,
    stdout_paint: Paint,
    stderr_paint: Paint,
}

#[expect(clippy::unused_self, reason = "whoever holds an `Output` may print, nobody else")]
impl Output {
    /// Looks at the terminal once.
    pub(crate) fn new(format: Format, color: ColorChoice) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let paint = |is_terminal: bool| match color {
            ColorChoice::Always => Paint::colored(),
            ColorChoice::Auto if is_terminal && color_is_welcome() => Paint::colored(),
            ColorChoice::Auto | ColorChoice::Never => Paint::plain(),
        };
        Self {
            format,
            stdout_is_terminal,
            stdout_paint: paint(stdout_is_terminal),
            stderr_paint: paint(io::stderr().is_terminal()),
        }
    }

    /// What rendering needs to know: the time, the width, whether to paint.
    pub(crate) fn view(&self, now: Timestamp) -> View {
        let width =
            self.stdout_is_terminal.then(|| match rustix::termios::tcgetwinsize(io::stdout()) {
                Ok(size) if size.ws_col > 0 => size.ws_col,
                _ => DEFAULT_WIDTH,
            });
        View { now, width, paint: self.stdout_paint }
    }

    /// Whether programs read the answer.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether lines may be drawn over.
    pub(crate) fn is_live(&self) -> bool {
        self.stdout_is_terminal && !self.is_json()
    }

    /// Prints an answer: `json` for programs, else what `text` makes.
    pub(crate) fn answer<T: Serialize>(
        &self,
        json: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.is_json() { self.json(json) } else { self.print(&text()) }
    }

    /// Prints `text`, which ends with a line feed after this.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let line_feed = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write(&format!("{text}{line_feed}"))
    }

    /// Prints a JSON document, indented.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).expect("answers have string keys only");
        write(&format!("{text}\n"))
    }

    /// Prints a JSON document as one line of many.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).expect("answers have string keys only");
        write(&format!("{text}\n"))
    }

    /// Prints a remark to standard error.
    pub(crate) fn note(&self, text: &str) {
        // Whoever closed standard error does not want remarks.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints a warning to standard error.
    pub(crate) fn warn(&self, text: &str) {
        self.note(&format!("{} {text}", self.stderr_paint.yellow("warning:")));
    }

    /// Prints why the command failed and returns its exit code.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        if let Some(message) = failure.message() {
            self.note(&format!("{} {message}", self.stderr_paint.red("error:")));
        }
        failure.exit().into()
    }

    /// Whether somebody is there to be asked.
    pub(crate) fn can_ask(&self) -> bool {
        !self.is_json() && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks; only `y` and `yes` mean yes.
    pub(crate) fn ask(&self, question: &str) -> bool {
        let mut stderr = io::stderr();
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}

/// Lines that are drawn over as they change.
#[derive(Debug, Default)]
pub(crate) struct Live {
    drawn: usize,
}

impl Live {
    /// Replaces what was drawn before. No line may be wider than the terminal.
    pub(crate) fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let mut text = format!("{up}\r\x1b[J");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        write(&text)
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::writing(&error))
}

/// Whether the environment asks for no colours (<https://no-color.org>).
fn color_is_welcome() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns of a terminal that does not say how many it has.
const DEFAULT_WIDTH: u16 = 80;
