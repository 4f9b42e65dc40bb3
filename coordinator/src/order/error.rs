//! Why an order could not go on, and what follows from that.

use std::time::Duration;

use chancery_shared::{identifier::Identifier, name::IssuerName};
use jiff::Timestamp;

pub use super::refuses::Refuses;
use super::{
    ca::{Busy, Fault},
    problem::{self, Kept},
    replaces::NOT_REPLACEABLE,
};
use crate::{
    challenge::dns01, election::SteppedDown, events::printable, record::Problem, seal, store,
};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This coordinator no longer leads. The journal stands for the one that does.
    #[error("this coordinator no longer leads")]
    SteppedDown,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The CA could not be reached, or failed in a way that may pass.
    #[error("the CA did not answer properly: {0}")]
    CaUnreachable(String),
    /// The answer to newOrder did not come back. To ask again might be a second order.
    #[error("the CA was asked for an order, and may have made it, but its answer was lost: {0}")]
    AnswerLost(String),
    /// The CA asks for patience (RFC 8555 section 6.6).
    #[error("the CA asks to wait: {message}")]
    CaBusy {
        /// What it said.
        message: String,
        /// How long, if it said.
        retry_after: Option<Duration>,
        /// For what.
        refuses: Refuses,
        /// The same as a document.
        problem: Kept,
    },
    /// The CA would refuse the order, by what we know of its limits, so it was not asked.
    #[error("held back until {}: {reason}", whole_seconds(*.until))]
    BudgetSpent {
        /// When it is possible.
        until: Timestamp,
        /// How long that is.
        wait: Duration,
        /// Why it is not possible before.
        reason: String,
    },
    /// The CA takes no order for an identifier until somebody unpauses it.
    #[error("the CA has paused an identifier: {message}")]
    Paused {
        /// What it said.
        message: String,
        /// Where to unpause it.
        link: Option<String>,
        /// The same as a document.
        problem: Kept,
    },
    /// The CA takes no order that replaces what this one would; without that it may (RFC 9773
    /// section 7.4).
    #[error("the CA does not take the order as a replacement: {0}")]
    NotReplaceable(String),
    /// The CA refused (RFC 8555 section 6.7).
    #[error("the CA refused: {message}")]
    Rejected {
        /// What it said, subproblems included.
        message: String,
        /// The identifiers that it could not validate.
        failed: Vec<Identifier>,
        /// The same as a document.
        problem: Kept,
    },
    /// The CA does not know the account (any longer).
    #[error("the CA does not know the account")]
    AccountUnknown,
    /// The CA makes no account without an external account binding, or not with this one (RFC 8555
    /// section 7.3.4).
    #[error("{0}")]
    AccountBinding(String),
    /// The account was given up by an operator.
    #[error(
        "the account at issuer {0} was deactivated: remove the issuer from the certificate, or make \
         another account with chancery issuer account create {0}"
    )]
    AccountDeactivated(IssuerName),
    /// The account got another key while the step was under way.
    #[error("the account has another key by now")]
    AccountChanged,
    /// The CA does not have the profile that is asked for.
    #[error("{0}")]
    UnknownProfile(String),
    /// The CA does not know the order (any longer).
    #[error("the CA does not know the order {0} any longer")]
    OrderUnknown(String),
    /// An identifier cannot be validated with the challenges that the CA offers.
    #[error(
        "{identifier} cannot be validated: the CA offers {offered}, and the certificate allows {allowed}"
    )]
    NoChallenge {
        /// The identifier.
        identifier: String,
        /// The challenge types on offer.
        offered: String,
        /// Those that the certificate allows for it.
        allowed: String,
    },
    /// TLS-ALPN-01 is wanted, and nobody listens for it.
    #[error(
        "{identifier} cannot be validated over TLS-ALPN-01: tls_alpn01.listen is not set on this \
         coordinator; set it on all"
    )]
    NoTlsAlpn01 {
        /// The identifier.
        identifier: Identifier,
    },
    /// Another order is proving the same name over TLS-ALPN-01, where one handshake can prove it
    /// for one order only.
    #[error("another order is proving {identifier} over TLS-ALPN-01; this one waits for it")]
    NameTaken {
        /// The identifier.
        identifier: Identifier,
    },
    /// A DNS-01 challenge could not be answered.
    #[error(transparent)]
    Dns(#[from] dns01::Error),
    /// What the CA issued cannot be used.
    #[error("the CA issued something unusable: {0}")]
    BadIssuance(String),
    /// The issuer's specification cannot be used.
    #[error("the issuer cannot be used: {0}")]
    BadIssuer(String),
    /// The issuer is left alone for a while, because it could not be reached.
    #[error("waiting for the CA: {reason}")]
    IssuerPaused {
        /// Why it could not be reached.
        reason: String,
        /// For how long it is left alone.
        wait: Duration,
    },
    /// The order took too long.
    #[error("it was not finished within its deadline; the last step was: {stage}{}", after(.last.as_deref()))]
    DeadlinePassed {
        /// The stage it was in.
        stage: &'static str,
        /// Why the last try failed, if one did.
        last: Option<String>,
    },
    /// A sealed record cannot be opened.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// Making a key or a CSR failed.
    #[error("cannot make a key or a certificate signing request: {0}")]
    Crypto(String),
}

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Leave everything as it is: somebody else goes on.
    Stop,
    /// Read the journal again and repeat the step, after at least this long.
    Repeat(Duration),
    /// The order is over; try another after a while, at least this long.
    Fail(Duration),
}

