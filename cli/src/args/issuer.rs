//! The words of `chancery issuer`.

use chancery_shared::{
    identifier::Identifier,
    name::{CertName, IssuerName},
};
use clap::Subcommand;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// `chancery issuer`.
#[derive(Debug, Subcommand)]
pub(crate) enum IssuerCommand {
    /// List the issuers
    List,

    /// Show one issuer: its declaration, its account, how many certificates are its own
    Show {
        /// Name of the issuer
        name: IssuerName,
    },

    /// Ask the CA what it says of itself, and compare that with the declaration
    ///
    /// The coordinator asks, over its own network. Nothing is changed and no account is made. Exits
    /// with 1 when something stands in the way of an order.
    Check {
        /// Name of the issuer
        name: IssuerName,
    },

    /// Print the TXT records that prove names to the CA for good (dns-persist-01)
    ///
    /// Without --cert and --identifier they are those of all certificates that name the issuer and have
    /// dns-persist-01 among their challenges. With --check the authoritative name servers are asked, and
    /// it exits with 1 when a record is missing or wrong on any of them.
    #[command(after_long_help = DNS_RECORD_EXAMPLES)]
    DnsRecord(DnsRecordArgs),

    /// Show what is left of the CA's limits, what it refuses, and how many wait
    Budget {
        /// Name of the issuer; without it, all
        name: Option<IssuerName>,
    },

    /// The account at an issuer
    #[command(subcommand)]
    Account(AccountCommand),
}

/// `chancery issuer dns-record`.
#[derive(Debug, clap::Args)]
pub(crate) struct DnsRecordArgs {
    /// Name of the issuer
    pub(crate) name: IssuerName,
    /// For the names of these certificates
    #[arg(long = "cert", value_name = "NAME", value_delimiter = ',')]
    pub(crate) certs: Vec<CertName>,
    /// For these DNS names, whether a certificate has them yet or not
    #[arg(long = "identifier", value_name = "DOMAIN", value_delimiter = ',')]
    pub(crate) identifiers: Vec<Identifier>,
    /// Let the record stand for everything below the names too; wildcards do so by themselves
    #[arg(long)]
    pub(crate) wildcard: bool,
    /// When the record is to end: 2027-06-30 (UTC), or a time as 2027-06-30T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) persist_until: Option<Timestamp>,
    /// Ask the authoritative name servers whether the records are there
    #[arg(long)]
    pub(crate) check: bool,
}

/// `chancery issuer account`.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Show the account
    Show {
        /// Name of the issuer
        issuer: IssuerName,
    },

    /// Give the account another key; orders go on
    ///
    /// Waits a few seconds for the CA, and for orders at this issuer to end; the leader goes on until it
    /// is done. Exits with 1 when the CA refuses, and with 6 when it is not done yet.
    Roll {
        /// Name of the issuer
        issuer: IssuerName,
    },

    /// Have the CA deactivate the account, for good
    ///
    /// Nothing is ordered at this issuer any more until another account is made. What it has issued
    /// stays valid. Exits as `roll` does.
    Deactivate {
        /// Name of the issuer
        issuer: IssuerName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },

    /// Have an account made: the first one, or another in place of one that was deactivated
    ///
    /// The first order makes one by itself; this makes it before, for records in the DNS that name it. Exits
    /// as `roll` does.
    Create {
        /// Name of the issuer
        issuer: IssuerName,
    },
}

fn time(text: &str) -> Result<Timestamp, String> {
    let day = || text.parse::<Date>().and_then(|day| day.to_zoned(TimeZone::UTC));
    text.parse()
        .or_else(|_| day().map(|midnight| midnight.timestamp()))
        .map_err(|_| "write a day as 2027-06-30, or a time as 2027-06-30T12:00:00Z".to_owned())
}

const DNS_RECORD_EXAMPLES: &str = "\
Examples:
  chancery issuer dns-record letsencrypt                    all that are needed
  chancery issuer dns-record letsencrypt --identifier example.org --wildcard
  chancery issuer dns-record letsencrypt --check            are they there?";
