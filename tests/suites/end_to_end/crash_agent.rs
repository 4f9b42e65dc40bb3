//! The agent dies at every step of joining, installing and rotating, and at random moments.
//! What it leaves on disk is always nothing or one whole generation, and its next life goes on
//! from there.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_shared::secret::Secret;
use chancery_tests::agent::Agent;
use chancery_tests::authority::Authority;
use chancery_tests::cli::Cli;
use chancery_tests::nginx::{Nginx, Site};
use chancery_tests::process::{self, Process};
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::{self, PATIENCE, World, is_installed, server_name};
use tokio::time::{Instant, sleep};

use crate::center::{Center, Options, certificate};
use crate::look::{
    Installed, ServiceText, check_keys_are_closed, installed, must_be_installed, renew, story,
    wait_for_agent, wait_until_issued, wait_until_served,
};

/// What leads past a crash point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Joining.
    Join,
    /// The rotation of the identity.
    Rotation,
    /// An install that succeeds.
    Install,
    /// An install that is taken back.
    RollBack,
}

/// Every crash point of the agent, as its source lists them, and how one gets there.
fn crash_points() -> Result<Vec<(&'static str, Vec<Way>)>> {
    let source = include_str!("../../../agent/src/lib.rs");
    let list = source.split("CRASH_POINTS: &[&str] = &[").nth(1).context("no list")?;
    let list = list.split("];").next().context("an endless list")?;
    let points: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    ensure!(points.len() >= 16, "{points:?}");
    points.into_iter().map(|point| Ok((point, ways(point)?))).collect()
}

fn ways(point: &str) -> Result<Vec<Way>> {
    Ok(match point {
        "identity::key_written" | "identity::join_answered" => vec![Way::Join],
        "identity::stored" => vec![Way::Join, Way::Rotation],
        "identity::rotation_answered" => vec![Way::Rotation],
        "service::rolled_back" => vec![Way::RollBack],
        point
            if ["cache::", "install::", "service::", "state::"]
                .iter()
                .any(|room| point.starts_with(room)) =>
        {
            vec![Way::Install]
        }
        point => anyhow::bail!("{point} is a new crash point: say how to get there"),
    })
}

fn crash_points_on(way: Way) -> Result<Vec<&'static str>> {
    let all = crash_points()?.into_iter();
    let points: Vec<_> =
        all.filter(|(_, ways)| ways.contains(&way)).map(|(point, _)| point).collect();
    ensure!(!points.is_empty(), "no crash point on the way {way:?}");
    Ok(points)
}

/// Where an agent is to die in an install: each point, and later passes of those that are passed
/// several times.
fn deaths() -> Result<Vec<Death>> {
    let mut deaths = Vec::new();
    for point in crash_points_on(Way::Install)? {
        let passes = match point {
            // One for each file.
            "install::file_written" => 4,
            // When it has come, and when it is in use.
            "state::before_save" | "state::saved" => 2,
            _ => 1,
        };
        deaths.extend((0..passes).map(|pass| {
            let failpoints = format!("{point}={pass}*off->return");
            Death { failpoints, trouble: Trouble::None }
        }));
    }
    for point in crash_points_on(Way::RollBack)? {
        for trouble in [Trouble::BrokenConfig, Trouble::WrongPath] {
            deaths.push(Death { failpoints: format!("{point}=return"), trouble });
        }
    }
    Ok(deaths)
}

struct Death {
    failpoints: String,
    trouble: Trouble,
}

/// What is wrong with nginx until the agent has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    BrokenConfig,
    WrongPath,
}

/// An agent that is to die, its nginx and its certificate.
struct Post {
    death: Death,
    certificate: String,
    agent: Agent,
    nginx: Nginx,
    folder: PathBuf,
}

impl Post {
    async fn prepare(scene: &Scene, center: &Center, number: usize, death: Death) -> Result<Self> {
        let certificate = format!("c{number}");
        let folder = scene.folder(&certificate)?;
        let nginx = Nginx::start(&scene.folder(&format!("{certificate}/nginx"))?, &[]).await?;
        let commands = nginx.counted_commands()?;
        let coordinators = [center.coordinator.agents_address()];
        let mut agent = Agent::prepare(&folder, &certificate, &coordinators, &[])?;
        let service = ServiceText {
            name: "nginx",
            certificates: &[],
            test: &commands.test,
            reload: &commands.reload,
            probe: Some(nginx.address()),
            // To be waited for where the probe must fail.
            timeout: Duration::from_secs(if death.trouble == Trouble::WrongPath { 1 } else { 10 }),
        };
        agent.write_config(&coordinators, &[], &service.toml())?;
        agent.set_failpoints(&death.failpoints);
        Ok(Self { death, certificate, agent, nginx, folder })
    }

