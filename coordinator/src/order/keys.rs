//! The private keys of certificates: made aside, or kept from the generation before.

use std::{sync::Arc, thread};

use chancery_shared::{
    key_type::KeyType, name::CertName, revocation::RevocationReason, secret::Secret,
    x509::Fingerprint,
};
use tokio::sync::Semaphore;

use super::{Error, Wanted, journal::Journal};
use crate::{
    record::{self, Bundle, NextKey, key},
    seal::Context,
    store::Batch,
};

/// How the private keys of orders are made.
#[derive(Clone, Copy, Debug, Default)]
pub enum Generate {
    /// On a thread of its own: an RSA key takes a second.
    #[default]
    Aside,
    /// Where it is asked for, so that the order of events depends on nothing but a seed.
    InPlace,
}

/// Makes private keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    generate: Generate,
    /// RSA keys that may be made at once: they must not take the processor from leases and streams.
    rsa: Arc<Semaphore>,
}

impl Keys {
    /// Makes keys as `generate` says; RSA keys on half of the processors at most.
    pub(super) fn new(generate: Generate) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { generate, rsa: Arc::new(Semaphore::new((processors / 2).max(1))) }
    }

    /// A fresh key, PKCS#8 DER. Dropping the future leaves one that is being made to its end, in its
    /// place.
    async fn fresh(&self, key_type: KeyType) -> Result<Secret, Error> {
        let generated = match self.generate {
            Generate::Aside => {
                let permit = if is_slow(key_type) {
                    Some(self.rsa.clone().acquire_owned().await.expect("it is never closed"))
                } else {
                    None
                };
                let made = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    key_type.generate()
                });
                made.await.map_err(|error| Error::Crypto(error.to_string()))?
            }
            Generate::InPlace => key_type.generate(),
        };
        let pair = generated.map_err(|error| Error::Crypto(error.to_string()))?;
        Ok(Secret::new(pair.serialize_der()))
    }
}

impl Journal {
    /// The private key for the order that is `wanted`, PKCS#8 DER: a fresh one, unless the
    /// certificate keeps its key.
    pub(super) async fn key_for(&self, wanted: &Wanted) -> Result<Secret, Error> {
        if let Some(kept) = self.kept_key(wanted).await {
            return Ok(kept);
        }
        if let Some(prepared) = self.prepared_key(wanted).await? {
            return Ok(prepared);
        }
        self.keys().fresh(wanted.spec.key_type).await
    }

    /// The key that was made ahead for this order. If it cannot be opened the order has to wait: another
    /// key would be one that nobody has published.
    async fn prepared_key(&self, wanted: &Wanted) -> Result<Option<Secret>, Error> {
        let spec = &wanted.spec;
        if !spec.key_ahead {
            return Ok(None);
        }
        let next = self.read::<NextKey>(&key::next_key(&spec.name)).await?;
        let Some((next, _)) = next.filter(|(next, _)| next.key_type == spec.key_type) else {
            return Ok(None);
        };
        Ok(Some(self.sealer().open(&Context::next_key(&spec.name), &next.key)?))
    }

    /// `batch`, which ends an order with its bundle, with the key for the generation after that.
    pub(super) async fn with_next_key(
        &self,
        batch: Batch,
        name: &CertName,
    ) -> Result<Batch, Error> {
        let at = key::next_key(name);
        let (spec, has_one) = {
            let view = self.mirror().read();
            let spec = view.certificates.get(name).map(|spec| spec.record.clone());
            (spec.filter(|spec| spec.key_ahead), view.next_keys.contains_key(name))
        };
        let Some(spec) = spec else {
            return Ok(if has_one { batch.delete(&at) } else { batch });
        };
        let pkcs8 = self.keys().fresh(spec.key_type).await?;
        let next = NextKey {
            certificate: name.clone(),
            key_type: spec.key_type,
            public_key: public_key(&pkcs8)?,
            key: self.sealer().seal(&Context::next_key(name), pkcs8.expose_secret()),
            made_at: self.clock().now(),
        };
        Ok(batch.put(&at, record::encode(&next)))
    }

    /// The key of the newest bundle, if it is to be used again. One that is not to be had does not stop
    /// a renewal.
    async fn kept_key(&self, wanted: &Wanted) -> Option<Secret> {
        let (spec, state) = (&wanted.spec, &wanted.state);
        let issued = state.issued.as_ref()?;
        let is_compromised = state.revoked.as_ref().is_some_and(|revoked| {
            revoked.generation == state.generation
                && revoked.reason == RevocationReason::KeyCompromise
        });
        if !spec.reuse_key || issued.key_type != spec.key_type || is_compromised {
            return None;
        }
        let at = key::bundle(&spec.name, state.generation);
        let opened = match self.read::<Bundle>(&at).await {
            Ok(Some((bundle, _))) => {
                let context = Context::bundle(&bundle.certificate, bundle.generation);
                self.sealer().open(&context, &bundle.key).map_err(Error::from)
            }
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        opened
            .inspect_err(|error| {
                tracing::warn!(%error, certificate = %spec.name, "the key cannot be kept; making another");
            })
            .ok()
    }
}

/// The SHA-256 of the public key that belongs to a private one, as
/// [`chancery_shared::x509::public_key_of`] tells it of a certificate.
pub(crate) fn public_key(pkcs8: &Secret) -> Result<Fingerprint, Error> {
    use rcgen::PublicKeyData as _;
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8.expose_secret());
    let pair = rcgen::KeyPair::try_from(&der).map_err(|error| Error::Crypto(error.to_string()))?;
    Ok(Fingerprint::of(&pair.subject_public_key_info()))
}

