//! Invariant 3: a stored or installed private key always matches its chain.

use chancery_coordinator::{
    record::{self, Bundle, key},
    seal::{Context, Sealer},
    store::Operation,
};
use chancery_shared::x509;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use super::{
    super::event::{Event, Installed},
    Invariant,
};

/// See the module.
#[derive(Debug)]
pub(super) struct KeyMatches;

impl Invariant for KeyMatches {
    fn name(&self) -> &'static str {
        "3 key-matches"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Committed(commit) => {
                for operation in commit.operations {
                    if let (Operation::Put(at, value), Some(sealer)) = (operation, commit.sealer)
                        && at.starts_with(key::BUNDLES)
                    {
                        stored(at, value, sealer).map_err(|why| format!("{at}: {why}"))?;
                    }
                }
                Ok(())
            }
            Event::Installed(files) => installed(files)
                .map_err(|why| format!("{} on {}: {why}", files.certificate, files.agent)),
            _ => Ok(()),
        }
    }
}

fn stored(at: &str, value: &[u8], sealer: &Sealer) -> Result<(), String> {
    let bundle: Bundle = record::decode(at, value).map_err(|error| error.to_string())?;
    if key::bundle(&bundle.certificate, bundle.generation) != at {
        return Err("it is the bundle of something else".to_owned());
    }
    let context = Context::bundle(&bundle.certificate, bundle.generation);
    let key = sealer.open(&context, &bundle.key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret()));
    x509::check_key_matches(&CertificateDer::from(bundle.leaf.as_slice()), &key)
        .map_err(|error| error.to_string())
}

fn installed(files: &Installed<'_>) -> Result<(), String> {
    let leaf =
        CertificateDer::from_pem_slice(files.fullchain).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(files.privkey).map_err(|error| error.to_string())?;
    x509::check_key_matches(&leaf, &key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use chancery_shared::number::Generation;

    use super::*;
    use crate::sim::{clock::beginning, invariant::testing::sealed, key_file};

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(vec!["web.test".to_owned()]).unwrap();
        (made.cert.der().to_vec(), made.signing_key.serialize_der())
    }

    #[test]
    fn it_objects_to_a_key_of_another_chain() {
        let (sealer, _) = Sealer::create(&key_file(), beginning());
        let ((leaf, key), (_, other)) = (pair(), pair());
        let certificate: chancery_shared::name::CertName = "web".parse().unwrap();
        let put = |key: &[u8], generation, at| {
            let context = Context::bundle(&certificate, Generation(generation));
            let bundle = Bundle {
                issuer: None,
                certificate: certificate.clone(),
                generation: Generation(generation),
                leaf: leaf.clone(),
                chain: Vec::new(),
                key: sealer.seal(&context, key),
                identifiers: Vec::new(),
            };
            let at = key::bundle(&certificate, Generation(at));
            let write = [Operation::Put(at, record::encode(&bundle))];
            KeyMatches.observe(&sealed(Some(0), Some(1), 1, &write, Some(&sealer)))
        };
        put(&key, 1, 1).unwrap();
        assert!(put(&other, 1, 1).is_err());
        assert!(put(&key, 1, 2).is_err());

        let (fullchain, privkey) = (x509::to_pem([leaf.as_slice()]), x509::key_to_pem(&key));
        let (agent, certificate) = ("web-1", &certificate);
        let look = |privkey: &str| {
            KeyMatches.observe(&Event::Installed(Installed {
                agent,
                certificate,
                generation: 1,
                fullchain: fullchain.as_bytes(),
                privkey: privkey.as_bytes(),
            }))
        };
        look(&privkey).unwrap();
        assert!(look(&x509::key_to_pem(&other)).is_err());
        assert!(look(&privkey[..100]).is_err());
    }
}
