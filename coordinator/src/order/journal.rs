//! The order journal: every write about an order, each one transaction under the fence.
//!
//! A certificate has one place for its live order. It is taken on the condition that it is
//! free, changed on the condition that nobody else has, and given up together with
//! the result, so that what the store shows is always one whole step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chancery_shared::{
    clock::SharedClock,
    name::{CertName, IssuerName},
    number::Revision,
    secret::Secret,
    x509::{self, Fingerprint},
};
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Error, Wanted,
    budgets::Change,
    keys::{Generate, Keys},
};
use crate::{
    election::Leadership,
    mirror::Mirror,
    record::{
        self, Bundle, CertificateSpec, CertificateState, Chain, Challenge, Issued, IssuerSpec,
        Order, Record, Stage, key,
    },
    seal::{Context, Sealer},
    store::{self, Batch, Store},
};

mod ending;
mod failure;
mod standby;
mod sweep;

/// Reads and writes the journal.
#[derive(Clone)]
pub struct Journal {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    sealer: Sealer,
    clock: SharedClock,
    keys: Keys,
}

/// A journal entry and when it was written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The order.
    pub order: Order,
    /// For the condition of the next write.
    pub revision: Revision,
}

/// What the CA issued, checked.
#[derive(Debug)]
pub struct Collected {
    /// The end-entity certificate, DER.
    pub leaf: Vec<u8>,
    /// The issuing certificates, DER.
    pub chain: Vec<Vec<u8>>,
    /// What the end-entity certificate says.
    pub facts: x509::Facts,
}

impl Journal {
    /// The journal in `store`.
    pub fn new(
        store: Arc<dyn Store>,
        mirror: Arc<Mirror>,
        sealer: Sealer,
        clock: SharedClock,
        generate: Generate,
    ) -> Self {
        Self { store, mirror, sealer, clock, keys: Keys::new(generate) }
    }

    /// The live order of a certificate.
    pub async fn live(&self, certificate: &CertName) -> Result<Option<Entry>, Error> {
        let entry = self.read::<Order>(&key::order(certificate)).await?;
        Ok(entry.map(|(order, revision)| Entry { order, revision }))
    }

    /// The certificate as it was declared, if it is.
    pub(super) async fn spec(
        &self,
        name: &CertName,
    ) -> Result<Option<(CertificateSpec, Revision)>, Error> {
        self.read(&key::certificate(name)).await
    }

    /// The issuer as it was declared, if it is.
    pub(super) async fn issuer(&self, name: &IssuerName) -> Result<Option<IssuerSpec>, Error> {
        Ok(self.read(&key::issuer(name)).await?.map(|(issuer, _)| issuer))
    }

    /// An order that is to be made, with its private key.
    pub(super) async fn intend(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        account: &str,
        deadline: Duration,
    ) -> Result<Order, Error> {
        let spec = &wanted.spec;
        let name = &spec.name;
        let generation = self.mirror.read().next_generation(name, wanted.present);
        let pkcs8 = self.key_for(wanted).await?;
        let now = self.clock.now();
        Ok(Order {
            id: Uuid::now_v7(),
            certificate: name.clone(),
            generation,
            issuer: wanted.issuer.name.clone(),
            account: account.to_owned(),
            identifiers: spec.identifiers.clone(),
            key_type: spec.key_type,
            profile: wanted.profile().map(str::to_owned),
            key: self.sealer.seal(&Context::order(name, generation), pkcs8.expose_secret()),
            challenges: wanted.spec.challenges.clone(),
            reason: wanted.reason.clone(),
            started_at: now,
            deadline: now + deadline,
            epoch: leadership.epoch(),
            resumed: 0,
            replaces: wanted.replaces.clone(),
            standby: wanted.is_standby,
            stage: Stage::Intended,
        })
    }

    /// Writes the intent to order before the CA hears of it, and what that costs. Refused by the
    /// store if what was decided upon has changed.
    pub(super) async fn begin(
        &self,
        leadership: &Leadership,
        wanted: &Wanted,
        order: Order,
        cost: Option<&Change>,
    ) -> Result<Entry, Error> {
        let name = &wanted.spec.name;
        let at = key::order(name);
        let state = if order.standby { key::standby(name) } else { key::state(name) };
        let batch = leadership
            .batch()
            .absent(&at)
            .unchanged(key::certificate(name), Some(wanted.spec_revision))
            .unchanged(state, wanted.state_revision)
            .put(&at, record::encode(&order));
        let batch = with(batch, cost);
        let revision = self.commit(batch).await?;
        Ok(Entry { order, revision })
    }

    /// Notes that this term goes on with an order that another one, or a former life of this
    /// process, had begun, and gives it `deadline` from now on.
    pub async fn take_up(
        &self,
        leadership: &Leadership,
        entry: Entry,
        deadline: Duration,
    ) -> Result<Entry, Error> {
        let order = Order {
            epoch: leadership.epoch(),
            resumed: entry.order.resumed + 1,
            deadline: self.clock.now() + deadline,
            ..entry.order
        };
        self.rewrite(leadership.batch(), order, entry.revision).await
    }