/// Whether making such a key takes long enough to be felt.
fn is_slow(key_type: KeyType) -> bool {
    match key_type {
        KeyType::EcdsaP256 | KeyType::EcdsaP384 => false,
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        order::{Outcome, Tries, testing::World},
        record::{CertificateSpec, CertificateState},
    };

    async fn public_key(world: &World, name: &CertName) -> [u8; 32] {
        let generation = world.state(name).await.generation;
        let bundle: Bundle = world.get(&key::bundle(name, generation)).await.unwrap();
        *chancery_shared::x509::public_key_of(&bundle.leaf).unwrap().as_bytes()
    }

    /// Has the certificate renewed as an operator would.
    async fn renew(world: &World, name: &CertName) {
        let mut state: CertificateState = world.state(name).await;
        state.renewal_requested_at = Some(world.clock.now());
        world.put(key::state(name), &state).await;
        let run = Box::pin(world.run(name, Tries::default()));
        assert!(matches!(run.await, Outcome::Over));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_kept_only_on_request_and_while_it_is_of_the_wanted_kind() {
        let world = World::new().await;
        let name = world.declare("www", "main").await;
        assert!(matches!(world.run(&name, Tries::default()).await, Outcome::Over));
        let first = public_key(&world, &name).await;
        renew(&world, &name).await;
        let second = public_key(&world, &name).await;
        assert_ne!(first, second, "keys are fresh unless declared otherwise");

        let spec: CertificateSpec = world.get(&key::certificate(&name)).await.unwrap();
        let keeps = CertificateSpec { reuse_key: true, ..spec };
        world.put(key::certificate(&name), &keeps).await;
        renew(&world, &name).await;
        assert_eq!(public_key(&world, &name).await, second);

        let stronger = CertificateSpec { key_type: KeyType::EcdsaP384, ..keeps };
        world.put(key::certificate(&name), &stronger).await;
        renew(&world, &name).await;
        let third = public_key(&world, &name).await;
        assert_ne!(third, second);
        let generation = world.state(&name).await.generation;
        assert_eq!(generation.0, 4);

        // A bundle that is lost costs the key, not the renewal.
        world.commit(Batch::unfenced().delete(key::bundle(&name, generation))).await;
        renew(&world, &name).await;
        assert_ne!(public_key(&world, &name).await, third);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_key_is_known_before_it_is_used() {
        let world = World::new().await;
        let name = world.declare("www", "main").await;
        let spec: CertificateSpec = world.get(&key::certificate(&name)).await.unwrap();
        let ahead = CertificateSpec { key_ahead: true, ..spec };
        world.put(key::certificate(&name), &ahead).await;
        assert!(matches!(world.run(&name, Tries::default()).await, Outcome::Over));
        for _ in 0..2 {
            let next: NextKey = world.get(&key::next_key(&name)).await.unwrap();
            assert_ne!(*next.public_key.as_bytes(), public_key(&world, &name).await);
            renew(&world, &name).await;
            assert_eq!(public_key(&world, &name).await, *next.public_key.as_bytes());
        }
        // Of another kind it is of no use, and without being asked for it goes.
        let before: NextKey = world.get(&key::next_key(&name)).await.unwrap();
        let stronger = CertificateSpec { key_type: KeyType::EcdsaP384, ..ahead };
        world.put(key::certificate(&name), &stronger).await;
        renew(&world, &name).await;
        assert_ne!(public_key(&world, &name).await, *before.public_key.as_bytes());
        let fresh = CertificateSpec { key_ahead: false, ..stronger };
        world.put(key::certificate(&name), &fresh).await;
        renew(&world, &name).await;
        assert!(world.get::<NextKey>(&key::next_key(&name)).await.is_none());
    }

    #[tokio::test]
    async fn few_rsa_keys_are_made_at_once_and_others_do_not_wait_for_them() {
        let keys = Keys { generate: Generate::Aside, rsa: Arc::new(Semaphore::new(1)) };
        let busy = keys.rsa.clone().acquire_owned().await.unwrap();
        let waiting = tokio::spawn({
            let keys = keys.clone();
            async move { keys.fresh(KeyType::Rsa2048).await.unwrap() }
        });
        let quick = keys.fresh(KeyType::EcdsaP384).await.unwrap();
        assert!(!quick.expose_secret().is_empty());
        assert!(!waiting.is_finished());
        drop(busy);
        assert!(!waiting.await.unwrap().expose_secret().is_empty());
        assert_eq!(keys.rsa.available_permits(), 1);
    }
}
