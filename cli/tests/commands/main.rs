//! The real program against a coordinator that answers from a script: exit codes, what
//! goes to which output, and what is asked of the coordinator.

mod drill;
mod fake;
mod issuer;
mod lease;

use std::{path::Path, process::Stdio};

use chancery_proto::v1::*;
use fake::{Fake, Follow, Script};
use serde_json::Value;
use tokio::process::Command;
use tonic::Status;

/// How a run of the program ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Standard output as JSON documents, one a line.
    fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn chancery(socket: &Path, args: &[&str]) -> Ended {
    let output = command(socket, args).output().await.unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chancery"));
    command.args(args).env("CHANCERY_SOCKET", socket).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn healthy() -> StatusResponse {
    StatusResponse {
        node: "node-1".to_owned(),
        store: "embedded".to_owned(),
        store_healthy: true,
        lease: Some(Lease { held: true, holder: "node-1".to_owned(), ..Lease::default() }),
        ..StatusResponse::default()
    }
}

fn state(generation: u64, failures: u32, agents: &[(DeploymentState, u64)]) -> CertificateDetail {
    let deployments = agents.iter().enumerate().map(|(i, (state, generation))| DeploymentDetail {
        agent: format!("web-{i}"),
        agent_connected: true,
        report: Some(DeploymentReport {
            state: (*state).into(),
            delivered_generation: *generation,
            served_generation: *generation,
            message: if failures > 0 { "nginx -t failed".to_owned() } else { String::new() },
            ..DeploymentReport::default()
        }),
    });
    CertificateDetail {
        summary: Some(CertificateSummary {
            name: "www".to_owned(),
            generation,
            last_error: if failures > 0 { "the CA said no".to_owned() } else { String::new() },
            ..CertificateSummary::default()
        }),
        deployments: deployments.collect(),
        failures,
        ..CertificateDetail::default()
    }
}

use DeploymentState::{Delivered, Installed, TestFailed};

/// A script in which `www` is renewed from generation 1 to 2.
fn renewing(follow: Vec<Follow>) -> Script {
    Script {
        certificate: Some(state(1, 0, &[(Installed, 1)])),
        renewal: Some(RenewCertificateResponse { generation: 2, already_running: false }),
        follow: follow.into(),
        ..Script::default()
    }
}

#[tokio::test]
async fn status_is_a_monitoring_check() {
    let fake = Fake::start(Script { status: Some(healthy()), ..Script::default() });
    let ended = chancery(&fake.socket, &["status"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("All is well."), "{}", ended.stdout);

    let problems = vec!["certificate api has expired".to_owned()];
    let sick = StatusResponse { problems, ..healthy() };
    let fake = Fake::start(Script { status: Some(sick), ..Script::default() });
    let ended = chancery(&fake.socket, &["status", "-o", "json"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (10, ""));
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["healthy"], false);
    assert_eq!(json["problems"][0], "certificate api has expired");
}

#[tokio::test]
async fn a_coordinator_that_cannot_be_reached_or_does_not_answer() {
    let ended = chancery(Path::new("/nonexistent/admin.sock"), &["status"]).await;
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("is the coordinator running on this host?"), "{}", ended.stderr);

    let fake = Fake::start(Script { hang: true, ..Script::default() });
    let ended = chancery(&fake.socket, &["status", "--timeout", "100ms"]).await;
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("no answer within 100ms"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_coordinator_that_hangs_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let ended = chancery(&socket, &["status"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{}", ended.stderr);
    assert!(!ended.stderr.contains("Status {"), "no debug print: {}", ended.stderr);
    assert!(ended.stderr.contains("coordinator"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_coordinators_refusals_are_shown_in_its_words() {
    let fake = Fake::start(Script::default());
    let ended = chancery(&fake.socket, &["cert", "show", "www"]).await;
    assert_eq!(ended.code, 4);
    assert_eq!(ended.stderr, "error: certificate \"www\" does not exist\n");

    let refusal = Status::failed_precondition("node-2 leads: ask it");
    let fake = Fake::start(Script { refuse_renewal: Some(refusal), ..Script::default() });
    let ended = chancery(&fake.socket, &["cert", "renew", "www"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (5, "error: node-2 leads: ask it\n"));
}

const FLEET: &str = "[[certificate]]\nname = \"www\"\nidentifiers = [\"www.example.org\"]\n\
                     issuers = [\"a\"]\nlabels = { role = \"web\" }\n";

fn creates_www() -> ApplyResponse {
    let change =
        Change { kind: "certificate".to_owned(), name: "www".to_owned(), ..Change::default() };
    let mut plan = ApplyResponse {
        changes: vec![change],
        plan_id: "p1".to_owned(),
        ..ApplyResponse::default()
    };
    plan.changes[0].set_action(change::Action::Create);
    plan
}

#[tokio::test]
async fn a_plan_is_shown_and_then_carried_out_as_it_was_shown() {
    let fake = Fake::start(Script { plan: Some(creates_www()), ..Script::default() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    std::fs::write(&file, FLEET).unwrap();
    let file = file.to_str().unwrap();

    let unasked = chancery(&fake.socket, &["apply", "-f", file]).await;
    assert_eq!(unasked.code, 2);
    assert!(unasked.stdout.contains("+ certificate www"), "{}", unasked.stdout);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);

    let dry = chancery(&fake.socket, &["apply", "-f", file, "--dry-run", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!((dry.code, &json["applied"]), (0, &Value::Bool(false)));

    let done = chancery(&fake.socket, &["apply", "-f", file, "--prune", "--yes"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.ends_with("Applied.\n"), "{}", done.stdout);
    assert_eq!(
        fake.calls(),
        [
            "apply dry_run=true prune=false expected=\"\"",
            "apply dry_run=true prune=false expected=\"\"",
            "apply dry_run=true prune=true expected=\"\"",
            "apply dry_run=false prune=true expected=\"p1\"",
        ]
    );
}

#[tokio::test]
async fn a_plan_that_changed_meanwhile_is_not_carried_out() {
    let fake = Fake::start(Script {
        plan: Some(creates_www()),
        apply: Some(Status::aborted("the plan is not the one that you saw")),
        ..Script::default()
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fleet.toml"), FLEET).unwrap();
    let ended =
        chancery(&fake.socket, &["apply", "-y", "-f", folder.path().to_str().unwrap()]).await;
    assert_eq!(ended.code, 5);
    assert!(ended.stderr.contains("run the command again"), "{}", ended.stderr);
}

#[tokio::test]
async fn wrong_files_never_reach_the_coordinator() {
    let fake = Fake::start(Script { plan: Some(creates_www()), ..Script::default() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    std::fs::write(
        &file,
        FLEET.replace("www.example.org", "*.example.org").replace("role", "Role"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let ended = chancery(&fake.socket, &["apply", "--yes", "-f", file]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert!(ended.stderr.contains(&format!("{file}:3: identifiers")), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{file}:5: labels.Role")), "{}", ended.stderr);
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn files_that_declare_nothing_do_not_prune_everything_unasked() {
    let fake = Fake::start(Script { plan: Some(creates_www()), ..Script::default() });
    let file = tempfile::NamedTempFile::new().unwrap();
    let args = ["apply", "--prune", "--yes", "-f", file.path().to_str().unwrap()];
    let ended = chancery(&fake.socket, &args).await;
    assert_eq!((ended.code, fake.calls().len()), (2, 0), "{}", ended.stderr);
    assert!(ended.stderr.contains("declare nothing"), "{}", ended.stderr);
}

#[tokio::test]
async fn waiting_survives_a_coordinator_that_goes_away() {
    let fake = Fake::start(renewing(vec![
        Follow::Broken(vec![state(1, 0, &[(Installed, 1)])], Status::unavailable("going away")),
        Follow::Open(vec![
            state(2, 0, &[(Installed, 1)]),
            state(2, 0, &[(Delivered, 2)]),
            state(2, 0, &[(Installed, 2)]),
        ]),
    ]));
    let ended = chancery(&fake.socket, &["cert", "renew", "www", "--wait"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for line in
        ["issued; 0 of 1 agent", "web-0: delivered", "web-0: installed", "www was renewed in "]
    {
        assert!(ended.stdout.contains(line), "{line}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\u{1b}'), "no drawing without a terminal: {}", ended.stdout);
    assert_eq!(fake.calls(), ["renew www", "follow www", "follow www"]);
}

#[tokio::test]
async fn waiting_tells_programs_each_step_as_a_line() {
    let fake = Fake::start(renewing(vec![Follow::Open(vec![
        state(1, 0, &[(Installed, 1)]),
        state(2, 0, &[(Installed, 2)]),
    ])]));
    let ended = chancery(&fake.socket, &["cert", "renew", "www", "--wait", "-o", "json"]).await;
    let lines = ended.json_lines();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!((ended.code, outcomes), (0, vec!["running", "installed"]));
    assert_eq!(lines[1]["wanted_generation"], 2);
    assert_eq!(lines[1]["certificate"]["deployments"][0]["state"], "installed");
}

#[tokio::test]
async fn waiting_ends_when_the_order_or_a_deployment_fails() {
    for (last, why) in [
        (state(1, 1, &[(Installed, 1)]), "the order failed: the CA said no"),
        (state(2, 1, &[(TestFailed, 2)]), "web-0: nginx -t failed"),
    ] {
        let fake = Fake::start(renewing(vec![Follow::Open(vec![state(1, 0, &[]), last])]));
        let ended = chancery(&fake.socket, &["cert", "renew", "www", "--wait"]).await;
        assert_eq!(ended.code, 1, "{}", ended.stdout);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn waiting_ends_when_the_time_is_up() {
    let fake = Fake::start(renewing(vec![Follow::Open(vec![state(2, 0, &[(Delivered, 2)])])]));
    let args = ["cert", "renew", "www", "--wait", "--timeout", "1s", "-o", "json"];
    let ended = chancery(&fake.socket, &args).await;
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(ended.stderr.contains("issued, but not served by web-0"), "{}", ended.stderr);
    assert_eq!(ended.json_lines().last().unwrap()["outcome"], "timed-out");
}

#[tokio::test]
async fn a_token_stands_alone_on_standard_output() {
    let token =
        CreateTokenResponse { token: "chy_secret".to_owned(), ..CreateTokenResponse::default() };
    let fake = Fake::start(Script { token: Some(token), ..Script::default() });
    let create = ["agent", "token", "create", "--name", "web-1"];
    let ended =
        chancery(&fake.socket, &[&create[..], &["--label", "role=web", "--ttl", "15m"]].concat())
            .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "chy_secret\n"));
    assert!(!ended.stderr.contains("chy_secret"), "{}", ended.stderr);
    assert_eq!(fake.calls(), ["token web-1 {\"role\": \"web\"} 900s"]);

    for wrong in [["--label", "Role=web"], ["--ttl", "8d"]] {
        let ended = chancery(&fake.socket, &[&create[..], &wrong].concat()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{wrong:?}");
    }
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn an_agent_is_not_removed_unasked() {
    let fake = Fake::start(Script { agent: Some(AgentDetail::default()), ..Script::default() });
    let ended = chancery(&fake.socket, &["agent", "remove", "web-1"]).await;
    assert_eq!((ended.code, fake.calls().len()), (2, 0), "{}", ended.stderr);
    let ended = chancery(&fake.socket, &["agent", "remove", "web-1", "--yes"]).await;
    assert_eq!((ended.code, fake.calls()), (0, vec!["remove web-1".to_owned()]));
}

#[tokio::test]
async fn events_are_fetched_page_by_page() {
    let events = (1..=5).rev().map(|sequence| Event { sequence, ..Event::default() }).collect();
    let fake = Fake::start(Script { events, ..Script::default() });
    let ended = chancery(&fake.socket, &["event", "list", "-n", "3", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    let sequences: Vec<_> = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, [5, 4, 3]);
    let all = chancery(&fake.socket, &["event", "list", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(Path::new("/nonexistent"), &["completions", "bash"]);
    let output = command.stdout(writer).output().await.unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test]
async fn completions_and_help_need_no_coordinator() {
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "zsh", "fish"] {
        let ended = chancery(nowhere, &["completions", shell]).await;
        assert!(ended.code == 0 && ended.stdout.contains("renew"), "{shell}");
    }
    let help = chancery(nowhere, &["--help"]).await;
    assert!(help.stdout.contains("Exit codes:"), "{}", help.stdout);
    assert_eq!(chancery(nowhere, &["frobnicate"]).await.code, 2);
}

/// Runs the program on a terminal of its own, types `input`, and returns all that was
/// shown.
async fn on_a_terminal(socket: &Path, args: &[&str], input: &str) -> (i32, String) {
    use std::io::{Read as _, Write as _};

    use rustix::{fs::OFlags, pty};
    let controller = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&controller).unwrap();
    pty::unlockpt(&controller).unwrap();
    let name = pty::ptsname(&controller, Vec::new()).unwrap();
    let terminal =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
    let mut command = command(socket, args);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    command.stdin(terminal.try_clone().unwrap());
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut controller = std::fs::File::from(controller);
    controller.write_all(input.as_bytes()).unwrap();
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // The last reader of a terminal that nobody has open any more gets EIO.
        let _ = controller.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let code = child.wait().await.unwrap().code().unwrap();
    (code, shown.await.unwrap())
}

#[tokio::test]
async fn on_a_terminal_one_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    std::fs::write(&file, FLEET).unwrap();
    let args = ["apply", "-f", file.to_str().unwrap()];
    for (input, code, calls) in [("no\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 2)] {
        let fake = Fake::start(Script { plan: Some(creates_www()), ..Script::default() });
        let (ended, shown) = on_a_terminal(&fake.socket, &args, input).await;
        assert_eq!((ended, fake.calls().len()), (code, calls), "{input:?}: {shown}");
        assert!(shown.contains("Apply this plan? [y/N]"), "{shown}");
        assert!(shown.contains("\u{1b}[32m+ certificate www"), "{shown}");
    }
}

#[tokio::test]
async fn on_a_terminal_progress_is_drawn_over_itself() {
    let fake = Fake::start(renewing(vec![Follow::Open(vec![
        state(2, 0, &[(Delivered, 2), (Installed, 2)]),
        state(2, 0, &[(Installed, 2), (Installed, 2)]),
    ])]));
    let (code, shown) = on_a_terminal(&fake.socket, &["cert", "renew", "www", "--wait"], "").await;
    assert_eq!(code, 0, "{shown}");
    // Three lines up, and everything below is drawn again.
    assert!(shown.contains("\u{1b}[3A\r\u{1b}[J"), "{shown:?}");
    assert!(shown.contains("\u{1b}[33m  web-0: delivered\u{1b}[0m"), "{shown:?}");
    assert!(shown.contains("issued; 2 of 2 agents serve it"), "{shown:?}");
}

#[tokio::test]
async fn a_switch_tells_what_the_standby_has_become() {
    for (switched, code) in [(true, 0), (false, 6)] {
        let switch = Some(SwitchCertificateResponse { generation: 9, switched });
        let fake = Fake::start(Script { switch, ..Script::default() });
        let ended = chancery(&fake.socket, &["cert", "switch", "www"]).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stdout.contains("generation 9"), "{}", ended.stdout);
        let shown = chancery(&fake.socket, &["cert", "switch", "www", "-o", "json"]).await;
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!((&shown["generation"], &shown["switched"]), (&9.into(), &switched.into()));
        assert_eq!(fake.calls(), ["switch www", "switch www"]);
    }
}
