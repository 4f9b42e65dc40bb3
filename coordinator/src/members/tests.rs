//! Registering, expiring, and two with one name.

use chancery_shared::clock::{SharedClock, SystemClock};
use tokio::time::sleep;

use super::*;
use crate::store::memory::MemoryStore;

const TTL: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(20);

fn member(node: &str, started_at: &str) -> Member {
    Member {
        node: node.parse().unwrap(),
        instance: Instance::random(),
        version: "1.2.3".to_owned(),
        address: format!("{node}.example.org:7443"),
        http: format!("{node}.example.org:9443"),
        started_at: started_at.parse().unwrap(),
    }
}

struct Scene {
    store: Arc<MemoryStore>,
    mirror: Arc<Mirror>,
    _stop: tokio_util::sync::DropGuard,
}

impl Scene {
    async fn start() -> Self {
        let clock: SharedClock = SystemClock::shared();
        let store = MemoryStore::new(clock);
        let stop = CancellationToken::new();
        let mirror = Mirror::start(store.clone(), stop.clone()).await.unwrap();
        Self { store, mirror, _stop: stop.drop_guard() }
    }

    async fn enter(&self, member: &Member) -> Membership {
        Membership::enter(self.store.clone(), &self.mirror, member.clone(), TTL).await
    }

    fn known(&self, node: &str) -> Option<Instance> {
        self.mirror.read().members.get(node).map(|member| member.record.instance)
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let polling = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[tokio::test]
async fn a_coordinator_is_there_from_its_start_to_its_stop() {
    let scene = Scene::start().await;
    let (a, b) = (member("a", "2026-01-01T00:00:00Z"), member("b", "2026-01-01T00:00:00Z"));
    let coordinators = scene.mirror.coordinators();
    let (first, second) = (scene.enter(&a).await, scene.enter(&b).await);
    assert_eq!(scene.known("a"), Some(a.instance));
    // Longer than its life: it is kept alive.
    sleep(TTL * 2).await;
    assert_eq!(coordinators.borrow().to_vec(), ["a.example.org:7443", "b.example.org:7443"]);
    first.leave().await;
    scene.until("a is gone", || scene.known("a").is_none()).await;
    assert_eq!(coordinators.borrow().to_vec(), ["b.example.org:7443"]);
    assert_eq!(scene.known("b"), Some(b.instance));
    second.leave().await;
}

#[tokio::test]
async fn a_registration_that_was_lost_is_made_again() {
    let scene = Scene::start().await;
    let a = member("a", "2026-01-01T00:00:00Z");
    let membership = scene.enter(&a).await;
    let stolen = Registration { key: key::member(&a.node), value: "x".into(), ttl: TTL };
    let stolen = scene.store.register(&stolen).await.unwrap();
    scene.store.deregister(&stolen).await.unwrap();
    scene.until("it is back", || scene.known("a") == Some(a.instance)).await;
    membership.leave().await;
}

#[tokio::test]
async fn of_two_with_one_name_the_younger_gives_way() {
    let scene = Scene::start().await;
    let older = member("a", "2026-01-01T00:00:00Z");
    let younger = member("a", "2026-01-02T00:00:00Z");
    let mut first = scene.enter(&older).await;
    let mut second = scene.enter(&younger).await;
    let taken = timeout(PATIENCE, second.ousted()).await.unwrap();
    assert_eq!(taken, NameTaken::from(&older));
    assert!(taken.to_string().contains("another coordinator named a is running"), "{taken}");
    scene.until("the older one is back", || scene.known("a") == Some(older.instance)).await;
    assert!(timeout(TTL, first.ousted()).await.is_err());
    first.leave().await;
}

#[test]
fn others_dial_what_is_advertised_or_what_can_be_dialled() {
    let any: SocketAddr = "0.0.0.0:7443".parse().unwrap();
    assert_eq!(dialled(Some("c1:443"), any), "c1:443");
    assert_eq!(dialled(None, "[2001:db8::1]:7443".parse().unwrap()), "[2001:db8::1]:7443");
    assert_eq!(dialled(None, any), format!("{}:7443", host_name()));
}
