//! Reading and comparing desired states.

use chancery_proto::v1::{
    CertificateSpec as WireCertificate, DesiredState, ExternalAccount, Freeze as WireFreeze,
    IssuerSpec as WireIssuer, RenewTimes as WireTimes,
};
use chancery_shared::number::Revision;
use insta::assert_snapshot;
use jiff::Timestamp;

use super::*;
use crate::{
    record::Record,
    store::{Entry, Operation, Snapshot},
};

fn now() -> Timestamp {
    "2026-11-22T00:00:00Z".parse().unwrap()
}

fn issuer(name: &str) -> WireIssuer {
    WireIssuer {
        name: name.to_owned(),
        directory: format!("https://{name}.example.org/dir"),
        ..WireIssuer::default()
    }
}

/// As [`super::read`], with a seal that seals nothing.
fn read(wire: &DesiredState) -> Result<Desired, Problems> {
    super::read(wire, &|_, secret| record::Sealed {
        data_key: 1,
        bytes: secret.expose_secret().to_vec(),
    })
}

fn certificate(name: &str, identifiers: &[&str]) -> WireCertificate {
    WireCertificate {
        name: name.to_owned(),
        identifiers: identifiers.iter().map(|&text| text.to_owned()).collect(),
        key_type: String::new(),
        reuse_key: false,
        key_ahead: false,
        standby: String::new(),
        profile: String::new(),
        issuers: vec!["main".to_owned()],
        challenges: Vec::new(),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        renew: None,
    }
}

fn desired() -> DesiredState {
    DesiredState {
        issuers: vec![issuer("main"), issuer("spare")],
        certificates: vec![
            certificate("www", &["www.example.org", "example.org"]),
            certificate("mail", &["mail.example.org"]),
        ],
        freezes: Vec::new(),
    }
}

/// The view after `desired` was applied.
fn applied(desired: &DesiredState) -> View {
    let desired = read(desired).unwrap();
    let empty = View::default();
    let plan = compare(&empty, &desired, false, now()).unwrap();
    let batch = plan.batches(&Batch::unfenced(), &empty, &[]).remove(0).remove(0);
    let entries = batch.operations.into_iter().map(|operation| match operation {
        Operation::Put(key, value) => Entry { key, value, revision: Revision(3) },
        Operation::Delete(key) => panic!("nothing to delete, least of all {key}"),
    });
    View::of(&Snapshot { revision: Revision(3), entries: entries.collect() })
}

/// `present` with one record more.
fn with<T: Record>(present: &DesiredState, more: &[(String, &T)]) -> View {
    let desired = read(present).unwrap();
    let mut entries: Vec<_> =
        more.iter().map(|(key, record)| entry(key, record::encode(*record))).collect();
    entries.extend(
        desired.issuers.values().map(|spec| entry(&key::issuer(&spec.name), record::encode(spec))),
    );
    entries.extend(
        desired
            .certificates
            .values()
            .map(|spec| entry(&key::certificate(&spec.name), record::encode(spec))),
    );
    View::of(&Snapshot { revision: Revision(3), entries })
}

fn entry(key: &str, value: bytes::Bytes) -> Entry {
    Entry { key: key.to_owned(), value, revision: Revision(3) }
}

fn plan(present: &View, wire: &DesiredState, prune: bool) -> Plan {
    compare(present, &read(wire).unwrap(), prune, now()).unwrap()
}

/// A plan as a person would write it down.
fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        let wire = change.to_wire();
        let order = if wire.causes_order { " (orders)" } else { "" };
        let action = wire.action().as_str_name();
        writeln!(text, "{action} {} {}{order}", wire.kind, wire.name).unwrap();
        for detail in &wire.details {
            writeln!(text, "    {detail}").unwrap();
        }
    }
    text + &format!("unchanged: {}\nkept: {:?}\n", plan.unchanged, plan.kept)
}

#[test]
fn everything_is_new_at_first() {
    assert_snapshot!(text(&plan(&View::default(), &desired(), false)));
}

#[test]
fn what_is_as_desired_is_left_alone() {
    let plan = plan(&applied(&desired()), &desired(), true);
    assert!(plan.changes.is_empty());
    assert_eq!(plan.unchanged, 4);
}

#[test]
fn changes_are_shown_field_by_field() {
    let mut changed = desired();
    changed.issuers[1].contacts = vec!["mailto:ops@example.org".to_owned()];
    let www = &mut changed.certificates[0];
    www.identifiers.push("api.example.org".to_owned());
    www.issuers.push("spare".to_owned());
    changed.certificates[1].labels.clear();
    assert_snapshot!(text(&plan(&applied(&desired()), &changed, false)));
}

