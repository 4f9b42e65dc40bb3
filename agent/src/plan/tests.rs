use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn cert(name: &str) -> CertName {
    name.parse().unwrap()
}

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn build(name: &str) -> BuildName {
    name.parse().unwrap()
}

fn fingerprint(of: u8) -> Fingerprint {
    Fingerprint::from_bytes([of; 32])
}

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

/// A certificate whose generation `g` has the fingerprint `[g; 32]`.
struct Sample(Certificate);

impl Sample {
    fn wanted(generation: u8) -> Self {
        Self(Certificate {
            generation: Generation(generation.into()),
            build: fingerprint(generation),
            builds: BTreeMap::new(),
            linked: None,
            services: BTreeMap::new(),
            good: None,
            failures: 0,
            retry_at: None,
            busy: false,
        })
    }

    fn on_disk(mut self, generations: &[u8]) -> Self {
        for generation in generations {
            let name = BuildName { generation: Generation((*generation).into()), revision: 0 };
            let fingerprint = fingerprint(*generation);
            self.0.builds.insert(name, Build { fingerprint, intact: true, expired: false });
        }
        self
    }

    fn linked(mut self, name: &str) -> Self {
        self.0.linked = Some(build(name));
        self
    }

    fn good(mut self, name: &str) -> Self {
        self.0.good = Some(build(name));
        self
    }

    /// A service that was last seen with generation `active`; 0 for never.
    fn service(mut self, name: &str, active: u8) -> Self {
        let active = (active > 0).then(|| fingerprint(active));
        self.0.services.insert(service(name), active);
        self
    }

    fn failed(mut self, failures: u32, retry_at: Option<u64>) -> Self {
        self.0.failures = failures;
        self.0.retry_at = retry_at.map(at);
        self
    }
}

fn world<const N: usize>(certificates: [(&str, Sample); N]) -> World {
    let certificates = certificates.map(|(name, sample)| (cert(name), sample.0));
    let mut world = World {
        now: at(100),
        keep: 1,
        certificates: certificates.into(),
        services: BTreeMap::new(),
    };
    for certificate in world.certificates.values() {
        for name in certificate.services.keys() {
            world.services.entry(name.clone()).or_default();
        }
    }
    world
}

#[test]
fn what_is_not_on_disk_is_written_first() {
    let mut world = world([
        ("new", Sample::wanted(2).on_disk(&[1]).linked("1").service("nginx", 1)),
        ("ready", Sample::wanted(1).on_disk(&[1]).service("nginx", 0)),
        ("waits", Sample::wanted(3).failed(2, Some(130))),
    ]);
    let plan1 = plan(&world);
    assert_eq!(plan1.stage, [(cert("new"), build("2"))]);
    assert_eq!(plan1.wake_at, Some(at(130)));

    let spoilt = Build { fingerprint: fingerprint(2), intact: false, expired: false };
    world.certificates.get_mut("new").unwrap().builds.insert(build("2.3"), spoilt);
    assert_eq!(plan(&world).stage, [(cert("new"), build("2.4"))], "a name is never used twice");
}

