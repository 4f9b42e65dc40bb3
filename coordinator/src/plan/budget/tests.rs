use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn names(texts: &[&str]) -> Vec<Identifier> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn budget() -> Budget {
    untouched(&"ca".parse().unwrap(), "https://ca.example/directory")
}

fn new(identifiers: &[Identifier]) -> Ask<'_> {
    Ask { identifiers, kind: Kind::New, urgent: false }
}

/// Seconds until the order is possible.
fn wait(limits: &Limits, budget: &Budget, ask: &Ask<'_>, now: Timestamp) -> Option<i64> {
    match check(limits, budget, ask, now) {
        Verdict::Possible => None,
        Verdict::NotBefore { at, .. } => Some(at.as_second() - now.as_second()),
    }
}

#[test]
fn domains_are_counted_as_the_public_suffix_list_says() {
    for (name, domain) in [
        ("www.example.org", "example.org"),
        ("*.a.b.example.co.uk", "example.co.uk"),
        ("mine.github.io", "mine.github.io"),
        ("co.uk", "co.uk"),
        ("a.b.internal.test", "internal.test"),
    ] {
        assert_eq!(registered_domain(&name.parse().unwrap()), domain, "{name}");
    }
}

#[test]
fn a_set_is_the_same_in_any_order() {
    assert_eq!(
        set_of(&names(&["a.example", "b.example"])),
        set_of(&names(&["b.example", "a.example"]))
    );
    assert_ne!(set_of(&names(&["a.example"])), set_of(&names(&["b.example"])));
}

#[test]
fn the_sixth_certificate_of_a_set_waits_for_a_day_and_a_half() {
    let limits = Limits::letsencrypt();
    let mut budget = budget();
    let set = names(&["www.example.org"]);
    for _ in 0..5 {
        assert_eq!(wait(&limits, &budget, &new(&set), at(0)), None);
        spend(&limits, &mut budget, &new(&set), at(0));
    }
    let hours = wait(&limits, &budget, &new(&set), at(0)).unwrap() / 3600;
    assert_eq!(hours, 33);
    let Verdict::NotBefore { because, .. } = check(&limits, &budget, &new(&set), at(0)) else {
        panic!("it is possible");
    };
    let told = because.to_string();
    assert!(told.contains("5 per 7days for certificates with exactly these"), "{told}");
    // A renewal counts here too; saying what it replaces helps.
    let renewal = Ask { kind: Kind::Renewal, ..new(&set) };
    assert!(wait(&limits, &budget, &renewal, at(0)).is_some());
    let replacement = Ask { kind: Kind::Replacement, ..new(&set) };
    assert_eq!(wait(&limits, &budget, &replacement, at(0)), None);
}

#[test]
fn the_last_tenth_is_for_emergencies() {
    let limits = Limits { certificates_per_domain: None, ..Limits::letsencrypt() };
    let mut budget = budget();
    let mut made = 0;
    while check(&limits, &budget, &new(&names(&[&format!("n{made}.example")])), at(0))
        == Verdict::Possible
    {
        spend(&limits, &mut budget, &new(&names(&[&format!("n{made}.example")])), at(0));
        made += 1;
    }
    assert!((269..=270).contains(&made), "{made}");
    let other = names(&["other.example"]);
    let urgent = Ask { urgent: true, ..new(&other) };
    assert_eq!(check(&limits, &budget, &urgent, at(0)), Verdict::Possible);
    let renewal = Ask { kind: Kind::Renewal, ..new(&other) };
    assert_eq!(check(&limits, &budget, &renewal, at(0)), Verdict::Possible, "costs no order");
    let left = left(&limits, &budget, &Bucket::Orders, at(0)).unwrap();
    assert!(left.left <= 1, "{left:?}");
    assert_eq!(left.reserved, 30);
    let seconds = wait(&limits, &budget, &new(&other), at(0)).unwrap();
    assert!((1..=38).contains(&seconds), "{seconds}");
}