#[test]
fn freezes_and_windows_are_declared_changed_and_pruned() {
    let freeze = |to: i64| WireFreeze {
        name: "year-end".to_owned(),
        from: Some(prost_types::Timestamp { seconds: 1_797_552_000, nanos: 0 }),
        to: Some(prost_types::Timestamp { seconds: to, nanos: 0 }),
        reason: "nobody is there".to_owned(),
        labels: [("role".to_owned(), "web".to_owned())].into(),
    };
    let times = |windows: &[&str]| WireTimes {
        windows: windows.iter().map(|&text| text.to_owned()).collect(),
        time_zone: "Europe/Berlin".to_owned(),
        jitter: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
    };
    let mut frozen = desired();
    frozen.freezes = vec![freeze(1_799_020_800)];
    frozen.certificates[0].renew = Some(times(&["Mon-Fri 02:00-05:00", "22:00-04:00"]));
    let mut changed = frozen.clone();
    changed.freezes = vec![freeze(1_799_107_200)];
    changed.certificates[0].renew = Some(WireTimes { windows: Vec::new(), ..times(&[]) });
    let present = applied(&frozen);
    assert_eq!(present.freezes.len(), 1);
    assert!(plan(&present, &frozen, true).changes.is_empty());
    assert_snapshot!(format!(
        "{}\nchanged:\n{}\nkept:\n{}\npruned:\n{}",
        text(&plan(&applied(&desired()), &frozen, false)),
        text(&plan(&present, &changed, false)),
        text(&plan(&present, &desired(), false)),
        text(&plan(&present, &desired(), true)),
    ));
}

#[test]
fn a_change_says_whether_an_order_follows() {
    let issued = CertificateState {
        generation: chancery_shared::number::Generation(1),
        issued: Some(record::Issued {
            serial: "01".to_owned(),
            fingerprint: Fingerprint::of(b"leaf"),
            not_before: "2026-11-01T00:00:00Z".parse().unwrap(),
            not_after: "2027-01-30T00:00:00Z".parse().unwrap(),
            issuer: "main".parse().unwrap(),
            issued_by: "CA".to_owned(),
            identifiers: vec!["mail.example.org".parse().unwrap()],
            key_type: chancery_shared::key_type::KeyType::EcdsaP256,
            profile: None,
            stored_at: "2026-11-01T00:00:00Z".parse().unwrap(),
        }),
        ..CertificateState::default()
    };
    let present = with(&desired(), &[("states/mail".to_owned(), &issued)]);
    let causes = |change: fn(&mut WireCertificate)| {
        let mut changed = desired();
        change(&mut changed.certificates[1]);
        let plan = plan(&present, &changed, false);
        assert_eq!(plan.changes.len(), 1);
        plan.changes[0].causes_order
    };
    assert!(causes(|mail| mail.identifiers.push("smtp.example.org".to_owned())));
    assert!(causes(|mail| mail.key_type = "rsa-2048".to_owned()));
    assert!(causes(|mail| mail.issuers = vec!["spare".to_owned()]));
    assert!(!causes(|mail| mail.issuers.push("spare".to_owned())));
    assert!(!causes(|mail| mail.labels.clear()));
}