    /// Writes the next stage.
    pub async fn advance(
        &self,
        leadership: &Leadership,
        entry: Entry,
        stage: Stage,
    ) -> Result<Entry, Error> {
        self.rewrite(leadership.batch(), Order { stage, ..entry.order }, entry.revision).await
    }

    /// Puts the answers of challenges into the store, by token, in the same step as the stage that
    /// says which. The same challenge, which another order has presented, is replaced, and what that had in the
    /// DNS elsewhere is kept in mind. What does not fit into one step is presented in several; whoever goes on after the
    /// first of them finds that tokens are missing, and presents again.
    pub async fn present(
        &self,
        leadership: &Leadership,
        entry: Entry,
        answers: BTreeMap<String, Challenge>,
    ) -> Result<Entry, Error> {
        let Some(url) = entry.order.stage.url().map(str::to_owned) else {
            return Err(Error::Crypto("an order without a URL cannot present".to_owned()));
        };
        let answers: Vec<_> = answers.into_iter().collect();
        let mut entry = entry;
        let mut tokens: BTreeSet<String> = entry.order.stage.tokens().iter().cloned().collect();
        let mut chunks = answers.chunks(MOST_TOKENS);
        // Once at least: an order of which everything is validated already is presented as well.
        let mut next = Some(chunks.next().unwrap_or_default());
        while let Some(chunk) = next {
            let mut batch = leadership.batch();
            for (token, challenge) in chunk {
                batch = self.presenting(batch, token, challenge);
            }
            tokens.extend(chunk.iter().map(|(token, _)| token.clone()));
            let stage =
                Stage::Presented { url: url.clone(), tokens: tokens.iter().cloned().collect() };
            let order = Order { stage, ..entry.order };
            entry = self.rewrite(batch, order, entry.revision).await?;
            next = chunks.next();
        }
        Ok(entry)
    }

    /// `batch` with a challenge in the place of what stands there as the mirror shows it. The store refuses
    /// the batch if that is behind.
    fn presenting(&self, batch: Batch, token: &str, challenge: &Challenge) -> Batch {
        let at = key::challenge(token);
        let view = self.mirror.read();
        match view.challenges.get(token) {
            Some(before) => {
                let challenge = challenge.clone().after(&before.record);
                batch.unchanged(&at, Some(before.revision)).put(&at, record::encode(&challenge))
            }
            // What cannot be read keeps nothing.
            None if view.damaged.contains_key(&at) => batch.put(&at, record::encode(challenge)),
            None => batch.absent(&at).put(&at, record::encode(challenge)),
        }
    }

    /// The private key of an order.
    pub fn private_key(&self, order: &Order) -> Result<Secret, Error> {
        Ok(self.sealer.open(&Context::order(&order.certificate, order.generation), &order.key)?)
    }

    /// Stores the bundle, makes it the current one, and ends the order: one step.
    pub(super) async fn issued(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        collected: Collected,
        budget: Option<&Change>,
    ) -> Result<(Issued, Revision), Error> {
        let order = &entry.order;
        if order.standby {
            return self.standby_issued(leadership, entry, collected, budget).await;
        }
        let name = &order.certificate;
        let (state, state_revision) = self.state(name).await?;
        let issued = self.facts(order, &collected);
        let bundle = self.bundle(order, &collected)?;
        // A request for a renewal is gone with this: none is written while an order is live, so
        // that whatever stood here was there before the order began.
        let new_state = CertificateState {
            generation: order.generation.max(state.generation),
            issued: Some(issued.clone()),
            // That may be asked for at any time.
            switch_requested_at: state.switch_requested_at,
            ..CertificateState::default()
        };
        let mut batch = self
            .ending(leadership, entry)
            .await?
            .unchanged(key::state(name), state_revision)
            .absent(key::bundle(name, order.generation))
            .put(key::bundle(name, order.generation), record::encode(&bundle))
            .put(key::state(name), record::encode(&new_state));
        batch = with_chain(batch, &bundle, collected.chain);
        for outdated in self.outdated(name, order.generation).await? {
            batch = batch.delete(outdated);
        }
        let batch = self.with_next_key(batch, name).await?;
        let revision = self.commit(with(batch, budget)).await?;
        Ok((issued, revision))
    }

    pub(super) async fn rewrite(
        &self,
        batch: Batch,
        order: Order,
        revision: Revision,
    ) -> Result<Entry, Error> {
        let at = key::order(&order.certificate);
        let batch = batch.unchanged(&at, Some(revision)).put(&at, record::encode(&order));
        let revision = self.commit(batch).await?;
        Ok(Entry { order, revision })
    }