#[test]
fn all_that_is_pending_at_a_service_is_one_batch() {
    let sample = |from: u8, name| Sample::wanted(from + 1).on_disk(&[from, from + 1]).linked(name);
    let plan = plan(&world([
        ("a", sample(1, "1").good("1").service("nginx", 1)),
        ("b", sample(4, "4").good("4").service("nginx", 4)),
        ("c", Sample::wanted(1).on_disk(&[1]).service("nginx", 0)),
        ("settled", Sample::wanted(1).on_disk(&[1]).linked("1").good("1").service("nginx", 1)),
        ("other", sample(1, "1").service("mail", 1)),
    ]));
    insta::assert_debug_snapshot!(plan, @r#"
    Plan {
        stage: [],
        batches: [
            Batch {
                switches: {
                    "a": Switch {
                        to: 2,
                        done: false,
                        back: To(
                            1,
                        ),
                    },
                    "b": Switch {
                        to: 5,
                        done: false,
                        back: To(
                            4,
                        ),
                    },
                    "c": Switch {
                        to: 1,
                        done: false,
                        back: Nothing,
                    },
                },
                services: {
                    "nginx": Step {
                        certificates: {
                            "a",
                            "b",
                            "c",
                        },
                        test_first: false,
                    },
                },
            },
            Batch {
                switches: {
                    "other": Switch {
                        to: 2,
                        done: false,
                        back: To(
                            1,
                        ),
                    },
                },
                services: {
                    "mail": Step {
                        certificates: {
                            "other",
                        },
                        test_first: false,
                    },
                },
            },
        ],
        prune: [],
        wake_at: None,
    }
    "#);
}

#[test]
fn services_that_share_a_certificate_share_a_batch() {
    let ready = || Sample::wanted(1).on_disk(&[1]);
    let plan = plan(&world([
        ("a", ready().service("one", 0)),
        ("b", ready().service("one", 0).service("two", 0)),
        ("c", ready().service("two", 0)),
        ("d", ready().service("three", 0)),
    ]));
    let members: Vec<Vec<&str>> = plan
        .batches
        .iter()
        .map(|batch| batch.switches.keys().map(CertName::as_str).collect())
        .collect();
    assert_eq!(members, [vec!["a", "b", "c"], vec!["d"]]);
}

#[test]
fn what_is_installed_and_seen_is_left_alone() {
    let settled = Sample::wanted(5).on_disk(&[2, 3, 4, 5]).linked("5").good("5");
    let plan = plan(&world([("a", settled.service("nginx", 5))]));
    let prune = vec![(cert("a"), build("2")), (cert("a"), build("3"))];
    assert_eq!(plan, Plan { prune, ..Plan::default() }, "but for builds beyond `keep`");
}

#[test]
fn a_killed_switch_is_found_and_activated() {
    let killed = Sample::wanted(2).on_disk(&[1, 2]).linked("2").good("1").service("nginx", 1);
    let plan = plan(&world([("a", killed)]));
    let switch = plan.batches[0].switches["a"];
    assert_eq!(switch, Switch { to: build("2"), done: true, back: Back::To(build("1")) });
    assert!(plan.prune.is_empty(), "nothing is removed before success");
}

#[test]
fn a_certificate_without_services_is_only_switched() {
    let plan = plan(&world([("a", Sample::wanted(2).on_disk(&[1, 2]).linked("1"))]));
    assert_eq!(plan.batches.len(), 1);
    assert!(plan.batches[0].services.is_empty());
}

#[test]
fn a_rollback_goes_to_what_was_last_seen_whole() {
    let back = |sample: Sample| plan(&world([("a", sample)])).batches[0].switches["a"].back;
    let sample = || Sample::wanted(4).on_disk(&[2, 3, 4]).linked("3").service("nginx", 2);
    assert_eq!(back(sample().good("2")), Back::To(build("2")));
    assert_eq!(back(sample()), Back::To(build("3")));
    let mut spoilt = sample().good("3");
    spoilt.0.builds.get_mut(&build("3")).unwrap().intact = false;
    assert_eq!(back(spoilt), Back::To(build("2")));
    let first = Sample::wanted(4).on_disk(&[4]).service("nginx", 0);
    assert_eq!(back(first), Back::Nothing);
    assert_eq!(back(sample().good("2").service("mail", 4)), Back::Stay);
    let never_good = Sample::wanted(4).on_disk(&[3, 4]).linked("4").service("nginx", 0);
    assert_eq!(back(never_good), Back::Nothing);
    let service_added = Sample::wanted(4).on_disk(&[3, 4]).linked("4").good("4").service("new", 0);
    assert_eq!(back(service_added), Back::Stay);
}

#[test]
fn after_a_failed_test_the_files_as_they_are_are_tested_first() {
    let first_test = |sample: Sample, test_failed| {
        let mut world = world([("a", sample)]);
        world.services.get_mut("nginx").unwrap().test_failed = test_failed;
        plan(&world).batches[0].services["nginx"].test_first
    };
    let sample = || Sample::wanted(2).on_disk(&[1, 2]).linked("1").service("nginx", 1);
    assert!(first_test(sample(), true));
    assert!(!first_test(sample(), false));
    let never_installed = Sample::wanted(2).on_disk(&[2]).service("nginx", 0);
    assert!(!first_test(never_installed, true), "the test may fail for want of the files");
    let mut expired = sample();
    expired.0.builds.get_mut(&build("1")).unwrap().expired = true;
    assert!(!first_test(expired, true), "the test may fail because of the old certificate");
    let switched = Sample::wanted(2).on_disk(&[1, 2]).linked("2").service("nginx", 1);
    assert!(!first_test(switched, true), "the test itself is with the files as they are");
}

#[test]
fn a_service_that_waits_is_woken_by_a_fresh_certificate_only() {
    let failed =
        || Sample::wanted(2).on_disk(&[1, 2]).linked("1").service("nginx", 1).failed(3, None);
    let mut waiting = world([("a", failed())]);
    waiting.services.get_mut("nginx").unwrap().retry_at = Some(at(160));
    let plan1 = plan(&waiting);
    assert!(plan1.batches.is_empty());
    assert_eq!(plan1.wake_at, Some(at(160)));

    let fresh = Sample::wanted(1).on_disk(&[1]).service("nginx", 0);
    waiting.certificates.insert(cert("b"), fresh.0);
    let plan2 = plan(&waiting);
    assert_eq!(plan2.batches[0].switches.len(), 2, "and then all go together");

    // A certificate that failed itself waits for its own time, and holds up no other.
    waiting.certificates.get_mut("a").unwrap().retry_at = Some(at(120));
    let plan3 = plan(&waiting);
    assert_eq!(plan3.batches[0].switches.keys().collect::<Vec<_>>(), [&cert("b")]);
    assert_eq!(plan3.wake_at, Some(at(120)));
}

#[test]
fn what_is_busy_is_left_alone() {
    let ready = || Sample::wanted(1).on_disk(&[1]);
    let mut world = world([
        ("a", ready().service("busy", 0)),
        ("b", ready().service("busy", 0).service("idle", 0)),
        ("c", ready().service("idle", 0)),
    ]);
    world.services.get_mut("busy").unwrap().busy = true;
    let batches = plan(&world).batches;
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].switches.keys().collect::<Vec<_>>(), [&cert("c")]);
    world.certificates.get_mut("c").unwrap().busy = true;
    assert_eq!(plan(&world), Plan::default());
}

