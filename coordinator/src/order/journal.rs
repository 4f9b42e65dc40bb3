//! The order journal: every write about an order, each one transaction under the fence.
//!
//! A certificate has one place for its live order. It is taken on the condition that it is
//! free, changed on the condition that nobody else has, and given up together with
//! the result, so that what the store shows is always one whole step.

use std::{sync::Arc, time::Duration};

use chancery_shared::{
    clock::SharedClock,
    name::{CertName, IssuerName},
    number::{Generation, Revision},
    secret::Secret,
    x509::Fingerprint,
};
use jiff::Timestamp;
use uuid::Uuid;

use super::Error;
use crate::{
    election::Leadership,
    mirror::Mirror,
    plan,
    record::{
        self, Bundle, CertificateSpec, CertificateState, Chain, Challenge, Failure, Issued, Order,
        Record, Stage, key,
    },
    seal::{Context, Sealer},
    store::{self, Batch, Store},
};

/// Reads and writes the journal.
pub struct Journal {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    sealer: Sealer,
    clock: SharedClock,
}

/// A journal entry and when it was written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The order.
    pub order: Order,
    /// For the condition of the next write.
    pub revision: Revision,
}

/// What is needed to begin an order.
#[derive(Debug)]
pub struct Intent<'a> {
    /// The certificate.
    pub spec: &'a CertificateSpec,
    /// Its issuer.
    pub issuer: &'a IssuerName,
    /// URL of the account.
    pub account: &'a str,
    /// Why.
    pub reason: &'a str,
    /// How long the order may take.
    pub deadline: Duration,
}

/// What the CA issued, checked.
#[derive(Debug)]
pub struct Collected {
    /// The end-entity certificate, DER.
    pub leaf: Vec<u8>,
    /// The issuing certificates, DER.
    pub chain: Vec<Vec<u8>>,
    /// What the end-entity certificate says.
    pub facts: chancery_shared::x509::Facts,
}

impl Journal {
    /// The journal in `store`.
    pub fn new(
        store: Arc<dyn Store>,
        mirror: Arc<Mirror>,
        sealer: Sealer,
        clock: SharedClock,
    ) -> Self {
        Self { store, mirror, sealer, clock }
    }

    /// The live order of a certificate.
    pub async fn live(&self, certificate: &CertName) -> Result<Option<Entry>, Error> {
        let entry = self.read::<Order>(&key::order(certificate)).await?;
        Ok(entry.map(|(order, revision)| Entry { order, revision }))
    }

    /// Writes the intent to order, with a fresh private key, before the CA hears of it.
    pub async fn begin(
        &self,
        leadership: &Leadership,
        intent: &Intent<'_>,
    ) -> Result<Entry, Error> {
        let name = &intent.spec.name;
        let state = self.state(name).await?;
        let generation = self.mirror.read().next_generation(name, state.0.generation);
        let key_type = intent.spec.key_type;
        let pkcs8 = tokio::task::spawn_blocking(move || key_type.generate())
            .await
            .map_err(|error| Error::Crypto(error.to_string()))?
            .map_err(|error| Error::Crypto(error.to_string()))?;
        let pkcs8 = Secret::new(pkcs8.serialize_der());
        let now = self.clock.now();
        let order = Order {
            id: Uuid::now_v7(),
            certificate: name.clone(),
            generation,
            issuer: intent.issuer.clone(),
            account: intent.account.to_owned(),
            identifiers: intent.spec.identifiers.clone(),
            key_type,
            key: self.sealer.seal(&Context::order(name, generation), pkcs8.expose_secret()),
            reason: intent.reason.to_owned(),
            started_at: now,
            deadline: now + intent.deadline,
            epoch: leadership.epoch(),
            resumed: 0,
            stage: Stage::Intended,
        };
        let at = key::order(name);
        let batch = leadership
            .batch()
            .absent(&at)
            // The generation must still be the next one.
            .unchanged(key::state(name), state.1)
            .put(&at, record::encode(&order));
        let revision = self.commit(batch).await?;
        Ok(Entry { order, revision })
    }

