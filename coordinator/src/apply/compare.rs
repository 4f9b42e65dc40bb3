//! What differs between what is desired and what is. Pure.

use std::collections::BTreeSet;

use chancery_shared::{challenge_type::ChallengeType, name::IssuerName, x509::Fingerprint};
use jiff::{SignedDuration, Timestamp};

use super::{Change, Desired, Plan, Problems, Step};
use crate::{
    mirror::View,
    plan,
    record::{CertificateSpec, Freeze, IssuerSpec, RenewTimes, key},
};

/// Lists what has to change in `present` for `desired` to be so. What is not desired is deleted
/// with `prune` and kept without. `now` only tells which changes cause an order.
pub fn compare(
    present: &View,
    desired: &Desired,
    prune: bool,
    now: Timestamp,
) -> Result<Plan, Problems> {
    let problems = problems(present, desired, prune);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let mut plan = Plan { changes: Vec::new(), unchanged: 0, kept: Vec::new() };
    let mut deletions = Vec::new();
    for issuer in desired.issuers.values() {
        plan.issuer(present, issuer);
    }
    for freeze in desired.freezes.values() {
        plan.freeze(present, freeze);
    }
    for certificate in desired.certificates.values() {
        plan.certificate(present, certificate, now);
    }
    for name in present.certificates.keys() {
        if desired.certificates.contains_key(name) {
            continue;
        }
        if prune {
            deletions.push(deletion(Step::DeleteCertificate(name.clone())));
        } else {
            plan.kept.push(format!("certificate {name}"));
        }
    }
    for name in present.issuers.keys() {
        if desired.issuers.contains_key(name) {
            continue;
        }
        if prune {
            deletions.push(deletion(Step::DeleteIssuer(name.clone())));
        } else {
            plan.kept.push(format!("issuer {name}"));
        }
    }
    for name in present.freezes.keys() {
        if desired.freezes.contains_key(name) {
            continue;
        }
        if prune {
            deletions.push(deletion(Step::DeleteFreeze(name.clone())));
        } else {
            plan.kept.push(format!("freeze {name}"));
        }
    }
    plan.changes.extend(deletions);
    Ok(plan)
}

fn deletion(step: Step) -> Change {
    let details = match step {
        Step::DeleteCertificate(_) => {
            vec!["its keys and certificates are deleted here; agents keep their files".to_owned()]
        }
        _ => Vec::new(),
    };
    Change { step, details, causes_order: false }
}

impl Plan {
    fn issuer(&mut self, present: &View, desired: &IssuerSpec) {
        let Some(known) = present.issuers.get(&desired.name) else {
            let details = issuer_fields(desired)
                .into_iter()
                .filter(|(_, value)| value != NONE)
                .map(|(field, value)| format!("{field}: {value}"))
                .collect();
            let step = Step::CreateIssuer(desired.clone());
            self.changes.push(Change { step, details, causes_order: false });
            return;
        };
        let details = differences(issuer_fields(&known.record), issuer_fields(desired));
        if details.is_empty() {
            self.unchanged += 1;
            return;
        }
        let step = Step::UpdateIssuer(desired.clone());
        self.changes.push(Change { step, details, causes_order: false });
    }

    fn freeze(&mut self, present: &View, desired: &Freeze) {
        let Some(known) = present.freezes.get(&desired.name) else {
            let fields = freeze_fields(desired).into_iter();
            let details = fields
                .filter(|(_, value)| value != NONE)
                .map(|(field, value)| format!("{field}: {value}"))
                .collect();
            let step = Step::CreateFreeze(desired.clone());
            self.changes.push(Change { step, details, causes_order: false });
            return;
        };
        let details = differences(freeze_fields(&known.record), freeze_fields(desired));
        if details.is_empty() {
            self.unchanged += 1;
            return;
        }
        let step = Step::UpdateFreeze(desired.clone());
        self.changes.push(Change { step, details, causes_order: false });
    }

    fn certificate(&mut self, present: &View, desired: &CertificateSpec, now: Timestamp) {
        let causes_order = is_due(present, desired, now);
        let Some(known) = present.certificates.get(&desired.name) else {
            let fields = certificate_fields(desired).into_iter();
            let details = fields
                .filter(|(_, value)| {
                    ![FRESH_KEY, THE_ISSUERS, NO_STANDBY, WHEN_DUE].contains(&&**value)
                })
                .map(|(field, value)| format!("{field}: {value}"))
                .collect();
            let step = Step::CreateCertificate(desired.clone());
            self.changes.push(Change { step, details, causes_order });
            return;
        };
        let details = differences(certificate_fields(&known.record), certificate_fields(desired));
        if details.is_empty() {
            self.unchanged += 1;
            return;
        }
        // Only if it is this change that makes it due.
        let causes_order = causes_order && !is_due(present, &known.record, now);
        let step = Step::UpdateCertificate(desired.clone());
        self.changes.push(Change { step, details, causes_order });
    }
}

/// Whether the scheduler would order at once.
fn is_due(present: &View, spec: &CertificateSpec, now: Timestamp) -> bool {
    let state = present.states.get(&spec.name).map(|state| &*state.record);
    // What the CA suggests is of no matter here: a plan is about what a change of it causes.
    let freezes = present.freezes_of(spec);
    let (freezes, renewal_info, order) = (&freezes[..], None, None);
    let facts = plan::Facts { spec, state, order, renewal_info, freezes, standby: None };
    plan::decide(&facts, now).is_due(now)
}

