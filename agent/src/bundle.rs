//! A received bundle, checked: its private key belongs to its leaf (invariant 3).

use std::net::IpAddr;

use bytes::Bytes;
use chancery_proto::v1;
use chancery_shared::{
    name::{CertName, InvalidName},
    number::Generation,
    secret::Secret,
    x509::{self, Facts, Fingerprint},
};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

/// One private key and its chain. Can only be made from parts that fit together.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    certificate: CertName,
    generation: Generation,
    identifiers: Vec<String>,
    leaf: Bytes,
    /// Issuers in order, without the root.
    chain: Vec<Bytes>,
    /// PKCS#8, DER.
    key: Secret,
    facts: Facts,
}

/// What the agent keeps in memory of a bundle: everything but the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) generation: Generation,
    /// Hash of key and chain: tells two bundles of one generation apart.
    pub(crate) content: Fingerprint,
    pub(crate) leaf: Fingerprint,
    pub(crate) not_after: Timestamp,
    /// DNS names and addresses, as declared, or as in the leaf if none are declared.
    pub(crate) identifiers: Vec<String>,
}

/// Why a received bundle is not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its certificate has no valid name")]
    Name(#[from] InvalidName),
    #[error("its generation is 0, which stands for none")]
    Generation,
    #[error("its key or its chain cannot be used")]
    X509(#[from] x509::Error),
}

/// The PEM files that services read.
pub(crate) struct Files {
    pub(crate) fullchain: String,
    pub(crate) privkey: Zeroizing<String>,
    pub(crate) cert: String,
    pub(crate) chain: String,
}

impl Bundle {
    /// Checks a bundle from the wire or from the cache. Its key is wiped there.
    pub(crate) fn check(mut wire: v1::Bundle) -> Result<Self, Error> {
        let key = Secret::new(std::mem::take(&mut wire.private_key_der));
        let certificate = wire.certificate.parse()?;
        if wire.generation == 0 {
            return Err(Error::Generation);
        }
        let facts = Facts::of(&wire.leaf_der)?;
        for issuer in &wire.chain_der {
            Facts::of(issuer)?;
        }
        let leaf = CertificateDer::from(wire.leaf_der.as_ref());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret()));
        x509::check_key_matches(&leaf, &private)?;
        Ok(Self {
            certificate,
            generation: Generation(wire.generation),
            identifiers: wire.identifiers,
            leaf: wire.leaf_der,
            chain: wire.chain_der,
            key,
            facts,
        })
    }

    pub(crate) fn certificate(&self) -> &CertName {
        &self.certificate
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Back to the wire format. The caller wipes the key.
    pub(crate) fn to_wire(&self) -> v1::Bundle {
        v1::Bundle {
            certificate: self.certificate.as_str().to_owned(),
            generation: self.generation.0,
            leaf_der: self.leaf.clone(),
            chain_der: self.chain.clone(),
            private_key_der: self.key.expose_secret().to_vec(),
            identifiers: self.identifiers.clone(),
        }
    }

    pub(crate) fn brief(&self) -> Brief {
        let mut identifiers = self.identifiers.clone();
        if identifiers.is_empty() {
            identifiers.extend(self.facts.names());
        }
        Brief {
            generation: self.generation,
            content: self.content(),
            leaf: Fingerprint::of(&self.leaf),
            not_after: self.facts.not_after,
            identifiers,
        }
    }

    /// The files as they stand on disk.
    pub(crate) fn files(&self) -> Files {
        let chain = || self.chain.iter().map(AsRef::as_ref);
        Files {
            fullchain: x509::to_pem(std::iter::once(self.leaf.as_ref()).chain(chain())),
            privkey: x509::key_to_pem(self.key.expose_secret()),
            cert: x509::to_pem([self.leaf.as_ref()]),
            chain: x509::to_pem(chain()),
        }
    }

    fn content(&self) -> Fingerprint {
        let parts = || {
            let chain = self.chain.iter().map(AsRef::as_ref);
            [self.key.expose_secret(), self.leaf.as_ref()].into_iter().chain(chain)
        };
        // Hashes of the parts, so that where one ends and the next begins counts too.
        let mut hashes = Vec::with_capacity(32 * (2 + self.chain.len()));
        parts().for_each(|part| hashes.extend_from_slice(Fingerprint::of(part).as_bytes()));
        Fingerprint::of(&hashes)
    }
}

