//! The real agent against a coordinator that does what the test says: joining, exit codes,
//! streams, reconnecting, rotation, and working on without anybody.

mod coordinator;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chancery_proto::v1::{Bundle, DeploymentState, Synced, Withdrawn, watch_response::Event};
use chancery_shared::join_token::JoinToken;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::coordinator::{Authority, Coordinator, Script, response};

/// The files of one agent, and its process.
struct Agent {
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Agent {
    fn new(coordinators: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let text = format!(
            "coordinators = {coordinators:?}\nstate_dir = '{path}/state'\n[install]\n\
             dir = '{path}/certs'\n[log]\nfilter = 'trace'\n"
        );
        fs::write(dir.path().join("agent.toml"), text).unwrap();
        Self { dir, process: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chancery-agent"));
        command.arg(word).arg("--config").arg(self.path("agent.toml"));
        command.env_remove("CHANCERY_LOG").env_remove("CHANCERY_JOIN_TOKEN");
        command
    }

    /// Runs a command to its end, off this thread: the coordinator has to answer meanwhile.
    async fn output(&self, mut command: Command) -> Output {
        let running = tokio::task::spawn_blocking(move || command.output().unwrap());
        timeout(LONG, running).await.unwrap().unwrap()
    }

    async fn join(&self, token: &JoinToken) -> Output {
        fs::write(self.path("token"), token.expose()).unwrap();
        let mut command = self.command("join");
        command.arg("--token-file").arg(self.path("token"));
        self.output(command).await
    }

    fn start(&mut self, mut command: Command) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log).process_group(0);
        self.process = Some(command.spawn().unwrap());
    }

    fn run(&mut self) {
        self.start(self.command("run"));
    }

    /// Ends the process with SIGTERM; returns its exit code.
    async fn stop(&mut self) -> Option<i32> {
        let mut child = self.process.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        timeout(Duration::from_secs(10), ended).await.unwrap().unwrap().code()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Polls until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let polling = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LONG, polling).await.is_ok(), "never: {what}");
}

const LONG: Duration = Duration::from_mins(1);

fn bundle(generation: u64) -> Bundle {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["web.example.org".to_owned()]).unwrap();
    let leaf = params.self_signed(&key).unwrap();
    Bundle {
        certificate: "web".to_owned(),
        generation,
        leaf_der: Bytes::copy_from_slice(leaf.der()),
        chain_der: Vec::new(),
        private_key_der: key.serialize_der(),
        identifiers: vec!["web.example.org".to_owned()],
    }
}

/// A fleet of one coordinator and an agent that has joined.
async fn joined(age: Duration) -> (Arc<Authority>, Coordinator, Agent) {
    let authority = Arc::new(Authority::new());
    let token = authority.token();
    let script = Script { token: token.expose(), age, ..Script::default() };
    let coordinator = Coordinator::start(&authority, 0, script).await;
    let agent = Agent::new(&[&coordinator.address.to_string()]);
    let said = agent.join(&token).await;
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "joined as web-1\n");
    (authority, coordinator, agent)
}

fn state(coordinator: &Coordinator) -> Option<(DeploymentState, u64)> {
    let script = coordinator.script();
    let web = script.reports.last()?.deployments.first()?;
    Some((web.state(), web.served_generation))
}

