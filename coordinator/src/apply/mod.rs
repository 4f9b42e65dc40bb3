//! Desired state: from what stands in an operator's files to one transaction.
//!
//! Three steps, each of which leaves nothing open to the next:
//!
//! 1. [`desired::read`] turns the message into records, or names *all* that is wrong with it.
//! 2. [`compare()`] sets them against what the store has and lists the changes. Pure.
//! 3. [`Plan::batches`] makes one batch of the changes, or as many as they need, with the revision of
//!    every record that they touch as a precondition: each change is made as it was shown, or not at
//!    all.
//!
//! A deleted certificate takes its order, challenges and bundles along, in the same step; its
//! deployments, of which there may be thousands, are swept away afterwards ([`crate::sweep`]). Its state
//! is reduced to its generation, from which a certificate of the same name goes on counting.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use chancery_proto::v1::{Change as WireChange, change::Action};
use chancery_shared::{
    name::{CertName, FreezeName, IssuerName},
    number::Revision,
    x509::Fingerprint,
};

use crate::{
    mirror::View,
    record::{self, CertificateSpec, CertificateState, Freeze, IssuerSpec, key},
    store::{Batch, Entry, Error, Packer, Store},
};

mod compare;
mod desired;
mod preflight;
mod renew;

pub use compare::compare;
pub use desired::{Desired, read};
pub use preflight::{Wait, waits};

/// All that is wrong with a desired state, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// What would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The changes, in the order in which they are shown.
    pub changes: Vec<Change>,
    /// Objects that are as desired.
    pub unchanged: u32,
    /// Objects that the files do not name and that stay: `certificate www`.
    pub kept: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is done, to what.
    pub step: Step,
    /// One line for each field.
    pub details: Vec<String>,
    /// Whether a new order will follow.
    pub causes_order: bool,
}

/// What is done, to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An issuer that is new.
    CreateIssuer(IssuerSpec),
    /// An issuer that changes.
    UpdateIssuer(IssuerSpec),
    /// An issuer that goes.
    DeleteIssuer(IssuerName),
    /// A freeze that is new.
    CreateFreeze(Freeze),
    /// A freeze that changes.
    UpdateFreeze(Freeze),
    /// A freeze that goes.
    DeleteFreeze(FreezeName),
    /// A certificate that is new.
    CreateCertificate(CertificateSpec),
    /// A certificate that changes.
    UpdateCertificate(CertificateSpec),
    /// A certificate that goes, with all that belongs to it.
    DeleteCertificate(CertName),
}

impl Step {
    fn label(&self) -> (Action, &'static str, &str) {
        match self {
            Self::CreateIssuer(spec) => (Action::Create, ISSUER, spec.name.as_str()),
            Self::UpdateIssuer(spec) => (Action::Update, ISSUER, spec.name.as_str()),
            Self::DeleteIssuer(name) => (Action::Delete, ISSUER, name.as_str()),
            Self::CreateFreeze(spec) => (Action::Create, FREEZE, spec.name.as_str()),
            Self::UpdateFreeze(spec) => (Action::Update, FREEZE, spec.name.as_str()),
            Self::DeleteFreeze(name) => (Action::Delete, FREEZE, name.as_str()),
            Self::CreateCertificate(spec) => (Action::Create, CERTIFICATE, spec.name.as_str()),
            Self::UpdateCertificate(spec) => (Action::Update, CERTIFICATE, spec.name.as_str()),
            Self::DeleteCertificate(name) => (Action::Delete, CERTIFICATE, name.as_str()),
        }
    }
}

impl Change {
    /// As it goes over the wire.
    pub fn to_wire(&self) -> WireChange {
        let (action, kind, name) = self.step.label();
        WireChange {
            action: action.into(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            details: self.details.clone(),
            causes_order: self.causes_order,
            possible_at: None,
            because: String::new(),
        }
    }
}

impl Plan {
    /// Stands for what the plan does: equal for equal changes, different otherwise.
    pub fn id(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let (action, kind, name) = change.step.label();
            // Debug quotes the texts, so that no two lists of changes look the same.
            writeln!(text, "{action:?} {kind} {name:?} {:?}", change.details)
                .expect("writing to a string works");
        }
        Fingerprint::of(text.as_bytes()).to_string()[..16].to_owned()
    }

