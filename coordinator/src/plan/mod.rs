//! Whether a certificate needs an order, when, and why. Pure: what is desired, what is so and the
//! time in; a [`Decision`] out. Knows no store, no CA and no clock.
//!
//! The decision is an ordered list of checks; the first that speaks decides, and its
//! words are what `chancery cert show` prints. A failed order delays whatever was decided; a mere renewal also
//! waits for a maintenance window and for the end of a freeze ([`maintenance`]).

use std::{sync::Arc, time::Duration};

use chancery_shared::{identifier::Identifier, name::IssuerName, x509::Fingerprint};
use jiff::Timestamp;

use crate::record::{
    CertificateSpec, CertificateState, Freeze, Issued, Order, RenewalInfo, Standby,
};

pub mod ari;
pub mod budget;
mod maintenance;
pub mod standby;

use budget::{Ask, Kind};

/// All that a decision about one certificate depends on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the operator declared.
    pub spec: &'a CertificateSpec,
    /// What is so.
    pub state: Option<&'a CertificateState>,
    /// The order in the journal.
    pub order: Option<&'a Order>,
    /// What the CA last said about when to renew it.
    pub renewal_info: Option<&'a RenewalInfo>,
    /// Times in which it is not renewed if it can wait.
    pub freezes: &'a [Arc<Freeze>],
    /// What is kept ready beside it.
    pub standby: Option<&'a Standby>,
}

/// What is next for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// An order for the certificate, or whatever order is under way.
    Order,
    /// An order for its standby.
    Standby,
    /// Its standby takes the place of what is served. Needs no CA.
    Switch,
}

/// What to do about a certificate, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Stable code of the reason.
    pub code: &'static str,
    /// The reason, for operators.
    pub message: String,
    /// When an order is to be made or taken up. In the past or present: now.
    pub due: Timestamp,
}

impl Decision {
    /// Whether there is something to do at `now`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.due <= now
    }
}

/// Decides about one certificate.
pub fn decide(facts: &Facts<'_>, now: Timestamp) -> Decision {
    if let Some(order) = facts.order {
        return Decision {
            code: "in-progress",
            message: format!("an order is under way: {}", order.reason),
            due: now,
        };
    }
    let state = facts.state.cloned().unwrap_or_default();
    if let Some(wanted) = CHECKS.iter().find_map(|check| check(facts.spec, &state, now)) {
        return delayed_by_failure(wanted, &state, now);
    }
    let wanted = in_its_life(facts.spec, &state, facts.renewal_info, now);
    maintenance::held(delayed_by_failure(wanted, &state, now), facts, now)
}

/// What is next for one certificate, and when: what is due, and of that a switch before an order, and the
/// certificate's own before its standby's; or else what will be due first.
pub fn turn(facts: &Facts<'_>, now: Timestamp) -> (Turn, Decision) {
    let own = (Turn::Order, decide(facts, now));
    if facts.spec.standby.is_none() {
        return own;
    }
    let switch = standby::switch(facts, now).map(|decision| (Turn::Switch, decision));
    // One place for an order: that of the standby waits for the one that is under way.
    let order = if facts.order.is_none() { standby::order(facts, now) } else { None };
    let order = order.map(|decision| (Turn::Standby, decision));
    let all = [switch, Some(own), order].into_iter().flatten();
    // The first of those that are due, and of several that are not the earliest.
    all.min_by_key(|(_, decision)| decision.due.max(now)).expect("its own is among them")
}

/// The issuer whose turn it is: the first, or after [`FAILURES_PER_ISSUER`] failures in a
/// row the next one, and so on around.
pub fn issuer_for<'a>(
    spec: &'a CertificateSpec,
    state: Option<&CertificateState>,
) -> Option<&'a IssuerName> {
    let failures = state.map_or(0, |state| state.failures);
    let turn = (failures / FAILURES_PER_ISSUER) as usize % spec.issuers.len().max(1);
    spec.issuers.get(turn)
}

/// Whether the certificate cannot wait for its turn: it has expired or soon will, it was
/// revoked, an operator insists, or the CA's window has elapsed, which is how it announces a revocation.
pub fn is_urgent(
    state: Option<&CertificateState>,
    info: Option<&RenewalInfo>,
    now: Timestamp,
) -> bool {
    let Some(state) = state else { return false };
    if state.renewal_requested_at.is_some() {
        return true;
    }
    if state.revoked.as_ref().is_some_and(|it| it.generation == state.generation) {
        return true;
    }
    let Some(issued) = &state.issued else { return false };
    urgent_at(issued) <= now || ari::about(issued, info).is_some_and(|info| info.end <= now)
}

