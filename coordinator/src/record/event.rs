//! What happened, for operators and auditors.

use chancery_shared::{name::NodeName, number::Epoch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, growing by one.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of thing.
    pub kind: EventKind,
    /// The certificate, agent or issuer that it is about.
    pub subject: String,
    /// One sentence for people. Never holds key material or a token.
    pub message: String,
    /// The coordinator that saw it.
    pub node: NodeName,
    /// Its epoch, 0 if it did not lead.
    pub epoch: Epoch,
}

impl Record for Event {
    const KIND: &'static str = "event";
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// What kind of thing happened. The codes are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl EventKind {
            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }
        }
    };
}

kinds! {
    /// A coordinator became the leader.
    LeaderElected = "leader.elected",
    /// An operator wants another coordinator to lead.
    LeaderTransfer = "leader.transfer",
    /// An operator changed the desired state.
    Applied = "config.applied",
    /// An order was begun.
    OrderStarted = "order.started",
    /// An order was taken up again after a crash or a hand-over.
    OrderResumed = "order.resumed",
    /// An order failed.
    OrderFailed = "order.failed",
    /// An order was given up, because nobody wants it any more.
    OrderGivenUp = "order.given-up",
    /// A certificate is near its end, and all tries to renew it have failed.
    CertificateAtRisk = "certificate.at-risk",
    /// A new bundle was stored.
    CertificateIssued = "certificate.issued",
    /// A TXT value could not be removed from the DNS for so long that it stays there.
    ValueGivenUp = "dns.value-given-up",
    /// A bundle was stored that is kept ready beside the one that is served.
    StandbyIssued = "standby.issued",
    /// An operator asked for the standby to take the place of what is served.
    SwitchRequested = "standby.switch-requested",
    /// The standby has taken the place of what was served.
    Switched = "standby.switched",
    /// An operator asked for a renewal.
    RenewalRequested = "certificate.renewal-requested",
    /// An operator asked for a revocation.
    RevocationRequested = "certificate.revocation-requested",
    /// The CA has revoked a certificate.
    CertificateRevoked = "certificate.revoked",
    /// The CA does not revoke a certificate.
    RevocationRefused = "certificate.revocation-refused",
    /// An operator wants something done to an ACME account.
    AccountChangeRequested = "account.change-requested",
    /// The CA has done it, or refused to.
    AccountChanged = "account.changed",
    /// The CA has moved the time at which it wants a certificate renewed.
    WindowMoved = "certificate.window-moved",
    /// An operator began a drill of a revocation.
    Drill = "drill.revocation",
    /// A join token was made.
    TokenCreated = "token.created",
    /// An agent joined.
    AgentJoined = "agent.joined",
    /// An agent got a new identity certificate.
    AgentRotated = "agent.rotated",
    /// An agent or a token was refused.
    AgentRefused = "agent.refused",
    /// An operator removed an agent.
    AgentRemoved = "agent.removed",
    /// A deployment failed on an agent.
    DeploymentFailed = "deployment.failed",
    /// A deployment that had failed works again, or a new generation is served.
    DeploymentInstalled = "deployment.installed",
    /// A new data key was made, or the old ones retired.
    SealRotated = "seal.rotated",
}