    async fn join(&self, center: &Center) -> Result<()> {
        let label = format!("role={}", self.certificate);
        let token = center.cli().token(&self.certificate, &[&label]).await?;
        self.agent.join(&token).await?.success()?;
        Ok(())
    }

    fn declaration(&self) -> String {
        let labels = format!("labels = {{ role = {:?} }}", self.certificate);
        certificate(&self.certificate, "pebble", &labels)
    }

    fn stable(&self) -> PathBuf {
        self.agent.installed(&self.certificate)
    }

    fn spoil(&self) -> Result<()> {
        let name = server_name(&self.certificate);
        match self.death.trouble {
            Trouble::None | Trouble::BrokenConfig => self.repair()?,
            Trouble::WrongPath => {
                let other = Authority::new()?.issue(&[&name])?;
                let (certificate, key) = other.write(&self.folder, "other")?;
                self.nginx.configure(&[Site { names: vec![name], certificate, key }])?;
            }
        }
        if self.death.trouble == Trouble::BrokenConfig {
            self.nginx.spoil_config()?;
        }
        Ok(())
    }

    fn repair(&self) -> Result<()> {
        let site = Site::installed(&server_name(&self.certificate), &self.stable());
        self.nginx.configure(&[site])
    }

    /// Waits until the agent has killed itself. What is on disk then is whole, and one of these
    /// serial numbers, or nothing where that is right.
    async fn dies(&mut self, may_be_nothing: bool, serials: &[&str]) -> Result<()> {
        let what = || format!("at {} with {:?}", self.death.failpoints, self.death.trouble);
        let status = self.agent.process()?.wait_for_end(PATIENCE).await.with_context(what)?;
        ensure!(status.signal() == Some(9), "{} ended otherwise: {status}", what());
        match installed(&self.stable()).with_context(what)? {
            None => ensure!(may_be_nothing, "{}: the stable path is gone", what()),
            Some(Installed { serial, .. }) => {
                ensure!(serials.contains(&serial.as_str()), "{}: {serial}", what());
            }
        }
        check_keys_are_closed(&self.agent.install_dir().join(".chancery"))
            .or_else(|_| check_keys_are_closed(&self.agent.state_dir()))
            .with_context(what)
    }

    /// Lets it live again: it must come to this generation, which nginx serves then.
    async fn recovers(&mut self, center: &Center, generation: u64, serial: &str) -> Result<()> {
        let what = format!("after {} with {:?}", self.death.failpoints, self.death.trouble);
        let installation = format!("the installation {what}");
        center
            .cli()
            .wait_for_certificate(&self.certificate, &installation, PATIENCE, |shown| {
                is_installed(shown, generation)
            })
            .await?;
        ensure!(must_be_installed(&self.stable())?.serial == serial, "{what}");
        wait_until_served(&self.nginx, &self.certificate, serial).await?;
        self.agent.process()?.must_run()
    }
}

#[test]
fn killed_at_any_step_of_an_install_it_leaves_one_whole_generation_and_goes_on() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let mut posts = Vec::new();
        let mut toml = center.declaration(&[])?;
        for (number, death) in deaths()?.into_iter().enumerate() {
            let post = Post::prepare(scene, &center, number, death).await?;
            toml.push_str(&post.declaration());
            posts.push(post);
        }
        center.apply(&toml).await?;
        for post in &posts {
            post.join(&center).await?;
        }
        let first = die_and_recover(&center, &mut posts, 1, None).await?;
        for post in &mut posts {
            let status = post.agent.process()?.stop(wait::SOON).await?;
            ensure!(status.code() == Some(0), "{status}");
            renew(&center.cli(), &post.certificate).await?;
        }
        die_and_recover(&center, &mut posts, 2, Some(&first)).await?;
        Ok(())
    });
}

