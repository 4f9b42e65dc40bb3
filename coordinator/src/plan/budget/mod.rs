//! Whether a CA would take an order now, and if not, when. Pure: what was spent, what is
//! asked and the time in; a [`Verdict`] out.
//!
//! # The buckets
//!
//! A CA keeps token buckets: 300 new orders in three hours, one back every 36 seconds. We mirror each
//! as one instant, the one at which it will be full again (the generic cell rate algorithm, which is
//! also what Let's Encrypt uses). What was spent moves it on by the time one token takes to come
//! back, and a request can be made once that instant is no further away than the whole bucket but one takes.
//! A bucket that is full is not kept, so that the record holds what was used lately and no more.
//!
//! # What is never spent on
//!
//! An order that says which certificate it replaces costs nothing at a CA that exempts those
//! (RFC 9773 section 5 leaves that to the CA), and a renewal of the same identifiers does not count as a new
//! order nor towards its domains. Some of the orders and of each domain's certificates are kept for
//! [urgent](Ask::urgent) ones.
//!
//! # Erring
//!
//! The CA's count is what matters, and others may spend from it: another client with the same
//! account, or somebody else who orders for the same domain. So a refusal corrects the mirror
//! ([`refuse`]): what it was for is left alone until the time that the CA named. The other way round, tokens are
//! spent when an order is written down, before it is sent: a crash in between makes us careful, never bold.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use chancery_shared::{identifier::Identifier, x509::Fingerprint};
use jiff::Timestamp;

mod changed;
mod limits;
mod line;

pub use changed::under;
pub use limits::{Limits, Rate};
pub use line::Line;

use crate::record::{Bucket, Budget, Paused, Refused};

/// An order that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What for.
    pub identifiers: &'a [Identifier],
    /// What the CA need not count.
    pub kind: Kind,
    /// Whether it may use what is kept for emergencies, and ask for what the CA has paused.
    pub urgent: bool,
}

/// What sort of order it is, to a CA that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Identifiers that had no certificate together yet.
    New,
    /// The same identifiers again.
    Renewal,
    /// The same, and the order says which certificate it replaces (RFC 9773 section 5).
    Replacement,
}

/// Whether an order can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Possible,
    /// Not before a time.
    NotBefore {
        /// When.
        at: Timestamp,
        /// Why.
        because: Reason,
    },
}

/// Why an order has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// So many have been used up.
    Spent {
        /// Of what.
        bucket: Bucket,
        /// The limit.
        rate: Rate,
        /// How many of those are kept for emergencies.
        reserved: u32,
    },
    /// The CA has said so.
    Refused {
        /// What it refuses.
        bucket: Bucket,
        /// What it said.
        message: String,
    },
    /// The CA has paused an identifier.
    Paused {
        /// Which one.
        identifier: Identifier,
        /// What it said.
        message: String,
        /// Where to unpause it.
        link: Option<String>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spent { bucket, rate, reserved } => {
                write!(f, "the limit of {rate} for {} is used up", Of(bucket))?;
                if *reserved > 0 {
                    write!(f, " but for {reserved} that are kept for emergencies")?;
                }
                Ok(())
            }
            Self::Refused { bucket, message } => {
                write!(f, "the CA refuses {}: {message}", Of(bucket))
            }
            Self::Paused { identifier, message, link } => {
                write!(f, "the CA has paused {identifier}: {message}")?;
                link.as_ref().map_or(Ok(()), |link| write!(f, "; unpause it at {link}"))
            }
        }
    }
}

/// A bucket in words.
pub struct Of<'a>(pub &'a Bucket);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Bucket::Requests => f.write_str("all requests"),
            Bucket::Orders => f.write_str("new orders"),
            Bucket::Domain(domain) => write!(f, "certificates of {domain}"),
            Bucket::Set(_) => f.write_str("certificates with exactly these identifiers"),
            Bucket::Failed(identifier) => write!(f, "failed authorizations of {identifier}"),
            Bucket::InARow(identifier) => {
                write!(f, "failed authorizations of {identifier} in a row")
            }
        }
    }
}