/// What can be wrong with a desired state only in view of what is.
fn problems(present: &View, desired: &Desired, prune: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let known = |issuer: &IssuerName| {
        desired.issuers.contains_key(issuer) || (!prune && present.issuers.contains_key(issuer))
    };
    for certificate in desired.certificates.values() {
        for issuer in certificate.issuers.iter().chain(&certificate.standby) {
            if known(issuer) {
                continue;
            }
            let reason = if present.issuers.contains_key(issuer) {
                "would be deleted, because the files do not declare it"
            } else {
                "is not declared: add an [[issuer]] of that name, or name another"
            };
            problems
                .push(format!("certificate {:?}: issuer {issuer:?} {reason}", certificate.name));
        }
    }
    if prune {
        problems.extend(orders_in_the_way(present, desired));
    }
    problems.extend(damaged_in_the_way(present, desired));
    problems
}

/// An order that runs needs its issuer to the end.
fn orders_in_the_way(present: &View, desired: &Desired) -> Vec<String> {
    let running = present.orders.values().filter(|order| {
        let issuer = &order.record.issuer;
        desired.certificates.contains_key(&order.record.certificate)
            && present.issuers.contains_key(issuer)
            && !desired.issuers.contains_key(issuer)
    });
    running
        .map(|order| {
            format!(
                "issuer {:?}: it cannot be deleted while it is being asked for certificate {:?}; \
                 try again when that order is done",
                order.record.issuer, order.record.certificate
            )
        })
        .collect()
}

/// A record that this version cannot read must not be overwritten.
fn damaged_in_the_way(present: &View, desired: &Desired) -> Vec<String> {
    let issuers = desired.issuers.keys().map(key::issuer);
    let certificates = desired.certificates.keys().map(key::certificate);
    let freezes = desired.freezes.keys().map(key::freeze);
    let touched: BTreeSet<String> = issuers.chain(certificates).chain(freezes).collect();
    let damaged = present.damaged.iter().filter(|(key, _)| touched.contains(*key));
    damaged.map(|(_, error)| error.to_string()).collect()
}

type Fields = Vec<(&'static str, String)>;

fn differences(before: Fields, after: Fields) -> Vec<String> {
    before
        .into_iter()
        .zip(after)
        .filter(|(before, after)| before != after)
        .map(|((field, before), (_, after))| format!("{field}: {before} -> {after}"))
        .collect()
}

fn issuer_fields(issuer: &IssuerSpec) -> Fields {
    let roots = if issuer.trust_roots_pem.is_empty() {
        NONE.to_owned()
    } else {
        let mark = Fingerprint::of(issuer.trust_roots_pem.as_bytes()).to_string();
        format!("PEM with hash {}", &mark[..16])
    };
    let limits = issuer.limits.iter().map(|(key, value)| format!("{key} = {value}"));
    let limits = match joined(&limits.collect::<Vec<_>>()) {
        none if none == NONE => "those that the directory is known for".to_owned(),
        limits => limits,
    };
    let bound = issuer.external_account.as_ref();
    let bound = bound.map(|bound| format!("{} with key {}", bound.key_id, bound.mark));
    vec![
        ("directory", issuer.directory.clone()),
        ("contacts", joined(&issuer.contacts)),
        ("profile", quoted(issuer.profile.as_ref(), NONE)),
        ("preferred chain", quoted(issuer.preferred_chain.as_ref(), NONE)),
        ("external account", bound.unwrap_or_else(|| NONE.to_owned())),
        ("trust roots", roots),
        ("limits", limits),
    ]
}

fn freeze_fields(freeze: &Freeze) -> Fields {
    let labels = freeze.labels.to_string();
    let certificates =
        if labels.is_empty() { "all".to_owned() } else { format!("those with {labels}") };
    let reason = Some(&freeze.reason).filter(|reason| !reason.is_empty());
    vec![
        ("from", freeze.from.to_string()),
        ("to", freeze.to.to_string()),
        ("reason", quoted(reason, NONE)),
        ("certificates", certificates),
    ]
}

fn certificate_fields(certificate: &CertificateSpec) -> Fields {
    let labels = certificate.labels.to_string();
    let key = match (certificate.reuse_key, certificate.key_ahead) {
        (true, _) => "kept by renewals",
        (false, true) => "made ahead",
        (false, false) => FRESH_KEY,
    };
    vec![
        ("identifiers", joined(&certificate.identifiers)),
        ("key type", certificate.key_type.to_string()),
        ("key", key.to_owned()),
        ("profile", quoted(certificate.profile.as_ref(), THE_ISSUERS)),
        ("issuers", joined(&certificate.issuers)),
        (
            "standby",
            certificate.standby.as_ref().map_or(NO_STANDBY.to_owned(), ToString::to_string),
        ),
        ("challenges", joined(ChallengeType::preferred(&certificate.challenges))),
        ("labels", if labels.is_empty() { "none: no agent gets it".to_owned() } else { labels }),
        ("renewed", certificate.renew.as_ref().map_or_else(|| WHEN_DUE.to_owned(), renew_times)),
    ]
}

fn renew_times(renew: &RenewTimes) -> String {
    let windows = if renew.windows.is_empty() {
        "at any time".to_owned()
    } else {
        format!("{} ({})", joined(&renew.windows), renew.time_zone)
    };
    let jitter = renew.jitter_secs.map(|secs| SignedDuration::from_secs(i64::from(secs)));
    jitter.map_or(windows.clone(), |jitter| format!("{windows}, within {jitter:#}"))
}

/// In quotes, so that no value looks like what stands for nothing.
fn quoted(text: Option<&String>, nothing: &str) -> String {
    text.map_or_else(|| nothing.to_owned(), |text| format!("{text:?}"))
}

fn joined<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return NONE.to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

const NONE: &str = "none";
const NO_STANDBY: &str = "none is kept";
const THE_ISSUERS: &str = "the issuer's";
const WHEN_DUE: &str = "when it is due";
const FRESH_KEY: &str = "fresh for each renewal";
