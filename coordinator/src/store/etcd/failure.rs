//! What an error of etcd means: whether the request may have had its effect, and whether another
//! member, or a new token, could do better.
//!
//! # What may have been done
//!
//! A request surely had no effect if no connection came about, or if etcd says so: it refuses before it
//! proposes anything to its log when there is no leader (asked for with `hasleader`), when too much
//! is under way, and for everything that is wrong with the request or its sender. All else leaves the
//! outcome open, `etcdserver: request timed out` above all: what was proposed may still be
//! applied.
//!
//! `mvcc: database space exceeded` is worse than it looks: the very write that crosses the quota
//! is applied and *then* refused. So it is no proof either; see `commit`.

use std::error::Error as StdError;

use etcd_client::Error as ClientError;
use tonic::{Code, ConnectError, Status};

use super::Error;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// For people.
    pub(super) reason: String,
}

/// What a failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection: no effect, and another member may do.
    Unreachable,
    /// No connection, and none will come about until somebody changes certificates.
    Untrusted,
    /// The member belongs to another cluster.
    Foreign,
    /// The member has no leader or cannot keep up: no effect, and it may pass within seconds.
    Busy,
    /// The request may have had its effect, or may still have it.
    Unclear,
    /// The token is not known (any more): no effect.
    Token,
    /// Wrong credentials or missing rights: no effect.
    Refused,
    /// A file that is needed for the connection cannot be used.
    Files,
    /// No room.
    Full,
    /// The revision was compacted.
    Compacted,
    /// There is no such lease.
    NoLease,
    /// There is such a lease already.
    LeaseExists,
    /// Authentication is not switched on.
    NoAuth,
    /// The answer is larger than is taken.
    TooLarge,
    /// The request makes no sense to etcd: no effect.
    Invalid,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// What an error of the client means.
    pub(super) fn of(error: &ClientError) -> Self {
        match error {
            ClientError::GRpcStatus(status) => Self::of_status(status),
            ClientError::LeaseKeepAliveError(text) if text == "lease not found" => {
                Self::new(Kind::NoLease, text)
            }
            ClientError::TransportError(error) => {
                let reason = chain(error);
                let kind = if is_tls(error) { Kind::Untrusted } else { Kind::Unreachable };
                Self::new(kind, reason)
            }
            ClientError::InvalidArgs(_) | ClientError::InvalidUri(_) => {
                Self::new(Kind::Invalid, error.to_string())
            }
            _ => Self::new(Kind::Unclear, error.to_string()),
        }
    }

    fn of_status(status: &Status) -> Self {
        let (kind, reason) = match status.source() {
            Some(source) if is_tls(source) => (Kind::Untrusted, chain(source)),
            Some(source) if find::<ConnectError>(source).is_some() => {
                (Kind::Unreachable, chain(source))
            }
            Some(source) => (of_message(status), chain(source)),
            None => (of_message(status), status.message().to_owned()),
        };
        // etcd's own texts stand behind the name of the part that says it.
        let reason = reason.strip_prefix("etcdserver: ").map_or(reason.clone(), str::to_owned);
        Self::new(kind, reason)
    }

    /// What a watch that etcd cancelled with a text means.
    pub(super) fn of_cancelled(reason: &str) -> Self {
        let refused =
            ["permission denied", "PermissionDenied", "invalid auth token", "Unauthenticated"];
        // Of an invalid token, older versions say that permission is denied.
        let is_refused = refused.iter().any(|text| reason.contains(text));
        let kind = if is_refused { Kind::Token } else { Kind::Busy };
        Self::new(kind, format!("the watch was cancelled: {reason}"))
    }

    /// That nothing came back in time.
    pub(super) fn timed_out() -> Self {
        Self::new(Kind::Unclear, "no answer in time")
    }

    /// The same, with the member that it came from.
    pub(super) fn at(self, address: &str) -> Self {
        Self { reason: format!("{address}: {}", self.reason), ..self }
    }

    /// What the failures of two members mean together.
    pub(super) fn of_both(before: Option<Self>, failure: Self) -> Self {
        let Some(before) = before else { return failure };
        let kind = match (before.kind, failure.kind) {
            (one, other) if one == other => one,
            _ if before.may_pass() => before.kind,
            _ if failure.may_pass() => failure.kind,
            // That one member can never be reached does not mean that none can.
            _ => Kind::Unreachable,
        };
        Self { kind, reason: format!("{}; {}", before.reason, failure.reason) }
    }

    /// Whether the request surely had no effect and can be sent to another member.
    pub(super) fn may_be_sent_elsewhere(&self) -> bool {
        matches!(
            self.kind,
            Kind::Unreachable | Kind::Untrusted | Kind::Foreign | Kind::Busy | Kind::Token
        )
    }

    /// Whether a request that does no harm twice can be repeated.
    pub(super) fn may_be_repeated(&self) -> bool {
        self.may_be_sent_elsewhere() || self.kind == Kind::Unclear
    }

    /// Whether waiting may help: somebody is there.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Busy | Kind::Unclear)
    }

    /// The error of a call that changes nothing, or may be repeated.
    pub(super) fn of_read(self) -> Error {
        match self.kind {
            Kind::Files => Error::Misconfigured(self.reason),
            Kind::Refused | Kind::Token => Error::Misconfigured(format!(
                "etcd refuses this coordinator: {}; check store.etcd.username and password_file, and that \
                 the user may read and write everything under store.etcd.prefix",
                self.reason
            )),
            Kind::Untrusted => Error::Misconfigured(format!(
                "the certificates of etcd and of this coordinator do not fit: {}; check \
                 store.etcd.ca_file, cert_file and key_file",
                self.reason
            )),
            Kind::Full => Error::Full(full(&self.reason)),
            _ => Error::Unavailable(self.reason),
        }
    }

    /// The error of a call that must not be repeated unseen.
    pub(super) fn of_write(self) -> Error {
        match self.kind {
            Kind::Unclear => Error::OutcomeUnknown(self.reason),
            _ => self.of_read(),
        }
    }
}

