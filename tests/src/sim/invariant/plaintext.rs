//! Invariant 6: no plaintext private key reaches the store, a log, an error or an answer.
//!
//! What a private key looks like is known: PEM says so, and every P-256 key in PKCS#8 begins with
//! the same bytes. Beside that, the very keys are looked for: what was sealed is opened here, and
//! must not stand anywhere as bytes, base64 or hexadecimal.

use std::{collections::BTreeMap, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use chancery_coordinator::{
    record::{self, Account, Bundle, Order, Stage, key},
    seal::{Context, Sealer},
    store::Operation,
};
use memchr::memmem;

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plaintext {
    /// Forms of the keys that are known, by what they are.
    keys: BTreeMap<String, [Vec<u8>; 3]>,
    /// What was written, perhaps before the key in it was known.
    written: Vec<(String, Bytes)>,
}

impl Invariant for Plaintext {
    fn name(&self) -> &'static str {
        "6 plaintext"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Committed(commit) => {
                for operation in commit.operations {
                    let Operation::Put(at, value) = operation else { continue };
                    looks_like_a_key(value).map_err(|why| format!("{at} holds {why}"))?;
                    if let Some(sealer) = commit.sealer {
                        self.learn(at, value, sealer);
                    }
                    self.written.push((at.clone(), value.clone()));
                }
                Ok(())
            }
            Event::Said(text) => {
                looks_like_a_key(text.as_bytes()).map_err(|why| format!("a log holds {why}"))?;
                self.search("a log", text.as_bytes())
            }
            Event::Ended { .. } => self.search_written(),
            _ => Ok(()),
        }
    }
}

impl Plaintext {
    fn learn(&mut self, at: &str, value: &[u8], sealer: &Sealer) {
        let opened = if at.starts_with(key::ORDERS) {
            // The key stays the same in all stages.
            let order = record::decode::<Order>(at, value).ok();
            order.filter(|order| order.stage == Stage::Intended).and_then(|order| {
                sealer.open(&Context::order(&order.certificate, order.generation), &order.key).ok()
            })
        } else if at.starts_with(key::BUNDLES) {
            record::decode::<Bundle>(at, value).ok().and_then(|bundle| {
                let context = Context::bundle(&bundle.certificate, bundle.generation);
                sealer.open(&context, &bundle.key).ok()
            })
        } else if let Some(issuer) = at.strip_prefix(key::ACCOUNTS) {
            let account = record::decode::<Account>(at, value).ok();
            let issuer = issuer.parse().ok();
            account.zip(issuer).and_then(|(account, issuer)| {
                sealer.open(&Context::account(&issuer), &account.key).ok()
            })
        } else {
            None
        };
        let Some(opened) = opened else { return };
        // The secret number itself, without what all keys begin with.
        let Some(number) = opened.expose_secret().get(SCALAR) else { return };
        let hex = hexadecimal(number);
        // Shifted, base64 has other letters; keys are whole values where they are encoded.
        let base64 = BASE64_STANDARD_NO_PAD.encode(&opened.expose_secret()[SCALAR.start..]);
        let base64 = base64.as_bytes()[..40].to_vec();
        self.keys.insert(hex.clone(), [number.to_vec(), base64, hex.into_bytes()]);
    }

    fn search(&self, place: &str, text: &[u8]) -> Result<(), String> {
        let forms = self.keys.values().flatten();
        if forms.clone().any(|form| memmem::find(text, form).is_some()) {
            return Err(format!("{place} holds a private key that should be sealed"));
        }
        Ok(())
    }

    /// Looks through all that was written, in one piece; only if there is something, for where.
    fn search_written(&self) -> Result<(), String> {
        let all: Vec<&[u8]> = self.written.iter().map(|(_, value)| &**value).collect();
        if self.search("the store", &all.concat()).is_ok() {
            return Ok(());
        }
        self.written.iter().try_for_each(|(at, value)| self.search(at, value))
    }
}

fn looks_like_a_key(text: &[u8]) -> Result<(), &'static str> {
    let mut found = MARKS.iter().filter(|(mark, _)| mark.find(text).is_some());
    found.next().map_or(Ok(()), |(_, what)| Err(what))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

static MARKS: LazyLock<[(memmem::Finder<'static>, &'static str); 3]> = LazyLock::new(|| {
    [
        (memmem::Finder::new("PRIVATE KEY"), "a private key in PEM"),
        (memmem::Finder::new(PKCS8_P256), "a private key in DER"),
        (memmem::Finder::new(PKCS8_P256_BASE64), "a private key in base64"),
    ]
});

/// Where the secret number stands in a P-256 key in PKCS#8.
const SCALAR: std::ops::Range<usize> = 36..68;
/// What every P-256 key in PKCS#8 (RFC 5958) begins with, after its length.
const PKCS8_P256: &[u8] =
    b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// The same in base64.
const PKCS8_P256_BASE64: &[u8] = b"AgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG";

#[cfg(test)]
mod tests {
    use chancery_shared::{key_type::KeyType, name::IssuerName};

    use super::*;
    use crate::sim::{clock::beginning, invariant::testing::sealed, key_file};

    #[test]
    fn it_finds_a_key_however_it_is_written() {
        let (sealer, _) = Sealer::create(&key_file(), beginning());
        let issuer: IssuerName = "main".parse().unwrap();
        let der = KeyType::EcdsaP256.generate().unwrap().serialize_der();
        let account = Account {
            directory: String::new(),
            key: sealer.seal(&Context::account(&issuer), &der),
            url: None,
            contacts: None,
            bound: None,
            next_key: None,
            former_thumbprints: Vec::new(),
            deactivated_at: None,
            change: None,
        };
        let learned = |leak: Vec<u8>| {
            let mut invariant = Plaintext::default();
            let writes = [
                Operation::Put("leak".to_owned(), leak.into()),
                Operation::Put(key::account(&issuer), record::encode(&account)),
            ];
            let committed = sealed(Some(0), Some(1), 1, &writes, Some(&sealer));
            invariant.observe(&committed)?;
            invariant.observe(&Event::Ended { missing: &[] })
        };
        learned(b"harmless".to_vec()).unwrap();
        let hex = hexadecimal(&der[SCALAR]);
        let pem = chancery_shared::x509::key_to_pem(&der);
        let whole = base64::prelude::BASE64_STANDARD.encode(&der);
        for leak in [
            der.clone(),
            der[SCALAR].to_vec(),
            hex.into_bytes(),
            pem.as_bytes().to_vec(),
            whole.into_bytes(),
            BASE64_STANDARD_NO_PAD.encode(&der[SCALAR.start..]).into_bytes(),
        ] {
            assert!(learned(leak.clone()).is_err(), "{}", String::from_utf8_lossy(&leak));
        }
        let mut invariant = Plaintext::default();
        assert!(invariant.observe(&Event::Said(&pem)).is_err());
        assert!(invariant.observe(&Event::Said("all is well")).is_ok());
    }
}
