//! What the CAs' limits say to the orders that a plan causes. Pure.

use std::collections::BTreeMap;

use chancery_shared::name::{CertName, IssuerName};
use jiff::Timestamp;

use super::{Desired, Plan, Step};
use crate::{
    mirror::View,
    order,
    plan::{
        self,
        budget::{self, Limits, Verdict},
    },
    record::{Budget, CertificateSpec, IssuerSpec},
};

/// Until when an order has to wait, and why.
pub type Wait = (Timestamp, String);

/// The certificates whose orders the limits would not let through at once, each behind those before it in
/// the plan. `known` has what is spent, and what the CA says about when to renew; limits are those that
/// hold once the plan is carried out.
pub fn waits(
    plan: &Plan,
    desired: &Desired,
    known: &View,
    now: Timestamp,
) -> BTreeMap<CertName, Wait> {
    let mut budgets = BTreeMap::new();
    let mut waits = BTreeMap::new();
    for change in plan.changes.iter().filter(|change| change.causes_order) {
        let (Step::CreateCertificate(spec) | Step::UpdateCertificate(spec)) = &change.step else {
            continue;
        };
        // It begins with the first one, whatever failed before.
        let Some(name) = spec.issuers.first() else { continue };
        let stored = || known.issuers.get(name).map(|issuer| &*issuer.record);
        let Some(issuer) = desired.issuers.get(name).or_else(stored) else { continue };
        if let Some(wait) = wait(spec, issuer, known, &mut budgets, now) {
            waits.insert(spec.name.clone(), wait);
        }
    }
    waits
}

/// What the order for `spec` has to wait for. It is spent, so that the next one comes after it.
fn wait(
    spec: &CertificateSpec,
    issuer: &IssuerSpec,
    known: &View,
    budgets: &mut BTreeMap<IssuerName, (Limits, Budget)>,
    now: Timestamp,
) -> Option<Wait> {
    let (limits, budget) = budgets.entry(issuer.name.clone()).or_insert_with(|| {
        let stored = known.budgets.get(&issuer.name).map(|budget| (*budget.record).clone());
        let untouched = || budget::untouched(&issuer.name, &issuer.directory);
        (
            Limits::of(&issuer.limits, &issuer.directory).unwrap_or_default(),
            budget::under(&stored.unwrap_or_else(untouched), &issuer.limits, now).into_owned(),
        )
    });
    let state = known.states.get(&spec.name).map(|state| &*state.record);
    let info = known.renewal_infos.get(&spec.name).map(|info| &*info.record);
    let identifiers = &spec.identifiers;
    let replaces = state.is_some_and(|state| order::replaces(state, issuer, identifiers, info));
    let urgent = plan::is_urgent(state, info, now);
    let ask = plan::ask_for(identifiers, state, &issuer.name, replaces, urgent);
    let verdict = budget::check(limits, budget, &ask, now);
    budget::spend(limits, budget, &ask, now);
    match verdict {
        Verdict::Possible => None,
        Verdict::NotBefore { at, because } => Some((at, because.to_string())),
    }
}
