//! The internal CA.

use std::{sync::Arc, time::Duration};

use chancery_shared::clock::{Clock as _, ManualClock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{election::testing::lead, seal::KeyFile, store::memory::MemoryStore};

fn sealer(directory: &tempfile::TempDir, name: &str) -> Sealer {
    let key_file = KeyFile::create(&directory.path().join(name)).unwrap();
    Sealer::create(&key_file, Timestamp::UNIX_EPOCH).0
}

fn csr(key: &KeyPair) -> Csr {
    let params = CertificateParams::default();
    Csr::parse(params.serialize_request(key).unwrap().der()).unwrap()
}

#[tokio::test]
async fn it_is_made_once_and_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = sealer(&directory, "key");
    let clock = SystemClock::shared();
    let store: Arc<dyn Store> = MemoryStore::new(clock.clone());
    let mirror = Mirror::start(store.clone(), CancellationToken::new()).await.unwrap();
    let loading = tokio::spawn({
        let (mirror, sealer, clock) = (mirror.clone(), sealer.clone(), clock.clone());
        async move { load(&mirror, &sealer, clock, Options::default()).await }
    });
    let (leadership, _lease) = lead(store.clone(), clock.clone(), "node-1").await;
    ensure(&*store, &leadership, &sealer, &clock).await.unwrap();
    let first = store.get(key::AUTHORITY).await.unwrap().unwrap();
    ensure(&*store, &leadership, &sealer, &clock).await.unwrap();
    assert_eq!(store.get(key::AUTHORITY).await.unwrap().unwrap(), first);
    let authority = loading.await.unwrap().unwrap();
    let record: record::Authority = record::decode(key::AUTHORITY, &first.value).unwrap();
    assert_eq!(authority.certificate().as_ref(), record.certificate);
    let facts = x509::Facts::of(authority.certificate()).unwrap();
    let years = (facts.not_after.as_second() - clock.now().as_second()) / (365 * 86400);
    assert_eq!(years, 10);
}

#[tokio::test]
async fn only_a_leader_makes_it() {
    let directory = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let store: Arc<dyn Store> = MemoryStore::new(clock.clone());
    let (leadership, _lease) = lead(store.clone(), clock.clone(), "node-1").await;
    store.resign(&leadership.fence()).await.unwrap();
    let refused = ensure(&*store, &leadership, &sealer(&directory, "key"), &clock).await;
    assert!(matches!(refused, Err(Error::Store(store::Error::Fenced { .. }))));
    assert_eq!(store.get(key::AUTHORITY).await.unwrap(), None);
}

#[test]
fn another_key_file_or_another_key_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let open = |record: &record::Authority, sealer: &Sealer| {
        Authority::open(record, sealer, clock.clone(), Options::default())
    };
    let ours = sealer(&directory, "ours");
    let record = generate(&ours, clock.now()).unwrap();
    open(&record, &ours).unwrap();
    let theirs = sealer(&directory, "theirs");
    assert!(matches!(open(&record, &theirs), Err(Error::Seal(_))));
    let other = generate(&ours, clock.now()).unwrap();
    let mixed = record::Authority { key: other.key, ..record };
    assert!(matches!(open(&mixed, &ours), Err(Error::Mismatch(_))));
}

#[test]
fn identities_live_as_long_as_configured_and_never_longer_than_the_ca() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = sealer(&directory, "key");
    let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
    let record = generate(&sealer, clock.now()).unwrap();
    let options = Options { identity_lifetime: Duration::from_hours(48) };
    let authority = Authority::open(&record, &sealer, clock.clone(), options).unwrap();
    let name: AgentName = "web-1".parse().unwrap();
    let csr = csr(&KeyType::EcdsaP384.generate().unwrap());
    let issued = authority.issue_identity(&name, &csr).unwrap();
    assert_eq!(issued.record.not_after.to_string(), "2026-11-24T00:00:00Z");
    assert_eq!(issued.record.public_key_hash, csr.public_key_hash());
    let facts = x509::Facts::of(&issued.chain[0]).unwrap();
    assert_eq!(facts.not_before.to_string(), "2026-11-21T23:55:00Z");
    assert_eq!(agent_of_uri(&facts.uris[0]), Some(name.clone()));
    // The last day of the CA.
    let end = x509::Facts::of(authority.certificate()).unwrap().not_after;
    let last_hour = end - Duration::from_hours(1);
    clock.advance(Duration::try_from(clock.now().duration_until(last_hour)).unwrap());
    let issued = authority.issue_identity(&name, &csr).unwrap();
    assert_eq!(issued.record.not_after, end);
}

#[test]
fn the_server_certificate_is_renewed_at_half_life() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = sealer(&directory, "key");
    let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
    let record = generate(&sealer, clock.now()).unwrap();
    let authority = Authority::open(&record, &sealer, clock.clone(), Options::default()).unwrap();
    let server = ServerIdentity::new(Arc::new(authority)).unwrap();
    let first = server.current().cert[0].clone();
    clock.advance(Duration::from_hours(11));
    assert_eq!(server.current().cert[0], first);
    clock.advance(Duration::from_hours(1));
    let second = server.current().cert[0].clone();
    assert_ne!(second, first);
    let end = x509::Facts::of(&second).unwrap().not_after;
    assert_eq!(end.to_string(), "2026-11-23T12:00:00Z");
}

#[test]
fn only_agents_are_read_from_uris() {
    assert_eq!(agent_of_uri("chancery://agent/web-1"), Some("web-1".parse().unwrap()));
    for other in ["chancery://agent/", "chancery://agent/a/b", "https://agent/web-1", "web-1"] {
        assert_eq!(agent_of_uri(other), None, "{other}");
    }
}