impl Brief {
    /// The server name by which a service is asked for this certificate: its first
    /// identifier that is one name, else a name under its wildcard, else its address.
    pub(crate) fn server_name(&self) -> Option<String> {
        // An address cannot be asked for by SNI (RFC 6066 section 3): with it, a service shows what it
        // shows to those who ask for nothing. So a name comes first.
        let is_address = |name: &&String| name.parse::<IpAddr>().is_ok();
        let mut names = self.identifiers.iter().filter(|name| !is_address(name));
        let single = names.clone().find(|name| !name.starts_with("*."));
        let wildcard = || Some(format!("chancery-probe.{}", names.next()?.strip_prefix("*.")?));
        let address = || self.identifiers.iter().find(is_address).cloned();
        single.cloned().or_else(wildcard).or_else(address)
    }
}

/// Wipes the key of a wire message that is not needed any more.
pub(crate) fn wipe(mut wire: v1::Bundle) {
    wire.private_key_der.zeroize();
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bundle as a coordinator sends it.
    pub(crate) fn wire(certificate: &str, generation: u64, names: &[&str]) -> v1::Bundle {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let leaf = params.self_signed(&key).unwrap();
        v1::Bundle {
            certificate: certificate.to_owned(),
            generation,
            leaf_der: Bytes::copy_from_slice(leaf.der()),
            chain_der: vec![Bytes::copy_from_slice(leaf.der())],
            private_key_der: key.serialize_der(),
            identifiers: names,
        }
    }

    pub(crate) fn bundle(certificate: &str, generation: u64) -> Bundle {
        let name = format!("{certificate}.example.org");
        Bundle::check(wire(certificate, generation, &[&name])).unwrap()
    }

    #[test]
    fn a_bundle_whose_key_is_another_ones_is_refused() {
        let mut wrong = wire("web", 1, &["a.example"]);
        wrong.private_key_der = wire("web", 1, &["a.example"]).private_key_der;
        assert!(matches!(Bundle::check(wrong), Err(Error::X509(x509::Error::KeyMismatch { .. }))));
    }

    #[test]
    fn a_bundle_with_a_bad_name_number_or_chain_is_refused() {
        let mut bad = wire("../web", 1, &["a.example"]);
        assert!(matches!(Bundle::check(bad.clone()), Err(Error::Name(_))));
        bad.certificate = "web".to_owned();
        bad.generation = 0;
        assert!(matches!(Bundle::check(bad.clone()), Err(Error::Generation)));
        bad.generation = 1;
        bad.chain_der.push(Bytes::from_static(b"rubbish"));
        assert!(matches!(Bundle::check(bad), Err(Error::X509(_))));
    }

    #[test]
    fn debug_and_brief_show_no_key() {
        let wire = wire("web", 1, &["a.example"]);
        let key = format!("{:?}", &wire.private_key_der[..8]);
        let bundle = Bundle::check(wire).unwrap();
        let text = format!("{bundle:?} {:?}", bundle.brief());
        assert!(!text.contains(key.trim_matches(['[', ']'])), "{text}");
    }

    #[test]
    fn content_tells_bundles_apart_and_survives_the_wire() {
        let first = bundle("web", 1);
        assert_ne!(first.brief().content, bundle("web", 1).brief().content);
        let again = Bundle::check(first.to_wire()).unwrap();
        assert_eq!(again.brief(), first.brief());
    }

    #[test]
    fn the_probe_asks_for_a_name_that_the_certificate_covers() {
        let name = |names: &[&str]| {
            Bundle::check(wire("web", 1, names)).unwrap().brief().server_name().unwrap()
        };
        assert_eq!(name(&["*.example.org", "example.org"]), "example.org");
        assert_eq!(name(&["*.example.org"]), "chancery-probe.example.org");
        assert_eq!(name(&["192.0.2.1", "example.org"]), "example.org");
        assert_eq!(name(&["192.0.2.1", "*.example.org"]), "chancery-probe.example.org");
        assert_eq!(name(&["192.0.2.1", "2001:db8::1"]), "192.0.2.1");
    }
}
