use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use async_trait::async_trait;
use chancery_shared::{
    clock::SystemClock, key_type::KeyType, name::Labels, number::Generation, x509::Fingerprint,
};
use jiff::Timestamp;

use super::*;
use crate::{
    record::{self, Agent, Bundle, CertificateSpec, Chain, Identity, Sealed, key},
    store::{Batch, Campaign, Candidate, Entry, Fence, Snapshot, Watch, memory::MemoryStore},
};

/// A store whose watch can be cut.
struct Cut {
    inner: Arc<MemoryStore>,
    away: AtomicBool,
    /// Whether it then says that it no longer has the commits.
    compacted: AtomicBool,
    sender: Mutex<Option<CancellationToken>>,
}

#[async_trait]
impl Store for Cut {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.inner.list(prefix).await
    }
    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        self.inner.commit(batch).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        if self.away.load(SeqCst) {
            return Err(Error::Unavailable("cut off".to_owned()));
        }
        if self.compacted.swap(false, SeqCst) {
            return Err(Error::Compacted { after });
        }
        let mut watch = self.inner.watch(prefix, after).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let end = CancellationToken::new();
        *self.sender.lock().unwrap() = Some(end.clone());
        tokio::spawn(end.run_until_cancelled_owned(async move {
            while let Some(commit) = watch.next().await {
                let _ = sender.send(commit).await;
            }
        }));
        Ok(Watch::new(receiver))
    }
    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        self.inner.campaign(candidate).await
    }
    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.keep_alive(fence).await
    }
    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        self.inner.resign(fence).await
    }
    async fn register(
        &self,
        registration: &crate::store::Registration,
    ) -> Result<crate::store::Registered, Error> {
        self.inner.register(registration).await
    }

    async fn keep_registered(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.inner.keep_registered(registered).await
    }

    async fn deregister(&self, registered: &crate::store::Registered) -> Result<(), Error> {
        self.inner.deregister(registered).await
    }

    async fn health(&self) -> Result<crate::store::Health, Error> {
        self.inner.health().await
    }

    fn kind(&self) -> &'static str {
        "cut"
    }
}

impl Cut {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(SystemClock::shared()),
            away: AtomicBool::new(false),
            compacted: AtomicBool::new(false),
            sender: Mutex::default(),
        })
    }

    fn cut(&self) {
        self.away.store(true, SeqCst);
        self.sender.lock().unwrap().take().unwrap().cancel();
    }
}

async fn mirrored(store: &Arc<Cut>) -> Arc<Mirror> {
    Mirror::start(store.clone(), CancellationToken::new()).await.unwrap()
}

async fn health(mirror: &Mirror, following: bool) {
    let mut health = mirror.health.subscribe();
    let turned = health.wait_for(|health| (*health == Health::Following) == following);
    tokio::time::timeout(Duration::from_mins(5), turned).await.expect("it turns").unwrap();
}

fn spec(name: &str, labels: &[&str]) -> CertificateSpec {
    CertificateSpec {
        name: name.parse().unwrap(),
        identifiers: vec![format!("{name}.example.org").parse().unwrap()],
        key_type: KeyType::EcdsaP256,
        reuse_key: false,
        key_ahead: false,
        standby: None,
        profile: None,
        issuers: vec!["main".parse().unwrap()],
        challenges: Vec::new(),
        labels: Labels::parse(labels.iter().copied()).unwrap(),
        renew: None,
    }
}

fn agent(name: &str, labels: &[&str]) -> Agent {
    Agent {
        name: name.parse().unwrap(),
        labels: Labels::parse(labels.iter().copied()).unwrap(),
        joined_at: Timestamp::UNIX_EPOCH,
        identity: Identity {
            public_key_hash: vec![1],
            serial: "01".to_owned(),
            not_after: Timestamp::UNIX_EPOCH,
        },
        next_identity: None,
        version: String::new(),
        hostname: String::new(),
    }
}

fn bundle(name: &str, generation: u64) -> Bundle {
    Bundle {
        issuer: None,
        certificate: name.parse().unwrap(),
        generation: Generation(generation),
        leaf: vec![1],
        chain: Vec::new(),
        key: Sealed { data_key: 1, bytes: vec![0; 28] },
        identifiers: Vec::new(),
    }
}

fn put_spec(batch: Batch, spec: &CertificateSpec) -> Batch {
    batch.put(key::certificate(&spec.name), record::encode(spec))
}

fn put_agent(batch: Batch, agent: &Agent) -> Batch {
    batch.put(key::agent(&agent.name), record::encode(agent))
}

fn put_bundle(batch: Batch, bundle: &Bundle) -> Batch {
    batch.put(key::bundle(&bundle.certificate, bundle.generation), record::encode(bundle))
}

async fn commit(store: &Cut, mirror: &Mirror, batch: Batch) {
    let revision = store.commit(batch).await.unwrap();
    mirror.wait_for(revision).await;
}