#[test]
fn a_certificate_that_did_not_come_is_not_counted_but_its_order_is() {
    let limits = Limits::letsencrypt();
    let mut budget = budget();
    let set = names(&["www.example.org", "www.example.net"]);
    spend(&limits, &mut budget, &new(&set), at(0));
    assert_eq!(budget.full_at_millis.len(), 4);
    give_back(&limits, &mut budget, &new(&set), at(0));
    assert_eq!(budget.full_at_millis.keys().collect::<Vec<_>>(), [&Bucket::Orders]);
}

#[test]
fn five_failures_of_a_name_hold_back_that_name_only() {
    let limits = Limits::letsencrypt();
    let mut budget = budget();
    let (bad, both, good) =
        (names(&["bad.example"]), names(&["bad.example", "a.example"]), names(&["a.example"]));
    for _ in 0..5 {
        assert_eq!(wait(&limits, &budget, &new(&bad), at(0)), None);
        authorizations_failed(&limits, &mut budget, &bad, at(0));
    }
    assert!(wait(&limits, &budget, &new(&both), at(0)).unwrap() >= 720);
    assert_eq!(wait(&limits, &budget, &new(&good), at(0)), None);
    assert_eq!(wait(&limits, &budget, &new(&bad), at(800)), None);
    assert!(authorized(&mut budget, &bad), "the failures in a row are over");
    assert!(!authorized(&mut budget, &bad));
}

#[test]
fn what_the_ca_says_is_obeyed_whatever_we_have_counted() {
    let none = Limits::default();
    let mut budget = budget();
    let set = names(&["www.example.org"]);
    let refused = |secs| Refused { at: at(0), until: at(secs), message: "slow down".to_owned() };
    refuse(&mut budget, Bucket::Domain("example.org".to_owned()), refused(600));
    assert_eq!(wait(&none, &budget, &new(&set), at(0)), Some(600));
    assert_eq!(wait(&none, &budget, &new(&names(&["a.example"])), at(0)), None);
    refuse(&mut budget, Bucket::Requests, refused(900));
    refuse(&mut budget, Bucket::Requests, refused(60));
    let replacement = Ask { kind: Kind::Replacement, urgent: true, ..new(&set) };
    assert_eq!(wait(&none, &budget, &replacement, at(0)), Some(900));
    assert_eq!(wait(&none, &budget, &new(&set), at(900)), None);
}

#[test]
fn a_refusal_does_not_hold_back_what_the_ca_exempts() {
    let limits = Limits::letsencrypt();
    let set = names(&["www.example.org"]);
    let refused = || Refused { at: at(0), until: at(600), message: "slow down".to_owned() };
    let kinds = [Kind::New, Kind::Renewal, Kind::Replacement];
    for (bucket, waits) in [
        (Bucket::Requests, [true, true, true]),
        (Bucket::Orders, [true, false, false]),
        (Bucket::Domain("example.org".to_owned()), [true, false, false]),
        (set_of(&set), [true, true, false]),
        (Bucket::Failed(set[0].clone()), [true, true, false]),
    ] {
        let mut budget = budget();
        refuse(&mut budget, bucket.clone(), refused());
        let held = kinds.map(|kind| {
            let ask = Ask { kind, ..new(&set) };
            wait(&limits, &budget, &ask, at(0)) == Some(600)
        });
        assert_eq!(held, waits, "{bucket:?}");
    }
}

