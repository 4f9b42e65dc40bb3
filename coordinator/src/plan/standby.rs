//! The standby of a certificate: a bundle of another issuer that is kept ready. Whether it needs an order, and
//! whether it has to take the place of the bundle that is served. Pure, as its parent.
//!
//! It is decided about as about a certificate of its own ([`super::decide`]), with one issuer and a
//! state of its own. What is different: it is ordered when nothing is to be done for the certificate
//! itself, its failures hold nothing else back, and it comes from an issuer other than the one whose bundle is
//! served. So after a switch to the second issuer it is the first again that is asked for a standby.

use chancery_shared::name::IssuerName;
use jiff::Timestamp;

use super::{
    Decision, Facts, ari, decide, expired, identifiers_changed, key_type_changed, urgent_at,
};
use crate::record::{CertificateSpec, CertificateState, Issued, Order, RenewalInfo, Standby};

/// Who is to issue the standby: the declared issuer, or, while that has issued what is served, the
/// first of the others. `None` if none is wanted yet.
pub fn issuer_for<'a>(
    spec: &'a CertificateSpec,
    state: Option<&CertificateState>,
) -> Option<&'a IssuerName> {
    let declared = spec.standby.as_ref()?;
    let present = &state?.issued.as_ref()?.issuer;
    std::iter::once(declared).chain(&spec.issuers).find(|issuer| *issuer != present)
}

/// The certificate as its standby is ordered from `issuer`: with a key of its own, and under the
/// issuer's profile, since the certificate's is a name that the other CA gave.
pub fn spec_from(spec: &CertificateSpec, issuer: &IssuerName) -> CertificateSpec {
    CertificateSpec {
        issuers: vec![issuer.clone()],
        standby: None,
        reuse_key: false,
        key_ahead: false,
        profile: None,
        ..spec.clone()
    }
}

/// When the standby is to be ordered, and why; `None` if none is wanted.
pub fn order(facts: &Facts<'_>, now: Timestamp) -> Option<Decision> {
    let spec = spec_from(facts.spec, issuer_for(facts.spec, facts.state)?);
    let state = facts.standby.map(|standby| &standby.state);
    let (order, renewal_info, standby) = (None, None, None);
    let own = Facts { spec: &spec, state, order, renewal_info, standby, ..*facts };
    Some(decide(&own, now))
}

/// The standby, if it could be served at `now`; otherwise why not.
pub fn ready<'a>(
    spec: &CertificateSpec,
    standby: Option<&'a Standby>,
    now: Timestamp,
) -> Result<&'a Issued, String> {
    if spec.standby.is_none() {
        return Err("none is declared: add standby = \"ISSUER\" to the certificate".to_owned());
    }
    let state = standby.map(|standby| &standby.state);
    let Some((state, issued)) = state.and_then(|state| Some((state, state.issued.as_ref()?)))
    else {
        let failure = state.and_then(|state| state.last_failure.as_ref());
        let because = failure.map(|failure| format!(": {}", failure.message)).unwrap_or_default();
        return Err(format!("it is not issued yet{because}"));
    };
    if state.revoked.is_some() {
        return Err("it was revoked".to_owned());
    }
    let outdated = [expired, identifiers_changed, key_type_changed];
    match outdated.iter().find_map(|check| check(spec, state, now)) {
        Some(decision) => Err(decision.message),
        None => Ok(issued),
    }
}

/// Whether the standby is to take the place of what is served, when, and why. `None` without one that is
/// ready, or without a reason.
pub fn switch(facts: &Facts<'_>, now: Timestamp) -> Option<Decision> {
    let standby = ready(facts.spec, facts.standby, now).ok()?;
    let state = facts.state?;
    if let Some(requested_at) = state.switch_requested_at
        // It was about the one that was there.
        && standby.stored_at <= requested_at
    {
        let message = format!("an operator asked for it at {}", super::seconds(requested_at));
        return Some(Decision { code: "switch-requested", message, due: now });
    }
    if let Some(revoked) = state.revoked.as_ref().filter(|it| it.generation == state.generation) {
        let at = super::seconds(revoked.at);
        let message = format!("what was served was revoked at {at}: {}", revoked.reason);
        return Some(Decision { code: "switch-revoked", message, due: now });
    }
    could_not_be_renewed(facts, state, standby, now)
}

/// After a failure, when too little of the life is left, or the CA's window has elapsed, which is how it
/// announces a revocation; and after the end. What is under way is waited for.
fn could_not_be_renewed(
    facts: &Facts<'_>,
    state: &CertificateState,
    standby: &Issued,
    now: Timestamp,
) -> Option<Decision> {
    let issued = state.issued.as_ref()?;
    let is_expired = issued.not_after <= now;
    if facts.order.is_some() || standby.not_after <= issued.not_after {
        return None;
    }
    if state.failures == 0 && !is_expired {
        return None;
    }
    let elapses = ari::about(issued, facts.renewal_info).map(|info: &RenewalInfo| info.end);
    let due = elapses.map_or(urgent_at(issued), |end| end.min(urgent_at(issued)));
    let word = if is_expired { "expired" } else { "expires" };
    let end = super::seconds(issued.not_after);
    let message = format!("what is served {word} at {end} and could not be renewed");
    Some(Decision { code: "switch-unrenewed", message, due: due.max(now) })
}

/// Whether the live order is one that is still to be brought to its end: the certificate names its issuer
/// still, and, if it is for the standby, nothing more urgent waits for its place.
pub fn is_wanted(facts: &Facts<'_>, order: &Order, now: Timestamp) -> bool {
    is_wanted_at(facts, &order.issuer, order.standby, now)
}

/// As [`is_wanted`], of an order at `issuer` that may not be in the journal yet.
pub fn is_wanted_at(
    facts: &Facts<'_>,
    issuer: &IssuerName,
    is_standby: bool,
    now: Timestamp,
) -> bool {
    let spec = facts.spec;
    if !is_standby {
        return spec.issuers.contains(issuer);
    }
    let is_named = spec.standby.as_ref() == Some(issuer) || spec.issuers.contains(issuer);
    let waits = super::is_urgent(facts.state, facts.renewal_info, now);
    spec.standby.is_some() && is_named && !(waits && is_due_without(facts, now))
}

/// Whether the certificate itself would be ordered now if no order were under way.
fn is_due_without(facts: &Facts<'_>, now: Timestamp) -> bool {
    decide(&Facts { order: None, ..*facts }, now).is_due(now)
}

#[cfg(test)]
mod tests;
