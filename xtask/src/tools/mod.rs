//! Fetches the programs that tests, demo and benchmarks run, into `.tools` of this checkout.
//!
//! Nothing of the system changes, and no root is needed: packages are downloaded and
//! unpacked, never installed. Afterwards `.tools/bin/PROGRAM` is there for each program,
//! and that path is all that tests know. Whoever cannot download puts a program there by
//! hand, and it is left alone.

mod debian;
mod nextest;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cargo;
use crate::{out, run};

pub(crate) use nextest::Nextest;

/// Makes sure that every tool is there; `peers` adds those that only benchmarks run.
/// Quick when they are. Tells about all that could not be had before it fails.
pub(crate) fn ensure(peers: bool) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(folder.join("bin"))
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    // Two checks at once in one checkout must not unpack over each other.
    let lock = File::create(folder.join("lock")).context("the lock of .tools cannot be made")?;
    lock.lock().context("the lock of .tools cannot be taken")?;

    let wanted = TOOLS.iter().filter(|tool| peers || !tool.peer);
    let missing: Vec<&Tool> = wanted.filter(|tool| !tool.is_there(&folder)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut fetcher = debian::Fetcher::new(folder.join("apt"));
    let mut failed = Vec::new();
    for tool in missing {
        let stopwatch = run::Stopwatch::start();
        out::step(format!("fetching {} (Debian {})", tool.name, tool.suite));
        match tool.fetch(&folder, &mut fetcher) {
            Ok(version) => {
                out::note(format!("{version} in {:.1} s", stopwatch.elapsed().as_secs_f64()));
            }
            Err(error) => {
                out::error(&error);
                failed.push(tool);
            }
        }
    }
    // The package lists are big, and stale by the next time.
    let _ = fs::remove_dir_all(folder.join("apt"));
    if failed.is_empty() {
        return Ok(());
    }
    for tool in &failed {
        out::note(tool.by_hand(&folder));
    }
    let names: Vec<&str> = failed.iter().map(|tool| tool.name).collect();
    bail!("not to be had: {}; see above how to get them by hand", names.join(", "))
}

/// The folder `.tools`; `CHANCERY_TOOLS_DIR` puts it elsewhere.
fn folder() -> PathBuf {
    std::env::var_os("CHANCERY_TOOLS_DIR")
        .map_or_else(|| cargo::root().join(".tools"), |folder| cargo::root().join(folder))
}

/// A Debian package that is unpacked, and the programs that are used from it.
struct Tool {
    name: &'static str,
    /// The Debian release that has the version we want.
    suite: &'static str,
    /// The package, with the paths of its programs inside it.
    package: &'static str,
    programs: &'static [&'static str],
    /// Arguments with which each program only tells its version or its usage, to see it start.
    probe: &'static str,
    /// Whether only benchmarks run it, to compare.
    peer: bool,
}

/// Raise this when the way tools are laid out changes: all are fetched again.
const LAYOUT: u32 = 1;

const TOOLS: &[Tool] = &[
    // ARI, profiles and IP identifiers came after the version in stable.
    Tool {
        name: "pebble",
        suite: "sid",
        package: "pebble",
        programs: &["usr/bin/pebble", "usr/bin/pebble-challtestsrv"],
        probe: "-h",
        peer: false,
    },
    Tool {
        name: "nginx",
        suite: "bookworm",
        package: "nginx",
        programs: &["usr/sbin/nginx"],
        probe: "-v",
        peer: false,
    },
    Tool {
        name: "lego",
        suite: "bookworm",
        package: "lego",
        programs: &["usr/bin/lego"],
        probe: "--version",
        peer: true,
    },
];

/// Shared libraries that a minimal Debian may lack, and the packages that have them.
const LIBRARIES: &[(&str, &str)] = &[
    ("libcrypt.so.1", "libcrypt1"),
    ("libcrypto.so.3", "libssl3"),
    ("libpcre2-8.so.0", "libpcre2-8-0"),
    ("libssl.so.3", "libssl3"),
    ("libz.so.1", "zlib1g"),
];

impl Tool {
    fn is_there(&self, folder: &Path) -> bool {
        let linked = self.programs.iter().all(|program| bin(folder, program).exists());
        let marker = folder.join(self.name).join("recipe");
        // Without our folder, what stands in bin was put there by hand.
        linked
            && (!folder.join(self.name).exists()
                || fs::read_to_string(marker).is_ok_and(|recipe| recipe == self.recipe()))
    }

    /// What the tool was made from: another recipe, another fetch.
    fn recipe(&self) -> String {
        format!("{} {} {LAYOUT}\n", self.package, self.suite)
    }

