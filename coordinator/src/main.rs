//! `chancery-coordinator`: arguments in, exit code out.

use std::{path::PathBuf, process::ExitCode};

use chancery_coordinator::{app, challenge::dns01, config::Config, seal::KeyFile};
use chancery_shared::{failpoint, telemetry, tls};
use clap::{Parser, Subcommand};

/// Chancery's coordinator: elects a leader, orders certificates, and hands them to agents.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the seal key file that the configuration names. Refuses to overwrite one
    Init(ConfigArgument),
    /// Run until SIGTERM or SIGINT
    Run(ConfigArgument),
    /// Check the configuration file and the seal key file, and change nothing
    Check(ConfigArgument),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/chancery/coordinator.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let _armed = failpoint::arm();
    tls::install_crypto();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&format!("{:#}", failure.error));
            ExitCode::from(failure.code)
        }
    }
}

/// What went wrong, and the exit code that says so.
struct Failure {
    error: anyhow::Error,
    code: u8,
}

impl Failure {
    fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code: 2 }
    }

    fn runtime(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code: 1 }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Init(argument) => {
            let config = Config::load(&argument.config).map_err(Failure::configuration)?;
            let path = &config.seal_key_file;
            let key_file = KeyFile::create(path).map_err(Failure::configuration)?;
            tell(&format!(
                "made the seal key file {} (fingerprint {}); keep a copy somewhere safe: without \
                 it nobody can read the private keys in the store",
                path.display(),
                key_file.fingerprint()
            ));
            Ok(())
        }
        Command::Check(argument) => {
            let config = Config::load(&argument.config).map_err(Failure::configuration)?;
            KeyFile::load(&config.seal_key_file).map_err(Failure::configuration)?;
            dns01::check(&config.dns01).map_err(Failure::configuration)?;
            tell(&format!("{} is valid", argument.config.display()));
            Ok(())
        }
        Command::Run(argument) => {
            let config = Config::load(&argument.config).map_err(Failure::configuration)?;
            telemetry::init(&config.log).map_err(Failure::configuration)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(Failure::runtime)?;
            let outcome = runtime.block_on(app::run(config));
            // Blocking work (a key being made) must not hold up the exit.
            runtime.shutdown_background();
            outcome.map_err(|error| match error {
                app::Error::Seal(_)
                | app::Error::Dns01(_)
                | app::Error::Listen { .. }
                | app::Error::NameTaken(_) => Failure::configuration(error),
                other => Failure::runtime(other),
            })
        }
    }
}

/// Tells the person who started this.
#[expect(clippy::print_stderr, reason = "for the person at the terminal, before and after logging")]
fn tell(message: &str) {
    eprintln!("{message}");
}

const EXIT_CODES: &str = "Exit codes: 0 done, or stopped by a signal; 1 it could not go on; \
2 the command line, the configuration file or the seal key file is wrong.";