    /// Names of the certificates that it deletes.
    fn deleted(&self) -> impl Iterator<Item = &CertName> {
        self.changes.iter().filter_map(|change| match &change.step {
            Step::DeleteCertificate(name) => Some(name),
            _ => None,
        })
    }

    /// Whether all its changes are among those of `whole`.
    pub fn is_part_of(&self, whole: &Self) -> bool {
        let object = |change: &Change| {
            let (_, kind, name) = change.step.label();
            (kind, name.to_owned())
        };
        let whole: BTreeMap<_, _> = whole.changes.iter().map(|c| (object(c), c)).collect();
        // Whether a change causes an order is another matter whenever an order ends.
        self.changes.iter().all(|change| {
            let known = whole.get(&object(change));
            known.is_some_and(|known| known.step == change.step && known.details == change.details)
        })
    }

    /// The plan as transactions that every store takes, each of which begins as `begin`: one, unless
    /// it is large. Each object is changed as a whole. Those of one list can be committed in any order,
    /// or at once; a list comes after the one before it: what is named before what names
    /// it, deletions last, so that what is there is consistent all the time. `present`
    /// is what [`present`] and [`related`] listed.
    pub fn batches(&self, begin: &Batch, present: &View, related: &[Related]) -> Vec<Vec<Batch>> {
        let related: BTreeMap<&CertName, &Related> =
            related.iter().map(|related| (&related.certificate, related)).collect();
        let mut turns: BTreeMap<u8, Vec<Batch>> = BTreeMap::new();
        for change in &self.changes {
            let (turn, group) = group(&change.step, present, &related);
            turns.entry(turn).or_default().push(group);
        }
        let pack = |groups: &mut dyn Iterator<Item = Batch>| {
            let mut packer = Packer::new(begin.clone());
            groups.for_each(|group| packer.add(group));
            packer.finish()
        };
        if self.changes.len() <= Batch::MOST_KEYS {
            let whole = pack(&mut turns.values().flatten().cloned());
            if whole.len() <= 1 {
                return whole.into_iter().map(|batch| vec![batch]).collect();
            }
        }
        turns.into_values().map(|groups| pack(&mut groups.into_iter())).collect()
    }
}

/// What a step does, and when: steps of a later turn may need those of the ones before.
fn group(step: &Step, present: &View, related: &BTreeMap<&CertName, &Related>) -> (u8, Batch) {
    match step {
        Step::CreateIssuer(spec) | Step::UpdateIssuer(spec) => {
            let known = present.issuers.get(&spec.name).map(|known| known.revision);
            let key = key::issuer(&spec.name);
            (0, on(&key, known).put(&*key, record::encode(spec)))
        }
        Step::CreateFreeze(freeze) | Step::UpdateFreeze(freeze) => {
            let known = present.freezes.get(&freeze.name).map(|known| known.revision);
            let key = key::freeze(&freeze.name);
            (0, on(&key, known).put(&*key, record::encode(freeze)))
        }
        Step::DeleteFreeze(name) => {
            let known = present.freezes.get(name).map(|known| known.revision);
            let key = key::freeze(name);
            (2, on(&key, known).delete(&*key))
        }
        Step::CreateCertificate(spec) | Step::UpdateCertificate(spec) => {
            let known = present.certificates.get(&spec.name);
            let key = key::certificate(&spec.name);
            let batch = on(&key, known.map(|known| known.revision));
            let batch = batch.put(&*key, record::encode(spec));
            let is_another = known.is_some_and(|known| asks_otherwise(&known.record, spec));
            (1, if is_another { forget_failures(batch, present, &spec.name) } else { batch })
        }
        Step::DeleteCertificate(name) => {
            let known = present.certificates.get(name).map(|known| known.revision);
            let key = key::certificate(name);
            let batch = on(&key, known).delete(&*key);
            (2, related.get(name).map_or(batch.clone(), |related| related.delete(batch)))
        }
        Step::DeleteIssuer(name) => {
            let known = present.issuers.get(name).map(|known| known.revision);
            let key = key::issuer(name);
            (3, on(&key, known).delete(&*key))
        }
    }
}

/// Whether what `after` asks issuers for is not what `before` did.
fn asks_otherwise(before: &CertificateSpec, after: &CertificateSpec) -> bool {
    before.issuers != after.issuers
        || before.identifiers != after.identifiers
        || before.key_type != after.key_type
        || before.profile != after.profile
}