impl Error {
    /// What follows from it.
    pub fn class(&self) -> Class {
        match self {
            Self::SteppedDown | Self::Store(store::Error::Fenced { .. }) => Class::Stop,
            Self::Store(_)
            | Self::CaUnreachable(_)
            | Self::AccountUnknown
            | Self::AccountChanged => Class::Repeat(Duration::ZERO),
            Self::CaBusy { retry_after: Some(wait), .. } if *wait > LONGEST_HELD => {
                Class::Fail(*wait)
            }
            Self::CaBusy { retry_after, .. } => Class::Repeat(retry_after.unwrap_or_default()),
            Self::IssuerPaused { wait, .. } | Self::BudgetSpent { wait, .. } => {
                Class::Repeat(*wait)
            }
            Self::NameTaken { .. } => Class::Repeat(NAME_TAKEN),
            Self::Dns(error) if error.may_pass() => Class::Repeat(Duration::ZERO),
            Self::Paused { .. }
            | Self::NotReplaceable(_)
            | Self::Rejected { .. }
            | Self::AccountBinding(_)
            | Self::AccountDeactivated(_)
            | Self::UnknownProfile(_)
            | Self::AnswerLost(_)
            | Self::OrderUnknown(_)
            | Self::NoChallenge { .. }
            | Self::NoTlsAlpn01 { .. }
            | Self::Dns(_)
            | Self::BadIssuance(_)
            | Self::BadIssuer(_)
            | Self::DeadlinePassed { .. }
            | Self::Seal(_)
            | Self::Crypto(_) => Class::Fail(Duration::ZERO),
        }
    }

    /// Whether a CA that is better tomorrow, or in an hour, is all that it takes.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::CaUnreachable(_)
                | Self::AnswerLost(_)
                | Self::CaBusy { .. }
                | Self::BudgetSpent { .. }
                | Self::IssuerPaused { .. }
                | Self::AccountUnknown
        )
    }

    /// What the CA said, as it said it.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Rejected { problem, .. }
            | Self::CaBusy { problem, .. }
            | Self::Paused { problem, .. } => problem.as_deref(),
            _ => None,
        }
    }

    /// Stable code, with a page in `docs/errors/`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SteppedDown => "stepped-down",
            Self::Store(_) => "store",
            Self::CaUnreachable(_) | Self::IssuerPaused { .. } => "ca-unreachable",
            Self::AnswerLost(_) => "answer-lost",
            Self::CaBusy { .. } => "ca-busy",
            Self::BudgetSpent { .. } => "budget-spent",
            Self::Paused { .. } => "identifier-paused",
            Self::Rejected { .. } => "ca-rejected",
            Self::NotReplaceable(_) => NOT_REPLACEABLE,
            Self::AccountUnknown => "account-unknown",
            Self::AccountBinding(_) => "account-binding",
            Self::AccountDeactivated(_) => "account-deactivated",
            Self::AccountChanged => "account-changed",
            Self::UnknownProfile(_) => "unknown-profile",
            Self::OrderUnknown(_) => "order-unknown",
            Self::NoChallenge { .. } | Self::NoTlsAlpn01 { .. } => "no-challenge",
            Self::NameTaken { .. } => "name-taken",
            Self::Dns(error) => error.code(),
            Self::BadIssuance(_) => "bad-issuance",
            Self::BadIssuer(_) => "bad-issuer",
            Self::DeadlinePassed { .. } => "deadline-passed",
            Self::Seal(_) => "seal",
            Self::Crypto(_) => "crypto",
        }
    }
}

impl From<instant_acme::Error> for Error {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => of_problem(&problem),
            instant_acme::Error::Other(other) if other.is::<SteppedDown>() => Self::SteppedDown,
            instant_acme::Error::Other(other) => match other.downcast::<Busy>() {
                Ok(busy) => busy_or_paused(*busy),
                Err(other) => match other.downcast::<Fault>() {
                    Ok(fault) if matches!(*fault, Fault::Untrusted { .. }) => {
                        Self::BadIssuer(fault.to_string())
                    }
                    Ok(fault) => Self::CaUnreachable(fault.to_string()),
                    Err(other) => Self::CaUnreachable(with_sources(&*other)),
                },
            },
            other => Self::CaUnreachable(with_sources(&other)),
        }
    }
}

