//! A hook: any program that can set and remove a TXT record. It takes the scripts that are written for
//! lego's `EXEC_PATH`, and the functions of acme.sh's DNS scripts, as they are.

use std::{path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    sync::Mutex,
};

use super::{
    super::{Failure, Provider, Txt},
    Kind, Settings,
};

pub(super) const KIND: Kind = Kind {
    name: "exec",
    required: &[("command", "command = \"/usr/local/bin/dns-hook\"")],
    optional: &["mode", "acme_sh", "timeout"],
    build,
};

/// A program that changes the DNS for us.
#[derive(Debug)]
struct Exec {
    command: PathBuf,
    mode: Mode,
    timeout: Duration,
    /// acme.sh keeps what it was answered, and what its scripts want to be kept, in one file each.
    alone: Mutex<()>,
}

/// How the program is called.
#[derive(Debug)]
enum Mode {
    /// `COMMAND present|cleanup NAME. VALUE`, lego's default.
    Lego,
    /// `COMMAND present|cleanup -- DOMAIN TOKEN KEY-AUTHORIZATION`, lego's `EXEC_MODE=RAW`.
    LegoRaw,
    /// `NAME_add` and `NAME_rm` of a script NAME.sh, with acme.sh's own functions if it wants them.
    AcmeSh(Option<PathBuf>),
}

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let mut problems = Vec::new();
    let command = PathBuf::from(settings.required("command"));
    if !command.is_absolute() {
        problems.push(format!("command = {:?}: write a whole path", command.display()));
    } else if !command.is_file() {
        problems.push(format!("command: there is no file {}", command.display()));
    }
    let mode = match settings.optional("mode") {
        None | Some("lego") => Mode::Lego,
        Some("lego-raw") => Mode::LegoRaw,
        Some("acme.sh") => Mode::AcmeSh(settings.owned("acme_sh").map(PathBuf::from)),
        Some(other) => {
            problems.push(format!("mode = {other:?}: write lego, lego-raw or acme.sh"));
            Mode::Lego
        }
    };
    let timeout = settings.optional("timeout").map_or(Ok(DEFAULT_TIMEOUT), |text| {
        humantime::parse_duration(text).map_err(|error| format!("timeout = {text:?}: {error}"))
    });
    match timeout {
        Ok(timeout) if problems.is_empty() => {
            Ok(Box::new(Exec { command, mode, timeout, alone: Mutex::default() }))
        }
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

#[async_trait]
impl Provider for Exec {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.run(["present", "add"], txt).await
    }

    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.run(["cleanup", "rm"], txt).await
    }

    fn is_bounded(&self) -> bool {
        true
    }
}

