//! lego, as its users run it for many certificates: a process for each, eight at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chancery_tests::pebble::Pebble;
use chancery_tests::{process, tools, usage};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many processes run at once.
pub(crate) const PROCESSES: usize = 8;

/// What it took.
pub(crate) struct Took {
    pub(crate) time: Duration,
    pub(crate) cpu: Duration,
}

/// Gets one certificate for each name, with challenges in `webroot`. The account is made beforehand
/// and not counted.
pub(crate) async fn issue(
    folder: &Path,
    webroot: &Path,
    pebble: &Pebble,
    names: Vec<String>,
) -> Result<Took> {
    let lego = Arc::new(Lego {
        program: tools::tool("lego")?,
        state: folder.join("lego"),
        webroot: webroot.to_owned(),
        directory: pebble.directory(),
        roots: pebble.https_root_path().to_owned(),
    });
    lego.run("account.bench.chancery.example").await.context("lego's first run")?;

    let names = Arc::new(Mutex::new(VecDeque::from(names)));
    let (start, cpu) = (Instant::now(), usage::cpu_of_children()?);
    let mut workers = JoinSet::new();
    for _ in 0..PROCESSES {
        let (lego, names) = (Arc::clone(&lego), Arc::clone(&names));
        workers.spawn(async move {
            loop {
                let next = names.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(name) = next else { return anyhow::Ok(()) };
                lego.run(&name).await?;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(Took { time: start.elapsed(), cpu: usage::cpu_of_children()?.saturating_sub(cpu) })
}

struct Lego {
    program: PathBuf,
    state: PathBuf,
    webroot: PathBuf,
    directory: String,
    roots: PathBuf,
}

impl Lego {
    async fn run(&self, name: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .env("LEGO_CA_CERTIFICATES", &self.roots)
            .arg("--path")
            .arg(&self.state)
            .args(["--server", &self.directory, "--email", "bench@chancery.example"])
            .args(["--accept-tos", "--domains", name, "--http", "--http.webroot"])
            .arg(&self.webroot)
            .arg("run");
        process::run(&mut command, Duration::from_mins(2)).await?.success()?;
        Ok(())
    }
}
