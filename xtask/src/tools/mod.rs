//! Fetches the programs that tests, demo and benchmarks run, into `.tools` of this checkout.
//!
//! Nothing of the system changes, and no root is needed: packages are downloaded and
//! unpacked, never installed. Afterwards `.tools/bin/PROGRAM` is there for each program,
//! (and `.tools/lib/LIBRARY` for what is loaded into others), and that path is all that tests know. Whoever cannot download puts a program there by
//! hand, and it is left alone.

mod catalogue;
mod debian;
mod nextest;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cargo;
use crate::{out, run};

use catalogue::{LIBRARIES, TOOLS};
pub(crate) use nextest::Nextest;

/// Makes sure that every tool is there; `peers` adds those that only benchmarks run.
/// Quick when they are. Tells about all that could not be had before it fails.
pub(crate) fn ensure(peers: bool) -> Result<()> {
    let folder = folder();
    for sub in ["bin", "lib"] {
        fs::create_dir_all(folder.join(sub))
            .with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    // Two checks at once in one checkout must not unpack over each other.
    let lock =
        fs::File::create(folder.join("lock")).context("the lock of .tools cannot be made")?;
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
        out::step(format!("getting {} (Debian {})", tool.name, tool.suite));
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

/// The protobuf compiler, which the build of the etcd client runs. `None` before it was fetched.
pub(crate) fn protoc() -> Option<PathBuf> {
    let path = folder().join("bin/protoc");
    path.exists().then_some(path)
}

/// The folder `.tools`; `CHANCERY_TOOLS_DIR` puts it elsewhere.
fn folder() -> PathBuf {
    std::env::var_os("CHANCERY_TOOLS_DIR")
        .map_or_else(|| cargo::root().join(".tools"), |folder| cargo::root().join(folder))
}

/// A Debian package that is unpacked, and the files that are used from it.
struct Tool {
    name: &'static str,
    /// The Debian release that has the version we want.
    suite: &'static str,
    package: &'static str,
    /// Packages that are unpacked over it.
    also: &'static [&'static str],
    files: &'static [File],
    /// Arguments with which each program only tells its version or its usage, to see it start.
    probe: &'static str,
    /// Whether only benchmarks run it, to compare.
    peer: bool,
    /// Whether the system's own programs of these names are as good, when it has them.
    system: bool,
}

/// A file of a package, and the name that it gets in `.tools/bin` or `.tools/lib`.
struct File {
    /// Inside its package. A part that is `*` is the one folder that stands there: libraries
    /// stand in a folder named after the kind of machine.
    path: &'static str,
    /// `None` for its own.
    name: Option<&'static str>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    /// To be loaded into other programs.
    Library,
}

/// Raise this when the way tools are laid out changes: all are fetched again.
const LAYOUT: u32 = 1;

impl File {
    /// A program, under its own name.
    const fn program(path: &'static str) -> Self {
        Self { path, name: None, kind: Kind::Program }
    }

    /// A program, under another name: there is more than one version of it.
    const fn named(path: &'static str, name: &'static str) -> Self {
        Self { path, name: Some(name), kind: Kind::Program }
    }

    /// A shared library, under its own name.
    const fn library(path: &'static str) -> Self {
        Self { path, name: None, kind: Kind::Library }
    }

    fn name(&self) -> &'static str {
        let own = || self.path.rsplit_once('/').map_or(self.path, |(_, name)| name);
        self.name.unwrap_or_else(own)
    }

    /// Where tests find it.
    fn link(&self, folder: &Path) -> PathBuf {
        let place = match self.kind {
            Kind::Program => "bin",
            Kind::Library => "lib",
        };
        folder.join(place).join(self.name())
    }

    /// Its path inside the unpacked package, with `*` resolved.
    fn path_in(&self, place: &Path) -> Result<PathBuf> {
        let mut path = PathBuf::new();
        for part in self.path.split('/') {
            if part != "*" {
                path.push(part);
                continue;
            }
            let mut entries = fs::read_dir(place.join(&path))
                .with_context(|| format!("the package has no {}", path.display()))?
                .flatten();
            let entry = entries.next().with_context(|| format!("{} is empty", path.display()))?;
            path.push(entry.file_name());
        }
        Ok(path)
    }
}