#[tokio::test(start_paused = true)]
async fn each_key_goes_to_its_table_and_out_again() {
    let store = Cut::new();
    let mirror = mirrored(&store).await;
    let der = b"chain".to_vec();
    let chain = key::chain(&Fingerprint::of(&der));
    let web = spec("web", &[]);
    let batch = put_bundle(put_spec(Batch::unfenced(), &web), &bundle("web", 2))
        .put(&chain, record::encode(&Chain { der: der.clone() }))
        .put("certificates-of-another-version/web", "x")
        .put(key::state(&web.name), "not a record");
    commit(&store, &mirror, batch).await;
    {
        let view = mirror.read();
        assert_eq!(*view.certificates[&web.name].record, web);
        assert_eq!(view.bundles[&web.name].record.generation, Generation(2));
        assert!(view.chains.contains_key(&Fingerprint::of(&der)));
        let damaged: Vec<_> = view.damaged.keys().cloned().collect();
        assert_eq!(damaged, [key::state(&web.name)]);
    }
    // An older bundle, and that it goes, change nothing.
    commit(&store, &mirror, put_bundle(Batch::unfenced(), &bundle("web", 1))).await;
    let old = key::bundle(&web.name, Generation(1));
    commit(&store, &mirror, Batch::unfenced().delete(old)).await;
    assert_eq!(mirror.read().bundles[&web.name].record.generation, Generation(2));

    let batch = Batch::unfenced()
        .delete(key::certificate(&web.name))
        .delete(key::bundle(&web.name, Generation(2)))
        .delete(chain)
        .delete(key::state(&web.name));
    commit(&store, &mirror, batch).await;
    let view = mirror.read();
    assert!(view.certificates.is_empty() && view.bundles.is_empty() && view.chains.is_empty());
    assert!(view.damaged.is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_agents_that_a_change_concerns_are_woken() {
    let store = Cut::new();
    let mirror = mirrored(&store).await;
    let (web, mail) = (agent("web-1", &["role=web"]), agent("mail-1", &["role=mail"]));
    let batch = put_agent(put_agent(Batch::unfenced(), &web), &mail);
    commit(&store, &mirror, put_spec(batch, &spec("www", &["role=web"]))).await;
    let (mut web_signal, mut mail_signal) =
        (mirror.agent_signal(&web.name), mirror.agent_signal(&mail.name));
    let mut woken = || {
        let woken = (web_signal.has_changed().unwrap(), mail_signal.has_changed().unwrap());
        web_signal.mark_unchanged();
        mail_signal.mark_unchanged();
        woken
    };

    commit(&store, &mirror, put_bundle(Batch::unfenced(), &bundle("www", 1))).await;
    assert_eq!(woken(), (true, false));
    commit(&store, &mirror, Batch::unfenced().put(key::state(&"www".parse().unwrap()), "x")).await;
    assert_eq!(woken(), (false, false), "agents have nothing to do with states");
    commit(&store, &mirror, put_spec(Batch::unfenced(), &spec("www", &["role=mail"]))).await;
    assert_eq!(woken(), (true, true), "who loses it and who gets it");
    commit(&store, &mirror, Batch::unfenced().delete(key::certificate(&"www".parse().unwrap())))
        .await;
    assert_eq!(woken(), (false, true));
    commit(&store, &mirror, Batch::unfenced().delete(key::agent(&web.name))).await;
    assert_eq!(woken(), (true, false), "who is removed is told");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_was_cut_off_is_well_again_before_anything_happens() {
    let store = Cut::new();
    let mirror = mirrored(&store).await;
    commit(&store, &mirror, put_spec(Batch::unfenced(), &spec("web", &[]))).await;
    store.cut();
    health(&mirror, false).await;
    let missed = store.commit(put_spec(Batch::unfenced(), &spec("mail", &[]))).await.unwrap();
    store.away.store(false, SeqCst);
    mirror.wait_for(missed).await;
    assert_eq!(mirror.read().certificates.len(), 2);

    store.cut();
    health(&mirror, false).await;
    store.away.store(false, SeqCst);
    health(&mirror, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_missed_too_much_lists_again_and_says_so_to_all() {
    let store = Cut::new();
    let mirror = mirrored(&store).await;
    commit(&store, &mirror, put_spec(Batch::unfenced(), &spec("web", &[]))).await;
    let mut touched = mirror.touched();
    let signal = mirror.agent_signal(&"web-1".parse().unwrap());
    store.cut();
    health(&mirror, false).await;
    let batch = put_spec(Batch::unfenced(), &spec("mail", &[]));
    let missed = store.commit(batch.delete("certificates/web")).await.unwrap();
    store.compacted.store(true, SeqCst);
    store.away.store(false, SeqCst);
    mirror.wait_for(missed).await;
    let names: Vec<_> = mirror.read().certificates.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["mail"]);
    assert!(touched.recv().await.unwrap().everything);
    assert!(signal.has_changed().unwrap());
    // And goes on from there.
    commit(&store, &mirror, put_spec(Batch::unfenced(), &spec("more", &[]))).await;
    assert_eq!(mirror.read().certificates.len(), 2);
}

#[tokio::test]
async fn a_listing_does_not_take_the_writes_of_others_for_commits_to_go_on_from() {
    let store = MemoryStore::new(SystemClock::shared());
    let spec = spec("web", &[]);
    let written = store.commit(put_spec(Batch::unfenced(), &spec)).await.unwrap();
    // What others write beside our records moves the store on, and no mirror sees it.
    store.commit(Batch::unfenced().put("other", "1")).await.unwrap();
    let newest = store.commit(Batch::unfenced().delete("other")).await.unwrap();
    let mut view = View::of(&store.list("").await.unwrap());
    assert_eq!((view.revision, view.last_commit), (newest, written));
    let commit = Commit { revision: newest.next(), changes: Vec::new() };
    view.apply(&commit, &mut Touched::default());
    assert_eq!((view.revision, view.last_commit), (newest.next(), newest.next()));
}