/// All agents die on the way to a generation, and come to it in their next life. Returns its
/// serial numbers.
async fn die_and_recover(
    center: &Center,
    posts: &mut [Post],
    generation: u64,
    former: Option<&[String]>,
) -> Result<Vec<String>> {
    let mut serials = Vec::new();
    for post in posts.iter_mut() {
        serials.push(wait_until_issued(&center.cli(), &post.certificate, generation).await?);
        post.spoil()?;
        let failpoints = post.death.failpoints.clone();
        post.agent.set_failpoints(&failpoints);
        post.agent.run()?;
    }
    for (number, post) in posts.iter_mut().enumerate() {
        let former = former.map(|former| former[number].as_str());
        let mut whole = vec![serials[number].as_str()];
        whole.extend(former);
        post.dies(former.is_none(), &whole).await?;
        post.repair()?;
        post.agent.set_failpoints("");
        post.agent.run()?;
    }
    for (post, serial) in posts.iter_mut().zip(&serials) {
        post.recovers(center, generation, serial).await?;
    }
    Ok(serials)
}

#[test]
fn killed_while_it_joins_it_joins_with_the_same_token() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        for point in crash_points_on(Way::Join)? {
            for word in ["join", "run"] {
                let name = format!("{word}-{}", point.replace("::", "-"));
                dies_joining(scene, &center, &name, word, point)
                    .await
                    .with_context(|| format!("{word}, killed at {point}"))?;
            }
        }
        Ok(())
    });
}

async fn dies_joining(
    scene: &Scene,
    center: &Center,
    name: &str,
    word: &str,
    point: &str,
) -> Result<()> {
    let folder = scene.folder(name)?;
    let coordinators = [center.coordinator.agents_address()];
    let mut agent = Agent::prepare(&folder, name, &coordinators, &[])?;
    let token = center.cli().token(name, &["role=web"]).await?;
    let file = folder.join("one-time-token");
    fs::write(&file, &token)?;
    let mut command = with_token(&agent, word, &file)?;
    let died = process::run(command.env("FAILPOINTS", format!("{point}=return")), wait::SOON);
    let died = died.await?;
    ensure!(died.status.signal() == Some(9), "{died:?}");
    check_keys_are_closed(&agent.state_dir())?;

    if word == "join" {
        agent.join(&token).await?.success()?;
        agent.run()?;
        wait_for_agent(&center.cli(), name, "connected").await?;
        agent.process()?.stop(wait::SOON).await?;
    } else {
        let mut again = Process::start("agent", &folder, &mut with_token(&agent, "run", &file)?)?;
        wait_for_agent(&center.cli(), name, "connected").await?;
        again.stop(wait::SOON).await?;
    }
    ensure!(!agent.state_dir().join("join-key.pem").exists(), "the join key is still there");
    // It was this agent's token, and stays that.
    let thief_name = format!("thief-of-{name}");
    let thief = Agent::prepare(&scene.folder(&thief_name)?, &thief_name, &coordinators, &[])?;
    let refused = thief.join(&token).await?;
    ensure!(refused.status.code() == Some(3), "{refused:?}");
    Ok(())
}

fn with_token(agent: &Agent, word: &str, token: &Path) -> Result<Command> {
    let mut command = agent.command(word)?;
    command.arg("--token-file").arg(token);
    Ok(command)
}

#[test]
fn killed_while_it_rotates_its_identity_it_can_still_connect() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        "10s".clone_into(&mut options.coordinator.identity_lifetime);
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        let coordinators = [center.coordinator.agents_address()];
        let mut agents = Vec::new();
        for point in crash_points_on(Way::Rotation)? {
            let name = point.replace("::", "-");
            let mut agent = Agent::prepare(&scene.folder(&name)?, &name, &coordinators, &[])?;
            let token = center.cli().token(&name, &["role=web"]).await?;
            agent.join(&token).await?.success()?;
            agent.set_failpoints(&format!("{point}=return"));
            agent.run()?;
            agents.push(agent);
        }
        for agent in &mut agents {
            let status = agent.process()?.wait_for_end(wait::SOON).await?;
            ensure!(status.signal() == Some(9), "{} ended otherwise: {status}", agent.name());
            agent.set_failpoints("");
            agent.run()?;
        }
        for agent in &mut agents {
            // It goes on from what the death has left: twice, so that nothing of that is in use.
            for _ in 0..2 {
                let shown = wait_for_agent(&center.cli(), agent.name(), "connected").await?;
                let former = shown["identity_serial"].clone();
                wait::until("the next identity", PATIENCE, async || {
                    let shown = wait_for_agent(&center.cli(), agent.name(), "connected").await?;
                    ensure!(shown["identity_serial"] != former, "{shown}");
                    Ok(())
                })
                .await?;
            }
            let story = story(&center.cli(), agent.name()).await?;
            let rotated = story.iter().filter(|kind| *kind == "agent.rotated").count();
            ensure!(rotated >= 3, "{story:?}");
            ensure!(!story.iter().any(|kind| kind == "agent.refused"), "{story:?}");
            agent.process()?.must_run()?;
        }
        Ok(())
    });
}

