//! The frame of one test: a folder, a runtime, and the logs on the screen when it fails.
#![expect(clippy::print_stderr, reason = "shows why a test failed")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// A folder for one test or demo. When the test fails, the ends of all logs in it are
/// printed; with `CHANCERY_KEEP=1` in the environment the folder stays.
#[derive(Debug)]
pub struct Scene {
    folder: Option<TempDir>,
}

impl Scene {
    /// A new, empty folder. Its path is short, so that sockets fit into it.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("chancery-").tempdir();
        Ok(Self { folder: Some(folder.context("no temporary folder can be made")?) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("taken only on drop").path()
    }

    /// Leaves the folder there, and tells where it is.
    pub fn keep(mut self) -> PathBuf {
        self.folder.take().expect("taken only here and on drop").keep()
    }

    /// A new folder inside it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else { return };
        if thread::panicking() {
            show_logs(folder.path());
        }
        if env::var_os("CHANCERY_KEEP").is_some()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

/// Runs a test in a scene of its own. Panics when the test returns an error, after the logs
/// of all programs that it ran have been shown.
pub fn play(test: impl AsyncFnOnce(&Scene) -> Result<()>) {
    chancery_shared::tls::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let scene = Scene::new().expect("a folder can be made");
    if let Err(error) = runtime.block_on(test(&scene)) {
        // The panic makes the scene show its logs.
        panic!("{error:#}");
    }
}

/// Prints the ends of all `*.log` files under `folder`.
pub fn show_logs(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        // Not through links: what an agent installs is linked in circles of its own.
        if path.is_dir() && !path.is_symlink() {
            show_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log")
            && let Ok(text) = fs::read(&path)
            && !text.is_empty()
        {
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(SHOWN);
            eprintln!("--- {} (last {} lines)", path.display(), lines.len() - from);
            for line in &lines[from..] {
                eprintln!("{line}");
            }
        }
    }
}

const SHOWN: usize = 60;
