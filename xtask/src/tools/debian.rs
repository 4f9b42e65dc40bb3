//! Debian packages of any release, downloaded and unpacked without installing anything.
//!
//! The mirror is the one that this machine is configured for. Only the release changes: a
//! source line of our own, package lists of our own, so that apt's state stays untouched.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::run;

/// Downloads packages; fetches the list of each release at most once.
pub(crate) struct Fetcher {
    folder: PathBuf,
    listed: HashSet<String>,
}

impl Fetcher {
    /// Keeps its files in `folder`, which may be removed afterwards.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, listed: HashSet::new() }
    }

    /// Unpacks the newest `package` of the release `suite` into `place`. Returns the name of
    /// the package file.
    pub(crate) fn unpack(&mut self, suite: &str, package: &str, place: &Path) -> Result<String> {
        self.list(suite)?;
        let downloads = self.folder.join(suite).join(package);
        fs::create_dir_all(&downloads)
            .with_context(|| format!("{} cannot be made", downloads.display()))?;
        run::output(self.apt(suite).args(["download", package]).current_dir(&downloads))?;
        let file = fs::read_dir(&downloads)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt downloaded no file for {package}"))?;
        fs::create_dir_all(place).with_context(|| format!("{} cannot be made", place.display()))?;
        run::output(Command::new("dpkg").arg("-x").arg(&file).arg(place))?;
        Ok(file.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn list(&mut self, suite: &str) -> Result<()> {
        if self.listed.contains(suite) {
            return Ok(());
        }
        let folder = self.folder.join(suite);
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(sub))
                .with_context(|| format!("{} cannot be made", folder.join(sub).display()))?;
        }
        let sources = configured();
        if sources.is_empty() {
            bail!("this machine has no apt source of Debian's main archive");
        }
        let mut last = anyhow!("no source was tried");
        for source in sources {
            fs::write(folder.join("source.list"), source.line(suite))
                .context("the source line cannot be written")?;
            match run::output(self.apt(suite).args(["update", "--error-on=any"])) {
                Ok(_) => {
                    self.listed.insert(suite.to_owned());
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last.context(format!("the package list of Debian {suite} cannot be fetched")))
    }

    /// `apt-get` that sees our source line and nothing else, and keeps its state with us.
    fn apt(&self, suite: &str) -> Command {
        let folder = self.folder.join(suite);
        let mut command = Command::new("apt-get");
        command.arg("--quiet");
        let mut option = |text: String| {
            command.args(["-o", &text]);
        };
        option(format!("Dir::Etc::SourceList={}", folder.join("source.list").display()));
        option(format!("Dir::State::Lists={}", folder.join("lists").display()));
        option(format!("Dir::Cache={}", folder.join("cache").display()));
        for fixed in [
            "Dir::Etc::SourceParts=/dev/null",
            "Dir::Etc::Preferences=/dev/null",
            "Dir::Etc::PreferencesParts=/dev/null",
            "Acquire::Retries=3",
            // Only what is needed to download: no translations, no desktop catalogue.
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            // The download is into a folder of ours, which apt's own user cannot write to.
            "APT::Sandbox::User=root",
        ] {
            option(fixed.to_owned());
        }
        command
    }
}

/// One configured place to get packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// `key=value` as they stand between brackets.
    options: Vec<String>,
}

impl Source {
    /// The same place, for another release.
    fn line(&self, suite: &str) -> String {
        let options = match self.options.as_slice() {
            [] => String::new(),
            options => format!("[{}] ", options.join(" ")),
        };
        format!("deb {options}{} {suite} main\n", self.uri)
    }

    /// Whether it can be Debian's main archive: others use the same release names, so this
    /// is a guess, and [`Source::likelihood`] orders them.
    fn may_be_debian(&self) -> bool {
        self.components.iter().any(|component| component == "main")
            && self.suites.iter().any(|suite| RELEASES.contains(&suite.as_str()))
    }