fn full(reason: &str) -> String {
    format!(
        "etcd has used up its quota ({reason}); free room with `etcdctl compact` and `etcdctl \
         defrag` or raise --quota-backend-bytes, then run `etcdctl alarm disarm`"
    )
}

fn of_message(status: &Status) -> Kind {
    let message = status.message();
    let says = |text: &str| message.contains(text);
    match status.code() {
        Code::Unauthenticated => Kind::Token,
        // Authentication was switched on, or users were changed, since the token was made.
        _ if says("invalid auth token") || says("user name is empty") => Kind::Token,
        _ if says("revision of auth store is old") || says("auth: revision in header is old") => {
            Kind::Token
        }
        _ if says("authentication is not enabled") => Kind::NoAuth,
        Code::PermissionDenied => Kind::Refused,
        _ if says("authentication failed") || says("permission denied") => Kind::Refused,
        _ if says("database space exceeded") => Kind::Full,
        _ if says("required revision has been compacted") => Kind::Compacted,
        // A member that lags behind the one that was asked before.
        _ if says("required revision is a future revision") => Kind::Busy,
        _ if says("lease not found") => Kind::NoLease,
        _ if says("lease already exists") => Kind::LeaseExists,
        Code::OutOfRange if says("message length too large") || says("decoded message") => {
            Kind::TooLarge
        }
        Code::Unavailable if message == "etcdserver: no leader" => Kind::Busy,
        _ if says("etcdserver: too many requests") => Kind::Busy,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::NotFound => {
            Kind::Invalid
        }
        Code::ResourceExhausted if says("message larger than max") => Kind::Invalid,
        Code::Unimplemented | Code::AlreadyExists => Kind::Invalid,
        // Ok is no failure; Unavailable, Unknown, Cancelled, DeadlineExceeded, Internal, Aborted,
        // DataLoss and the rest of ResourceExhausted say nothing of the effect.
        _ => Kind::Unclear,
    }
}

/// The first error of a kind among `error` and what caused it.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether one side does not accept the certificate of the other. What the peer says of ours comes
/// after the handshake, and then only as a text.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let lasting = |error: &rustls::Error| {
        matches!(
            error,
            rustls::Error::InvalidCertificate(_)
                | rustls::Error::AlertReceived(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::InconsistentKeys(_)
        )
    };
    find::<rustls::Error>(error).is_some_and(lasting) || chain(error).contains("fatal alert")
}

/// What an error and its causes say, each thing once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !part.is_empty() && part != "transport error" && !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, message: &str) -> Kind {
        Failure::of(&ClientError::GRpcStatus(Status::new(code, message))).kind
    }

    #[test]
    fn what_leaves_the_outcome_open_is_never_taken_for_a_refusal() {
        let open = [
            (Code::Unavailable, "etcdserver: request timed out"),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "error reading a body from connection"),
            (Code::Unknown, "transport error"),
            (Code::Unknown, "context canceled"),
            (Code::Cancelled, "Timeout expired"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
            (Code::Internal, "h2 protocol error"),
            (Code::Aborted, "aborted"),
            (Code::DataLoss, "etcdserver: corrupt cluster"),
            (Code::ResourceExhausted, "h2 protocol error: enhance your calm"),
        ];
        for (code, message) in open {
            let failure = Failure::of(&ClientError::GRpcStatus(Status::new(code, message)));
            assert_eq!(failure.kind, Kind::Unclear, "{code:?} {message}");
            assert!(!failure.may_be_sent_elsewhere());
            assert!(matches!(failure.clone().of_write(), Error::OutcomeUnknown(_)));
            assert!(matches!(failure.of_read(), Error::Unavailable(_)));
        }
    }

    #[test]
    fn what_etcd_decides_is_decided() {
        let decided = [
            (Code::Unavailable, "etcdserver: no leader", Kind::Busy),
            (Code::ResourceExhausted, "etcdserver: too many requests", Kind::Busy),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                Kind::Busy,
            ),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Kind::Token),
            (Code::Unknown, "etcdserver: invalid auth token", Kind::Token),
            (Code::InvalidArgument, "etcdserver: user name is empty", Kind::Token),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Kind::Token),
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Refused),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Kind::Refused,
            ),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled", Kind::NoAuth),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Kind::Full),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Kind::Compacted,
            ),
            (Code::NotFound, "etcdserver: requested lease not found", Kind::NoLease),
            (Code::FailedPrecondition, "etcdserver: lease already exists", Kind::LeaseExists),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                Kind::Invalid,
            ),
        ];
        for (code, message, expected) in decided {
            assert_eq!(kind(code, message), expected, "{message}");
        }
    }

    #[test]
    fn a_full_store_names_the_way_out() {
        let status =
            Status::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        let error = Failure::of(&ClientError::GRpcStatus(status)).of_write();
        let text = error.to_string();
        for part in ["mvcc: database space exceeded", "compact", "defrag", "alarm disarm"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_cancelled_watch_asks_for_a_token_where_one_may_help() {
        let of = |reason| Failure::of_cancelled(reason).kind;
        assert_eq!(
            of("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
            Kind::Token
        );
        assert_eq!(of("etcdserver: invalid auth token"), Kind::Token);
        assert_eq!(of("etcdserver: no leader"), Kind::Busy);
    }
}