#[test]
fn a_paused_name_is_tried_once_a_day_or_when_somebody_insists() {
    let limits = Limits::letsencrypt();
    let mut budget = budget();
    let set = names(&["www.example.org"]);
    let link = Some("https://ca.example/unpause?jwt=x".to_owned());
    let paused = Paused { since: at(0), message: "paused".to_owned(), link };
    budget.paused.insert(set[0].clone(), paused);
    let ask = Ask { kind: Kind::Replacement, ..new(&set) };
    assert_eq!(wait(&limits, &budget, &ask, at(0)), Some(86_400));
    let Verdict::NotBefore { because, .. } = check(&limits, &budget, &ask, at(0)) else {
        panic!("it is possible");
    };
    assert!(because.to_string().contains("unpause it at https://ca.example/unpause"), "{because}");
    assert_eq!(wait(&limits, &budget, &Ask { urgent: true, ..ask }, at(0)), None);
}

#[test]
fn the_record_stays_small() {
    let limits = Limits::letsencrypt();
    let mut budget = budget();
    let twice = names(&["twice.example"]);
    spend(&limits, &mut budget, &new(&twice), at(0));
    for i in 0..2_000 {
        let long = "long".repeat(14);
        let name = format!("{long}.{long}.n{i}{long}.example");
        spend(&limits, &mut budget, &new(&names(&[&name])), at(0));
        let paused =
            Paused { since: at(i), message: "x".repeat(500), link: Some("y".repeat(1000)) };
        budget.paused.insert(name.parse().unwrap(), paused);
    }
    spend(&limits, &mut budget, &new(&twice), at(0));
    assert!(budget.full_at_millis.len() > 100, "{}", budget.full_at_millis.len());
    assert_eq!(budget.paused.len(), MOST_PAUSED);
    assert!(budget.full_at_millis.contains_key(&Bucket::Orders));
    for i in 0..100 {
        let refused = Refused { at: at(0), until: at(i + 1), message: "x".repeat(1000) };
        refuse(&mut budget, Bucket::Domain(format!("d{i}.example")), refused);
    }
    let bytes = crate::record::encode(&budget).len();
    assert!(bytes < crate::store::Batch::MOST_BYTES * 2 / 3, "{bytes}");
    spend(&limits, &mut budget, &new(&twice), at(30 * 24 * 3600));
    assert!(budget.paused.is_empty(), "asked for again since");
    assert_eq!(budget.full_at_millis.len(), 3, "what is full is not kept");
}

/// The bucket as it is usually told: tokens that come back one by one.
struct Tokens {
    rate: Rate,
    left: f64,
    seen: i64,
}

impl Tokens {
    fn new(rate: Rate) -> Self {
        Self { rate, left: f64::from(rate.count()), seen: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a test")]
    fn take(&mut self, now: i64) -> bool {
        let back = (now - self.seen) as f64 / self.rate.interval_millis() as f64;
        self.left = (self.left + back).min(f64::from(self.rate.count()));
        self.seen = now;
        // Sums of fractions.
        let possible = self.left > 1.0 - 1e-6;
        self.left -= f64::from(u8::from(possible));
        possible
    }
}

proptest! {
    #[test]
    fn what_is_possible_is_never_refused(
        count in 1_u32..20,
        per_secs in 20_u64..1_000,
        pauses in proptest::collection::vec(0_u32..100_000, 1..200),
    ) {
        let rate = Rate::new(count, Duration::from_secs(per_secs)).unwrap();
        let limits = Limits { orders: Some(rate), ..Limits::default() };
        let (mut budget, mut tokens) = (budget(), Tokens::new(rate));
        let set = names(&["a.example"]);
        let mut millis = 0;
        for pause in pauses {
            millis += i64::from(pause);
            let now = at(0) + Duration::from_millis(millis.unsigned_abs());
            match check(&limits, &budget, &new(&set), now) {
                Verdict::Possible => {
                    prop_assert!(tokens.take(millis), "refused at {millis}");
                    spend(&limits, &mut budget, &new(&set), now);
                }
                Verdict::NotBefore { at, .. } => {
                    // Nor does it wait much longer than it has to.
                    let wait = at.as_millisecond() - now.as_millisecond();
                    prop_assert!(wait <= rate.interval_millis() + MARGIN_MILLIS, "{wait}");
                }
            }
        }
    }
}