/// Any certificate over few generations and services, so that all cases meet.
fn any_certificate() -> impl Strategy<Value = Certificate> {
    let on_disk = prop::collection::btree_map(1_u8..5, (any::<bool>(), any::<bool>()), 0..5);
    let services = prop::collection::btree_map("[pqr]", 0_u8..5, 0..3);
    (
        1_u8..5,
        on_disk,
        services,
        0_u8..5,
        0_u8..5,
        0_u32..3,
        prop::option::of(0_u64..200),
        any::<bool>(),
    )
        .prop_map(|(wanted, on_disk, services, linked, good, failures, retry_at, busy)| {
            let mut sample = Sample::wanted(wanted).failed(failures, retry_at);
            for (generation, (intact, expired)) in on_disk {
                sample = sample.on_disk(&[generation]);
                let last = sample.0.builds.values_mut().next_back().unwrap();
                (last.intact, last.expired) = (intact, expired);
            }
            for (name, active) in services {
                sample = sample.service(&name, active);
            }
            let existing = |generation: u8| {
                let name = BuildName { generation: Generation(generation.into()), revision: 0 };
                sample.0.builds.contains_key(&name).then_some(name)
            };
            let (linked, good) = (existing(linked), existing(good));
            Certificate { linked, good, busy, ..sample.0 }
        })
}

