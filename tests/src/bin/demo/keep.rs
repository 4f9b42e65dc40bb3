//! What it takes to let a demo run on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Writes a script into `folder` that ends these processes and removes the folder.
pub(crate) fn stop_script(folder: &Path, ids: &[u32]) -> Result<PathBuf> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let stop = folder.join("stop.sh");
    let ids = ids.join(" ");
    // They still write while they end, so the files go last.
    let script = format!(
        "kill {ids} 2>/dev/null\n\
         for id in {ids}; do while kill -0 $id 2>/dev/null; do sleep 0.1; done; done\n\
         rm -rf '{}'\n",
        folder.display()
    );
    fs::write(&stop, script).with_context(|| format!("{} cannot be written", stop.display()))?;
    Ok(stop)
}
