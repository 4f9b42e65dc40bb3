use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use chancery_shared::{
    clock::ManualClock,
    number::{Epoch, Generation},
};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::*;
use crate::{
    election::testing::lead,
    record::{DataKey, ExternalAccount, Stage},
    seal::{KeyFile, bootstrap},
    store::{Batch, Campaign, Candidate, Fence, Snapshot, Watch, memory::MemoryStore},
};

struct Scene {
    _folder: tempfile::TempDir,
    key_file: KeyFile,
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    sealer: Sealer,
    leadership: Leadership,
    _leading: tokio_util::sync::DropGuard,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key_file = KeyFile::create(&folder.path().join("seal.key")).unwrap();
        let clock = Arc::new(ManualClock::new("2026-01-02T03:04:05Z".parse().unwrap()));
        let store = MemoryStore::new(clock.clone());
        let (leadership, leading) = lead(store.clone(), clock.clone(), "a").await;
        let sealer = bootstrap(&*store, &key_file, now(0)).await.unwrap();
        Self { _folder: folder, key_file, clock, store, sealer, leadership, _leading: leading }
    }

    async fn put<T: Record>(&self, key: String, record: &T) {
        self.store.commit(self.leadership.batch().put(key, record::encode(record))).await.unwrap();
    }

    fn bundle(&self, name: &str, generation: u64) -> Bundle {
        let (certificate, generation) = (name.parse().unwrap(), Generation(generation));
        let key = self.sealer.seal(&Context::bundle(&certificate, generation), name.as_bytes());
        let (leaf, chain, identifiers) = (Vec::new(), Vec::new(), Vec::new());
        Bundle { certificate, generation, issuer: None, leaf, chain, key, identifiers }
    }

    async fn put_bundle(&self, name: &str, generation: u64) {
        let bundle = self.bundle(name, generation);
        self.put(key::bundle(&bundle.certificate, bundle.generation), &bundle).await;
    }

    async fn put_everything(&self) {
        for n in 0..50 {
            self.put_bundle(&format!("www-{n}"), 1).await;
        }
        self.put_bundle("0", 7).await;
        let issuer = "letsencrypt".parse().unwrap();
        let locked = self.sealer.seal(&Context::account(&issuer), b"account");
        let account = Account {
            directory: String::new(),
            key: locked,
            url: None,
            contacts: None,
            bound: None,
            next_key: None,
            former_thumbprints: Vec::new(),
            deactivated_at: None,
            change: None,
        };
        self.put(key::account(&issuer), &account).await;
        let next = NextKey {
            certificate: "www-1".parse().unwrap(),
            key_type: chancery_shared::key_type::KeyType::default(),
            public_key: chancery_shared::x509::Fingerprint::of(b""),
            key: self.sealer.seal(&Context::next_key(&"www-1".parse().unwrap()), b"next"),
            made_at: now(0),
        };
        self.put(key::next_key(&next.certificate), &next).await;
        let bundle = Some(self.bundle("standby", 3));
        let standby = Standby { bundle, ..Standby::none("standby".parse().unwrap()) };
        self.put(key::standby(&standby.certificate), &standby).await;
        let locked = self.sealer.seal(&Context::external_account(&issuer), b"hmac");
        let external_account =
            Some(ExternalAccount { key_id: "kid".to_owned(), mark: String::new(), key: locked });
        for (name, external_account) in [(issuer, external_account), (unbound(), None)] {
            let spec = IssuerSpec {
                name,
                directory: String::new(),
                external_account,
                profile: None,
                preferred_chain: None,
                limits: std::collections::BTreeMap::new(),
                contacts: Vec::new(),
                trust_roots_pem: String::new(),
            };
            self.put(key::issuer(&spec.name), &spec).await;
        }
        let locked = self.sealer.seal(&Context::authority(), b"authority");
        let authority = Authority { certificate: Vec::new(), key: locked };
        self.put(key::AUTHORITY.to_owned(), &authority).await;
    }

    fn order(&self, name: &str) -> Order {
        let (certificate, generation) = (name.parse().unwrap(), Generation(2));
        Order {
            id: Uuid::nil(),
            key: self.sealer.seal(&Context::order(&certificate, generation), b"order"),
            certificate,
            generation,
            issuer: "letsencrypt".parse().unwrap(),
            account: String::new(),
            identifiers: Vec::new(),
            key_type: chancery_shared::key_type::KeyType::default(),
            challenges: Vec::new(),
            profile: None,
            reason: String::new(),
            started_at: now(0),
            deadline: now(0),
            epoch: Epoch(1),
            resumed: 0,
            replaces: None,
            standby: false,
            stage: Stage::Intended,
        }
    }

    async fn add_key(&self, at: Timestamp) -> u32 {
        add_key(&*self.store, &self.leadership, &self.sealer, at).await.unwrap()
    }

    async fn reseal(&self, at: Timestamp) -> Progress {
        reseal(&*self.store, &self.leadership, &self.sealer, at).await.unwrap()
    }

    async fn ring(&self) -> SealRing {
        read_ring(&*self.store).await.unwrap().0
    }

    async fn ring_ids(&self) -> Vec<u32> {
        self.ring().await.keys.iter().map(|key| key.id).collect()
    }

    /// Opens every bundle as another coordinator would that has just been started.
    async fn open_all_bundles(&self) -> usize {
        let sealer = Sealer::load(&self.key_file, &self.ring().await).unwrap();
        let entries = self.store.list(key::BUNDLES).await.unwrap().entries;
        for entry in &entries {
            let bundle: Bundle = record::decode(&entry.key, &entry.value).unwrap();
            let context = Context::bundle(&bundle.certificate, bundle.generation);
            let opened = sealer.open(&context, &bundle.key).unwrap();
            assert_eq!(opened.expose_secret(), bundle.certificate.as_str().as_bytes());
        }
        entries.len()
    }
}