/// What the budget is asked for an order of `issuer`.
pub fn ask_for<'a>(
    identifiers: &'a [Identifier],
    state: Option<&CertificateState>,
    issuer: &IssuerName,
    replaces: bool,
    urgent: bool,
) -> Ask<'a> {
    let present = state.and_then(|state| state.issued.as_ref());
    let same = present.is_some_and(|present| {
        present.issuer == *issuer
            && budget::set_of(&present.identifiers) == budget::set_of(identifiers)
    });
    let kind = match (replaces, same) {
        (true, _) => Kind::Replacement,
        (false, true) => Kind::Renewal,
        (false, false) => Kind::New,
    };
    Ask { identifiers, kind, urgent }
}

/// When so little of a life is left that nothing may hold a renewal back any more.
pub fn urgent_at(issued: &Issued) -> Timestamp {
    let life_secs = issued.not_after.as_second() - issued.not_before.as_second();
    let at_secs = issued.not_after.as_second() - life_secs / URGENT_SHARE;
    Timestamp::from_second(at_secs).unwrap_or(issued.not_after)
}

/// How long to wait after the `failures`th failure in a row before the next try:
/// `first`, ten times that, a hundred times that, then a day.
pub fn wait_after(failures: u32, first: Duration) -> Duration {
    let factor = 10_u32.saturating_pow(failures.saturating_sub(1));
    first.checked_mul(factor).map_or(A_DAY, |wait| wait.min(A_DAY))
}

type Check = fn(&CertificateSpec, &CertificateState, Timestamp) -> Option<Decision>;

/// In order; the first that speaks decides.
const CHECKS: [Check; 8] = [
    not_issued,
    revoked,
    identifiers_changed,
    key_type_changed,
    profile_changed,
    issuer_removed,
    renewal_requested,
    expired,
];

fn not_issued(_: &CertificateSpec, state: &CertificateState, now: Timestamp) -> Option<Decision> {
    state.issued.is_none().then(|| Decision {
        code: "not-issued",
        message: "it has never been issued".to_owned(),
        due: now,
    })
}

/// Whether it was revoked, or is being: nobody may go on using it for longer than it takes to replace it.
fn revoked(_: &CertificateSpec, state: &CertificateState, now: Timestamp) -> Option<Decision> {
    let revoked = state.revoked.as_ref().filter(|it| it.generation == state.generation)?;
    Some(Decision {
        code: "revoked",
        message: format!("it was revoked at {}: {}", seconds(revoked.at), revoked.reason),
        due: now,
    })
}

fn identifiers_changed(
    spec: &CertificateSpec,
    state: &CertificateState,
    now: Timestamp,
) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    let sorted = |identifiers: &[Identifier]| {
        let mut names = identifiers.to_vec();
        names.sort();
        names
    };
    // Order does not matter to a CA; a mere reordering costs no certificate.
    (sorted(&spec.identifiers) != sorted(&issued.identifiers)).then(|| Decision {
        code: "identifiers-changed",
        message: "its identifiers have changed since it was issued".to_owned(),
        due: now,
    })
}

fn key_type_changed(
    spec: &CertificateSpec,
    state: &CertificateState,
    now: Timestamp,
) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    (spec.key_type != issued.key_type).then(|| Decision {
        code: "key-type-changed",
        message: format!("its key is {}, but {} is wanted", issued.key_type, spec.key_type),
        due: now,
    })
}

/// An issuer's own profile counts from the next renewal on: it is not the certificate's declaration.
fn profile_changed(
    spec: &CertificateSpec,
    state: &CertificateState,
    now: Timestamp,
) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    let wanted = spec.profile.as_ref().filter(|wanted| Some(*wanted) != issued.profile.as_ref())?;
    let present = issued.profile.as_deref().unwrap_or("the CA's default");
    Some(Decision {
        code: "profile-changed",
        message: format!("its profile is {present}, but {wanted} is wanted"),
        due: now,
    })
}

fn issuer_removed(
    spec: &CertificateSpec,
    state: &CertificateState,
    now: Timestamp,
) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    let is_named = |issuer| spec.issuers.contains(issuer) || spec.standby.as_ref() == Some(issuer);
    (!is_named(&issued.issuer)).then(|| Decision {
        code: "issuer-removed",
        message: format!("{}, which issued it, is no longer among its issuers", issued.issuer),
        due: now,
    })
}

fn renewal_requested(
    _: &CertificateSpec,
    state: &CertificateState,
    now: Timestamp,
) -> Option<Decision> {
    let requested_at = state.renewal_requested_at?;
    Some(Decision {
        code: "renewal-requested",
        message: format!("an operator asked for it at {}", seconds(requested_at)),
        due: now,
    })
}

fn expired(_: &CertificateSpec, state: &CertificateState, now: Timestamp) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    (issued.not_after <= now).then(|| Decision {
        code: "expired",
        message: format!("it expired at {}", seconds(issued.not_after)),
        due: now,
    })
}

