//! Chancery's agent: arguments in, exit code out.

mod output;

use std::{io::Read as _, path::PathBuf, process::ExitCode, time::Duration};

use chancery_agent::{
    TOKEN_VARIABLE,
    app::{self, Error, Outside, TokenSource},
    config::Config,
};
use chancery_shared::{failpoint, telemetry, tls};
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// Receives certificates from Chancery's coordinators, installs them and reloads services.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trade a join token for this agent's identity.
    Join {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        token: TokenArguments,
        /// Give up when no coordinator has answered for this long.
        #[arg(long, value_name = "DURATION", default_value = "60s",
              value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Run until stopped. Joins first if there is a token and no identity yet.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        token: TokenArguments,
    },
    /// Check the configuration file, and do nothing else.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/chancery/agent.toml")]
    path: PathBuf,
}

#[derive(Args)]
#[group(multiple = false)]
struct TokenArguments {
    /// Read the join token from this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the join token from standard input. Without either, the environment variable
    /// `CHANCERY_JOIN_TOKEN` is used.
    #[arg(long)]
    token_stdin: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration, \
                          3 refused by the coordinator, 4 another agent holds the state folder";

fn main() -> ExitCode {
    let _armed = failpoint::arm();
    let arguments = Arguments::parse();
    tls::install_crypto();
    match execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            output::error(&message);
            ExitCode::from(code)
        }
    }
}

/// What to print and how to exit.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn usage(error: &impl ToString) -> Self {
        Self { message: error.to_string(), code: 2 }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::NotJoined
            | Error::Token(_)
            | Error::TokenSource { .. }
            | Error::OpenStateDir { .. } => 2,
            Error::Refused(_) => 3,
            Error::Locked { .. } => 4,
            _ => 1,
        };
        Self { message: error.to_string(), code }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { config } => {
            load(&config)?;
            output::line(&format!("{}: no problems found", config.path.display()));
            Ok(())
        }
        Command::Join { config, token, timeout } => {
            let config = load(&config)?;
            start_logging(&config)?;
            let agent = runtime()?.block_on(app::join(&config, token.source(), timeout))?;
            output::line(&format!("joined as {agent}"));
            Ok(())
        }
        Command::Run { config, token } => {
            let config = load(&config)?;
            start_logging(&config)?;
            runtime()?.block_on(async {
                let stop = stop_on_signals()?;
                Ok(app::run(config, token.source(), Outside::default(), stop).await?)
            })
        }
    }
}

fn load(file: &ConfigFile) -> Result<Config, Failure> {
    Config::load(&file.path).map_err(|error| Failure::usage(&error))
}

fn start_logging(config: &Config) -> Result<(), Failure> {
    telemetry::init(&config.log).map_err(|error| Failure::usage(&error))
}

/// One thread: an agent has little to do, and should cost little.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure { message: format!("cannot start the runtime: {error}"), code: 1 })
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn stop_on_signals() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed =
        |error| Failure { message: format!("cannot listen for signals: {error}"), code: 1 };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
    });
    Ok(stop)
}

impl TokenArguments {
    /// Reads the token only when it is needed: a file that held a used one may be gone.
    fn source(self) -> TokenSource {
        Box::new(move || {
            if self.token_stdin {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|cause| Error::TokenSource {
                    from: "standard input".to_owned(),
                    cause,
                })?;
                return Ok(Some(text));
            }
            match self.token_file {
                Some(path) => std::fs::read_to_string(&path).map(Some).map_err(|cause| {
                    Error::TokenSource { from: path.display().to_string(), cause }
                }),
                None => Ok(std::env::var(TOKEN_VARIABLE).ok().filter(|text| !text.is_empty())),
            }
        })
    }
}