    fn facts(&self, order: &Order, collected: &Collected) -> Issued {
        Issued {
            serial: collected.facts.serial.clone(),
            fingerprint: Fingerprint::of(&collected.leaf),
            not_before: collected.facts.not_before,
            not_after: collected.facts.not_after,
            issuer: order.issuer.clone(),
            issued_by: collected.facts.issuer.clone(),
            identifiers: order.identifiers.clone(),
            key_type: order.key_type,
            profile: order.profile.clone(),
            stored_at: self.clock.now(),
        }
    }

    /// The key is sealed again, now bound to the bundle.
    fn bundle(&self, order: &Order, collected: &Collected) -> Result<Bundle, Error> {
        let pkcs8 = self.private_key(order)?;
        let name = &order.certificate;
        let context = Context::bundle(name, order.generation);
        Ok(Bundle {
            issuer: Some(order.issuer.clone()),
            certificate: name.clone(),
            generation: order.generation,
            leaf: collected.leaf.clone(),
            chain: collected.chain.iter().map(|der| Fingerprint::of(der)).collect(),
            key: self.sealer.seal(&context, pkcs8.expose_secret()),
            identifiers: order.identifiers.clone(),
        })
    }

    /// What is so for a certificate.
    pub(super) async fn state(
        &self,
        name: &CertName,
    ) -> Result<(CertificateState, Option<Revision>), Error> {
        let state = self.read::<CertificateState>(&key::state(name)).await?;
        Ok(state.map_or_else(Default::default, |(state, revision)| (state, Some(revision))))
    }

    pub(super) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    pub(super) async fn read<T: Record>(&self, at: &str) -> Result<Option<(T, Revision)>, Error> {
        let Some(entry) = self.store.get(at).await? else { return Ok(None) };
        let record = record::decode(&entry.key, &entry.value)
            .map_err(|error| store::Error::Damaged(error.to_string()))?;
        Ok(Some((record, entry.revision)))
    }

    pub(super) async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        Ok(self.store.commit(batch).await?)
    }
}

/// The batch with the issuing certificates of `bundle`. The same one twice in a chain is one record.
fn with_chain(mut batch: Batch, bundle: &Bundle, chain: Vec<Vec<u8>>) -> Batch {
    let chain: BTreeMap<_, _> = bundle.chain.iter().zip(chain).collect();
    for (fingerprint, der) in chain {
        batch = batch.put(key::chain(fingerprint), record::encode(&Chain { der }));
    }
    batch
}

fn with(batch: Batch, change: Option<&Change>) -> Batch {
    match change {
        Some(change) => change.add_to(batch),
        None => batch,
    }
}

/// Bundles of a certificate that stay in the store: the current one and those before it
/// that an operator may want back.
const KEPT_BUNDLES: u64 = 3;
/// Challenges in one step, beside the rest of what the step has to do.
const MOST_TOKENS: usize = 30;
/// Far more than any chain has.
const MOST_CERTIFICATES: usize = 16;

/// A chain as the CA sends it (RFC 8555 section 7.4.2), split and checked against the order.
pub fn check_chain(
    order: &Order,
    pkcs8: &Secret,
    pem: &str,
    now: Timestamp,
) -> Result<Collected, Error> {
    use rustls_pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _,
    };
    let bad = |reason: String| Error::BadIssuance(reason);
    // Spoilt on its way: it is there to be fetched again.
    let spoilt = |reason: String| Error::CaUnreachable(reason);
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MOST_CERTIFICATES + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| spoilt(format!("the chain is not PEM: {error}")))?;
    if certificates.len() > MOST_CERTIFICATES {
        return Err(bad(format!("the chain has more than {MOST_CERTIFICATES} certificates")));
    }
    if certificates.is_empty() {
        return Err(spoilt("the chain is empty".to_owned()));
    }
    let leaf = certificates.remove(0);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose_secret()));
    x509::check_key_matches(&leaf, &key).map_err(|error| bad(error.to_string()))?;
    let facts = x509::Facts::of(&leaf).map_err(|error| bad(error.to_string()))?;
    for identifier in &order.identifiers {
        if !facts.names().any(|name| name == identifier.as_str()) {
            return Err(bad(format!("{identifier} is missing in the certificate")));
        }
    }
    // Renewing what is expired at birth would be an endless series of orders.
    if facts.not_after <= now || facts.not_after <= facts.not_before {
        return Err(bad(format!(
            "the certificate is valid from {} to {}, and this machine's clock says {now}: compare it",
            facts.not_before, facts.not_after
        )));
    }
    for (place, der) in (1..).zip(&certificates) {
        x509::Facts::of(der)
            .map_err(|error| bad(format!("issuing certificate {place} in the chain: {error}")))?;
    }
    Ok(Collected {
        leaf: leaf.to_vec(),
        chain: certificates.into_iter().map(|der| der.to_vec()).collect(),
        facts,
    })
}
