//! What the demo prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demo is there to be seen")]

use std::fmt::Display;
use std::path::Path;

use chancery_tests::scene;
use tokio::time::Instant;

/// Prints with the time that has passed.
pub(crate) struct Screen {
    start: Instant,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Something that has been reached.
    pub(crate) fn step(&self, text: impl Display) {
        println!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    /// What comes next.
    #[expect(clippy::unused_self, reason = "printing goes through the screen")]
    pub(crate) fn title(&self, text: &str) {
        println!("\n── {text}");
    }

    /// A command that an operator would type.
    #[expect(clippy::unused_self, reason = "printing goes through the screen")]
    pub(crate) fn command(&self, text: &str) {
        println!("\n$ {text}");
    }

    /// Lines as they are.
    #[expect(clippy::unused_self, reason = "printing goes through the screen")]
    pub(crate) fn text(&self, text: &str) {
        println!("{}", text.trim_end());
    }

    /// What went wrong.
    #[expect(clippy::unused_self, reason = "printing goes through the screen")]
    pub(crate) fn error(&self, error: &anyhow::Error) {
        eprintln!("\nerror: {error:#}");
    }

    /// The ends of all logs.
    #[expect(clippy::unused_self, reason = "printing goes through the screen")]
    pub(crate) fn logs(&self, folder: &Path) {
        scene::show_logs(folder);
    }
}