impl Exec {
    /// `verbs` are lego's and acme.sh's words for what is to be done.
    async fn run(&self, [verb, suffix]: [&str; 2], txt: &Txt<'_>) -> Result<(), Failure> {
        let shown = self.command.display();
        let mut command = self.command([verb, suffix], txt)?;
        let _alone = match self.mode {
            Mode::AcmeSh(_) => Some(self.alone.lock().await),
            Mode::Lego | Mode::LegoRaw => None,
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Dropped, or late: it is killed, and so are those that it started.
        command.kill_on_drop(true).process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::Refused(format!("{shown} cannot be started: {error}")))?;
        let group = Group::of(&child);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let work = async { tokio::join!(beginning(out), beginning(err), child.wait()) };
        let Ok((out, err, status)) = tokio::time::timeout(self.timeout, work).await else {
            drop(group);
            let secs = self.timeout.as_secs();
            return Err(Failure::Unavailable(format!(
                "{shown} {verb} did not end within {secs} s and was killed; see dns.NAME.timeout"
            )));
        };
        group.over();
        let status =
            status.map_err(|error| Failure::Unavailable(format!("{shown} is lost: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let said = [err, out].join("\n");
        let said = said.trim();
        Err(Failure::Refused(format!("{shown} {verb} failed ({status}); it said: {said}")))
    }

    fn command(&self, [verb, suffix]: [&str; 2], txt: &Txt<'_>) -> Result<Command, Failure> {
        let domain = txt.identifier.as_str().trim_start_matches("*.");
        let name = format!("{}.", txt.name);
        let mut command = Command::new(&self.command);
        match &self.mode {
            Mode::Lego => {
                command.args([verb, &name, txt.value]);
            }
            Mode::LegoRaw => {
                command.args([verb, "--", domain, txt.token, txt.key_authorization]);
            }
            Mode::AcmeSh(library) => {
                let stem = self.command.file_stem().and_then(|stem| stem.to_str());
                let stem =
                    stem.ok_or_else(|| Failure::Refused("command has no name".to_owned()))?;
                command = Command::new("/bin/sh");
                command.args(["-c", ACME_SH, "sh"]);
                command.arg(library.as_deref().unwrap_or_else(|| "".as_ref())).arg(&self.command);
                command.args([&format!("{stem}_{suffix}"), txt.name, txt.value]);
            }
        }
        Ok(command)
    }
}

/// The processes that a hook has started, with itself at their head.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    /// It has ended by itself.
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// The beginning of what a program says; the rest is read, so that it is not stopped, and dropped.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut stream).take(MOST_KEPT).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// Reads acme.sh for its functions and its saved credentials, if it is there, then the script, and
/// calls its function. The names of variables are ones that neither uses.
const ACME_SH: &str = r#"chancery_library=$1 chancery_script=$2
chancery_function=$3 chancery_name=$4 chancery_value=$5
set --
if [ -n "$chancery_library" ]; then
    LE_WORKING_DIR=${LE_WORKING_DIR:-$(dirname "$chancery_library")}
    . "$chancery_library" >/dev/null 2>&1 || exit 1
    if command -v _initpath >/dev/null; then _initpath >/dev/null; fi
fi
. "$chancery_script" || exit 1
"$chancery_function" "$chancery_name" "$chancery_value""#;
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
const MOST_KEPT: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn present(command: PathBuf, mode: Mode, timeout: Duration) -> Result<(), Failure> {
        let identifier = "*.example.org".parse().unwrap();
        let txt = Txt {
            zone: "example.org",
            name: "_acme-challenge.example.org",
            value: "value",
            identifier: &identifier,
            token: "token",
            key_authorization: "token.thumbprint",
        };
        let exec = Exec { command, mode, timeout, alone: Mutex::default() };
        exec.present(&txt).await?;
        exec.cleanup(&txt).await
    }

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn scripts_are_called_as_lego_and_acme_sh_call_them() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = format!("echo \"$@\" >> {}", log.display());
        let hook = script(folder.path(), "hook", &text);
        present(hook.clone(), Mode::Lego, SOON).await.unwrap();
        present(hook, Mode::LegoRaw, SOON).await.unwrap();
        let library = script(folder.path(), "acme.sh", "_note() { echo \"$@\"; }");
        let text = format!(
            "dns_x_add() {{ _note add \"$@\" >> {0}; }}\ndns_x_rm() {{ _note rm \"$@\" >> {0}; }}",
            log.display()
        );
        let hook = script(folder.path(), "dns_x.sh", &text);
        present(hook, Mode::AcmeSh(Some(library)), SOON).await.unwrap();
        assert_eq!(
            fs::read_to_string(log).unwrap(),
            "present _acme-challenge.example.org. value\n\
             cleanup _acme-challenge.example.org. value\n\
             present -- example.org token token.thumbprint\n\
             cleanup -- example.org token token.thumbprint\n\
             add _acme-challenge.example.org value\nrm _acme-challenge.example.org value\n"
        );
    }

    #[tokio::test]
    async fn what_a_failing_script_says_is_told_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let text = "echo no such zone >&2; head -c 1000000 /dev/zero | tr '\\0' x; exit 3";
        let hook = script(folder.path(), "hook", text);
        let Err(Failure::Refused(said)) = present(hook, Mode::Lego, SOON).await else { panic!() };
        assert!(said.contains("exit status: 3") && said.contains("no such zone"), "{said}");
        assert!(said.len() < 10_000, "{}", said.len());
    }

    #[tokio::test]
    async fn a_script_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let text = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let hook = script(folder.path(), "hook", &text);
        let outcome = present(hook, Mode::Lego, Duration::from_secs(2)).await;
        assert!(matches!(outcome, Err(Failure::Unavailable(_))), "{outcome:?}");
        let pid = fs::read_to_string(pid).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        for _ in 0..500 {
            // A zombie that init has not collected yet runs no more.
            if fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it runs on");
    }
}