/// An error document of the CA (RFC 8555 section 6.7), by what follows from it.
fn of_problem(problem: &instant_acme::Problem) -> Error {
    let kept = || Some(Box::new(problem::keep(problem)));
    let kind = problem.r#type.as_deref().unwrap_or_default();
    match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind) {
        "badNonce" | "serverInternal" => Error::CaUnreachable(describe(problem)),
        "rateLimited" => {
            let message = describe(problem);
            let refuses = Refuses::of(problem);
            let problem = kept();
            busy_or_paused(Busy { message, retry_after: None, refuses, problem })
        }
        "accountDoesNotExist" => Error::AccountUnknown,
        "invalidProfile" => {
            Error::UnknownProfile(format!("the CA refused the profile: {}", describe(problem)))
        }
        "externalAccountRequired" => Error::AccountBinding(format!(
            "the CA makes no account without an external account binding: {}; get a key id and an \
             HMAC key from the CA, and add external_account = {{ key_id = \"…\", hmac_key_file = \
             \"…\" }} to the issuer",
            describe(problem)
        )),
        _ => Error::Rejected { message: describe(problem), failed: Vec::new(), problem: kept() },
    }
}

/// A CA that pauses an identifier says so as a rate limit that no waiting helps against.
fn busy_or_paused(busy: Busy) -> Error {
    let Busy { message, retry_after, refuses, problem } = busy;
    if message.contains("/unpause") || message.contains("temporarily prevented") {
        let words = message.split_whitespace();
        let link = words.map(|word| word.trim_end_matches(['.', ',', ';', ')']));
        let link = link.filter(|word| word.starts_with("https://") && word.contains("unpause"));
        let link = link.map(str::to_owned).next();
        return Error::Paused { message, link, problem };
    }
    Error::CaBusy { message, retry_after, refuses, problem }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn after(last: Option<&str>) -> String {
    last.map(|last| format!("; the last try: {last}")).unwrap_or_default()
}

/// A problem document in one sentence, subproblems included. What a CA says goes into records, logs
/// and terminals, so it is made printable and cut.
pub(super) fn describe(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let mut text = format!("{} ({kind})", problem.detail.as_deref().unwrap_or("no detail"));
    for subproblem in &problem.subproblems {
        let detail = subproblem.detail.as_deref().unwrap_or("no detail");
        text.push_str("; ");
        text.push_str(detail);
    }
    printable(&text, MOST_TOLD)
}

/// An error and its sources, since those say what really happened.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text
}

/// The other order is a matter of seconds.
const NAME_TAKEN: Duration = Duration::from_secs(1);
/// A live order waits this long at most for a busy CA; for longer it is given up, so that its
/// place goes to another.
const LONGEST_HELD: Duration = Duration::from_mins(2);
/// Bytes of what a CA says that are kept.
const MOST_TOLD: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_page() {
        let codes = crate::error_pages::check(include_str!("error.rs"));
        assert!(codes.contains(&"ca-unreachable"), "{codes:?}");
    }

    fn problem(kind: &str) -> Error {
        let json = format!(
            r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"d",
                "subproblems":[{{"detail":"inner"}}]}}"#
        );
        of_problem(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn what_may_pass_is_repeated_and_what_will_not_fails() {
        assert_eq!(problem("badNonce").class(), Class::Repeat(Duration::ZERO));
        assert_eq!(problem("rateLimited").class(), Class::Repeat(Duration::ZERO));
        assert_eq!(problem("unauthorized").class(), Class::Fail(Duration::ZERO));
        assert_eq!(problem("accountDoesNotExist").class(), Class::Repeat(Duration::ZERO));
        assert!(problem("dns").to_string().contains("inner"));
    }

    #[test]
    fn a_ca_that_asks_for_hours_does_not_hold_the_order() {
        let wait = Duration::from_hours(6);
        let busy = Busy {
            message: "slow down".to_owned(),
            retry_after: Some(wait),
            refuses: Refuses::Requests,
            problem: None,
        };
        let error = Error::from(instant_acme::Error::Other(Box::new(busy)));
        assert_eq!(error.class(), Class::Fail(wait));
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_for_the_operator_to_mend() {
        let (host, reason) = ("ca.example".to_owned(), "UnknownIssuer".to_owned());
        let fault = Fault::Untrusted { host, reason };
        let error = Error::from(instant_acme::Error::Other(Box::new(fault)));
        assert_eq!(error.class(), Class::Fail(Duration::ZERO));
        assert!(error.to_string().contains("trust_roots"), "{error}");
    }

    #[test]
    fn what_a_ca_says_is_cut_and_cannot_talk_to_a_terminal() {
        let json = format!(r#"{{"type":"x","detail":"\u001b[2J{}"}}"#, "y".repeat(1_000_000));
        let told = of_problem(&serde_json::from_str(&json).unwrap()).to_string();
        assert!(told.len() < 1_100, "{}", told.len());
        assert!(!told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn a_fenced_write_stops() {
        let error = Error::from(store::Error::Fenced { epoch: chancery_shared::number::Epoch(3) });
        assert_eq!(error.class(), Class::Stop);
    }
}