fn unbound() -> chancery_shared::name::IssuerName {
    "unbound".parse().unwrap()
}

/// So many minutes after the start.
fn now(minutes: i64) -> Timestamp {
    let start: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    start + jiff::SignedDuration::from_mins(minutes)
}

#[tokio::test]
async fn without_an_older_key_there_is_nothing_to_do() {
    let scene = Scene::new().await;
    scene.put_everything().await;
    let before = scene.store.list("").await.unwrap();
    assert_eq!(scene.reseal(now(600)).await, Progress::default());
    assert_eq!(scene.store.list("").await.unwrap(), before);
}

#[tokio::test]
async fn everything_is_sealed_again_and_the_old_key_is_dropped_in_time() {
    let scene = Scene::new().await;
    scene.put_everything().await;
    assert_eq!(scene.add_key(now(10)).await, 2);
    assert_eq!(scene.sealer.active_data_key(), 2);
    let progress = scene.reseal(now(11)).await;
    assert_eq!(progress, Progress { resealed: 56, ..Progress::default() });
    assert_eq!(scene.ring_ids().await, [1, 2], "a value may still be on its way");
    assert_eq!(scene.reseal(now(69)).await, Progress::default());
    let progress = scene.reseal(now(70)).await;
    assert_eq!(progress, Progress { dropped: vec![1], ..Progress::default() });
    assert_eq!(scene.ring_ids().await, [2]);
    assert_eq!(scene.open_all_bundles().await, 51);
    assert_eq!(scene.add_key(now(80)).await, 3, "numbers are not used again");
}

