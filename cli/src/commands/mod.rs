//! One module for each command: ask the coordinator, hand the answer to `render`.

mod agent;
mod apply;
mod cert;
mod drill;
mod event;
mod issuer;
mod lease;
mod renew;
mod seal;
mod status;

use std::time::Duration;

use chancery_shared::clock::{Clock as _, SystemClock};
use clap::CommandFactory as _;

use crate::{
    args::{Args, Command},
    connect::{self, Client},
    failure::{Exit, Failure},
    output::Output,
    render::View,
};

/// What every command needs.
struct Context<'a> {
    args: &'a Args,
    output: &'a Output,
    clock: SystemClock,
}

impl Context<'_> {
    /// A connection to the coordinator.
    async fn client(&self) -> Result<Client, Failure> {
        connect::connect(&self.args.global.socket, self.answer_limit()).await
    }

    /// How long one answer may take.
    fn answer_limit(&self) -> Duration {
        self.args.global.timeout.unwrap_or(ANSWER_LIMIT)
    }

    /// How long it may take until somebody else has answered the coordinator.
    fn check_limit(&self) -> Duration {
        self.args.global.timeout.unwrap_or(CHECK_LIMIT)
    }

    /// How long a plan, or its execution, may take: a fleet's is thousands of transactions.
    fn apply_limit(&self) -> Duration {
        self.args.global.timeout.unwrap_or(APPLY_LIMIT)
    }

    /// How long a wait may take.
    fn wait_limit(&self) -> Duration {
        self.args.global.timeout.unwrap_or(WAIT_LIMIT)
    }

    /// How the answer is shown, now.
    fn view(&self) -> View {
        self.output.view(self.clock.now())
    }

    /// Whether a deed that cannot be undone may be done: `yes` was said on the command
    /// line, or somebody says it now.
    fn confirm(&self, yes: bool, question: &str) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !self.output.can_ask() {
            return Err(Failure::usage(
                "nothing was changed: there is no terminal to ask on; add --yes to do it unasked",
            ));
        }
        if self.output.ask(question) { Ok(()) } else { Err(Failure::failed("nothing was changed")) }
    }
}

/// Does what the command line says.
pub(crate) async fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let context = Context { args, output, clock: SystemClock::new() };
    match &args.command {
        Command::Status => return status::status(&context).await,
        Command::Lease(command) => lease::lease(&context, command).await?,
        Command::Apply(options) => apply::apply(&context, options).await?,
        Command::Cert(command) => cert::cert(&context, command).await?,
        Command::Issuer(command) => issuer::issuer(&context, command).await?,
        Command::Drill(command) => drill::drill(&context, command).await?,
        Command::Agent(command) => agent::agent(&context, command).await?,
        Command::Event(command) => event::event(&context, command).await?,
        Command::Seal(command) => seal::seal(&context, command).await?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "chancery", &mut script);
            output.print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(Exit::Ok)
}

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// More than the coordinator waits for a CA.
const CHECK_LIMIT: Duration = Duration::from_secs(40);
const APPLY_LIMIT: Duration = Duration::from_mins(2);
const WAIT_LIMIT: Duration = Duration::from_mins(10);