#[test]
fn orders_that_the_limits_hold_back_are_told_behind_one_another() {
    let limited = |orders: &str| {
        let mut wire = desired();
        wire.issuers[0].limits = [("orders", orders), ("reserve", "0%")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        wire
    };
    let held = |wire: &DesiredState, known: &View| {
        let desired = read(wire).unwrap();
        let plan = compare(known, &desired, false, now()).unwrap();
        waits(&plan, &desired, known, now())
    };
    assert!(held(&limited("2 per 1h"), &View::default()).is_empty());
    let waiting = held(&limited("1 per 1h"), &View::default());
    assert_eq!(waiting.keys().map(CertName::as_str).collect::<Vec<_>>(), ["www"]);
    let (at, because) = &waiting["www"];
    assert_eq!(at.to_string(), "2026-11-22T01:00:00Z");
    assert!(because.contains("new orders"), "{because}");
    // The limits of the file count, not those of before, and what is no order waits for nothing.
    let mut issuers = limited("1 per 1h");
    issuers.certificates.clear();
    assert!(held(&limited("2 per 1h"), &applied(&issuers)).is_empty());
    assert!(held(&limited("1 per 1h"), &applied(&desired())).is_empty());
}

#[test]
fn what_the_files_do_not_name_is_kept_or_pruned() {
    let mut less = desired();
    less.issuers.pop();
    less.certificates.pop();
    let present = applied(&desired());
    assert_snapshot!(format!(
        "{}\npruned:\n{}",
        text(&plan(&present, &less, false)),
        text(&plan(&present, &less, true))
    ));
}

#[test]
fn a_plan_is_told_from_another_by_its_id() {
    let present = applied(&desired());
    let mut changed = desired();
    changed.certificates[0].identifiers.pop();
    let (one, two) = (plan(&present, &changed, false), plan(&present, &changed, false));
    assert_eq!(one.id(), two.id());
    assert_eq!(one.id().len(), 16);
    changed.certificates[0].identifiers.push("other.example.org".to_owned());
    assert_ne!(plan(&present, &changed, false).id(), one.id());
    assert_ne!(plan(&present, &desired(), false).id(), one.id());
}

#[test]
fn every_record_that_is_touched_is_a_condition() {
    let present = applied(&desired());
    let mut changed = desired();
    changed.certificates[0].identifiers.pop();
    changed.certificates[1] = certificate("new", &["new.example.org"]);
    changed.issuers.pop();
    let plan = plan(&present, &changed, true);
    let related = Related {
        certificate: "mail".parse().unwrap(),
        state: None,
        order: Some(Revision(9)),
        keys: vec!["bundles/mail/1".to_owned()],
    };
    let mut turns = plan.batches(&Batch::unfenced(), &present, &[related]);
    assert_eq!((turns.len(), turns[0].len()), (1, 1));
    let batch = turns.remove(0).remove(0);
    let mut conditions: Vec<_> =
        batch.conditions.iter().map(|condition| format!("{condition:?}")).collect();
    conditions.sort();
    assert_snapshot!(conditions.join("\n"), @r#"
    Absent("certificates/new")
    Absent("states/mail")
    Unchanged("certificates/mail", Revision(3))
    Unchanged("certificates/www", Revision(3))
    Unchanged("issuers/spare", Revision(3))
    Unchanged("orders/mail", Revision(9))
    "#);
}

#[test]
fn a_large_plan_is_carried_out_in_an_order_that_is_always_consistent() {
    let mut wire = desired();
    for number in 0..200 {
        let name = format!("site-{number}");
        wire.certificates.push(certificate(&name, &[&format!("{name}.example.org")]));
    }
    let create = plan(&View::default(), &wire, true);
    let turns = create.batches(&Batch::unfenced(), &View::default(), &[]);
    // Issuers before what names them; the order of certificates does not matter.
    assert_eq!(turns.len(), 2);
    let batches = turns.concat();
    assert!(batches.len() > 1 && batches.iter().all(|batch| batch.check_size().is_ok()));
    let keys = |batches: &[Batch]| -> Vec<String> {
        let operations = batches.iter().flat_map(|batch| &batch.operations);
        operations.map(|operation| operation.key().to_owned()).collect()
    };
    let created = keys(&batches);
    assert_eq!(created.len(), 204);
    assert!(created[..2].iter().all(|key| key.starts_with(key::ISSUERS)), "{created:?}");

    let view = with::<CertificateState>(&wire, &[]);
    let delete = plan(&view, &DesiredState::default(), true);
    let related: Vec<_> = view
        .certificates
        .keys()
        .map(|name| Related {
            certificate: name.clone(),
            state: None,
            order: None,
            keys: vec![format!("bundles/{name}/1")],
        })
        .collect();
    let turns = delete.batches(&Batch::unfenced(), &view, &related);
    assert_eq!(turns.len(), 2);
    let batches = turns.concat();
    assert!(batches.iter().all(|batch| batch.check_size().is_ok()));
    let deleted = keys(&batches);
    assert!(deleted[deleted.len() - 2..].iter().all(|key| key.starts_with(key::ISSUERS)));
    // A certificate and its bundle go in one step.
    for batch in &batches {
        for operation in &batch.operations {
            if let Some(name) = operation.key().strip_prefix(key::CERTIFICATES) {
                let bundle = format!("bundles/{name}/1");
                assert!(batch.operations.iter().any(|other| other.key() == bundle));
            }
        }
    }
    // What is left of a plan is a part of it; something else is not.
    let rest = plan(&with::<CertificateState>(&desired(), &[]), &wire, true);
    assert!(rest.is_part_of(&create) && !delete.is_part_of(&create));
    // Nor does it become another one when an order ends meanwhile.
    let mut later = rest.clone();
    later.changes.iter_mut().for_each(|change| change.causes_order = !change.causes_order);
    assert!(later.is_part_of(&create));
}

#[test]
fn another_issuer_begins_without_the_failures_of_the_former() {
    let failing = CertificateState {
        failures: 4,
        last_failure: Some(record::Failure {
            at: now(),
            message: "no".to_owned(),
            code: "ca-rejected".to_owned(),
            retry_at: now(),
        }),
        ..CertificateState::default()
    };
    let www: CertName = "www".parse().unwrap();
    let present = with(&desired(), &[(key::state(&www), &failing)]);
    let written = |change: &dyn Fn(&mut WireCertificate)| {
        let mut wire = desired();
        change(&mut wire.certificates[0]);
        let plan = plan(&present, &wire, false);
        let batch = plan.batches(&Batch::unfenced(), &present, &[]).remove(0).remove(0);
        batch.operations.into_iter().find_map(|operation| match operation {
            Operation::Put(key, value) if key == key::state(&www) => {
                Some(record::decode::<CertificateState>(&key, &value).unwrap())
            }
            _ => None,
        })
    };
    let other = |www: &mut WireCertificate| www.issuers = vec!["spare".to_owned()];
    assert_eq!(written(&other), Some(CertificateState::default()));
    assert_eq!(written(&|www| www.labels.clear()), None);
}

#[test]
fn all_problems_are_named_at_once() {
    let wire = DesiredState {
        issuers: vec![
            WireIssuer {
                name: "Main".to_owned(),
                directory: "http://ca.example.org/dir".to_owned(),
                contacts: vec!["ops@example.org".to_owned()],
                trust_roots_pem: "nothing".to_owned(),
                limits: [("orders".to_owned(), "many".to_owned())].into(),
                external_account: Some(ExternalAccount {
                    key_id: "kid 1".to_owned(),
                    hmac_key: b"hunter2".to_vec(),
                }),
                profile: "tls server".to_owned(),
                preferred_chain: "Root\nX1".to_owned(),
            },
            WireIssuer { directory: String::new(), ..issuer("empty") },
            WireIssuer {
                trust_roots_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
                    .to_owned(),
                ..issuer("roots")
            },
            issuer("twice"),
            issuer("twice"),
        ],
        certificates: vec![
            WireCertificate {
                key_type: "dsa".to_owned(),
                issuers: Vec::new(),
                labels: [("A B".to_owned(), "c".to_owned())].into(),
                ..certificate("../www", &["www.example.org", "WWW.example.org", "localhost"])
            },
            WireCertificate {
                issuers: vec!["main".to_owned(), "main".to_owned()],
                ..certificate("none", &[])
            },
            certificate("wild", &["*.example.org"]),
            WireCertificate {
                renew: Some(WireTimes {
                    windows: vec!["at night".to_owned()],
                    time_zone: "Middle/Earth".to_owned(),
                    jitter: Some(prost_types::Duration { seconds: 1_000_000, nanos: 0 }),
                }),
                ..certificate("wild", &["a.example.org"])
            },
        ],
        freezes: vec![WireFreeze { name: "Never".to_owned(), ..WireFreeze::default() }],
    };
    assert_snapshot!(read(&wire).unwrap_err());
}

#[test]
fn problems_that_only_show_in_view_of_what_is() {
    let mut wire = desired();
    wire.issuers.clear();
    wire.certificates[0].issuers = vec!["unknown".to_owned()];
    let present = applied(&desired());
    let problems = compare(&present, &read(&wire).unwrap(), true, now()).unwrap_err();
    assert_snapshot!(problems, @r#"
    certificate "mail": issuer "main" would be deleted, because the files do not declare it
    certificate "www": issuer "unknown" is not declared: add an [[issuer]] of that name, or name another
    "#);
    // Without prune the declared one stays.
    let problems = compare(&present, &read(&wire).unwrap(), false, now()).unwrap_err();
    assert_eq!(
        problems.0,
        [
            "certificate \"www\": issuer \"unknown\" is not declared: add an [[issuer]] of that name, or \
          name another"
        ]
    );
}

#[test]
fn a_record_of_a_newer_version_is_not_overwritten() {
    let value = br#"{"kind":"certificate","version":99,"data":{}}"#;
    let entries = vec![entry("certificates/www", bytes::Bytes::from_static(value))];
    let present = View::of(&Snapshot { revision: Revision(3), entries });
    let problems = compare(&present, &read(&desired()).unwrap(), false, now()).unwrap_err();
    assert!(problems.0[0].contains("upgrade this coordinator"), "{problems}");
}
