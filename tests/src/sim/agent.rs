//! An agent as it runs on a machine: all of the real one, on files of its own, beside a service that is
//! a model.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chancery_agent::{
    app::{self, Host, Outside, Reach},
    config::Config,
};
use chancery_shared::{
    key_type::KeyType,
    name::CertName,
    x509::{self, Fingerprint},
};
use jiff::Timestamp;
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio_util::sync::CancellationToken;

use super::{
    clock::{NodeClock, beginning},
    event::{Event, Installed},
    kernel::Place,
    link::connection,
    machine::Process,
    world::World,
};

/// What outlives an agent's process: its files, and the service beside it.
pub struct Site {
    folder: tempfile::TempDir,
    /// What the service has loaded.
    service: Mutex<BTreeMap<CertName, Loaded>>,
}

#[derive(Clone, Copy)]
struct Loaded {
    generation: u64,
    leaf: Fingerprint,
}

/// The process.
pub struct Running {
    stop: CancellationToken,
    ended: Arc<AtomicBool>,
}

impl Site {
    /// A site with an agent that has joined under this name.
    pub fn new(agent: &str) -> Arc<Self> {
        // In memory, where there is such a place: the agent syncs each file.
        let shm = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("chancery-sim-");
        let folder = if shm.is_dir() { builder.tempdir_in(shm) } else { builder.tempdir() };
        let folder = folder.expect("a folder can be made");
        let state = folder.path().join("state");
        chancery_shared::durable::make_dir(&state, 0o700).expect("a folder can be made");
        let text = format!("chancery-identity-1 {agent}\n{}", identity().pem);
        fs::write(state.join("identity.pem"), text).expect("a file can be written");
        Arc::new(Self { folder, service: Mutex::default() })
    }

    /// The generation that the service shows.
    pub fn serves(&self, certificate: &CertName) -> Option<u64> {
        let service = self.service.lock().expect("no holder panics");
        service.get(certificate).map(|loaded| loaded.generation)
    }

    fn installed(&self, certificate: &CertName) -> PathBuf {
        self.folder.path().join("certs").join(certificate.as_str())
    }

    fn config(&self, world: &World) -> Config {
        let folder = self.folder.path().display();
        let coordinators: Vec<String> =
            world.names[..world.coordinators].iter().map(|name| format!("{name}:1")).collect();
        let text = format!(
            r#"
coordinators = {coordinators:?}
state_dir = "{folder}/state"
[install]
dir = "{folder}/certs"
settle = "500ms"
keep = 1
[retry]
first = "1s"
most = "10s"
[[service]]
name = "web"
test = ["test"]
reload = ["reload"]
probe = {{ address = "127.0.0.1:1", timeout = "2s" }}
"#
        );
        Config::parse(Path::new("agent.toml"), &text).expect("a good configuration")
    }

    /// Looks at what is on the stable path of a certificate, as a service does that loads it.
    fn look(&self, world: &World, agent: &str, certificate: &CertName) -> Option<Loaded> {
        let path = self.installed(certificate);
        let link = fs::read_link(&path).ok()?;
        let build = link.file_name()?.to_str()?;
        let generation = build.split('.').next()?.parse().ok()?;
        let fullchain = fs::read(path.join("fullchain.pem")).unwrap_or_default();
        let privkey = fs::read(path.join("privkey.pem")).unwrap_or_default();
        world.tell(&Event::Installed(Installed {
            agent,
            certificate,
            generation,
            fullchain: &fullchain,
            privkey: &privkey,
        }));
        let leaf = CertificateDer::from_pem_slice(&fullchain).ok()?;
        Some(Loaded { generation, leaf: Fingerprint::of(&leaf) })
    }

    /// Looks at everything that is installed.
    pub fn look_at_all(&self, world: &World, agent: &str) {
        for certificate in &world.certificates {
            self.look(world, agent, certificate);
        }
    }
}

impl Process for Running {
    fn start(world: &Arc<World>, place: &Place, clock: Arc<NodeClock>) -> Self {
        let site = world.sites[place.node - world.coordinators].clone();
        let config = site.config(world);
        let reach = {
            let (world, place) = (world.clone(), place.clone());
            Reach::Through(Arc::new(move |address| {
                let name = address.trim_end_matches(":1");
                let to = world.names.iter().position(|known| known == name);
                connection(&world, &place, to.expect("a coordinator"))
            }))
        };
        let host = Arc::new(ModelHost { world: world.clone(), place: place.clone(), site });
        let stop = CancellationToken::new();
        let ended = Arc::new(AtomicBool::new(false));
        tokio::spawn({
            let (stop, ended) = (stop.clone(), ended.clone());
            async move {
                let outside = Outside { clock, reach, host };
                let result = app::run(config, Box::new(|| Ok(None)), outside, stop).await;
                result.expect("an agent that has joined can start");
                ended.store(true, Ordering::Relaxed);
            }
        });
        Self { stop, ended }
    }

