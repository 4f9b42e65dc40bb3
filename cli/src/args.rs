//! The command line.

use std::{path::PathBuf, time::Duration};

use chancery_shared::{
    name::{AgentName, CertName, NodeName},
    revocation::RevocationReason,
};
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

mod issuer;

pub(crate) use issuer::{AccountCommand, DnsRecordArgs, IssuerCommand};

/// Ask a Chancery coordinator, and tell it what certificates there should be.
#[derive(Debug, Parser)]
#[command(name = "chancery", version, after_long_help = AFTER_HELP, max_term_width = 100)]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Unix socket of the coordinator on this host
    #[arg(long, value_name = "PATH", global = true, env = "CHANCERY_SOCKET")]
    #[arg(default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    /// A table for people, or JSON for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", global = true)]
    #[arg(default_value_t = Format::Table)]
    pub(crate) output: Format,

    /// When to use colours; `auto` obeys `NO_COLOR`
    #[arg(long, value_enum, value_name = "WHEN", global = true, default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,

    /// Give up after this time [default: 10s; `lease transfer`: 30s; `apply`: 2m; `cert renew --wait`: 10m]
    #[arg(long, value_name = "DURATION", global = true, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// What shape answers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How things stand: store, lease, certificates, agents, and what needs attention
    ///
    /// Exits with 0 when all is well and with 10 when something needs attention, so that it
    /// can serve as a monitoring check.
    Status,

    /// Who leads, and who is to
    #[command(subcommand)]
    Lease(LeaseCommand),

    /// Make the issuers and certificates what the files say
    ///
    /// Shows the plan first and asks. If anything changed between the plan and the answer,
    /// nothing is done.
    #[command(after_long_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),

    /// Certificates: list, show, renew, revoke, switch to the standby
    #[command(subcommand)]
    Cert(CertCommand),

    /// Issuers: list, show, check, what is left of their limits; their accounts: show, roll, deactivate, create
    #[command(subcommand)]
    Issuer(IssuerCommand),

    /// Practise an emergency
    #[command(subcommand)]
    Drill(DrillCommand),

    /// Agents: list, show, remove, let a new one join
    #[command(subcommand)]
    Agent(AgentCommand),

    /// What has happened
    #[command(subcommand)]
    Event(EventCommand),

    /// The keys that records are sealed with in the store
    #[command(subcommand)]
    Seal(SealCommand),

    /// Print a completion script for a shell
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// `chancery lease`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Show who holds the lease, since when, for how long it is good, and the last keep-alives
    Show {
        /// Go on showing it: drawn over on a terminal, elsewhere a line for each change
        #[arg(short, long)]
        watch: bool,
    },

    /// Have another coordinator lead
    ///
    /// The leader brings what has begun to an end and hands over, which takes a fraction of a second.
    /// Returns when another coordinator is seen to lead. Exits with 1 when that is not the one that
    /// was asked for, with 4 when there is no such coordinator, with 5 when somebody else has
    /// transferred the lease meanwhile or nobody could take over, and with 6 when nobody was seen to
    /// lead in time.
    #[command(after_long_help = TRANSFER_EXAMPLES)]
    Transfer {
        /// Who is to lead; without it, whoever is first
        #[arg(long, value_name = "NODE")]
        to: Option<NodeName>,
    },
}

/// `chancery apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    /// A TOML file, or a directory whose *.toml files are read; several merge
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,

    /// Show the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Delete issuers and certificates that the files do not name
    #[arg(long)]
    pub(crate) prune: bool,

    /// Do not ask
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

/// `chancery cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// List the certificates
    List,

    /// Show one certificate: validity, renewal decision, order, deployments
    Show {
        /// Name of the certificate
        name: CertName,
        /// Print only the chain, as PEM
        #[arg(long)]
        pem: bool,
    },

    /// Renew a certificate now
    ///
    /// Returns at once, or with --wait when every agent that is entitled to the certificate has
    /// installed the new one and seen it being served. Exits with 1 when the order or a
    /// deployment fails, and with 6 when --timeout passes first; the renewal goes on without us.
    #[command(after_long_help = RENEW_EXAMPLES)]
    Renew {
        /// Name of the certificate
        name: CertName,
        /// Wait until all agents serve the new certificate, and show the progress
        #[arg(long)]
        wait: bool,
    },

    /// Have agents serve the standby, which another CA has issued, in place of what they serve
    ///
    /// The standby becomes a new generation; no CA is asked. Returns when the coordinator has it, or with
    /// --wait when every agent serves it. Exits with 5 when there is no standby that could be served, and
    /// with 6 when it has not happened in time; the leader goes on.
    Switch {
        /// Name of the certificate
        name: CertName,
        /// Wait until all agents serve it, and show the progress
        #[arg(long)]
        wait: bool,
    },

    /// Have the CA revoke a certificate; the newest one is replaced at once
    ///
    /// Returns when the CA has answered, or after a few seconds: the leader goes on until it has. Exits
    /// with 1 when the CA refuses, and with 6 when it has not answered yet.
    #[command(after_long_help = REVOKE_EXAMPLES)]
    Revoke {
        /// Name of the certificate
        name: CertName,
        /// Which generation, or that of the standby; without it, the newest
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        generation: Option<u64>,
        /// Why: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or
        /// privilegeWithdrawn
        #[arg(long, value_name = "REASON", default_value_t)]
        reason: RevocationReason,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// `chancery drill`.
#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Replace certificates as if their CAs had announced to revoke them, and tell how long it takes
    ///
    /// Shows first what the CAs' limits say to that, and asks. Certificates are then renewed as in
    /// earnest; returns when every agent serves the replacements. Exits with 6 when --timeout passes
    /// first; what has begun goes on. With -o json and without --yes it is a dry run.
    #[command(after_long_help = DRILL_EXAMPLES)]
    Revocation(DrillArgs),
}