fn any_world() -> impl Strategy<Value = World> {
    let certificates = prop::collection::btree_map("[a-f]", any_certificate(), 0..6);
    let services = prop::collection::btree_map(
        "[pqr]",
        (prop::option::of(0_u64..200), any::<bool>(), any::<bool>()),
        3,
    );
    (certificates, services, 0_usize..3).prop_map(|(certificates, services, keep)| World {
        now: at(100),
        keep,
        certificates: certificates.into_iter().map(|(name, c)| (cert(&name), c)).collect(),
        services: services
            .into_iter()
            .map(|(name, (retry_at, test_failed, busy))| {
                (service(&name), Service { retry_at: retry_at.map(at), test_failed, busy })
            })
            .collect(),
    })
}

/// Carries a plan out as if everything worked.
fn carry_out(world: &mut World, plan: &Plan) {
    for (name, to) in &plan.stage {
        let certificate = world.certificates.get_mut(name).unwrap();
        let fingerprint = certificate.build;
        certificate.builds.insert(*to, Build { fingerprint, intact: true, expired: false });
    }
    for batch in &plan.batches {
        for (name, switch) in &batch.switches {
            world.certificates.get_mut(name).unwrap().linked = Some(switch.to);
        }
        for (using, step) in &batch.services {
            for name in &step.certificates {
                let certificate = world.certificates.get_mut(name).unwrap();
                let active = certificate.build;
                certificate.services.insert(using.clone(), Some(active));
            }
        }
    }
    for (name, old) in &plan.prune {
        world.certificates.get_mut(name).unwrap().builds.remove(old).unwrap();
    }
}

proptest! {
    #[test]
    fn a_plan_touches_nothing_twice_and_nothing_that_is_busy(world in any_world()) {
        let plan = plan(&world);
        let mut certificates = BTreeSet::new();
        let mut services = BTreeSet::new();
        for (name, _) in &plan.stage {
            prop_assert!(certificates.insert(name.clone()));
        }
        for batch in &plan.batches {
            for (name, switch) in &batch.switches {
                let certificate = &world.certificates[name];
                prop_assert!(certificates.insert(name.clone()) && !certificate.busy);
                prop_assert!(certificate.retry_at.is_none_or(|at| at <= world.now));
                // Invariants 3 and 4: only the wanted generation, and only a whole build.
                let to = certificate.builds[&switch.to];
                prop_assert_eq!(switch.to.generation, certificate.generation);
                prop_assert!(to.intact && to.fingerprint == certificate.build);
                if let Back::To(back) = switch.back {
                    prop_assert!(certificate.builds[&back].intact && back != switch.to);
                }
            }
            for (name, step) in &batch.services {
                prop_assert!(services.insert(name.clone()));
                prop_assert!(!world.services.get(name).is_some_and(|service| service.busy));
                prop_assert!(step.certificates.iter().all(|name| batch.switches.contains_key(name)));
            }
        }
        for (name, old) in &plan.prune {
            let certificate = &world.certificates[name];
            prop_assert!(!certificates.contains(name) && certificate.linked != Some(*old));
        }
    }

    #[test]
    fn when_everything_works_all_is_settled_soon(mut world in any_world()) {
        for certificate in world.certificates.values_mut() {
            (certificate.busy, certificate.retry_at) = (false, None);
        }
        for service in world.services.values_mut() {
            (service.busy, service.retry_at) = (false, None);
        }
        for _ in 0..3 {
            let plan = plan(&world);
            carry_out(&mut world, &plan);
        }
        prop_assert_eq!(plan(&world), Plan::default());
        prop_assert!(world.certificates.values().all(|c| c.installed().is_some()));
    }

    #[test]
    fn what_is_not_done_now_has_a_time_or_is_busy(world in any_world()) {
        let plan = plan(&world);
        let done: BTreeSet<&CertName> = plan
            .stage
            .iter()
            .map(|(name, _)| name)
            .chain(plan.batches.iter().flat_map(|batch| batch.switches.keys()))
            .collect();
        for (name, certificate) in &world.certificates {
            let busy = certificate.busy
                || certificate.pending().any(|s| world.services.get(s).is_some_and(|s| s.busy));
            if certificate.installed().is_none() && !busy && !done.contains(name) {
                prop_assert!(plan.wake_at.is_some_and(|at| at > world.now), "{name}");
            }
        }
    }
}