impl Tool {
    const fn new(
        name: &'static str,
        suite: &'static str,
        package: &'static str,
        files: &'static [File],
    ) -> Self {
        Self { name, suite, package, also: &[], files, probe: "-h", peer: false, system: false }
    }

    const fn probed_by(mut self, probe: &'static str) -> Self {
        self.probe = probe;
        self
    }

    fn is_there(&self, folder: &Path) -> bool {
        let linked = self.files.iter().all(|file| file.link(folder).exists());
        let marker = folder.join(self.name).join("recipe");
        // Without our folder, what stands in bin was put there by hand.
        linked
            && (!folder.join(self.name).exists()
                || fs::read_to_string(marker).is_ok_and(|recipe| recipe == self.recipe()))
    }

    /// What the tool was made from: another recipe, another fetch.
    fn recipe(&self) -> String {
        let mut packages = vec![self.package];
        packages.extend(self.also);
        format!("{} {} {LAYOUT}\n", packages.join(" "), self.suite)
    }

    /// Links the system's programs, when it has all of them.
    fn take_from_system(&self, folder: &Path) -> Result<bool> {
        let found: Option<Vec<PathBuf>> =
            self.files.iter().map(|file| on_system(file.name())).collect();
        let Some(found) = found.filter(|_| self.system) else { return Ok(false) };
        for (file, program) in self.files.iter().zip(found) {
            link(&program, &file.link(folder))?;
        }
        Ok(true)
    }

    /// Downloads, unpacks, checks that the programs start, and puts it in place. Returns the
    /// package's file name, which has the version.
    fn fetch(&self, folder: &Path, fetcher: &mut debian::Fetcher) -> Result<String> {
        let place = folder.join(self.name);
        if place.exists() {
            fs::remove_dir_all(&place).context("the former version cannot be removed")?;
        }
        if self.take_from_system(folder)? {
            return Ok(format!("{} of this system", self.name));
        }
        let unpacked = fetcher.unpack(self.suite, self.package, &place)?;
        for package in self.also {
            fetcher.unpack(self.suite, package, &place)?;
        }
        for file in self.files {
            let path = file.path_in(&place)?;
            if !place.join(&path).is_file() {
                bail!("{} has no {}", self.package, path.display());
            }
            let target = file.link(folder);
            if self.complete(&place, &path, fetcher)? && file.kind == Kind::Program {
                write_wrapper(&target, &place, &path)?;
            } else {
                link(&Path::new("..").join(self.name).join(&path), &target)?;
            }
            if file.kind == Kind::Program {
                self.see_it_start(&target)?;
            }
        }
        fs::write(place.join("recipe"), self.recipe()).context("the recipe cannot be noted")?;
        Ok(unpacked)
    }

    /// Fetches the shared libraries that a file needs and this machine lacks. Returns whether
    /// it needs any of those.
    fn complete(&self, place: &Path, path: &Path, fetcher: &mut debian::Fetcher) -> Result<bool> {
        if missing_libraries(&place.join(path), &[])?.is_empty() {
            return Ok(false);
        }
        let mut done = Vec::new();
        // Each library may need others, which show only once it is there.
        loop {
            let missing = missing_libraries(&place.join(path), &library_folders(place))?;
            if missing.is_empty() {
                return Ok(true);
            }
            for soname in missing {
                let found = LIBRARIES.iter().find(|(name, _)| *name == soname);
                let (_, package) =
                    found.filter(|(name, _)| !done.contains(name)).with_context(|| {
                        format!("{} needs {soname}, which this machine lacks", path.display())
                    })?;
                fetcher.unpack(self.suite, package, &place.join("libraries"))?;
                done.extend(found.map(|(name, _)| *name));
            }
        }
    }