/// Failures of what was declared before say nothing of what is declared now: no wait, and the first
/// issuer has its turn.
fn forget_failures(batch: Batch, present: &View, name: &CertName) -> Batch {
    let Some(state) = present.states.get(name).filter(|state| state.record.failures > 0) else {
        return batch;
    };
    let at = key::state(name);
    let fresh = CertificateState {
        failures: 0,
        last_failure: None,
        last_problem: None,
        ..(*state.record).clone()
    };
    batch.unchanged(&*at, Some(state.revision)).put(&*at, record::encode(&fresh))
}

fn on(key: &str, known: Option<Revision>) -> Batch {
    Batch::unfenced().unchanged(key, known)
}

/// Lists what a desired state is compared with: issuers, certificates and orders.
pub async fn present(store: &dyn Store) -> Result<View, Error> {
    let folders = [key::CERTIFICATES, key::FREEZES, key::ISSUERS, key::ORDERS, key::STATES];
    View::read(store, &folders).await
}

/// What belongs to a certificate that is to be deleted.
#[derive(Clone, Debug)]
pub struct Related {
    certificate: CertName,
    state: Option<(CertificateState, Revision)>,
    order: Option<Revision>,
    /// Keys of what goes with it. Challenges are swept away afterwards: another order may have the same.
    keys: Vec<String>,
}

/// Looks up what belongs to the certificates that `plan` deletes.
pub async fn related(
    store: &dyn Store,
    present: &View,
    plan: &Plan,
) -> Result<Vec<Related>, Error> {
    let mut bundles = bundles_of(store, plan).await?;
    let mut all = Vec::new();
    for name in plan.deleted() {
        let mut keys = bundles.remove(name).unwrap_or_default();
        let order = present.orders.get(name);
        // Deleting what is not there costs nothing.
        keys.extend([key::renewal_info(name), key::next_key(name), key::standby(name)]);
        all.push(Related {
            certificate: name.clone(),
            state: present.states.get(name).map(|state| ((*state.record).clone(), state.revision)),
            order: order.map(|order| order.revision),
            keys,
        });
    }
    Ok(all)
}

/// Keys of the bundles of the certificates that `plan` deletes.
async fn bundles_of<'a>(
    store: &dyn Store,
    plan: &'a Plan,
) -> Result<BTreeMap<&'a CertName, Vec<String>>, Error> {
    let deleted: BTreeMap<&str, &CertName> =
        plan.deleted().map(|name| (name.as_str(), name)).collect();
    let mut bundles: BTreeMap<&CertName, Vec<String>> = BTreeMap::new();
    if deleted.len() > MOST_LOOKED_UP {
        let mut each = |entry: Entry| {
            let rest = entry.key.strip_prefix(key::BUNDLES).unwrap_or_default();
            if let Some(name) = deleted.get(rest.split('/').next().unwrap_or_default()) {
                bundles.entry(name).or_default().push(entry.key);
            }
        };
        store.scan(key::BUNDLES, &mut each).await?;
        return Ok(bundles);
    }
    for name in deleted.into_values() {
        let listed = store.list(&format!("{}{name}/", key::BUNDLES)).await?;
        bundles.insert(name, listed.entries.into_iter().map(|entry| entry.key).collect());
    }
    Ok(bundles)
}

impl Related {
    fn delete(&self, mut batch: Batch) -> Batch {
        let order = key::order(&self.certificate);
        batch = batch.unchanged(&*order, self.order);
        if self.order.is_some() {
            batch = batch.delete(order);
        }
        let state = key::state(&self.certificate);
        match &self.state {
            Some((known, revision)) => {
                let tombstone = CertificateState {
                    generation: known.generation,
                    ..CertificateState::default()
                };
                batch = batch.unchanged(&*state, Some(*revision));
                batch = batch.put(state, record::encode(&tombstone));
            }
            None => batch = batch.absent(state),
        }
        self.keys.iter().fold(batch, |batch, key| batch.delete(&**key))
    }
}

/// Deleted certificates whose bundles are looked up one by one; for more, all bundles are read once.
const MOST_LOOKED_UP: usize = 200;
const ISSUER: &str = "issuer";
const CERTIFICATE: &str = "certificate";
const FREEZE: &str = "freeze";

#[cfg(test)]
mod tests;