    /// Notes that this term goes on with an order that another one, or a former life of this
    /// process, had begun.
    pub async fn take_up(&self, leadership: &Leadership, entry: Entry) -> Result<Entry, Error> {
        let order =
            Order { epoch: leadership.epoch(), resumed: entry.order.resumed + 1, ..entry.order };
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

    /// Puts the answers of challenges into the store, in the same step as the stage that
    /// says which. Returns when this coordinator's own listener serves them.
    pub async fn present(
        &self,
        leadership: &Leadership,
        entry: Entry,
        answers: Vec<(String, Challenge)>,
    ) -> Result<Entry, Error> {
        let Some(url) = entry.order.stage.url().map(str::to_owned) else {
            return Err(Error::Crypto("an order without a URL cannot present".to_owned()));
        };
        let tokens = answers.iter().map(|(token, _)| token.clone()).collect();
        let mut batch = leadership.batch();
        for (token, challenge) in &answers {
            batch = batch.put(key::challenge(token), record::encode(challenge));
        }
        let order = Order { stage: Stage::Presented { url, tokens }, ..entry.order };
        let entry = self.rewrite(batch, order, entry.revision).await?;
        self.mirror.wait_for(entry.revision).await;
        Ok(entry)
    }

    /// The private key of an order.
    pub fn private_key(&self, order: &Order) -> Result<Secret, Error> {
        Ok(self.sealer.open(&Context::order(&order.certificate, order.generation), &order.key)?)
    }

    /// Stores the bundle, makes it the current one, and ends the order: one step.
    pub async fn issued(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        collected: Collected,
    ) -> Result<Issued, Error> {
        let order = &entry.order;
        let name = &order.certificate;
        let (state, state_revision) = self.state(name).await?;
        let issued = self.facts(order, &collected);
        let bundle = self.bundle(order, &collected)?;
        let renewal_requested_at =
            state.renewal_requested_at.filter(|requested_at| *requested_at > order.started_at);
        let new_state = CertificateState {
            generation: order.generation,
            issued: Some(issued.clone()),
            renewal_requested_at,
            failures: 0,
            last_failure: None,
        };
        let mut batch = ending(leadership.batch(), entry)
            .unchanged(key::state(name), state_revision)
            .absent(key::bundle(name, order.generation))
            .put(key::bundle(name, order.generation), record::encode(&bundle))
            .put(key::state(name), record::encode(&new_state));
        for (fingerprint, der) in bundle.chain.iter().zip(collected.chain) {
            batch = batch.put(key::chain(fingerprint), record::encode(&Chain { der }));
        }
        if order.generation.0 > KEPT_BUNDLES {
            let outdated = Generation(order.generation.0 - KEPT_BUNDLES);
            batch = batch.delete(key::bundle(name, outdated));
        }
        let revision = self.commit(batch).await?;
        self.mirror.wait_for(revision).await;
        Ok(issued)
    }

    /// Ends the order without a certificate.
    pub async fn failed(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        error: &Error,
        wait: Duration,
    ) -> Result<(), Error> {
        self.record_failure(
            ending(leadership.batch(), entry),
            &entry.order.certificate,
            error,
            wait,
        )
        .await
    }

    /// Notes that an order could not even be begun.
    pub async fn could_not_begin(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        error: &Error,
        wait: Duration,
    ) -> Result<(), Error> {
        self.record_failure(leadership.batch(), certificate, error, wait).await
    }

    async fn record_failure(
        &self,
        batch: Batch,
        certificate: &CertName,
        error: &Error,
        first_wait: Duration,
    ) -> Result<(), Error> {
        let (state, revision) = self.state(certificate).await?;
        let at = self.clock.now();
        let failures = state.failures + 1;
        let least = match error.class() {
            super::Class::Fail(least) | super::Class::Repeat(least) => least,
            super::Class::Stop => Duration::ZERO,
        };
        let most = if error.may_pass() { AN_HOUR } else { Duration::MAX };
        let wait = plan::wait_after(failures, first_wait).min(most).max(least);
        let failure = Failure {
            at,
            message: error.to_string(),
            code: error.code().to_owned(),
            retry_at: at.checked_add(wait).unwrap_or(Timestamp::MAX),
        };
        let state = CertificateState { failures, last_failure: Some(failure), ..state };
        let at = key::state(certificate);
        let batch = batch.unchanged(&at, revision).put(&at, record::encode(&state));
        let revision = self.commit(batch).await?;
        self.mirror.wait_for(revision).await;
        Ok(())
    }

    async fn rewrite(
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
            stored_at: self.clock.now(),
        }
    }