/// Whether the order can be made now. If several things are in its way, the one that lasts longest
/// is told.
pub fn check(limits: &Limits, budget: &Budget, ask: &Ask<'_>, now: Timestamp) -> Verdict {
    let refusable = if budget.refused.is_empty() { Vec::new() } else { refusable(limits, ask) };
    let refused = refusable.into_iter().filter_map(|bucket| {
        let Refused { until, message, .. } = budget.refused.get(&bucket)?;
        (*until > now).then(|| (*until, Reason::Refused { bucket, message: message.clone() }))
    });
    let spent = counted(limits, ask).into_iter().filter_map(|(bucket, rate)| {
        let keeps = matches!(bucket, Bucket::Orders | Bucket::Domain(_)) && !ask.urgent;
        let reserved = if keeps { limits.reserved(rate) } else { 0 };
        let at = possible_at(budget, &bucket, rate, reserved);
        (at > now).then_some((at, Reason::Spent { bucket, rate, reserved }))
    });
    let paused = ask.identifiers.iter().filter(|_| !ask.urgent).filter_map(|identifier| {
        let Paused { since, message, link } = budget.paused.get(identifier)?;
        let at = since.checked_add(ASK_PAUSED_AGAIN).unwrap_or(Timestamp::MAX);
        let (message, link) = (message.clone(), link.clone());
        (at > now).then(|| (at, Reason::Paused { identifier: identifier.clone(), message, link }))
    });
    let longest = refused.chain(spent).chain(paused).max_by_key(|(at, _)| *at);
    longest.map_or(Verdict::Possible, |(at, because)| Verdict::NotBefore { at, because })
}

/// Notes that the order is made at `now`.
pub fn spend(limits: &Limits, budget: &mut Budget, ask: &Ask<'_>, now: Timestamp) {
    for (bucket, rate) in counted(limits, ask) {
        if is_spent_by_orders(&bucket) {
            take(budget, bucket, rate, now);
        }
    }
    forget(budget, now);
}

/// Notes that no certificate came of an order: it does not count towards those, though it still is
/// one of the orders.
pub fn give_back(limits: &Limits, budget: &mut Budget, ask: &Ask<'_>, now: Timestamp) {
    for (bucket, rate) in counted(limits, ask) {
        if matches!(bucket, Bucket::Domain(_) | Bucket::Set(_))
            && let Some(full_at) = budget.full_at_millis.get_mut(&bucket)
        {
            *full_at -= rate.interval_millis();
        }
    }
    forget(budget, now);
}

/// Notes that the CA could not validate `identifiers`.
pub fn authorizations_failed(
    limits: &Limits,
    budget: &mut Budget,
    identifiers: &[Identifier],
    now: Timestamp,
) {
    for identifier in identifiers {
        if let Some(rate) = limits.failed_authorizations {
            take(budget, Bucket::Failed(identifier.clone()), rate, now);
        }
        if let Some(rate) = limits.failed_in_a_row {
            take(budget, Bucket::InARow(identifier.clone()), rate, now);
        }
    }
    forget(budget, now);
}

/// Notes that the CA has validated `identifiers`: nothing of them is paused, nor do their former
/// failures count as being in a row any more. Returns whether that is news.
pub fn authorized(budget: &mut Budget, identifiers: &[Identifier]) -> bool {
    let mut news = false;
    for identifier in identifiers {
        let in_a_row = Bucket::InARow(identifier.clone());
        news |= budget.full_at_millis.remove(&in_a_row).is_some();
        news |= budget.paused.remove(identifier).is_some();
    }
    news
}

/// Notes that the CA refuses what `bucket` stands for until a time. A later time that was known already stays.
pub fn refuse(budget: &mut Budget, bucket: Bucket, refused: Refused) {
    let known = budget.refused.get(&bucket);
    if known.is_none_or(|known| known.until <= refused.until) {
        let now = refused.at;
        budget.refused.insert(bucket, refused);
        forget(budget, now);
    }
}

/// Tokens that are left for all but emergencies, and how many of those are kept, at `now`.
pub fn left(limits: &Limits, budget: &Budget, bucket: &Bucket, now: Timestamp) -> Option<Left> {
    let rate = rate_of(limits, bucket)?;
    let kept = matches!(bucket, Bucket::Orders | Bucket::Domain(_));
    let reserved = if kept { limits.reserved(rate) } else { 0 };
    let full_at = budget.full_at_millis.get(bucket).copied().unwrap_or(i64::MIN);
    let missing_millis = full_at.saturating_sub(now.as_millisecond()).max(0);
    let missing = missing_millis.div_euclid(rate.interval_millis())
        + i64::from(missing_millis % rate.interval_millis() > 0);
    let missing = u32::try_from(missing).unwrap_or(u32::MAX);
    let left = rate.count().saturating_sub(missing).saturating_sub(reserved);
    let full_at = Timestamp::from_millisecond(full_at).ok().filter(|at| *at > now);
    Some(Left { rate, left, reserved, full_at })
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The limit.
    pub rate: Rate,
    /// How many can be asked for now.
    pub left: u32,
    /// How many more are kept for emergencies when it is full.
    pub reserved: u32,
    /// When it will be full, if it is not.
    pub full_at: Option<Timestamp>,
}