/// What is left when there is no other reason: when the CA suggests it (RFC 9773), or else by its
/// life.
fn in_its_life(
    spec: &CertificateSpec,
    state: &CertificateState,
    info: Option<&RenewalInfo>,
    now: Timestamp,
) -> Decision {
    // The first check has spoken if there is nothing.
    let Some(issued) = &state.issued else {
        return Decision { code: "not-issued", message: String::new(), due: now };
    };
    match ari::about(issued, info).filter(|info| ari::instant_in(&spec.name, info).is_some()) {
        Some(info) => suggested(info, renewal_of(spec, issued, Some(info)), now),
        None => lifetime(issued, renew_at(spec, issued), now),
    }
}

/// When it is to be renewed, if nothing else is the matter. Whatever the CA suggests, no later than when
/// it has become urgent.
pub fn renewal_of(
    spec: &CertificateSpec,
    issued: &Issued,
    info: Option<&RenewalInfo>,
) -> Timestamp {
    let info = ari::about(issued, info);
    let Some(instant) = info.and_then(|info| ari::instant_in(&spec.name, info)) else {
        return renew_at(spec, issued);
    };
    // A CA that wants to have replaced whatever it issues would be asked for ever. One that has
    // changed its mind is obeyed at once.
    let stored_at = issued.stored_at;
    let elapsed_before = info.is_some_and(|info| info.end <= stored_at && !info.moved);
    let floor = if elapsed_before { stored_at + NOT_AGAIN } else { Timestamp::MIN };
    instant.max(floor).min(urgent_at(issued).max(earliest(issued)))
}

fn suggested(info: &RenewalInfo, due: Timestamp, now: Timestamp) -> Decision {
    let window = format!("between {} and {}", seconds(info.start), seconds(info.end));
    let why = info.explanation_url.as_ref().map(|url| format!(": {url}")).unwrap_or_default();
    let message = if due <= now {
        format!("the CA wants it renewed {window}{why}")
    } else {
        format!("it is to be renewed at {}; the CA suggests {window}{why}", seconds(due))
    };
    Decision { code: "suggested", message, due }
}

fn lifetime(issued: &Issued, due: Timestamp, now: Timestamp) -> Decision {
    let share = if is_short(issued) { "half" } else { "a third" };
    let message = if due <= now {
        format!(
            "less than {share} of its life is left, it expires at {}",
            seconds(issued.not_after)
        )
    } else {
        format!("it is to be renewed at {}, when about {share} of its life is left", seconds(due))
    };
    Decision { code: "lifetime", message, due }
}

/// When about a third (half, for a life under ten days) of the life is left, up to a twentieth of
/// the life earlier: spread by name, so that certificates issued together are not
/// renewed together, and always the same for one bundle, so that a new leader decides as
/// the old one did.
pub fn renew_at(spec: &CertificateSpec, issued: &Issued) -> Timestamp {
    let life_secs = issued.not_after.as_second() - issued.not_before.as_second();
    let left_secs = if is_short(issued) { life_secs / 2 } else { life_secs / 3 };
    let hash = Fingerprint::of(format!("{} {}", spec.name, issued.serial).as_bytes());
    let share = i64::from(u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]));
    let spread_secs = life_secs / 20 * share / i64::from(u16::MAX);
    let at_secs = issued.not_after.as_second() - left_secs - spread_secs;
    let at = Timestamp::from_second(at_secs).unwrap_or(issued.not_before);
    at.max(earliest(issued))
}

/// A clock that runs ahead, or a CA that issues what is old already, must not make each new certificate
/// due at once: some of the life that was left when it came is always used.
fn earliest(issued: &Issued) -> Timestamp {
    let left_when_stored = issued.not_after.as_second() - issued.stored_at.as_second();
    let earliest_secs = issued.stored_at.as_second() + left_when_stored.max(0) / 3;
    Timestamp::from_second(earliest_secs).unwrap_or(issued.stored_at)
}

fn is_short(issued: &Issued) -> bool {
    issued.not_after.as_second() - issued.not_before.as_second() < TEN_DAYS_SECS
}

/// A failure holds back the next try, unless an operator asked for one since.
fn delayed_by_failure(
    mut decision: Decision,
    state: &CertificateState,
    now: Timestamp,
) -> Decision {
    let Some(failure) = &state.last_failure else { return decision };
    if failure.at > now {
        // The clock was set back since, perhaps by years: waiting would mean nothing.
        return decision;
    }
    if state.renewal_requested_at.is_some_and(|requested_at| requested_at > failure.at) {
        return decision;
    }
    if decision.due < failure.retry_at {
        decision.due = failure.retry_at;
        decision.message = format!(
            "{}; the last of {} failed tries was at {}, the next is at {}",
            decision.message,
            state.failures,
            seconds(failure.at),
            seconds(failure.retry_at),
        );
    }
    decision
}

/// Without fractions, for people.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

const FAILURES_PER_ISSUER: u32 = 3;
/// An eighth of the life: eleven days of ninety, twenty hours of six days.
const URGENT_SHARE: i64 = 8;
/// After a certificate that its CA wanted to have replaced before it was there.
const NOT_AGAIN: Duration = Duration::from_hours(1);
const TEN_DAYS_SECS: i64 = 10 * 24 * 3600;
const A_DAY: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