    fn see_it_start(&self, program: &Path) -> Result<()> {
        let shown = program.display();
        let probed = Command::new(program).arg(self.probe).output();
        let said = probed.with_context(|| format!("{shown} does not start"))?;
        // Usage texts come with various exit codes; the loader's refusal has this one.
        if said.status.code() == Some(127) {
            bail!("{shown} does not start: {}", String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(())
    }

    fn by_hand(&self, folder: &Path) -> String {
        let links: Vec<String> =
            self.files.iter().map(|file| file.link(folder).display().to_string()).collect();
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

/// A program of the system, also where only root's `PATH` leads.
fn on_system(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn link(to: &Path, link: &Path) -> Result<()> {
    let _ = fs::remove_file(link);
    symlink(to, link).with_context(|| format!("{} cannot be linked", link.display()))
}

/// Shared libraries of a file that the loader does not find, not in `folders` either.
fn missing_libraries(file: &Path, folders: &[PathBuf]) -> Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(file)
        .env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap_or_default())
        .output()
        .map_err(|error| anyhow!("`ldd {}` could not be started: {error}", file.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(parse_ldd(&said))
}

fn parse_ldd(said: &str) -> Vec<String> {
    let mut missing: Vec<String> = said
        .lines()
        .filter_map(|line| line.split_once("=> not found"))
        .map(|(soname, _)| soname.trim().to_owned())
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

/// Where the unpacked libraries stand: those fetched one by one, and those of the tool's own
/// packages.
fn library_folders(place: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in ["libraries/usr/lib", "libraries/lib", "usr/lib"] {
        let folder = place.join(folder);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        folders.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        folders.push(folder);
    }
    folders
}

/// A script that starts a program with the libraries that were unpacked beside it. It replaces
/// itself by the program, so signals reach the right process.
fn write_wrapper(link: &Path, place: &Path, program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let folders: Vec<String> =
        library_folders(place).iter().map(|folder| folder.display().to_string()).collect();
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        folders.join(":"),
        place.join(program).display()
    );
    // A link that stood here would be written through, into the package.
    let _ = fs::remove_file(link);
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
        assert_eq!(parse_ldd(&said.repeat(2)), ["libssl.so.3", "libz.so.1"]);
    }

    #[test]
    fn files_stand_in_bin_or_lib_by_their_names() {
        let link = |file: File| file.link(Path::new("/t"));
        assert_eq!(link(File::program("usr/sbin/nginx")), Path::new("/t/bin/nginx"));
        assert_eq!(link(File::named("usr/bin/etcd", "etcd-9")), Path::new("/t/bin/etcd-9"));
        assert_eq!(link(File::library("usr/lib/*/x/l.so.1")), Path::new("/t/lib/l.so.1"));
    }

    #[test]
    fn no_two_tools_want_the_same_place() {
        let mut links: Vec<PathBuf> = TOOLS
            .iter()
            .flat_map(|tool| tool.files)
            .map(|file| file.link(Path::new("/t")))
            .chain(TOOLS.iter().map(|tool| Path::new("/t").join(tool.name)))
            .collect();
        let all = links.len();
        links.sort();
        links.dedup();
        assert_eq!(links.len(), all);
    }

    #[test]
    fn a_star_is_the_folder_of_this_kind_of_machine() {
        let place = std::env::temp_dir().join(format!("xtask-star-{}", std::process::id()));
        fs::create_dir_all(place.join("usr/lib/some-machine/x")).unwrap();
        let found = File::library("usr/lib/*/x/l.so.1").path_in(&place);
        fs::remove_dir_all(&place).unwrap();
        assert_eq!(found.unwrap(), Path::new("usr/lib/some-machine/x/l.so.1"));
    }

    #[test]
    fn a_wrapper_starts_the_program_with_its_libraries() {
        let place = std::env::temp_dir().join(format!("xtask-wrapper-{}", std::process::id()));
        let libraries = place.join("libraries/usr/lib/some-machine");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(place.join("bin")).unwrap();
        symlink("/usr/bin/env", place.join("bin/program")).unwrap();
        let link = place.join("wrapper");
        write_wrapper(&link, &place, Path::new("bin/program")).unwrap();
        let said = run::output(Command::new(&link).args(["sh", "-c", "echo $LD_LIBRARY_PATH $1"]));
        let said = said.unwrap();
        fs::remove_dir_all(&place).unwrap();
        let expected =
            format!("{}:{}", libraries.display(), place.join("libraries/usr/lib").display());
        assert_eq!(said.trim(), expected);
    }

    #[test]
    fn help_names_the_package_and_the_place() {
        let pebble = TOOLS.iter().find(|tool| tool.name == "pebble").unwrap();
        let text = pebble.by_hand(Path::new("/t"));
        assert!(text.contains("`pebble` of sid"), "{text}");
        assert!(text.contains("/t/bin/pebble and /t/bin/pebble-challtestsrv"), "{text}");
    }
}
