//! What a benchmark found, for people and for programs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is there to be read")]

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One benchmark's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    /// What was done, in words.
    about: String,
    /// What it was measured on.
    cores: usize,
    rows: Vec<Row>,
    /// How to repeat it.
    command: String,
}

/// One figure beside the peer's, or beside what it should be.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    /// The peer's figure, measured in the same run.
    pub(crate) peer: Option<f64>,
    pub(crate) peer_name: Option<&'static str>,
    /// Ours through the peer's.
    ratio: Option<f64>,
    /// What it should be.
    pub(crate) target: Option<&'static str>,
}

impl Row {
    pub(crate) fn new(what: &'static str, unit: &'static str, ours: f64) -> Self {
        Self { what, unit, ours, peer: None, peer_name: None, ratio: None, target: None }
    }

    /// With what a peer needs for the same.
    pub(crate) fn beside(mut self, name: &'static str, figure: f64) -> Self {
        self.peer = Some(figure);
        self.peer_name = Some(name);
        self.ratio = (figure > 0.0).then_some(self.ours / figure);
        self
    }

    /// With what it should be.
    pub(crate) fn target(mut self, target: &'static str) -> Self {
        self.target = Some(target);
        self
    }
}

impl Report {
    pub(crate) fn new(benchmark: &'static str, about: String, rows: Vec<Row>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let command = format!("cargo xtask bench {benchmark}");
        Self { benchmark, about, cores, rows, command }
    }

    /// With what repeats it with as many certificates.
    pub(crate) fn with_certificates(mut self, count: u32) -> Self {
        self.command = format!("{} --certificates {count}", self.command);
        self
    }

    /// As a table.
    pub(crate) fn print(&self) {
        println!("\n{}: {}; {} cores\n", self.benchmark, self.about, self.cores);
        let head = ["", "ours", "peer", "ratio", "target"].map(str::to_owned);
        let mut lines = vec![head];
        for row in &self.rows {
            let peer = row.peer.zip(row.peer_name);
            lines.push([
                format!("{} [{}]", row.what, row.unit),
                figure(row.ours),
                peer.map_or_else(String::new, |(peer, name)| format!("{} ({name})", figure(peer))),
                row.ratio.map_or_else(String::new, |ratio| format!("{}x", figure(ratio))),
                row.target.unwrap_or_default().to_owned(),
            ]);
        }
        let widths: Vec<usize> = (0..5)
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    1 | 3 => format!("{cell:>width$}"),
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            println!("{}", cells.join("  ").trim_end());
        }
        println!("\nagain: {}", self.command);
    }
}

/// Names and explanations, one a line.
pub(crate) fn list(benchmarks: &[(&str, &str)]) {
    for (name, about) in benchmarks {
        println!("{name:<10} {about}");
    }
}

/// What is being done now.
pub(crate) fn progress(text: &str) {
    eprintln!("... {text}");
}

/// What went wrong.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// All figures, for programs.
pub(crate) fn write_json(path: &Path, reports: &[Report]) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(reports)?)
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        below if below < 1.0 => format!("{value:.3}"),
        below if below < 10.0 => format!("{value:.2}"),
        below if below < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
