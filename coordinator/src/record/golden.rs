//! Stored encodings do not change by accident.
//!
//! `golden/` holds what every kind of record looks like in a store, in every version and with
//! every field. What was written once has to be read for ever: a test here that fails
//! asks for a new version of the record and a conversion, not for a new file.

use std::{collections::BTreeSet, fs, path::PathBuf};

use proptest::prelude::*;

use super::*;

/// Calls a generic function for each kind of record.
macro_rules! for_each_kind {
    ($function:ident $arguments:tt) => {
        for_each_kind!(
            $function $arguments
            Account Agent Authority Budget Bundle CertificateSpec CertificateState Chain Challenge
            Deployment Event Freeze IssuerSpec JoinToken Leader Member NextKey Nomination Order RenewalInfo
            Revocation SealRing Services Standby
        )
    };
    ($function:ident $arguments:tt $($record:ty)*) => {
        [$($function::<$record> $arguments),*]
    };
}

struct Fixture {
    name: String,
    text: String,
}

/// The files, by name.
fn fixtures() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut fixtures: Vec<Fixture> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Fixture { name, text: fs::read_to_string(path).unwrap() }
        })
        .collect();
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    fixtures
}

/// Those of one kind and version: `KIND-vVERSION` and `KIND-vVERSION-VARIANT`.
fn of_kind(kind: &str, version: u32) -> Vec<Fixture> {
    let base = format!("{kind}-v{version}");
    let mut found = fixtures();
    found.retain(|fixture| {
        fixture
            .name
            .strip_prefix(&base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    found
}

fn json(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).unwrap()
}

/// Decodes and encodes again every file of a kind; the names of the files.
fn stays_as_it_is<T: Record>() -> Vec<String> {
    let fixtures = of_kind(T::KIND, T::VERSION);
    assert!(!fixtures.is_empty(), "no file for kind {} version {}", T::KIND, T::VERSION);
    for fixture in &fixtures {
        let record: T = decode(&fixture.name, fixture.text.as_bytes()).unwrap();
        let again = encode(&record);
        assert_eq!(json(&again), json(fixture.text.as_bytes()), "{}", fixture.name);
    }
    fixtures.into_iter().map(|fixture| fixture.name).collect()
}

#[test]
fn every_kind_of_record_stays_as_it_is() {
    let seen: BTreeSet<String> = for_each_kind!(stays_as_it_is()).into_iter().flatten().collect();
    let all: BTreeSet<String> = fixtures().into_iter().map(|fixture| fixture.name).collect();
    assert_eq!(seen, all, "a file that no kind of record reads");
}

#[test]
fn every_kind_has_its_own_name() {
    fn kind<T: Record>() -> &'static str {
        T::KIND
    }
    let kinds = for_each_kind!(kind());
    assert_eq!(BTreeSet::from(kinds).len(), kinds.len(), "{kinds:?}");
}

fn refuses_what_it_does_not_know<T: Record>() {
    let fixture = of_kind(T::KIND, T::VERSION).remove(0);
    let mut value = json(fixture.text.as_bytes());
    value["version"] = (T::VERSION + 1).into();
    // A newer version may look like anything.
    value["data"] = "not an object".into();
    let newer = serde_json::to_vec(&value).unwrap();
    let (found, known) = (T::VERSION + 1, T::VERSION);
    let expected = DecodeError::TooNew { key: "a/key".to_owned(), kind: T::KIND, found, known };
    let error = decode::<T>("a/key", &newer).err().unwrap();
    assert_eq!(error, expected);
    let message = error.to_string();
    for part in ["a/key", T::KIND, "upgrade this coordinator"] {
        assert!(message.contains(part), "{message}");
    }

    value["kind"] = "teapot".into();
    let other = serde_json::to_vec(&value).unwrap();
    let message = decode::<T>("a/key", &other).err().unwrap().to_string();
    let expected = format!("a/key does not hold a record of kind {}: it says", T::KIND);
    assert!(message.starts_with(&expected) && message.contains("\"teapot\""), "{message}");

    for damaged in [&b""[..], b"{}", b"\xff", &fixture.text.as_bytes()[..fixture.text.len() / 2]] {
        let error = decode::<T>("a/key", damaged).err().unwrap();
        assert!(matches!(error, DecodeError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_newer_version_or_another_kind_is_told_clearly() {
    for_each_kind!(refuses_what_it_does_not_know());
}

#[test]
fn stored_names_of_states_and_events_are_those_that_operators_see() {
    for state in DeploymentState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
    let event: Event = decode("event", of_kind("event", 1)[0].text.as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(event.kind).unwrap(), event.kind.code());
    let orders = of_kind("order", 1).into_iter();
    // One for each stage, and one with all that may be left out.
    let orders = orders.filter(|fixture| fixture.name != "order-v1-challenges");
    let stages = orders.map(|fixture| {
        let order: Order = decode(&fixture.name, fixture.text.as_bytes()).unwrap();
        assert_eq!(fixture.name, format!("order-v1-{}", order.stage.name()));
        order.stage.name()
    });
    assert_eq!(
        stages.collect::<Vec<_>>(),
        ["finalized", "intended", "placed", "presented", "validated"]
    );
}

/// Decoding is what stands between the store and the coordinator.
fn survives<T: Record>(bytes: &[u8]) -> bool {
    match decode::<T>("a/key", bytes) {
        Ok(record) => decode::<T>("a/key", &encode(&record)).is_ok(),
        Err(error) => error.to_string().contains("a/key"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(for_each_kind!(survives(&bytes)).iter().all(|survived| *survived));
    }

    #[test]
    fn no_damage_makes_decoding_panic(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let fixtures = fixtures();
        let mut bytes = which.get(&fixtures).text.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        prop_assert!(for_each_kind!(survives(&bytes)).iter().all(|survived| *survived));
    }
}