    fn terminate(&self) {
        self.stop.cancel();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A machine with one service, which reads its files when it is told to, and sometimes fails.
struct ModelHost {
    world: Arc<World>,
    place: Place,
    site: Arc<Site>,
}

impl ModelHost {
    fn agent(&self) -> &str {
        &self.world.names[self.place.node]
    }

    /// Whether chance has something fail now.
    fn fails(&self) -> bool {
        let now = self.place.now();
        self.world.kernel.with_weather(|weather| {
            now < weather.calm_from && weather.rng.u32(..1000) < weather.store_per_mille * 2
        })
    }

    fn pause(&self) -> Duration {
        self.world.kernel.with_weather(|weather| weather.millis(300))
    }
}

#[async_trait]
impl Host for ModelHost {
    async fn run(&self, argv: &[String], _: &[(&str, String)], _: Duration) -> Result<(), String> {
        tokio::time::sleep(self.pause()).await;
        let fails = self.fails();
        let what = argv.first().map_or("nothing", String::as_str);
        self.world.note(self.place.node, || {
            format!("runs {what}{}", if fails { ": it fails" } else { "" })
        });
        if fails {
            return Err("the model has it fail".to_owned());
        }
        if what == "reload" {
            for certificate in &self.world.certificates {
                let loaded = self.site.look(&self.world, self.agent(), certificate);
                let mut service = self.site.service.lock().expect("no holder panics");
                match loaded {
                    Some(loaded) => drop(service.insert(certificate.clone(), loaded)),
                    None => drop(service.remove(certificate)),
                }
            }
        }
        Ok(())
    }

    async fn probe(
        &self,
        _: &str,
        server_name: &str,
        wanted: Fingerprint,
        deadline: tokio::time::Instant,
    ) -> Result<(), String> {
        tokio::time::sleep(self.pause()).await;
        let certificate = server_name.split('.').nth_back(1).and_then(|name| name.parse().ok());
        let certificate: CertName = certificate.ok_or("no such name")?;
        let shown = {
            let service = self.site.service.lock().expect("no holder panics");
            service.get(&certificate).copied()
        };
        match shown {
            Some(shown) if shown.leaf == wanted && !self.fails() => {
                let (agent, generation) = (self.agent(), shown.generation);
                self.world.note(self.place.node, || format!("sees {certificate} {generation}"));
                let certificate = &certificate;
                self.world.tell(&Event::Served { agent, certificate, generation });
                Ok(())
            }
            _ => {
                tokio::time::sleep_until(deadline).await;
                Err("something else is served".to_owned())
            }
        }
    }
}

/// The identity of every agent: nothing here looks at whose key it is but the name with it.
pub struct AgentIdentity {
    /// Key and chain, as an agent stores them.
    pub pem: String,
    /// What a coordinator knows it by.
    pub public_key_hash: [u8; 32],
    /// End of validity.
    pub not_after: Timestamp,
}

/// See [`AgentIdentity`].
pub fn identity() -> &'static AgentIdentity {
    static IDENTITY: LazyLock<AgentIdentity> = LazyLock::new(|| {
        let key = KeyType::EcdsaP256.generate().expect("a key can be made");
        let mut params = rcgen::CertificateParams::default();
        let at = |days: i64| {
            let second = beginning().as_second() + days * 86_400;
            time::OffsetDateTime::from_unix_timestamp(second).expect("a time within reach")
        };
        (params.not_before, params.not_after) = (at(-1), at(365));
        let made = params.self_signed(&key).expect("it can be signed");
        let pem = format!(
            "{}{}",
            *x509::key_to_pem(&key.serialize_der()),
            x509::to_pem([made.der().as_ref(), made.der().as_ref()])
        );
        AgentIdentity {
            pem,
            public_key_hash: x509::public_key_hash(&key.subject_public_key_info()),
            not_after: Timestamp::from_second(at(365).unix_timestamp()).expect("within reach"),
        }
    });
    &IDENTITY
}