#[tokio::test]
async fn a_value_that_arrives_late_keeps_its_key() {
    let scene = Scene::new().await;
    let late = scene.bundle("late", 1);
    scene.add_key(now(0)).await;
    let order = scene.order("ordered");
    scene.add_key(now(1)).await;
    assert_eq!((late.key.data_key, order.key.data_key), (1, 2));
    scene.put(key::order(&order.certificate), &order).await;
    scene.put(key::bundle(&late.certificate, late.generation), &late).await;
    let progress = scene.reseal(now(600)).await;
    let expected = Progress { resealed: 1, remaining: 1, dropped: vec![1], ..Progress::default() };
    assert_eq!(progress, expected, "an order in progress is left alone, and its key stays");
    assert_eq!(scene.ring_ids().await, [2, 3]);
    let key = key::order(&order.certificate);
    let entry = scene.store.get(&key).await.unwrap().unwrap();
    assert_eq!(record::decode::<Order>(&key, &entry.value).unwrap(), order);
    scene.store.commit(Batch::unfenced().delete(key)).await.unwrap();
    assert_eq!(scene.reseal(now(601)).await.dropped, [2]);
}

#[tokio::test]
async fn what_cannot_be_read_keeps_every_key() {
    let scene = Scene::new().await;
    scene.put_everything().await;
    scene.store.commit(Batch::unfenced().put("bundles/bad/1", "{}")).await.unwrap();
    let swapped = Bundle { certificate: "other".parse().unwrap(), ..scene.bundle("www", 1) };
    scene.put("bundles/other/1".to_owned(), &swapped).await;
    scene.add_key(now(0)).await;
    let progress = scene.reseal(now(600)).await;
    assert_eq!(progress.unreadable, ["bundles/bad/1", "bundles/other/1"]);
    assert_eq!((progress.resealed, progress.dropped.len()), (56, 0));
    assert_eq!(scene.ring_ids().await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_beside_all_other_work() {
    let scene = Arc::new(Scene::new().await);
    scene.put_everything().await;
    // The writer gets a number of writes for each round: it can neither starve, nor keep the
    // rotation from ever seeing a quiet pass.
    let (scene_of_writer, allowed) = (scene.clone(), Arc::new(Semaphore::new(0)));
    let taken = allowed.clone();
    // What an hour of grace is for: a value sealed before a rotation has arrived in the store.
    let on_its_way = Arc::new(Mutex::new(()));
    let sealing = on_its_way.clone();
    let writer = tokio::spawn(async move {
        for generation in 2..2 + ROUNDS * WRITES_A_ROUND {
            taken.acquire().await.unwrap().forget();
            let _unarrived = sealing.lock().await;
            scene_of_writer.put_bundle(&format!("www-{}", generation % 50), generation).await;
            // Overwrites, without a condition, what the rotation may be looking at.
            scene_of_writer.put_bundle("0", 7).await;
            tokio::task::yield_now().await;
        }
    });
    let other = Sealer::load(&scene.key_file, &scene.ring().await).unwrap();
    for round in 1..=i64::try_from(ROUNDS).unwrap() {
        allowed.add_permits(usize::try_from(WRITES_A_ROUND).unwrap());
        let added = scene.add_key(now(round * 100)).await;
        drop(on_its_way.lock().await);
        while scene.reseal(now(round * 100 + 61)).await.dropped.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(scene.ring_ids().await, [added]);
        other.reload(&scene.ring().await).unwrap();
        assert_eq!(other.active_data_key(), added);
    }
    writer.await.unwrap();
    // The last of the writer's may have been sealed before the last round.
    scene.reseal(now(1000)).await;
    assert!(scene.open_all_bundles().await > 51);
}

/// Lets a number of commits pass, then fails; and writes to a record right before a commit.
struct Meddling {
    store: Arc<MemoryStore>,
    commits_left: AtomicUsize,
    meddle_with: Option<(String, Bytes)>,
}

#[async_trait]
impl Store for Meddling {
    async fn get(&self, key: &str) -> Result<Option<Entry>, store::Error> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, store::Error> {
        self.store.list(prefix).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, store::Error> {
        if self.commits_left.load(Ordering::Relaxed) == 0 {
            return Err(store::Error::Unavailable("the wire is cut".to_owned()));
        }
        if self.commits_left.fetch_sub(1, Ordering::Relaxed) == usize::MAX
            && let Some((key, value)) = &self.meddle_with
        {
            self.store.commit(Batch::unfenced().put(key, value.clone())).await?;
        }
        self.store.commit(batch).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, store::Error> {
        self.store.watch(prefix, after).await
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, store::Error> {
        self.store.campaign(candidate).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), store::Error> {
        self.store.keep_alive(fence).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), store::Error> {
        self.store.resign(fence).await
    }

    async fn register(
        &self,
        registration: &store::Registration,
    ) -> Result<store::Registered, store::Error> {
        self.store.register(registration).await
    }

    async fn keep_registered(&self, registered: &store::Registered) -> Result<(), store::Error> {
        self.store.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &store::Registered) -> Result<(), store::Error> {
        self.store.deregister(registered).await
    }

    async fn health(&self) -> Result<store::Health, store::Error> {
        self.store.health().await
    }

    fn kind(&self) -> &'static str {
        "meddling"
    }
}

#[tokio::test]
async fn a_rotation_that_was_interrupted_goes_on() {
    let scene = Scene::new().await;
    scene.put_everything().await;
    scene.add_key(now(0)).await;
    let commits_left = AtomicUsize::new(2);
    let cut = Meddling { store: scene.store.clone(), commits_left, meddle_with: None };
    let interrupted = reseal(&cut, &scene.leadership, &scene.sealer, now(1)).await;
    assert!(matches!(interrupted, Err(Error::Store(_))), "{interrupted:?}");
    assert_eq!(scene.open_all_bundles().await, 51, "half of it is as good as all or nothing");
    let progress = scene.reseal(now(600)).await;
    let done_before = 2 * CHUNK;
    assert_eq!(progress.resealed, 56 - done_before);
    assert_eq!(progress.dropped, [1]);
}

#[tokio::test]
async fn who_writes_a_record_meanwhile_wins() {
    let scene = Scene::new().await;
    scene.put_bundle("www", 1).await;
    let mut newer = scene.bundle("www", 1);
    newer.leaf = b"newer".to_vec();
    let key = key::bundle(&newer.certificate, newer.generation);
    scene.add_key(now(0)).await;
    let meddling = Meddling {
        store: scene.store.clone(),
        commits_left: AtomicUsize::new(usize::MAX),
        meddle_with: Some((key.clone(), record::encode(&newer))),
    };
    let progress = reseal(&meddling, &scene.leadership, &scene.sealer, now(1)).await.unwrap();
    assert_eq!((progress.resealed, progress.remaining), (1, 0));
    let entry = scene.store.get(&key).await.unwrap().unwrap();
    let stored: Bundle = record::decode(&key, &entry.value).unwrap();
    assert_eq!((stored.leaf, stored.key.data_key), (newer.leaf, 2));
}

#[tokio::test]
async fn who_no_longer_leads_rotates_nothing() {
    let scene = Scene::new().await;
    scene.put_everything().await;
    scene.add_key(now(0)).await;
    scene.clock.advance(Duration::from_mins(1));
    let before = scene.store.list(key::BUNDLES).await.unwrap();
    let refused = reseal(&*scene.store, &scene.leadership, &scene.sealer, now(600)).await;
    assert!(matches!(refused, Err(Error::SteppedDown(_))), "{refused:?}");
    let refused = add_key(&*scene.store, &scene.leadership, &scene.sealer, now(600)).await;
    assert!(matches!(refused, Err(Error::Store(store::Error::Fenced { .. }))), "{refused:?}");
    assert_eq!(scene.store.list(key::BUNDLES).await.unwrap().entries, before.entries);
}

#[tokio::test]
async fn a_ring_that_is_gone_is_not_made_anew() {
    let scene = Scene::new().await;
    scene.store.commit(Batch::unfenced().delete(key::SEAL)).await.unwrap();
    let refused = add_key(&*scene.store, &scene.leadership, &scene.sealer, now(0)).await;
    assert!(matches!(refused, Err(Error::RingDamaged(_))), "{refused:?}");
    let unknown = DataKey { id: 9, created_at: now(0), wrapped: Vec::new() };
    assert!(scene.sealer.unwrap(&unknown).is_err());
}

const ROUNDS: u64 = 5;
const WRITES_A_ROUND: u64 = 40;
