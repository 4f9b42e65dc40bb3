//! The composition root: configuration in, a running agent out.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chancery_shared::{
    clock::{SharedClock, SystemClock},
    durable::{self, Lock},
    join_token::{JoinToken, Malformed},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    engine::{self, Engine},
    identity::{self, Identity},
    service::ThisHost,
    text,
    watch::{Candidates, Link},
};

pub use crate::{
    service::Host,
    watch::{Broken, Reach, Wire},
};

/// Why an agent cannot start or join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process works with the state folder.
    #[error("another process holds {}: stop the agent that is running first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The state folder cannot be trusted with secrets.
    #[error("state_dir {} can be written by other users: run chmod 700 on it", path.display())]
    OpenStateDir {
        /// The folder.
        path: PathBuf,
    },
    /// There is no identity, and no token to get one with.
    #[error(
        "this agent has not joined yet: make a token with `chancery agent token create` and run \
         `chancery-agent join`, or give it in {}",
        crate::TOKEN_VARIABLE
    )]
    NotJoined,
    /// The token is not whole.
    #[error(transparent)]
    Token(#[from] Malformed),
    /// The token cannot be read.
    #[error("cannot read the join token from {from}: {cause}")]
    TokenSource {
        /// Where it should have come from.
        from: String,
        /// Why not.
        cause: io::Error,
    },
    /// A coordinator refused the token.
    #[error("{0}")]
    Refused(String),
    /// Anything else: files, network.
    #[error("{0}")]
    Runtime(String),
}

/// Gives the join token, when one is needed.
pub type TokenSource = Box<dyn FnOnce() -> Result<Option<String>, Error> + Send>;

/// Trades a token for an identity and stores that. An identity that is there already is
/// replaced, but only once the new one is there. Gives up after `patience`. Returns the
/// name of the agent.
pub async fn join(
    config: &Config,
    token: TokenSource,
    patience: Duration,
) -> Result<String, Error> {
    let _lock = lock(&config.state_dir)?;
    let store = identity::Store::new(config.state_dir.clone());
    let token = token()?.ok_or(Error::NotJoined)?.parse::<JoinToken>()?;
    let clock = SystemClock::shared();
    let identity = identity::join(config, &store, &token, &clock, Some(patience)).await?;
    Ok(identity.agent().to_string())
}

/// What an agent reaches through to what is neither its files nor its own process. The default is
/// the real thing; the simulation has its own.
pub struct Outside {
    /// The time.
    pub clock: SharedClock,
    /// The coordinators.
    pub reach: Reach,
    /// The services.
    pub host: Arc<dyn Host>,
}

impl Default for Outside {
    fn default() -> Self {
        let (clock, reach) = (SystemClock::shared(), Reach::default());
        Self { clock, reach, host: Arc::new(ThisHost) }
    }
}

/// Runs the agent until `stop`: joins first if it has to and can. Ends within a few seconds
/// after `stop`; what was not finished is taken up at the next start.
pub async fn run(
    config: Config,
    token: TokenSource,
    outside: Outside,
    stop: CancellationToken,
) -> Result<(), Error> {
    let config = Arc::new(config);
    let Outside { clock, reach, host } = outside;
    let _lock = lock(&config.state_dir)?;
    let store = identity::Store::new(config.state_dir.clone());
    let identity = if let Some(identity) = store.load()? {
        identity
    } else {
        let token = token()?.ok_or(Error::NotJoined)?.parse::<JoinToken>()?;
        let joining = identity::join(&config, &store, &token, &clock, None);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            identity = joining => joined(identity?),
        }
    };
    tracing::info!(
        agent = %identity.agent(),
        identity_valid_until = %identity.not_after(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    let (engine, published) = Engine::open(config.clone(), clock.clone(), host)?;
    let (events, received) = mpsc::channel(EVENTS);
    let candidates = Candidates::load(&config.coordinators, &config.state_dir);
    let link = Link {
        candidates,
        clock,
        reach,
        store,
        identity,
        events,
        published,
        rotate_after: None,
        revision: 0,
    };
    let unlink = CancellationToken::new();
    let link = tokio::spawn(link.run(unlink.clone()));
    engine.run(received, stop).await;
    // The connection outlives the engine, so that the last word can be reported.
    unlink.cancel();
    if let Err(error) = link.await {
        tracing::error!("the connection ended without a result: {error}");
    }
    tracing::info!("stopped");
    Ok(())
}

fn joined(identity: Identity) -> Identity {
    tracing::info!(agent = %identity.agent(), "joined");
    identity
}

/// Makes the state folder and takes its lock.
fn lock(state_dir: &Path) -> Result<Lock, Error> {
    durable::make_dir(state_dir, 0o700).map_err(|error| Error::Runtime(text::durable(&error)))?;
    let metadata = fs::metadata(state_dir).map_err(|error| {
        Error::Runtime(format!("cannot look at {}: {error}", state_dir.display()))
    })?;
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err(Error::OpenStateDir { path: state_dir.to_owned() });
    }
    let path = state_dir.join("lock");
    Lock::acquire(&path)
        .map_err(|error| Error::Runtime(text::durable(&error)))?
        .ok_or(Error::Locked { path })
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Self {
        match error {
            identity::Error::Refused(why) => Self::Refused(why),
            error => Self::Runtime(text::chain(&error)),
        }
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        Self::Runtime(text::chain(&error))
    }
}

/// Bundles on their way to the engine; each may be some kilobytes.
const EVENTS: usize = 16;