    fn likelihood(&self) -> u8 {
        let signed = self.options.iter().any(|option| option.contains("debian-archive"));
        let path = self.uri.trim_end_matches('/').ends_with("/debian");
        u8::from(signed) * 2 + u8::from(path)
    }
}

/// The sources of Debian's archive that this machine is configured for, likeliest first.
fn configured() -> Vec<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let deb822 = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => false,
            Some("sources") => true,
            _ => continue,
        };
        let Ok(text) = fs::read_to_string(&file) else { continue };
        sources.extend(if deb822 { parse_deb822(&text) } else { parse_lines(&text) });
    }
    sources.retain(Source::may_be_debian);
    sources.sort_by_key(|source| std::cmp::Reverse(source.likelihood()));
    sources
}

/// `deb [options] URI suite component…`, one a line.
fn parse_lines(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (words(options), rest),
            None => (Vec::new(), rest),
        };
        let mut fields = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (fields.next(), fields.next()) else { continue };
        sources.push(Source { uri, suites: vec![suite], components: fields.collect(), options });
    }
    sources
}

/// Paragraphs of `Field: value`, as in `debian.sources`.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Vec<String> {
            let mut found = Vec::new();
            let mut inside = false;
            for line in paragraph {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        found.extend(words(line));
                    }
                } else if let Some((key, value)) = line.split_once(':') {
                    inside = key.eq_ignore_ascii_case(name);
                    if inside {
                        found.extend(words(value));
                    }
                }
            }
            found
        };
        let disabled = field("Enabled").iter().any(|value| value.eq_ignore_ascii_case("no"));
        if disabled || !field("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let mut options = Vec::new();
        // A key pasted into the paragraph cannot stand in a one-line source.
        if let [file] = field("Signed-By").as_slice()
            && file.starts_with('/')
        {
            options.push(format!("signed-by={file}"));
        }
        for uri in field("URIs") {
            sources.push(Source {
                uri,
                suites: field("Suites"),
                components: field("Components"),
                options: options.clone(),
            });
        }
    }
    sources
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Names under which Debian's archive has its releases.
const RELEASES: &[&str] = &[
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_are_read_with_their_options() {
        let sources = parse_lines(
            "# comment\ndeb-src http://mirror.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k/debian-archive.gpg] http://mirror.example/debian bookworm main contrib # x\n",
        );
        assert_eq!(sources.len(), 1);
        assert!(sources[0].may_be_debian());
        assert_eq!(sources[0].likelihood(), 3);
        assert_eq!(
            sources[0].line("sid"),
            "deb [arch=amd64 signed-by=/k/debian-archive.gpg] http://mirror.example/debian sid main\n"
        );
    }

    #[test]
    fn deb822_paragraphs_are_read() {
        let sources = parse_deb822(
            "Types: deb deb-src\n# a comment inside\nURIs: http://mirror.example/debian\n\
             Suites: trixie trixie-updates\nComponents: main\n  contrib\n\
             Signed-By: /k/debian-archive-keyring.gpg\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\n\
             Suites: trixie-security\nComponents: main\n\n\
             Enabled: no\nTypes: deb\nURIs: http://old.example/debian\nSuites: trixie\nComponents: main\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(
            sources[0].line("sid"),
            "deb [signed-by=/k/debian-archive-keyring.gpg] http://mirror.example/debian sid main\n"
        );
        assert!(sources[0].may_be_debian());
        assert!(!sources[1].may_be_debian(), "updates of security are no whole archive");
    }

    #[test]
    fn a_key_inside_the_paragraph_is_left_out() {
        let sources = parse_deb822(
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
        );
        assert_eq!(sources[0].line("sid"), "deb http://mirror.example/debian sid main\n");
    }

    #[test]
    fn sources_of_others_come_last_or_not_at_all() {
        let other = parse_lines("deb https://tools.example/apt bookworm main");
        let debian = parse_lines("deb http://mirror.example/debian/ bookworm main");
        assert!(debian[0].likelihood() > other[0].likelihood());
        assert!(!parse_lines("deb https://tools.example/node nodistro main")[0].may_be_debian());
    }
}
