//! The standby in the journal: what its orders bring, and how it is made the newest bundle.

use chancery_shared::{
    name::CertName,
    number::{Generation, Revision},
};

use super::{Collected, Entry, Error, Journal, KEPT_BUNDLES, with, with_chain};
use crate::{
    election::Leadership,
    order::{budgets::Change, wanted::Known},
    record::{self, Bundle, CertificateState, Issued, Standby, key},
    seal::Context,
    store,
};

impl Journal {
    /// The standby of a certificate.
    pub(in crate::order) async fn standby(
        &self,
        name: &CertName,
    ) -> Result<Option<(Standby, Revision)>, Error> {
        self.read(&key::standby(name)).await
    }

    pub(super) async fn standby_or_none(
        &self,
        name: &CertName,
    ) -> Result<(Standby, Option<Revision>), Error> {
        let (standby, revision) = self.standby(name).await?.unzip();
        Ok((standby.unwrap_or_else(|| Standby::none(name.clone())), revision))
    }

    /// Stores the standby and ends its order: one step.
    pub(super) async fn standby_issued(
        &self,
        leadership: &Leadership,
        entry: &Entry,
        collected: Collected,
        budget: Option<&Change>,
    ) -> Result<(Issued, Revision), Error> {
        let order = &entry.order;
        let name = &order.certificate;
        let spec = self.spec(name).await?.filter(|(spec, _)| spec.standby.is_some());
        let Some((_, spec_revision)) = spec else {
            // The next look gives the order up.
            return Err(store::Error::Conflict { key: key::certificate(name) }.into());
        };
        let (_, revision) = self.standby_or_none(name).await?;
        let issued = self.facts(order, &collected);
        let bundle = self.bundle(order, &collected)?;
        let state = CertificateState {
            generation: order.generation,
            issued: Some(issued.clone()),
            ..CertificateState::default()
        };
        let at = key::standby(name);
        let batch = self.ending(leadership, entry).await?;
        let batch =
            batch.unchanged(key::certificate(name), Some(spec_revision)).unchanged(&at, revision);
        let batch = with_chain(batch, &bundle, collected.chain);
        let standby = Standby { certificate: name.clone(), state, bundle: Some(bundle) };
        let batch = batch.put(&at, record::encode(&standby));
        let revision = self.commit(with(batch, budget)).await?;
        Ok((issued, revision))
    }

    /// Makes the standby the newest bundle, under a number of its own, and ends the order that is under
    /// way: one step, and no CA is needed for it. Refused by the store if anything that was decided
    /// upon has changed.
    pub(in crate::order) async fn switch(
        &self,
        leadership: &Leadership,
        known: &Known,
        live: Option<&Entry>,
    ) -> Result<(Generation, Revision), Error> {
        let name = &known.spec.name;
        let kept = known.standby.as_ref();
        let kept = kept.and_then(|kept| Some((kept, kept.bundle.as_ref()?, &kept.state.issued)));
        let Some((standby, bundle, issued)) = kept else {
            return Err(Error::BadIssuance("the standby has no bundle".to_owned()));
        };
        let generation = self.mirror.read().next_generation(name, known.newest_number());
        let key = self.sealer.open(&Context::bundle(name, bundle.generation), &bundle.key)?;
        let bundle = Bundle {
            generation,
            key: self.sealer.seal(&Context::bundle(name, generation), key.expose_secret()),
            ..bundle.clone()
        };
        let issued = issued.clone().map(|issued| Issued { stored_at: self.clock.now(), ..issued });
        let state = CertificateState { generation, issued, ..CertificateState::default() };
        // The number stays, so that none is given twice.
        let number = standby.state.generation;
        let emptied = CertificateState { generation: number, ..CertificateState::default() };
        let emptied = Standby { state: emptied, ..Standby::none(name.clone()) };
        let batch = match live {
            Some(entry) => self.ending(leadership, entry).await?,
            None => leadership.batch().absent(key::order(name)),
        };
        let mut batch = batch
            .unchanged(key::certificate(name), Some(known.spec_revision))
            .unchanged(key::state(name), known.state_revision)
            .unchanged(key::standby(name), known.standby_revision)
            .absent(key::bundle(name, generation))
            .put(key::bundle(name, generation), record::encode(&bundle))
            .put(key::state(name), record::encode(&state))
            .put(key::standby(name), record::encode(&emptied));
        for outdated in self.outdated(name, generation).await? {
            batch = batch.delete(outdated);
        }
        Ok((generation, self.commit(batch).await?))
    }

    /// Keys of the bundles that are not kept any longer once there is `generation`.
    pub(super) async fn outdated(
        &self,
        name: &CertName,
        generation: Generation,
    ) -> Result<Vec<String>, Error> {
        let has_standby = self.mirror.read().standbys.contains_key(name);
        if !has_standby {
            // One number after the other.
            let outdated = generation.0.checked_sub(KEPT_BUNDLES).filter(|number| *number > 0);
            return Ok(outdated.map(|it| key::bundle(name, Generation(it))).into_iter().collect());
        }
        let kept = self.store.list(&format!("{}{name}/", key::BUNDLES)).await?;
        let mut keys: Vec<String> = kept.entries.into_iter().map(|entry| entry.key).collect();
        let most = usize::try_from(KEPT_BUNDLES).unwrap_or(usize::MAX) - 1;
        keys.truncate(keys.len().saturating_sub(most));
        Ok(keys)
    }
}