/// `chancery drill revocation`.
#[derive(Debug, clap::Args)]
pub(crate) struct DrillArgs {
    /// Only these certificates
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) certs: Vec<CertName>,
    /// Show what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Ask the CAs now when to renew, instead of acting as if they had said so
    #[arg(long)]
    pub(crate) ask_ca: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `chancery agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List the agents
    List,

    /// Show one agent: its labels, what it has installed, its services
    Show {
        /// Name of the agent
        name: AgentName,
    },

    /// Revoke an agent's identity and cut its stream
    ///
    /// The files on its disk stay, and are not renewed any more. To come back it needs a new token.
    Remove {
        /// Name of the agent
        name: AgentName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },

    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
}

/// `chancery agent token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which one agent can join, once
    ///
    /// The token alone is printed to standard output. It is shown this once: the coordinator
    /// keeps a hash of it.
    #[command(after_long_help = TOKEN_EXAMPLES)]
    Create {
        /// The name that the agent will have
        #[arg(long)]
        name: AgentName,
        /// A label of the agent; certificates go to agents that have all of theirs
        #[arg(short, long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// How long the token is good; at most 7 days
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
        ttl: Duration,
    },
}

/// `chancery event`.
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// List events, the newest first
    List {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only those about this certificate or agent
        #[arg(short, long, value_name = "NAME")]
        subject: Option<String>,
    },
}

/// `chancery seal`.
#[derive(Debug, Subcommand)]
pub(crate) enum SealCommand {
    /// Show the data keys and how many records each still seals
    Show,

    /// Make a new data key; records are sealed anew under it in the background
    Rotate,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write for example 30s, 10m or 1h 30m")),
    }
}

/// Where the coordinator's packages put the socket.
const DEFAULT_SOCKET: &str = "/run/chancery/admin.sock";

const AFTER_HELP: &str = "\
Exit codes:
   0  done
   1  failed or refused
   2  wrong command line or wrong file; nothing was changed
   3  the coordinator, or its store, cannot be reached
   4  no object of that name
   5  conflict: the plan or the lease changed meanwhile, or nobody can take over
   6  the wait ended first
  10  `status` only: something needs attention

Examples:
  chancery status
  chancery apply -f fleet.toml --dry-run
  chancery cert renew www --wait
  chancery cert list -o json | jq -r '.certificates[] | select(.state != \"valid\") | .name'";

const APPLY_EXAMPLES: &str = "\
Examples:
  chancery apply -f fleet.toml --dry-run         what would change
  chancery apply -f issuers.toml -f certs.d/     several files, and all *.toml of a directory
  chancery apply -f certs.d/ --prune --yes       from a pipeline: the files are the whole truth

A file:
  [[issuer]]
  name = \"letsencrypt\"
  directory = \"https://acme-v02.api.letsencrypt.org/directory\"
  contacts = [\"mailto:ops@example.org\"]

  [[certificate]]
  name = \"www\"
  identifiers = [\"www.example.org\", \"example.org\"]
  issuers = [\"letsencrypt\"]
  labels = { role = \"web\" }
  renew = { windows = [\"Mon-Fri 02:00-05:00\"], time_zone = \"Europe/Berlin\" }

  [[freeze]]
  name = \"year-end\"
  from = \"2026-12-18\"
  to = \"2027-01-03\"
  reason = \"nobody is there\"";

const RENEW_EXAMPLES: &str = "\
Examples:
  chancery cert renew www
  chancery cert renew www --wait --timeout 5m";

const REVOKE_EXAMPLES: &str = "\
Examples:
  chancery cert revoke www --reason keyCompromise
  chancery cert revoke www --generation 6 --reason superseded --yes";

const DRILL_EXAMPLES: &str = "\
Examples:
  chancery drill revocation --dry-run              would the CAs' limits let us replace all today?
  chancery drill revocation --certs www,mail       how long does it take?";

const TRANSFER_EXAMPLES: &str = "\
Examples:
  chancery lease transfer                before the leader's machine is taken down
  chancery lease transfer --to node-2";

const TOKEN_EXAMPLES: &str = "\
Examples:
  chancery agent token create --name web-1 --label role=web --label site=ams
  TOKEN=$(chancery agent token create --name web-1 --label role=web --ttl 15m)";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  chancery completions bash > /etc/bash_completion.d/chancery
  chancery completions zsh > \"${fpath[1]}/_chancery\"
  chancery completions fish > ~/.config/fish/completions/chancery.fish";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let args =
            Args::parse_from(["chancery", "cert", "renew", "www", "--timeout", "5m", "-o", "json"]);
        assert_eq!(args.global.timeout, Some(Duration::from_mins(5)));
        assert_eq!(args.global.output, Format::Json);
    }

    #[test]
    fn names_and_durations_are_checked_with_a_remedy() {
        let error = Args::try_parse_from(["chancery", "cert", "show", "WWW"]).unwrap_err();
        assert!(error.to_string().contains("use 1 to 63 of a-z"), "{error}");
        let error =
            Args::try_parse_from(["chancery", "status", "--timeout", "5 parsec"]).unwrap_err();
        assert!(error.to_string().contains("30s, 10m or 1h 30m"), "{error}");
        let error = Args::try_parse_from(["chancery", "apply"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