/// An empty mirror for an issuer.
pub fn untouched(issuer: &chancery_shared::name::IssuerName, directory: &str) -> Budget {
    Budget {
        issuer: issuer.clone(),
        directory: directory.to_owned(),
        limits: std::collections::BTreeMap::new(),
        full_at_millis: std::collections::BTreeMap::new(),
        refused: std::collections::BTreeMap::new(),
        paused: std::collections::BTreeMap::new(),
    }
}

/// The domain under which a CA counts a name: the public suffix and one label, or the name itself if
/// it is a public suffix. An IPv4 address counts for itself, an IPv6 address for its /64.
pub fn registered_domain(identifier: &Identifier) -> String {
    let name = identifier.as_str().trim_start_matches("*.");
    match name.parse() {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => {
            let network = Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
            format!("{network}/64")
        }
        Err(_) => psl::domain_str(name).unwrap_or(name).to_owned(),
    }
}

/// The bucket of these identifiers together.
pub fn set_of(identifiers: &[Identifier]) -> Bucket {
    let mut names: Vec<&str> = identifiers.iter().map(Identifier::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let hash = Fingerprint::of(names.join(",").as_bytes()).to_string();
    Bucket::Set(hash[..SET_DIGITS].to_owned())
}

/// What has to have a token for the order to be made.
fn counted(limits: &Limits, ask: &Ask<'_>) -> Vec<(Bucket, Rate)> {
    let kind = counted_as(limits, ask);
    if kind == Kind::Replacement {
        return Vec::new();
    }
    let mut buckets = Vec::new();
    if kind == Kind::New {
        buckets.push(Bucket::Orders);
        if limits.certificates_per_domain.is_some() {
            buckets.extend(domains(ask.identifiers));
        }
    }
    if limits.certificates_per_set.is_some() {
        buckets.push(set_of(ask.identifiers));
    }
    if limits.failed_authorizations.is_some() {
        buckets.extend(ask.identifiers.iter().cloned().map(Bucket::Failed));
    }
    if limits.failed_in_a_row.is_some() {
        buckets.extend(ask.identifiers.iter().cloned().map(Bucket::InARow));
    }
    let rated = |bucket: Bucket| Some((rate_of(limits, &bucket)?, bucket));
    buckets.into_iter().filter_map(rated).map(|(rate, bucket)| (bucket, rate)).collect()
}

/// What an order is to a CA with these limits.
fn counted_as(limits: &Limits, ask: &Ask<'_>) -> Kind {
    match ask.kind {
        Kind::Replacement if limits.replacements_exempt => Kind::Replacement,
        Kind::Replacement | Kind::Renewal if limits.renewals_exempt => Kind::Renewal,
        _ => Kind::New,
    }
}

/// What the CA may have refused to others, and would refuse to this one. What it exempts from a limit
/// is not held back by a refusal of that limit.
fn refusable(limits: &Limits, ask: &Ask<'_>) -> Vec<Bucket> {
    let mut buckets = vec![Bucket::Requests];
    let kind = counted_as(limits, ask);
    if kind == Kind::New {
        buckets.push(Bucket::Orders);
        buckets.extend(domains(ask.identifiers));
    }
    if kind != Kind::Replacement {
        buckets.push(set_of(ask.identifiers));
        buckets.extend(ask.identifiers.iter().cloned().map(Bucket::Failed));
    }
    buckets
}

fn domains(identifiers: &[Identifier]) -> impl Iterator<Item = Bucket> {
    let domains: std::collections::BTreeSet<String> =
        identifiers.iter().map(registered_domain).collect();
    domains.into_iter().map(Bucket::Domain)
}

fn rate_of(limits: &Limits, bucket: &Bucket) -> Option<Rate> {
    match bucket {
        Bucket::Requests => None,
        Bucket::Orders => limits.orders,
        Bucket::Domain(_) => limits.certificates_per_domain,
        Bucket::Set(_) => limits.certificates_per_set,
        Bucket::Failed(_) => limits.failed_authorizations,
        Bucket::InARow(_) => limits.failed_in_a_row,
    }
}

/// Failures are counted when they happen.
fn is_spent_by_orders(bucket: &Bucket) -> bool {
    matches!(bucket, Bucket::Orders | Bucket::Domain(_) | Bucket::Set(_))
}

fn possible_at(budget: &Budget, bucket: &Bucket, rate: Rate, reserved: u32) -> Timestamp {
    let Some(full_at) = budget.full_at_millis.get(bucket) else { return Timestamp::MIN };
    let depth = i64::from(rate.count() - 1 - reserved.min(rate.count() - 1));
    let at = full_at.saturating_sub(depth.saturating_mul(rate.interval_millis()));
    let slack = match bucket {
        _ if depth + 1 == i64::from(rate.count()) => 0,
        // Spent when the order is written down; the CA counts what it issues.
        Bucket::Domain(_) | Bucket::Set(_) => LENGTH_OF_AN_ORDER_MILLIS,
        _ => MARGIN_MILLIS,
    };
    Timestamp::from_millisecond(at.saturating_add(slack)).unwrap_or(Timestamp::MAX)
}

fn take(budget: &mut Budget, bucket: Bucket, rate: Rate, now: Timestamp) {
    let now = now.as_millisecond();
    let full_at = budget.full_at_millis.entry(bucket).or_insert(now);
    *full_at = (*full_at).max(now).saturating_add(rate.interval_millis());
}

/// Drops what no longer says anything. If that leaves too much for one record, those go that are the
/// nearest to being full: the worst that can come of it is a refusal, which is then remembered.
fn forget(budget: &mut Budget, now: Timestamp) {
    let now_millis = now.as_millisecond();
    budget.full_at_millis.retain(|_, full_at| *full_at > now_millis);
    budget.refused.retain(|_, refused| refused.until > now);
    // Asked for again by then: if it is paused still, the CA says so once more.
    let asked_again =
        |paused: &Paused| paused.since.checked_add(PAUSED_KEPT).is_ok_and(|at| at <= now);
    budget.paused.retain(|_, paused| !asked_again(paused));
    while budget.paused.len() > MOST_PAUSED {
        let oldest = budget.paused.iter().min_by_key(|(_, paused)| paused.since);
        let Some(identifier) = oldest.map(|(identifier, _)| identifier.clone()) else { break };
        budget.paused.remove(&identifier);
    }
    while budget.refused.len() > MOST_REFUSED {
        let soonest = budget.refused.iter().min_by_key(|(_, refused)| refused.until);
        let Some(bucket) = soonest.map(|(bucket, _)| bucket.clone()) else { break };
        budget.refused.remove(&bucket);
    }
    let length = |bucket: &Bucket| bucket.to_string().len() + TIME_DIGITS;
    let mut bytes: usize = budget.full_at_millis.keys().map(length).sum();
    if bytes > MOST_BYTES {
        let mut by_time: Vec<(i64, Bucket)> =
            budget.full_at_millis.iter().map(|(bucket, at)| (*at, bucket.clone())).collect();
        by_time.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        while bytes > MOST_BYTES * 9 / 10
            && let Some((_, bucket)) = by_time.pop()
        {
            if bucket != Bucket::Orders {
                bytes -= length(&bucket);
                budget.full_at_millis.remove(&bucket);
            }
        }
    }
}

/// A CA that counts a moment later than we do gives back a moment later.
const MARGIN_MILLIS: i64 = 2_000;
/// Most orders are over by then.
const LENGTH_OF_AN_ORDER_MILLIS: i64 = 10 * 60 * 1_000;
/// A paused identifier is asked for this often, in case somebody has unpaused it.
const ASK_PAUSED_AGAIN: std::time::Duration = std::time::Duration::from_hours(24);
/// Hexadecimal digits of a hash: 64 bits.
const SET_DIGITS: usize = 16;
/// Of buckets: keeps the record below two thirds of what one batch may carry.
const MOST_BYTES: usize = 40 * 1024;
/// Digits of a time in milliseconds, and what stands around it.
const TIME_DIGITS: usize = 20;
/// Of at most 1.5 KB each: the message and the link are bounded.
const MOST_PAUSED: usize = 16;
const PAUSED_KEPT: std::time::Duration = std::time::Duration::from_hours(7 * 24);
const MOST_REFUSED: usize = 20;

#[cfg(test)]
mod tests;
