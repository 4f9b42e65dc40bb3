//! lego, as its users run it for many certificates: a process for each, eight at once.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chancery_tests::dns::Bind;
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

/// How names are proven.
pub(crate) enum Proof<'a> {
    /// By files in this web root.
    Http01(&'a Path),
    /// By updates of this name server. lego would look for its answers at port 53 of the servers
    /// that the zone names, so that it is told not to look.
    Dns01(&'a Bind),
}

impl Proof<'_> {
    fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Http01(webroot) => {
                vec!["--http".into(), "--http.webroot".into(), webroot.into()]
            }
            Self::Dns01(bind) => ["--dns", "rfc2136", "--dns.disable-cp", "--dns.resolvers"]
                .into_iter()
                .map(OsString::from)
                .chain([bind.address().to_string().into()])
                .collect(),
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Http01(_) => Vec::new(),
            Self::Dns01(bind) => vec![
                ("RFC2136_NAMESERVER", bind.address().to_string()),
                ("RFC2136_TSIG_ALGORITHM", "hmac-sha256.".to_owned()),
                ("RFC2136_TSIG_KEY", bind.key().name.clone()),
                ("RFC2136_TSIG_SECRET", bind.key().secret.clone()),
            ],
        }
    }
}

/// Gets one certificate for each name. The account is made beforehand and not counted.
pub(crate) async fn issue(
    state: &Path,
    proof: &Proof<'_>,
    pebble: &Pebble,
    names: Vec<String>,
) -> Result<Took> {
    let lego = Arc::new(Lego {
        program: tools::tool("lego")?,
        state: state.to_owned(),
        arguments: proof.arguments(),
        environment: proof.environment(),
        directory: pebble.directory(),
        roots: pebble.https_root_path().to_owned(),
    });
    lego.run("account.chancery.example").await.context("lego's first run")?;

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
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
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
            .args(["--accept-tos", "--domains", name])
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("run");
        process::run(&mut command, Duration::from_mins(2)).await?.success()?;
        Ok(())
    }
}
