//! Where the programs stand that tests run.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A program that `cargo xtask tools` fetched, such as `nginx`. The error names the command
/// that gets it.
pub fn tool(name: &str) -> Result<PathBuf> {
    fetched("bin", name)
}

/// A shared library that `cargo xtask tools` fetched, to be loaded into a program.
pub fn library(name: &str) -> Result<PathBuf> {
    fetched("lib", name)
}

fn fetched(kind: &str, name: &str) -> Result<PathBuf> {
    let folder = env::var_os("CHANCERY_TOOLS_DIR")
        .map_or_else(|| root().join(".tools"), |folder| root().join(folder));
    let path = folder.join(kind).join(name);
    ensure!(path.exists(), "{} is missing: run `cargo xtask tools --peers`", path.display());
    Ok(path)
}

/// One of our own programs, such as `chancery-agent`: from the folder in `CHANCERY_BIN_DIR`,
/// else from where cargo put the program that asks. The error names the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("CHANCERY_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => built()?,
    };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    Ok(path)
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Tests stand in `<target>/debug/deps`, programs in `<target>/debug`.
fn built() -> Result<PathBuf> {
    let this = env::current_exe().context("this program does not know where it stands")?;
    let folder = this.parent().context("this program stands nowhere")?;
    match folder.file_name() {
        Some(name) if name == "deps" => Ok(folder.parent().unwrap_or(folder).to_path_buf()),
        _ => Ok(folder.to_path_buf()),
    }
}
