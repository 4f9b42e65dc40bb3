use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use async_trait::async_trait;
use chancery_shared::{
    clock::{ManualClock, SystemClock},
    number::{Epoch, Revision},
};

use super::*;
use crate::{
    metrics::Metrics,
    record::{self, Leader, key},
    store::{
        Batch, Campaign, Candidate, Entry, Error, Fence, Snapshot, Watch, memory::MemoryStore,
    },
};

const TTL: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(2);

/// What becomes of calls that are about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// They fail, and nothing is done.
    Fail,
    /// They are done, and the caller is told that nobody knows.
    Unknown,
    /// They are not answered.
    Hang,
    /// They are done, and answered after this time.
    Slow(Duration),
}

/// A node's way to the store.
struct Wire {
    store: Arc<MemoryStore>,
    fault: Mutex<Fault>,
    refuse_commits: AtomicBool,
}

impl Wire {
    fn new(store: &Arc<MemoryStore>) -> Arc<Self> {
        let (store, fault) = (store.clone(), Mutex::new(Fault::None));
        Arc::new(Self { store, fault, refuse_commits: AtomicBool::new(false) })
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    async fn pass<T>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::None => call.await,
            Fault::Fail => Err(Error::Unavailable("the wire is cut".to_owned())),
            Fault::Unknown => {
                let _ = call.await;
                Err(Error::OutcomeUnknown("the wire was cut".to_owned()))
            }
            Fault::Hang => std::future::pending().await,
            Fault::Slow(time) => {
                let answer = call.await;
                tokio::time::sleep(time).await;
                answer
            }
        }
    }
}

#[async_trait]
impl Store for Wire {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.pass(self.store.list(prefix)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        if self.refuse_commits.load(SeqCst) {
            return Err(Error::Unavailable("no commits today".to_owned()));
        }
        self.store.commit(batch).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.pass(self.store.watch(prefix, after)).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.pass(self.store.campaign(candidate)).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.pass(self.store.keep_alive(fence)).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.pass(self.store.resign(fence)).await
    }

    async fn register(
        &self,
        registration: &crate::store::Registration,
    ) -> Result<crate::store::Registered, Error> {
        self.store.register(registration).await
    }

    async fn keep_registered(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.store.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.store.deregister(registered).await
    }

    async fn health(&self) -> Result<crate::store::Health, Error> {
        self.store.health().await
    }

    fn kind(&self) -> &'static str {
        "wire"
    }
}

struct Node {
    wire: Arc<Wire>,
    election: Election,
    terms: watch::Receiver<Option<Leadership>>,
    shutdown: CancellationToken,
}

impl Node {
    fn start(store: &Arc<MemoryStore>, clock: &SharedClock, name: &str) -> Self {
        let (wire, shutdown) = (Wire::new(store), CancellationToken::new());
        let options = Options { node: name.parse().unwrap(), ttl: TTL, drain: DRAIN };
        let metrics = Arc::new(Metrics::default());
        let election = start(wire.clone(), clock.clone(), options, metrics, shutdown.clone());
        Self { wire, terms: election.subscribe(), election, shutdown }
    }

    async fn leads(&mut self) -> Leadership {
        let leads = self.terms.wait_for(Option::is_some);
        let within = tokio::time::timeout(Duration::from_mins(1), leads).await;
        within.expect("it leads in time").unwrap().clone().unwrap()
    }

    async fn follows(&mut self) {
        let follows = self.terms.wait_for(Option::is_none);
        let within = tokio::time::timeout(Duration::from_mins(1), follows).await;
        within.expect("it steps down in time").unwrap();
    }
}

fn scene() -> (Arc<MemoryStore>, SharedClock) {
    let clock = SystemClock::shared();
    (MemoryStore::new(clock.clone()), clock)
}

async fn leader_record(store: &MemoryStore) -> Option<Leader> {
    let entry = store.get(key::LEADER).await.unwrap()?;
    Some(record::decode(key::LEADER, &entry.value).unwrap())
}

