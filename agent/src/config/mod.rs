//! `agent.toml`: what an operator tells an agent.
//!
//! The file is checked as a whole before anything starts: [`Config::load`] either
//! gives values that are ready for use (names parsed, users and groups looked up,
//! presets filled in) or every problem at once.

mod document;
mod ownership;
mod read;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chancery_shared::{
    name::{CertName, ServiceName},
    retry::Policy,
    telemetry,
};
use rustix::process::Signal;
use toml::de::DeTable;

pub use self::document::Problem;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Log format and filter.
    pub log: telemetry::Options,
    /// `host:port` of each coordinator.
    pub(crate) coordinators: Vec<String>,
    /// Identity, cache, lock and state. Mode 0700.
    pub(crate) state_dir: PathBuf,
    pub(crate) install: Install,
    /// Overrides for single certificates.
    pub(crate) targets: BTreeMap<CertName, Target>,
    pub(crate) services: BTreeMap<ServiceName, Service>,
    /// Waits between tries of a failed deployment.
    pub(crate) retry: Policy,
}

/// Where files go.
#[derive(Clone, Debug)]
pub(crate) struct Install {
    pub(crate) dir: PathBuf,
    pub(crate) ownership: Ownership,
    /// How many former generations stay on disk.
    pub(crate) keep: usize,
    /// How long the coordinator must be quiet before a batch of new bundles is acted on.
    pub(crate) settle: Duration,
}

/// Who may read installed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits of the file with the private key.
    pub(crate) key_mode: u32,
    /// Permission bits of the files without it.
    pub(crate) public_mode: u32,
}

/// What differs for one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) ownership: Ownership,
    /// Exactly these services use it, whatever they say themselves.
    pub(crate) services: Option<BTreeSet<ServiceName>>,
}

/// A local service: how it is tested, reloaded and probed.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) certificates: Uses,
    pub(crate) test: Option<Vec<String>>,
    pub(crate) test_timeout: Duration,
    pub(crate) reload: Reload,
    pub(crate) reload_timeout: Duration,
    pub(crate) probe: Option<Probe>,
}

/// Which certificates a service uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Uses {
    All,
    Named(BTreeSet<CertName>),
}

/// How a service is told to read its files again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    Command(Vec<String>),
    /// A systemd unit.
    Systemd(String),
    Signal {
        signal: Signal,
        pid_file: PathBuf,
    },
}

/// Where a TLS client sees what a service serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// `host:port`.
    pub(crate) address: String,
    /// How long the new certificate may take to appear.
    pub(crate) timeout: Duration,
    /// The server name to ask for; by default each certificate's own.
    pub(crate) sni: Option<String>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Unreadable {
        /// Its path.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has problems: all of them.
    Invalid {
        /// Its path.
        file: PathBuf,
        /// In the order of the file.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file)
            .map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks the text of a configuration file; `file` is only for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let problems = document::Problems::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            problems.syntax(error);
        }
        // With broken syntax, half a document would be blamed for what is missing.
        let config = if errors.is_empty() {
            read::config(document::Section::root(table.get_ref(), &problems))
        } else {
            None
        };
        let problems = problems.into_list();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Error::Invalid { file: file.to_owned(), problems }),
        }
    }

    /// The services that use a certificate.
    pub(crate) fn services_of(&self, certificate: &CertName) -> BTreeSet<ServiceName> {
        if let Some(target) = self.targets.get(certificate)
            && let Some(services) = &target.services
        {
            return services.clone();
        }
        let uses = |service: &Service| match &service.certificates {
            Uses::All => true,
            Uses::Named(names) => names.contains(certificate),
        };
        let using = self.services.iter().filter(|(_, service)| uses(service));
        using.map(|(name, _)| name.clone()).collect()
    }

    /// Who may read the files of a certificate.
    pub(crate) fn ownership_of(&self, certificate: &CertName) -> Ownership {
        self.targets.get(certificate).map_or(self.install.ownership, |target| target.ownership)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => {
                write!(f, "cannot read the configuration file {}: {source}", file.display())
            }
            Self::Invalid { file, problems } => {
                for (i, problem) in problems.iter().enumerate() {
                    let newline = if i == 0 { "" } else { "\n" };
                    write!(f, "{newline}{}", file.display())?;
                    if let Some(line) = problem.line {
                        write!(f, ":{line}")?;
                    }
                    write!(f, ": {problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    // The source is part of the message: there is nothing to add to it.
}

#[cfg(test)]
mod tests;