    /// The key is sealed again, now bound to the bundle.
    fn bundle(&self, order: &Order, collected: &Collected) -> Result<Bundle, Error> {
        let pkcs8 = self.private_key(order)?;
        let name = &order.certificate;
        let context = Context::bundle(name, order.generation);
        Ok(Bundle {
            certificate: name.clone(),
            generation: order.generation,
            leaf: collected.leaf.clone(),
            chain: collected.chain.iter().map(|der| Fingerprint::of(der)).collect(),
            key: self.sealer.seal(&context, pkcs8.expose_secret()),
            identifiers: order.identifiers.clone(),
        })
    }

    async fn state(&self, name: &CertName) -> Result<(CertificateState, Option<Revision>), Error> {
        let state = self.read::<CertificateState>(&key::state(name)).await?;
        Ok(state.map_or_else(Default::default, |(state, revision)| (state, Some(revision))))
    }

    async fn read<T: Record>(&self, at: &str) -> Result<Option<(T, Revision)>, Error> {
        let Some(entry) = self.store.get(at).await? else { return Ok(None) };
        let record = record::decode(&entry.key, &entry.value)
            .map_err(|error| store::Error::Damaged(error.to_string()))?;
        Ok(Some((record, entry.revision)))
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        Ok(self.store.commit(batch).await?)
    }
}

/// A batch that removes an order and exactly the challenges that it presented.
fn ending(batch: Batch, entry: &Entry) -> Batch {
    let at = key::order(&entry.order.certificate);
    let batch = batch.unchanged(&at, Some(entry.revision)).delete(&at);
    let tokens = entry.order.stage.tokens().iter();
    tokens.fold(batch, |batch, token| batch.delete(key::challenge(token)))
}

/// Bundles of a certificate that stay in the store: the current one and those before it
/// that an operator may want back.
const KEPT_BUNDLES: u64 = 3;

/// A CA that could not be reached is tried this often at least, unless it says otherwise.
const AN_HOUR: Duration = Duration::from_hours(1);

/// A chain as the CA sends it (RFC 8555 section 7.4.2), split and checked against the order.
pub fn check_chain(order: &Order, pkcs8: &Secret, pem: &str) -> Result<Collected, Error> {
    use rustls_pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _,
    };
    let bad = |reason: String| Error::BadIssuance(reason);
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(format!("the chain is not PEM: {error}")))?
        .into_iter();
    let leaf = certificates.next().ok_or_else(|| bad("the chain is empty".to_owned()))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose_secret()));
    chancery_shared::x509::check_key_matches(&leaf, &key)
        .map_err(|error| bad(error.to_string()))?;
    let facts = chancery_shared::x509::Facts::of(&leaf).map_err(|error| bad(error.to_string()))?;
    for identifier in &order.identifiers {
        if !facts.dns_names.iter().any(|name| name == identifier.as_str()) {
            return Err(bad(format!("{identifier} is missing in the certificate")));
        }
    }
    Ok(Collected {
        leaf: leaf.to_vec(),
        chain: certificates.map(|der| der.to_vec()).collect(),
        facts,
    })
}