#[test]
fn killed_at_random_moments_it_never_shows_a_mix() {
    scene::play(async |scene| {
        let mut world = World::start(scene, world::Options::new()?).await?;
        world.declare(&CERTIFICATES).await?;
        for certificate in CERTIFICATES {
            world.wait_until_installed(certificate, 1).await?;
        }
        let reader = Reader::start(CERTIFICATES.map(|name| world.agent.installed(name)).to_vec());
        let renewals = renew_for_ever(world.cli());
        let kills = tokio::select! {
            ended = renewals => return ended.context("the renewals have ended"),
            kills = kill_again_and_again(&mut world) => kills?,
        };
        let mut generations = 0;
        for certificate in CERTIFICATES {
            let shown = world.cli().certificate(certificate).await?;
            // An order that is under way makes it one more.
            let newest = shown["order"]["generation"].as_u64().or(shown["generation"].as_u64());
            let newest = newest.context("no generation")?;
            let shown = world.wait_until_installed(certificate, newest).await?;
            let serial = shown["serial"].as_str().context("no serial")?;
            wait_until_served(&world.nginx, certificate, serial).await?;
            ensure!(must_be_installed(&world.agent.installed(certificate))?.serial == serial);
            generations += newest;
        }
        let reads = reader.stop()?;
        ensure!(kills >= 8 && generations >= 6, "{kills} kills, {generations} generations");
        ensure!(reads >= 1000, "only {reads} reads");
        Ok(())
    });
}

/// Has one certificate after the other renewed. Ends only with an error.
async fn renew_for_ever(cli: Cli) -> Result<()> {
    loop {
        for certificate in CERTIFICATES {
            let generation = renew(&cli, certificate).await?;
            wait_until_issued(&cli, certificate, generation).await?;
        }
    }
}

/// Kills the agent and starts it again, at moments that depend on the seed. Returns how often.
#[expect(clippy::print_stderr, reason = "without its seed a failure cannot be repeated")]
async fn kill_again_and_again(world: &mut World) -> Result<usize> {
    let seed = match env::var("CHANCERY_SEED") {
        Ok(seed) => seed.parse().context("CHANCERY_SEED is not a number")?,
        Err(_) => u64::from_ne_bytes(Secret::random(8).expose_secret().try_into()?),
    };
    eprintln!("the moments of CHANCERY_SEED={seed}");
    let mut random = seed | 1;
    let end = Instant::now() + KILLING;
    let mut kills = 0;
    while Instant::now() < end {
        // Xorshift: any moment is as good as another.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Often in the midst of its start, at times well after it.
        let most = if random & 1 == 0 { 250 } else { 1200 };
        // Not a wait for anything: the moment of death is what this is about.
        sleep(Duration::from_millis((random >> 1) % most)).await;
        world.agent.process()?.kill_9()?;
        kills += 1;
        world.agent.run()?;
    }
    Ok(kills)
}

/// A thread that reads what is installed all the time, as services do that start just now.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Reader {
    fn start(stable: Vec<PathBuf>) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), reads.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for path in &stable {
                    must_be_installed(path)?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // The others need the processors, too.
                thread::yield_now();
            }
            Ok(())
        });
        Self { stop, reads, thread }
    }

    /// Ends it. Returns how often it has read; an error if it ever saw anything but a whole.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic").context("what a reader saw")?;
        Ok(self.reads.load(Ordering::Relaxed))
    }
}

const CERTIFICATES: [&str; 3] = ["www", "api", "mail"];
const KILLING: Duration = Duration::from_secs(12);
