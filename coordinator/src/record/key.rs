//! The keys under which records stand.
//!
//! A name is a valid key segment by construction (see `chancery_shared::name`), so keys
//! are put together without escaping, and no name can reach outside its folder.

use chancery_shared::{
    name::{AgentName, CertName, FreezeName, IssuerName, NodeName},
    number::Generation,
    x509::Fingerprint,
};

/// Desired certificates.
pub const CERTIFICATES: &str = "certificates/";
/// Observed state of certificates. Outlives the certificate, because generations
/// must go on growing if one of the same name is declared again.
pub const STATES: &str = "states/";
/// Issued bundles, by certificate and generation.
pub const BUNDLES: &str = "bundles/";
/// Issuing certificates by hash: thousands of bundles share a few.
pub const CHAINS: &str = "chains/";
/// Bundles that are kept ready, by certificate.
pub const STANDBYS: &str = "standbys/";
/// What CAs say about when to renew, by certificate.
pub const RENEWAL_INFOS: &str = "renewal-info/";
/// The order journal.
pub const ORDERS: &str = "orders/";
/// Presented challenges, by token.
pub const CHALLENGES: &str = "challenges/";
/// Desired issuers.
pub const ISSUERS: &str = "issuers/";
/// Times in which nothing is renewed.
pub const FREEZES: &str = "freezes/";
/// ACME accounts, by issuer.
pub const ACCOUNTS: &str = "accounts/";
/// What of the CAs' limits is used up, by issuer.
pub const BUDGETS: &str = "budgets/";
/// Keys of next generations, by certificate.
pub const NEXT_KEYS: &str = "next-keys/";
/// Certificates to be revoked, or that have been, by certificate and generation.
pub const REVOCATIONS: &str = "revocations/";
/// Enrolled agents.
pub const AGENTS: &str = "agents/";
/// What agents reported of certificates, by agent and certificate.
pub const DEPLOYMENTS: &str = "deployments/";
/// What agents reported of their services.
pub const SERVICES: &str = "services/";
/// Join tokens, by identifier.
pub const TOKENS: &str = "tokens/";
/// Events, by sequence number.
pub const EVENTS: &str = "events/";
/// The internal CA.
pub const AUTHORITY: &str = "authority";
/// The wrapped data keys.
pub const SEAL: &str = "seal";
/// Coordinators that are there, by node. Lease-bound.
pub const MEMBERS: &str = "members/";
/// Who leads.
pub const LEADER: &str = "leader";
/// Who is to lead next. Begins as [`LEADER`] does, so that one watch tells of both, in order.
pub const NOMINATION: &str = "leader-nomination";

/// Key of a coordinator that is there.
pub fn member(node: &NodeName) -> String {
    format!("{MEMBERS}{node}")
}

/// Key of a desired certificate.
pub fn certificate(name: &CertName) -> String {
    format!("{CERTIFICATES}{name}")
}

/// Key of a certificate's state.
pub fn state(name: &CertName) -> String {
    format!("{STATES}{name}")
}

/// Key of a bundle. Generations sort as numbers.
pub fn bundle(name: &CertName, generation: Generation) -> String {
    format!("{BUNDLES}{name}/{:020}", generation.0)
}

/// Key of a certificate's standby.
pub fn standby(name: &CertName) -> String {
    format!("{STANDBYS}{name}")
}

/// Key of what the CA says about when to renew a certificate.
pub fn renewal_info(name: &CertName) -> String {
    format!("{RENEWAL_INFOS}{name}")
}

/// Key of an issuing certificate.
pub fn chain(fingerprint: &Fingerprint) -> String {
    format!("{CHAINS}{fingerprint}")
}

/// Key of a certificate's live order: one place, so at most one order (invariant 2).
pub fn order(name: &CertName) -> String {
    format!("{ORDERS}{name}")
}

/// Key of a presented challenge.
pub fn challenge(token: &str) -> String {
    format!("{CHALLENGES}{token}")
}

/// Key of a desired issuer.
pub fn issuer(name: &IssuerName) -> String {
    format!("{ISSUERS}{name}")
}

/// Key of a time in which nothing is renewed.
pub fn freeze(name: &FreezeName) -> String {
    format!("{FREEZES}{name}")
}

/// Key of an issuer's account.
pub fn account(name: &IssuerName) -> String {
    format!("{ACCOUNTS}{name}")
}

/// Key of an issuer's budget.
pub fn budget(name: &IssuerName) -> String {
    format!("{BUDGETS}{name}")
}

/// Where the key of a certificate's next generation stands.
pub fn next_key(name: &CertName) -> String {
    format!("{NEXT_KEYS}{name}")
}

/// Key of the revocation of a bundle.
pub fn revocation(name: &CertName, generation: Generation) -> String {
    format!("{REVOCATIONS}{name}/{:020}", generation.0)
}

/// Key of an agent.
pub fn agent(name: &AgentName) -> String {
    format!("{AGENTS}{name}")
}

/// Key of what an agent reported of a certificate.
pub fn deployment(agent: &AgentName, certificate: &CertName) -> String {
    format!("{DEPLOYMENTS}{agent}/{certificate}")
}

/// Key of what an agent reported of its services.
pub fn services(agent: &AgentName) -> String {
    format!("{SERVICES}{agent}")
}

/// Key of a join token.
pub fn token(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// Key of an event. Sequence numbers sort as numbers.
pub fn event(sequence: u64) -> String {
    format!("{EVENTS}{sequence:020}")
}