#[tokio::test]
async fn a_bundle_arrives_is_installed_and_reported_and_no_secret_is_logged() {
    let (_authority, coordinator, mut agent) = joined(Duration::ZERO).await;
    let first = bundle(1);
    coordinator.script().first =
        vec![response(7, Event::Bundle(first.clone())), response(7, Event::Synced(Synced {}))];
    agent.run();
    until("installed", || state(&coordinator) == Some((DeploymentState::Installed, 1))).await;
    let second = bundle(2);
    coordinator.send(8, Event::Bundle(second.clone())).await;
    until("renewed", || state(&coordinator) == Some((DeploymentState::Installed, 2))).await;
    let installed = fs::read_to_string(agent.path("certs/web/privkey.pem")).unwrap();
    let key = chancery_shared::x509::key_to_pem(&second.private_key_der);
    assert_eq!(installed, *key);

    // Another process of the same agent keeps out.
    let second_process = agent.output(agent.command("run")).await;
    assert_eq!(second_process.status.code(), Some(4));
    let said = String::from_utf8_lossy(&second_process.stderr).into_owned();
    assert!(said.contains("state/lock"), "{said}");

    coordinator.send(9, Event::Withdrawn(Withdrawn { certificate: "web".to_owned() })).await;
    until("withdrawn", || state(&coordinator) == Some((DeploymentState::Withdrawn, 2))).await;
    assert!(agent.path("certs/web/privkey.pem").exists());
    assert_eq!(agent.stop().await, Some(0));

    // Neither the keys nor the token's secret half stand in the log, in any usual form.
    let log = agent.log();
    assert!(log.len() > 1000, "the log is at trace level");
    let token = fs::read_to_string(agent.path("token")).unwrap();
    let secret = token.split('.').nth(2).unwrap();
    let base64: String = key.lines().nth(1).unwrap().chars().take(40).collect();
    let numbers = format!("{:?}", &second.private_key_der[40..56]);
    for secret in [secret, &base64, numbers.trim_matches(['[', ']'])] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_join_that_is_refused_says_so_by_its_exit_code() {
    let authority = Arc::new(Authority::new());
    let token = authority.token();
    let script = Script { token: token.expose(), ..Script::default() };
    let coordinator = Coordinator::start(&authority, 0, script).await;
    let agent = Agent::new(&[&coordinator.address.to_string()]);
    let says = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let unknown = authority.token();
    let refused = agent.join(&unknown).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(says(&refused).contains("the join token is not known"), "{}", says(&refused));

    // Of another fleet: the agent does not even show its token.
    let asked = coordinator.script().joins.len();
    let stranger = agent.join(&Authority::new().token()).await;
    assert_eq!(stranger.status.code(), Some(3));
    assert!(says(&stranger).contains("not a coordinator of the fleet"), "{}", says(&stranger));
    assert_eq!(coordinator.script().joins.len(), asked);

    let mut command = agent.command("join");
    command.env("CHANCERY_JOIN_TOKEN", "chy1.half");
    let malformed = agent.output(command).await;
    assert_eq!(malformed.status.code(), Some(2));
    assert!(says(&malformed).contains("not a whole join token"), "{}", says(&malformed));

    let none = agent.output(agent.command("run")).await;
    assert_eq!(none.status.code(), Some(2));
    assert!(says(&none).contains("has not joined yet"), "{}", says(&none));

    drop(coordinator);
    fs::write(agent.path("token"), token.expose()).unwrap();
    let mut command = agent.command("join");
    command.arg("--timeout").arg("300ms").arg("--token-file").arg(agent.path("token"));
    let nobody = agent.output(command).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(says(&nobody).contains("no coordinator could be asked"), "{}", says(&nobody));
    assert!(!says(&nobody).contains(&token.expose()));
}

#[tokio::test]
async fn run_joins_first_and_waits_for_a_coordinator_to_do_so() {
    let authority = Arc::new(Authority::new());
    let token = authority.token();
    let script = || Script { token: token.expose(), ..Script::default() };
    let port = Coordinator::start(&authority, 0, script()).await.address.port();
    let mut agent = Agent::new(&["127.0.0.1:1", &format!("127.0.0.1:{port}")]);
    let mut command = agent.command("run");
    command.env("CHANCERY_JOIN_TOKEN", token.expose());
    agent.start(command);
    until("it has tried", || agent.log().contains("not joined yet")).await;
    assert!(agent.path("state/join-key.pem").exists());
    let coordinator = Coordinator::start(&authority, port, script()).await;
    until("watching", || !coordinator.script().watches.is_empty()).await;
    assert!(!agent.path("state/join-key.pem").exists());
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn an_agent_that_died_before_it_stored_the_answer_asks_with_the_same_key() {
    let authority = Arc::new(Authority::new());
    let token = authority.token();
    let script = Script { token: token.expose(), ..Script::default() };
    let coordinator = Coordinator::start(&authority, 0, script).await;
    let agent = Agent::new(&[&coordinator.address.to_string()]);
    // A folder where the identity's temporary file should go: the answer cannot be stored.
    fs::create_dir_all(agent.path("state/.identity.pem.tmp")).unwrap();
    let failed = agent.join(&token).await;
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stderr));
    fs::remove_dir(agent.path("state/.identity.pem.tmp")).unwrap();
    let done = agent.join(&token).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let script = coordinator.script();
    let key = |csr: &[u8]| {
        let csr = rustls_pki_types::CertificateSigningRequestDer::from(csr);
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr).unwrap();
        rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec()
    };
    assert_eq!(script.joins.len(), 2);
    assert_eq!(key(&script.joins[0].csr_der), key(&script.joins[1].csr_der));
}

