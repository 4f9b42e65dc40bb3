use std::sync::Mutex;

use async_trait::async_trait;
use chancery_shared::challenge_type::ChallengeType;
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::*;

/// What a provider was asked for, in words.
type Said = Arc<Mutex<Vec<String>>>;

/// A provider that finishes what it has begun when it is let to.
#[derive(Debug)]
struct Fake {
    said: Said,
    may_finish: Arc<Semaphore>,
}

impl Fake {
    async fn work(&self, what: &str, txt: &Txt<'_>) -> Result<(), Failure> {
        self.said.lock().unwrap().push(format!("{what} {}", txt.name));
        self.may_finish.acquire().await.unwrap().forget();
        self.said.lock().unwrap().push(format!("{what} {} done", txt.name));
        Ok(())
    }
}

#[async_trait]
impl Provider for Fake {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.work("add", txt).await
    }

    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.work("remove", txt).await
    }
}

/// Answers with one fake provider, whose changes nobody ever sees.
pub(super) struct World {
    pub(super) dns01: Arc<Dns01>,
    said: Said,
    may_finish: Arc<Semaphore>,
}

impl World {
    pub(super) fn new(may_finish: usize) -> Self {
        let (said, may_finish) = (Said::default(), Arc::new(Semaphore::new(may_finish)));
        let provider = Fake { said: said.clone(), may_finish: may_finish.clone() };
        let nobody = "127.0.0.1:1".parse().unwrap();
        let lookup = Lookup::new(&[nobody]).unwrap();
        let configured = Configured {
            name: "fake".parse().unwrap(),
            zones: Vec::new(),
            name_servers: vec![nobody],
            propagation_wait: Duration::from_mins(2),
            provider: Box::new(provider),
            calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        };
        let dns01 = Dns01 {
            providers: vec![Arc::new(configured)],
            propagation: Propagation::new(lookup.clone()),
            lookup,
            propagation_deadline: Duration::from_mins(3),
            locks: Locks::default(),
        };
        Self { dns01: Arc::new(dns01), said, may_finish }
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    async fn present(&self, names: usize, may: bool) -> Result<(), Error> {
        let challenges = (0..names).map(|i| (format!("token-{i}"), Arc::new(challenge(i))));
        let still = || if may { Ok(()) } else { Err(stepped_down()) };
        self.dns01.present::<Error, ()>(&challenges.collect(), still).await
    }

    async fn remove(&self) -> Result<bool, Error> {
        let challenge = challenge(0);
        let txt = challenge.txt.as_ref().unwrap();
        self.dns01.remove("token-0", &challenge, txt, async { Ok(true) }).await
    }

    /// Waits until the provider was asked for so much.
    async fn until_said(&self, count: usize) {
        while self.said().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

fn stepped_down() -> Error {
    Error::UnknownProvider("stepped-down".parse().unwrap())
}

pub(super) fn challenge(number: usize) -> Challenge {
    let txt = TxtRecord {
        provider: "fake".parse().unwrap(),
        zone: "example.org".to_owned(),
        name: format!("_acme-challenge.n{number}.example.org"),
        value: "value".to_owned(),
    };
    Challenge {
        order: Uuid::nil(),
        certificate: "www".parse().unwrap(),
        identifier: format!("n{number}.example.org").parse().unwrap(),
        challenge_type: ChallengeType::Dns01,
        key_authorization: "token.thumbprint".to_owned(),
        txt: Some(txt),
        standing: None,
        left: Vec::new(),
    }
}

#[test]
fn a_zone_holds_itself_and_what_is_below() {
    assert!(is_within("a.example.org", "example.org"));
    assert!(is_within("example.org", "example.org"));
    assert!(!is_within("badexample.org", "example.org"));
    assert!(!is_within("org", "example.org"));
}

#[test]
fn the_name_of_an_account_is_that_of_the_drafts_example() {
    let wildcard: Identifier = "*.example.org".parse().unwrap();
    let owner = Owner::Account("https://example.com/acme/acct/ExampleAccount");
    assert_eq!(owner.name(&wildcard), "_ujmmovf2vn55tgye._acme-challenge.example.org");
    assert_eq!(Owner::Everybody.name(&wildcard), "_acme-challenge.example.org");
}

#[tokio::test(start_paused = true)]
async fn many_values_are_added_first_and_then_awaited_together() {
    let world = World::new(100);
    let began = tokio::time::Instant::now();
    let outcome = world.present(100, true).await;
    assert!(matches!(outcome, Err(Error::NotVisible { .. })), "{outcome:?}");
    assert_eq!(world.said().len(), 200);
    let (wait, deadline) = (Duration::from_mins(2), Duration::from_mins(3));
    assert!(began.elapsed() < wait + deadline + Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_provider_is_not_asked_for_everything_at_once() {
    let world = World::new(0);
    assert!(world.present(100, true).now_or_never().is_none());
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.said().len(), CALLS_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_waits_for_any_more_keeps_its_name_until_it_is_done() {
    let world = World::new(0);
    {
        let presenting = world.present(1, true);
        tokio::select! {
            biased;
            _ = presenting => panic!("it is not done"),
            () = world.until_said(1) => {}
        }
    }
    let finish = async {
        world.may_finish.add_permits(2);
    };
    let (removed, ()) = tokio::join!(biased; world.remove(), finish);
    assert!(removed.unwrap());
    let name = "_acme-challenge.n0.example.org";
    let expected = ["add", "add done", "remove", "remove done"].map(|what| {
        let (what, done) = what.split_once(' ').map_or((what, ""), |(what, _)| (what, " done"));
        format!("{what} {name}{done}")
    });
    assert_eq!(world.said(), expected);
}

#[tokio::test(start_paused = true)]
async fn who_no_longer_leads_when_its_turn_comes_changes_nothing() {
    let world = World::new(10);
    let outcome = world.present(3, false).await;
    assert_eq!(outcome, Err(stepped_down()));
    assert!(world.said().is_empty());
}