async fn passes(store: &MemoryStore, term: &Leadership) -> bool {
    store.commit(term.batch().put("x", "1")).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn one_who_is_alone_leads_and_goes_on_leading() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    let term = node.leads().await;
    let leader = leader_record(&store).await.unwrap();
    assert_eq!((leader.node.as_str(), leader.epoch), ("a", term.epoch()));
    tokio::time::sleep(TTL * 20).await;
    assert_eq!(term.check(), Ok(()));
    assert!(term.remaining() > TTL / 2, "{term:?}");
    assert!(passes(&store, &term).await);
    assert_eq!(node.election.current().map(|term| term.epoch()), Some(term.epoch()));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_takes_no_time_and_no_lease_has_to_expire() {
    let (store, clock) = scene();
    let mut a = Node::start(&store, &clock, "a");
    let term = a.leads().await;
    let mut b = Node::start(&store, &clock, "b");
    tokio::time::sleep(TTL * 2).await;
    assert!(b.election.current().is_none());
    let before = clock.monotonic();
    a.shutdown.cancel();
    let next = b.leads().await;
    let took = clock.monotonic().since(before);
    assert!(took < Duration::from_millis(20), "{took:?}");
    assert!(next.epoch() > term.epoch());
    assert_eq!(term.check(), Err(SteppedDown { epoch: term.epoch() }));
    assert!(!passes(&store, &term).await && passes(&store, &next).await);
    a.election.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn one_who_is_cut_off_steps_down_before_another_leads() {
    for fault in [Fault::Hang, Fault::Fail] {
        let (store, clock) = scene();
        let mut a = Node::start(&store, &clock, "a");
        let term = a.leads().await;
        let mut b = Node::start(&store, &clock, "b");
        tokio::time::sleep(TTL).await;
        let before = clock.monotonic();
        a.wire.set(fault);
        a.follows().await;
        assert!(term.check().is_err());
        assert!(b.terms.borrow().is_none(), "{fault:?}: nobody else leads yet");
        let next = b.leads().await;
        let took = clock.monotonic().since(before);
        assert!(took <= TTL + Duration::from_secs(1), "{fault:?}: {took:?}");
        assert!(next.epoch() > term.epoch());
        // And it comes back as a follower, without a restart.
        a.wire.set(Fault::None);
        tokio::time::sleep(TTL * 4).await;
        assert!(a.terms.borrow().is_none() && next.check().is_ok());
        b.shutdown.cancel();
        assert!(a.leads().await.epoch() > next.epoch());
    }
}

#[tokio::test(start_paused = true)]
async fn a_moment_of_trouble_costs_nothing() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    let term = node.leads().await;
    for fault in [Fault::Fail, Fault::Hang, Fault::Unknown, Fault::Slow(TTL / 4)] {
        node.wire.set(fault);
        tokio::time::sleep(TTL * 2 / 5).await;
        node.wire.set(Fault::None);
        tokio::time::sleep(TTL).await;
        assert_eq!(term.check(), Ok(()), "{fault:?}");
    }
    assert!(passes(&store, &term).await);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_of_unknown_outcome_makes_no_leader() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    node.wire.set(Fault::Unknown);
    tokio::time::sleep(TTL * 3).await;
    assert!(leader_record(&store).await.is_some(), "the store did grant it");
    assert!(node.terms.borrow().is_none(), "but the node cannot know");
    let granted = leader_record(&store).await.unwrap().epoch;
    node.wire.set(Fault::None);
    let term = node.leads().await;
    assert!(term.epoch() > granted, "it leads with a term of its own");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_granted_too_late_is_given_back() {
    let (store, clock) = scene();
    let node = Node::start(&store, &clock, "a");
    node.wire.set(Fault::Slow(Duration::from_millis(4900)));
    // Long enough for the answer, and for the resignation that follows it.
    tokio::time::sleep(Duration::from_millis(4950)).await;
    assert!(node.terms.borrow().is_none());
    assert_eq!(leader_record(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn losing_the_store_for_long_ends_the_term_and_never_the_election() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    let term = node.leads().await;
    let ended = term.ended();
    node.wire.set(Fault::Fail);
    tokio::time::timeout(TTL, ended).await.expect("it says so before the lease could expire");
    node.follows().await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    node.wire.set(Fault::None);
    let before = clock.monotonic();
    let next = node.leads().await;
    assert!(next.epoch() > term.epoch());
    assert!(clock.monotonic().since(before) < Duration::from_secs(6));
    assert!(term.check().is_err(), "an old term stays over");
}

#[tokio::test(start_paused = true)]
async fn a_vacancy_is_not_missed_while_a_campaign_is_under_way() {
    let (store, clock) = scene();
    let mut a = Node::start(&store, &clock, "a");
    a.leads().await;
    let mut b = Node::start(&store, &clock, "b");
    tokio::time::sleep(TTL).await;
    // Every campaign of b is answered late, so the vacancy is told while one is under way.
    b.wire.set(Fault::Slow(Duration::from_millis(300)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = clock.monotonic();
    a.shutdown.cancel();
    b.leads().await;
    let took = clock.monotonic().since(before);
    assert!(took <= Duration::from_millis(610), "two campaigns and no wait: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_is_brought_to_an_end_under_the_lease() {
    let (store, clock) = scene();
    let mut a = Node::start(&store, &clock, "a");
    let term = a.leads().await;
    let hold = term.hold().unwrap();
    let mut b = Node::start(&store, &clock, "b");
    tokio::time::sleep(TTL).await;
    a.shutdown.cancel();
    a.follows().await;
    // Nothing new begins, but the last write of what has begun passes.
    assert!(term.check().is_err() && term.hold().is_err());
    tokio::time::sleep(DRAIN / 2).await;
    assert!(passes(&store, &term).await);
    assert!(b.terms.borrow().is_none());
    drop(hold);
    let before = clock.monotonic();
    b.leads().await;
    assert!(clock.monotonic().since(before) < Duration::from_millis(20));
    assert!(!passes(&store, &term).await);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_never_dropped_does_not_stop_the_shutdown() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    let term = node.leads().await;
    let _hold = term.hold().unwrap();
    let before = clock.monotonic();
    node.shutdown.cancel();
    node.election.stopped().await;
    let took = clock.monotonic().since(before);
    assert!(took >= DRAIN && took < DRAIN + Duration::from_millis(100), "{took:?}");
    assert_eq!(leader_record(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_though_the_store_does_not_answer() {
    for fault in [Fault::Hang, Fault::Fail] {
        let (store, clock) = scene();
        let mut node = Node::start(&store, &clock, "a");
        node.leads().await;
        node.wire.set(fault);
        node.shutdown.cancel();
        let stopped = node.election.stopped();
        tokio::time::timeout(TTL, stopped).await.expect("the shutdown ends");
        assert!(leader_record(&store).await.is_some(), "{fault:?}: the lease expires by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_stops_at_once() {
    let (store, clock) = scene();
    let mut a = Node::start(&store, &clock, "a");
    a.leads().await;
    let b = Node::start(&store, &clock, "b");
    tokio::time::sleep(TTL).await;
    b.shutdown.cancel();
    b.election.stopped().await;
    assert_eq!(leader_record(&store).await.unwrap().node.as_str(), "a");
}

/// Three nodes, of which `a` leads.
async fn three(store: &Arc<MemoryStore>, clock: &SharedClock) -> [Node; 3] {
    let mut a = Node::start(store, clock, "a");
    a.leads().await;
    let others = ["b", "c"].map(|name| Node::start(store, clock, name));
    tokio::time::sleep(TTL).await;
    let [b, c] = others;
    [a, b, c]
}

impl Node {
    async fn transfer(&self, to: Option<&str>) -> Epoch {
        let term = self.election.current().expect("it leads");
        let nominee = to.map(|name| name.parse().unwrap());
        self.election.transfers().transfer(&term, nominee.as_ref()).await.unwrap();
        assert!(term.check().is_err());
        term.epoch()
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_the_nominee_and_stays_there() {
    for round in 0..20 {
        let (store, clock) = scene();
        let [a, b, mut c] = three(&store, &clock).await;
        let before = a.transfer(Some("c")).await;
        let stepped_down = clock.monotonic();
        let next = c.leads().await;
        let took = clock.monotonic().since(stepped_down);
        assert!(took < Duration::from_millis(20), "round {round}: {took:?}");
        assert!(next.epoch() > before);
        transfer::forget(&*store, &next).await.unwrap();
        tokio::time::sleep(TTL * 10).await;
        assert!(next.check().is_ok() && a.terms.borrow().is_none() && b.terms.borrow().is_none());
        // The one who handed over is a follower as any other.
        drop(b);
        c.transfer(Some("a")).await;
        assert_eq!(leader_record(&store).await.unwrap().node.as_str(), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_nominee_another_leads() {
    let (store, clock) = scene();
    let [a, b, c] = three(&store, &clock).await;
    a.transfer(None).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(b.terms.borrow().is_some() != c.terms.borrow().is_some());
    assert!(a.terms.borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_nominee_that_never_comes_costs_a_bounded_time() {
    let (store, clock) = scene();
    let [a, mut b, c] = three(&store, &clock).await;
    c.wire.set(Fault::Hang);
    a.transfer(Some("c")).await;
    let before = clock.monotonic();
    b.leads().await;
    let took = clock.monotonic().since(before);
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_nobody_to_hand_over_to_leads_again() {
    let (store, clock) = scene();
    let mut a = Node::start(&store, &clock, "a");
    let first = a.leads().await;
    a.transfer(None).await;
    a.follows().await;
    let before = clock.monotonic();
    let second = a.leads().await;
    let took = clock.monotonic().since(before);
    assert!(took >= TTL && took < TTL + Duration::from_secs(2), "{took:?}");
    assert!(second.epoch() > first.epoch());
}

#[tokio::test(start_paused = true)]
async fn a_nomination_by_a_leader_who_dies_delays_nobody_beyond_the_ttl() {
    let (store, clock) = scene();
    let [a, mut b, c] = three(&store, &clock).await;
    let term = a.election.current().unwrap();
    let nomination =
        record::Nomination { node: "c".parse().unwrap(), epoch: term.epoch(), hold_millis: 3_100 };
    let batch = term.batch().put(key::NOMINATION, record::encode(&nomination));
    store.commit(batch).await.unwrap();
    // Leader and nominee are gone before anything else happens.
    let before = clock.monotonic();
    a.wire.set(Fault::Hang);
    c.wire.set(Fault::Hang);
    b.leads().await;
    let took = clock.monotonic().since(before);
    assert!(took <= TTL + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_nomination_of_an_earlier_term_means_nothing() {
    let (store, clock) = scene();
    let [a, b, _] = three(&store, &clock).await;
    let nomination =
        record::Nomination { node: "c".parse().unwrap(), epoch: Epoch(0), hold_millis: 9_000 };
    let batch = Batch::unfenced().put(key::NOMINATION, record::encode(&nomination));
    store.commit(batch).await.unwrap();
    drop(b);
    let mut late = Node::start(&store, &clock, "late");
    tokio::time::sleep(TTL).await;
    a.transfer(Some("late")).await;
    late.leads().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_is_not_handed_over() {
    let (store, clock) = scene();
    let [a, ..] = three(&store, &clock).await;
    let term = a.election.current().unwrap();
    a.wire.refuse_commits.store(true, SeqCst);
    let nominee = "c".parse().unwrap();
    let error = a.election.transfers().transfer(&term, Some(&nominee)).await.unwrap_err();
    assert!(error.to_string().contains("was not handed over"), "{error}");
    assert!(term.check().is_ok());
    tokio::time::sleep(TTL * 2).await;
    assert!(term.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_transfer_waits_for_what_has_begun() {
    let (store, clock) = scene();
    let [a, _, mut c] = three(&store, &clock).await;
    let term = a.election.current().unwrap();
    let hold = term.hold().unwrap();
    a.transfer(Some("c")).await;
    tokio::time::sleep(DRAIN / 2).await;
    assert!(c.terms.borrow().is_none() && passes(&store, &term).await);
    drop(hold);
    c.leads().await;
    assert!(!passes(&store, &term).await);
}

/// A wall clock that jumps by years with each look, over a monotonic one that does not.
struct Mad {
    monotonic: SystemClock,
    looks: AtomicU64,
}

impl chancery_shared::clock::Clock for Mad {
    fn now(&self) -> jiff::Timestamp {
        let look = self.looks.fetch_add(1, SeqCst);
        let year = i64::try_from(look * 7_919 % 60).unwrap();
        jiff::Timestamp::from_second(year * 31_556_952).unwrap()
    }

    fn monotonic(&self) -> Monotonic {
        self.monotonic.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_changes_nothing() {
    let (store, clock) = scene();
    let mad: SharedClock = Arc::new(Mad { monotonic: SystemClock::new(), looks: 0.into() });
    let mut a = Node::start(&store, &mad, "a");
    let term = a.leads().await;
    let mut b = Node::start(&store, &clock, "b");
    tokio::time::sleep(TTL * 20).await;
    assert_eq!(term.check(), Ok(()));
    assert!(b.terms.borrow().is_none(), "nobody took it away");
    a.transfer(Some("b")).await;
    b.leads().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_on_a_bad_link_does_not_take_leadership_back_and_forth() {
    let (store, clock) = scene();
    let mut flaps = Node::start(&store, &clock, "flaps");
    flaps.leads().await;
    let healthy = Node::start(&store, &clock, "healthy");
    tokio::time::sleep(TTL).await;
    let first = leader_record(&store).await.unwrap().epoch;
    // Its way to the store works for a while, and then not, over and over.
    for _ in 0..10 {
        flaps.wire.set(Fault::Hang);
        tokio::time::sleep(TTL * 3 / 2).await;
        flaps.wire.set(Fault::None);
        tokio::time::sleep(TTL * 3 / 2).await;
    }
    let leader = leader_record(&store).await.unwrap();
    assert_eq!(leader.node.as_str(), "healthy");
    assert_eq!(leader.epoch, first.next(), "one change, and no more");
    assert!(healthy.election.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_on_a_bad_link_leads_when_it_can() {
    let (store, clock) = scene();
    let mut node = Node::start(&store, &clock, "a");
    node.leads().await;
    for _ in 0..5 {
        node.wire.set(Fault::Hang);
        node.follows().await;
        node.wire.set(Fault::None);
        node.leads().await;
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_count_are_told() {
    let (store, clock) = scene();
    let metrics = Arc::new(Metrics::default());
    let options = Options { node: "a".parse().unwrap(), ttl: TTL, drain: DRAIN };
    let (wire, shutdown) = (Wire::new(&store), CancellationToken::new());
    let election = start(wire.clone(), clock.clone(), options, metrics.clone(), shutdown.clone());
    let mut terms = election.subscribe();
    let term = terms.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    tokio::time::sleep(TTL * 10).await;
    assert_eq!(term.renewals().len(), 10, "no more are kept");
    wire.set(Fault::Fail);
    terms.wait_for(Option::is_none).await.unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "chancery_lease_campaigns_total{outcome=\"won\"} 1",
        "chancery_lease_step_downs_total{reason=\"unconfirmed\"} 1",
        "chancery_lease_leader_changes_total 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("chancery_lease_keep_alive_failures_total 0\n"), "{text}");
    assert!(!text.contains("chancery_lease_keep_alive_duration_seconds_count 0\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_time_without_a_leader_is_counted() {
    let (store, clock) = scene();
    let metrics = Metrics::default();
    metrics.observe(&Observation::Vacant { at: clock.monotonic() });
    tokio::time::sleep(TTL).await;
    assert_eq!(metrics.vacant(clock.monotonic()), TTL, "while it lasts");
    metrics.observe(&Observation::Led { epoch: Epoch(1), at: clock.monotonic() });
    tokio::time::sleep(TTL).await;
    assert_eq!(metrics.vacant(clock.monotonic()), TTL);
    drop(store);
}

/// A process that is stopped runs no task. Its first look at the clock has to be enough.
#[tokio::test]
async fn a_stopped_process_finds_out_by_itself() {
    let clock = Arc::new(ManualClock::new("2026-01-02T03:04:05Z".parse().unwrap()));
    let store = MemoryStore::new(clock.clone());
    let mut node = Node::start(&store, &(clock.clone() as SharedClock), "a");
    let term = node.leads().await;
    assert_eq!(term.check(), Ok(()));
    assert!(term.remaining() < TTL, "there is a margin");
    // No await between here and the check: nothing else can have run.
    clock.advance(TTL);
    assert_eq!(term.check(), Err(SteppedDown { epoch: Epoch(1) }));
    assert!(term.hold().is_err());
    assert!(node.election.current().is_none());
    assert!(!passes(&store, &term).await);
}
