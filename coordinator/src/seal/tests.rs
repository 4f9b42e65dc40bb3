use chancery_shared::clock::{ManualClock, SharedClock};

use super::*;
use crate::store::memory::MemoryStore;

fn key_file() -> (tempfile::TempDir, KeyFile) {
    let folder = tempfile::tempdir().unwrap();
    let key_file = KeyFile::create(&folder.path().join("seal.key")).unwrap();
    (folder, key_file)
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn context(kind: &'static str, name: &'static str, generation: u64) -> Context<'static> {
    Context { kind, name, generation: Generation(generation) }
}

const PLAINTEXT: &[u8] = b"-----BEGIN PRIVATE KEY-----";

#[test]
fn what_was_sealed_opens_and_cannot_be_seen() {
    let (_folder, key_file) = key_file();
    let (sealer, ring) = Sealer::create(&key_file, now());
    let here = context("bundle", "www", 3);
    let locked = sealer.seal(&here, PLAINTEXT);
    assert_eq!(locked.data_key, 1);
    assert_eq!(sealer.open(&here, &locked).unwrap().expose_secret(), PLAINTEXT);
    assert!(!locked.bytes.windows(5).any(|window| window == b"BEGIN"));
    assert_ne!(sealer.seal(&here, PLAINTEXT).bytes, locked.bytes, "each seal has its own nonce");

    let again = Sealer::load(&KeyFile::load(key_file.path()).unwrap(), &ring).unwrap();
    assert_eq!(again.open(&here, &locked).unwrap().expose_secret(), PLAINTEXT);
    let empty = sealer.seal(&here, b"");
    assert_eq!(sealer.open(&here, &empty).unwrap().expose_secret(), b"");
}

#[test]
fn a_sealed_value_opens_nowhere_else() {
    let (_folder, key_file) = key_file();
    let (sealer, _) = Sealer::create(&key_file, now());
    let locked = sealer.seal(&context("bundle", "www", 3), PLAINTEXT);
    for elsewhere in [
        context("order", "www", 3),
        context("bundle", "mail", 3),
        context("bundle", "www", 4),
        // Would be the same text if kind and name were simply put together.
        context("bundlew", "ww", 3),
        context("bund", "lewww", 3),
    ] {
        let error = sealer.open(&elsewhere, &locked).unwrap_err();
        assert!(matches!(error, Error::NotOpened { .. }), "{error}");
        assert!(error.to_string().contains(elsewhere.name), "{error}");
    }
}

#[test]
fn no_bit_can_be_changed() {
    let (_folder, key_file) = key_file();
    let (sealer, _) = Sealer::create(&key_file, now());
    let here = context("bundle", "www", 3);
    let locked = sealer.seal(&here, PLAINTEXT);
    for bit in 0..locked.bytes.len() * 8 {
        let mut changed = locked.clone();
        changed.bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(sealer.open(&here, &changed).is_err(), "bit {bit}");
    }
    for length in 0..locked.bytes.len() {
        let short = Sealed { bytes: locked.bytes[..length].to_vec(), ..locked.clone() };
        assert!(sealer.open(&here, &short).is_err(), "length {length}");
    }
    let other_key = Sealed { data_key: 2, ..locked };
    assert!(matches!(sealer.open(&here, &other_key), Err(Error::UnknownDataKey { .. })));
}

#[test]
fn a_wrong_key_file_is_told_with_both_fingerprints() {
    let ((_folder, right), (_other_folder, wrong)) = (key_file(), key_file());
    let (_, ring) = Sealer::create(&right, now());
    let message = Sealer::load(&wrong, &ring).unwrap_err().to_string();
    for part in [&*right.fingerprint(), &wrong.fingerprint(), "copy that file"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.contains(wrong.path().to_str().unwrap()), "{message}");
}

#[test]
fn a_damaged_ring_is_refused() {
    let (_folder, key_file) = key_file();
    let (_, ring) = Sealer::create(&key_file, now());
    let mut flipped = ring.clone();
    flipped.keys[0].wrapped[20] ^= 1;
    let mut renumbered = ring.clone();
    (renumbered.keys[0].id, renumbered.active) = (2, 2);
    let headless = SealRing { active: 7, ..ring };
    for damaged in [flipped, renumbered, headless] {
        let error = Sealer::load(&key_file, &damaged).unwrap_err();
        assert!(matches!(error, Error::RingDamaged(_)), "{error}");
    }
}

#[test]
fn an_overtaken_ring_does_not_take_the_newest_key_away() {
    let (_folder, key_file) = key_file();
    let (sealer, old) = Sealer::create(&key_file, now());
    let mut new = old.clone();
    new.keys.push(sealer.make_data_key(2, now()));
    new.active = 2;
    sealer.reload(&new).unwrap();
    let here = context("bundle", "www", 3);
    let locked = sealer.seal(&here, PLAINTEXT);
    assert_eq!(locked.data_key, 2);
    sealer.reload(&old).unwrap();
    assert_eq!(sealer.open(&here, &locked).unwrap().expose_secret(), PLAINTEXT);
}

#[test]
fn debug_shows_no_key() {
    let (_folder, key_file) = key_file();
    let (sealer, _) = Sealer::create(&key_file, now());
    let expected =
        format!("Sealer {{ key_file_fingerprint: {:?}, active: 1, .. }}", key_file.fingerprint());
    assert_eq!(format!("{sealer:?}"), expected);
}

#[tokio::test]
async fn coordinators_that_start_at_once_share_one_ring() {
    let (_folder, key_file) = key_file();
    let clock: SharedClock = Arc::new(ManualClock::new(now()));
    let store = MemoryStore::new(clock);
    let start = || bootstrap(&*store, &key_file, now());
    let (a, b, c) = tokio::try_join!(start(), start(), start()).unwrap();
    let here = context("account", "letsencrypt", 0);
    let locked = a.seal(&here, PLAINTEXT);
    for sealer in [b, c, start().await.unwrap()] {
        assert_eq!(sealer.open(&here, &locked).unwrap().expose_secret(), PLAINTEXT);
    }
}

#[tokio::test]
async fn the_store_holds_no_key_in_the_clear() {
    let (_folder, key_file) = key_file();
    let clock: SharedClock = Arc::new(ManualClock::new(now()));
    let store = MemoryStore::new(clock);
    bootstrap(&*store, &key_file, now()).await.unwrap();
    let ring: SealRing =
        record::decode(key::SEAL, &store.get(key::SEAL).await.unwrap().unwrap().value).unwrap();
    let wrapped = &ring.keys[0].wrapped;
    assert_eq!(wrapped.len(), NONCE_LEN + key_file::KEY_BYTES + AES_256_GCM.tag_len());
    let key = key_file.key().expose_secret();
    assert!(!wrapped.windows(8).any(|window| key.windows(8).any(|part| part == window)));
    assert_eq!(ring.key_file_fingerprint, key_file.fingerprint());
}
