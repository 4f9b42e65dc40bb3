//! What the invariants are shown.

use chancery_coordinator::{seal::Sealer, store::Operation};
use chancery_shared::{name::CertName, number::Epoch};

/// Something that has happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The store has applied a batch.
    Committed(Committed<'a>),
    /// The store has made somebody the leader.
    Elected {
        /// Who.
        node: usize,
        /// The epoch.
        epoch: Epoch,
        /// Who else would still have acted as the leader at this moment.
        still_leading: Vec<usize>,
    },
    /// A coordinator sends a request to a CA.
    Outward {
        /// Who.
        node: usize,
        /// Whether the store has it as the leader, with a lease that has not expired.
        leads: bool,
    },
    /// A coordinator sends newOrder (RFC 8555 section 7.4).
    OrderAsked {
        /// Who.
        node: usize,
        /// Whether the store has it as the leader, with a lease that has not expired.
        leads: bool,
        /// For which certificate.
        certificate: &'a CertName,
        /// How much has gone wrong so far, in the whole world.
        disturbances: u64,
    },
    /// A CA has signed.
    Signed {
        /// Which certificate.
        certificate: &'a CertName,
    },
    /// The stable path of a certificate on an agent was looked at.
    Installed(Installed<'a>),
    /// A service has shown a generation of a certificate in a handshake.
    Served {
        /// At which agent.
        agent: &'a str,
        /// Which certificate.
        certificate: &'a CertName,
        /// Which generation.
        generation: u64,
    },
    /// Something was logged, shown in an error, or answered to an operator.
    Said(&'a str),
    /// The calm is over: what has not come to be in it.
    Ended {
        /// One line for each thing.
        missing: &'a [String],
    },
}

/// A batch that the store has applied.
#[derive(Debug)]
pub struct Committed<'a> {
    /// Which coordinator; `None` for an operator and for the store itself.
    pub node: Option<usize>,
    /// The epoch of the batch's own fence.
    pub fence: Option<Epoch>,
    /// The newest epoch that the store has given out.
    pub newest: Epoch,
    /// What was done.
    pub operations: &'a [Operation],
    /// Opens what is sealed.
    pub sealer: Option<&'a Sealer>,
}

/// What an agent has on a stable path.
#[derive(Debug)]
pub struct Installed<'a> {
    /// The agent.
    pub agent: &'a str,
    /// The certificate.
    pub certificate: &'a CertName,
    /// Its generation.
    pub generation: u64,
    /// `fullchain.pem`.
    pub fullchain: &'a [u8],
    /// `privkey.pem`.
    pub privkey: &'a [u8],
}