#[tokio::test]
async fn it_resumes_where_it_was_and_works_on_alone_meanwhile() {
    let (authority, coordinator, mut agent) = joined(Duration::ZERO).await;
    let port = coordinator.address.port();
    coordinator.script().first =
        vec![response(7, Event::Bundle(bundle(3))), response(9, Event::Synced(Synced {}))];
    agent.run();
    until("installed", || state(&coordinator) == Some((DeploymentState::Installed, 3))).await;
    coordinator.cut(Status::unavailable("going down")).await;
    drop(coordinator);
    until("alone", || agent.log().contains("no coordinator can be used")).await;

    let coordinator = Coordinator::start(&authority, port, Script::default()).await;
    until("back", || !coordinator.script().watches.is_empty()).await;
    let watch = coordinator.script().watches[0].0.clone();
    assert_eq!(watch.resume_revision, 9);
    assert_eq!((watch.known[0].certificate.as_str(), watch.known[0].generation), ("web", 3));
    until("reported", || state(&coordinator) == Some((DeploymentState::Installed, 3))).await;
    assert_eq!(agent.stop().await, Some(0));

    // Without any coordinator it starts, repairs what somebody removed, and stops.
    drop(coordinator);
    fs::remove_file(agent.path("certs/web")).unwrap();
    agent.run();
    until("repaired", || agent.path("certs/web/privkey.pem").exists()).await;
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn an_identity_past_half_its_life_is_replaced_and_used_at_once() {
    let (_authority, coordinator, mut agent) = joined(Duration::from_mins(61)).await;
    coordinator.script().first = vec![response(1, Event::Synced(Synced {}))];
    let before = fs::read(agent.path("state/identity.pem")).unwrap();
    agent.run();
    until("a second stream", || coordinator.script().watches.len() == 2).await;
    assert_eq!(coordinator.script().rotations, 1);
    assert_ne!(fs::read(agent.path("state/identity.pem")).unwrap(), before);
    {
        let watches = &coordinator.script().watches;
        assert_ne!(watches[0].1, watches[1].1, "the second stream is with the new identity");
    }
    assert_eq!(agent.stop().await, Some(0));
    assert_eq!(coordinator.script().rotations, 1, "and the new one is not due");
}

#[tokio::test]
async fn a_removed_agent_says_what_to_do_and_goes_on_with_what_it_has() {
    let (_authority, coordinator, mut agent) = joined(Duration::ZERO).await;
    coordinator.script().first =
        vec![response(7, Event::Bundle(bundle(1))), response(7, Event::Synced(Synced {}))];
    agent.run();
    until("installed", || state(&coordinator) == Some((DeploymentState::Installed, 1))).await;
    coordinator.script().refusal = Some(Status::permission_denied("the agent was removed"));
    coordinator.cut(Status::permission_denied("the agent was removed")).await;
    until("told", || agent.log().matches("the agent was removed").count() > 1).await;
    assert!(agent.log().contains("chancery-agent join"));
    assert!(agent.path("certs/web/privkey.pem").exists());
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn an_expired_identity_is_told_apart_from_a_network_that_is_down() {
    let (_authority, coordinator, mut agent) = joined(Duration::from_hours(3)).await;
    agent.run();
    until("told", || agent.log().contains("does not accept this agent's identity")).await;
    assert!(agent.log().contains("chancery-agent join"));
    assert!(coordinator.script().watches.is_empty());
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn an_identity_of_another_fleet_is_told_apart_from_a_network_that_is_down() {
    let (_authority, coordinator, mut agent) = joined(Duration::ZERO).await;
    // The other fleet's identity, with the root of the fleet that it is shown to.
    let (_other, _elsewhere, other) = joined(Duration::ZERO).await;
    let read = |agent: &Agent| fs::read_to_string(agent.path("state/identity.pem")).unwrap();
    let (mine, foreign) = (read(&agent), read(&other));
    let begin = "-----BEGIN CERTIFICATE-----";
    let root = mine.rsplit_once(begin).unwrap().1;
    let forged = format!("{}{begin}{root}", foreign.rsplit_once(begin).unwrap().0);
    fs::write(agent.path("state/identity.pem"), forged).unwrap();
    agent.run();
    until("told", || agent.log().contains("does not accept this agent's identity")).await;
    assert!(coordinator.script().watches.is_empty());
    assert_eq!(agent.stop().await, Some(0));
}

#[tokio::test]
async fn check_only_checks() {
    let agent = Agent::new(&["127.0.0.1:1"]);
    let good = agent.output(agent.command("check")).await;
    assert_eq!(good.status.code(), Some(0));
    assert!(!agent.path("state").exists() && !agent.path("certs").exists());
    fs::write(agent.path("agent.toml"), "coordinators = []\ncolour = 'red'\n").unwrap();
    let bad = agent.output(agent.command("check")).await;
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(said.contains("agent.toml:1: coordinators") && said.contains(":2: colour"), "{said}");
}