    /// Downloads, unpacks, checks that the programs start, and puts it in place. Returns the
    /// package's file name, which has the version.
    fn fetch(&self, folder: &Path, fetcher: &mut debian::Fetcher) -> Result<String> {
        let place = folder.join(self.name);
        if place.exists() {
            fs::remove_dir_all(&place).context("the former version cannot be removed")?;
        }
        let unpacked = fetcher.unpack(self.suite, self.package, &place)?;
        let mut libraries = false;
        for program in self.programs {
            for soname in missing_libraries(&place.join(program))? {
                let package = LIBRARIES
                    .iter()
                    .find_map(|(name, package)| (*name == soname).then_some(*package))
                    .with_context(|| {
                        format!("{program} needs {soname}, which this machine lacks")
                    })?;
                fetcher.unpack(self.suite, package, &place.join("libraries"))?;
                libraries = true;
            }
        }
        for program in self.programs {
            let link = bin(folder, program);
            let _ = fs::remove_file(&link);
            if libraries {
                write_wrapper(&link, &place, program)?;
            } else {
                symlink(Path::new("..").join(self.name).join(program), &link)
                    .with_context(|| format!("{} cannot be linked", link.display()))?;
            }
            let probed = Command::new(&link).arg(self.probe).output();
            let said = probed.with_context(|| format!("{} does not start", link.display()))?;
            // Usage texts come with various exit codes; the loader's refusal has this one.
            if said.status.code() == Some(127) {
                bail!("{program} does not start: {}", String::from_utf8_lossy(&said.stderr).trim());
            }
        }
        fs::write(place.join("recipe"), self.recipe()).context("the recipe cannot be noted")?;
        Ok(unpacked)
    }

    fn by_hand(&self, folder: &Path) -> String {
        let links: Vec<String> = self
            .programs
            .iter()
            .map(|program| bin(folder, program).display().to_string())
            .collect();
        format!(
            "{}: install Debian's package `{}` of {} (or the same program from elsewhere), and \
             link or copy it to {}",
            self.name,
            self.package,
            self.suite,
            links.join(" and ")
        )
    }
}

/// Where tests find a program, given its path inside its package.
fn bin(folder: &Path, program: &str) -> PathBuf {
    folder.join("bin").join(Path::new(program).file_name().unwrap_or_default())
}

/// Shared libraries of a program that the loader does not find.
fn missing_libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|error| anyhow!("`ldd {}` could not be started: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(parse_ldd(&said))
}

fn parse_ldd(said: &str) -> Vec<String> {
    said.lines()
        .filter_map(|line| line.split_once("=> not found"))
        .map(|(soname, _)| soname.trim().to_owned())
        .collect()
}

/// A script that starts a program with the libraries that were unpacked beside it. It replaces
/// itself by the program, so signals reach the right process.
fn write_wrapper(link: &Path, place: &Path, program: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut folders = Vec::new();
    for folder in ["usr/lib", "lib"] {
        let folder = place.join("libraries").join(folder);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            folders.push(entry.path().display().to_string());
        }
        folders.push(folder.display().to_string());
    }
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        folders.join(":"),
        place.join(program).display()
    );
    fs::write(link, script)
        .and_then(|()| fs::set_permissions(link, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("{} cannot be written", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_lacks_is_read_from_ldd() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\tlibssl.so.3 => not found\n\
                    \tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\tlibz.so.1 => not found\n";
        assert_eq!(parse_ldd(said), ["libssl.so.3", "libz.so.1"]);
    }

    #[test]
    fn programs_stand_in_bin_by_their_own_names() {
        assert_eq!(bin(Path::new("/t"), "usr/sbin/nginx"), Path::new("/t/bin/nginx"));
    }

    #[test]
    fn a_wrapper_starts_the_program_with_its_libraries() {
        let place = std::env::temp_dir().join(format!("xtask-wrapper-{}", std::process::id()));
        let libraries = place.join("libraries/usr/lib/some-machine");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(place.join("bin")).unwrap();
        symlink("/usr/bin/env", place.join("bin/program")).unwrap();
        let link = place.join("wrapper");
        write_wrapper(&link, &place, "bin/program").unwrap();
        let said = run::output(Command::new(&link).args(["sh", "-c", "echo $LD_LIBRARY_PATH $1"]));
        let said = said.unwrap();
        fs::remove_dir_all(&place).unwrap();
        let expected =
            format!("{}:{}", libraries.display(), place.join("libraries/usr/lib").display());
        assert_eq!(said.trim(), expected);
    }

    #[test]
    fn help_names_the_package_and_the_place() {
        let text = TOOLS[0].by_hand(Path::new("/t"));
        assert!(text.contains("`pebble` of sid"), "{text}");
        assert!(text.contains("/t/bin/pebble and /t/bin/pebble-challtestsrv"), "{text}");
    }
}
