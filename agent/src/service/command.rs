//! Commands of the operator: run with a time-out, output kept within bounds.

use std::{collections::VecDeque, fmt::Write as _, pin::pin, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

/// Runs a command to its end. The error is a text for operators: how it ended, and its last
/// lines of output. When the time is up, or when the future is dropped, the command and all
/// that it started are killed.
pub(super) async fn run(
    argv: &[String],
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<(), String> {
    let (program, arguments) = argv.split_first().expect("checked with the configuration");
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .env_remove(crate::TOKEN_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} could not be started: {error}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let status = timeout(limit, wait(&mut child, &mut out, &mut err)).await;
    let ended = match status {
        Err(_) => format!("{program} did not end within {}", humantime::format_duration(limit)),
        Ok(Err(error)) => format!("{program} could not be waited for: {error}"),
        Ok(Ok(status)) => {
            // Nothing of it may be left to kill, and its number may soon be another's.
            group.0 = None;
            if status.success() {
                return Ok(());
            }
            format!("{program} ended with {status}")
        }
    };
    Err(with_output(ended, &out, &err))
}

/// Waits for the end of a child and reads its output meanwhile.
async fn wait(
    child: &mut Child,
    out: &mut Tail,
    err: &mut Tail,
) -> std::io::Result<std::process::ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = pin!(async { tokio::join!(out.fill(stdout), err.fill(stderr)) });
    let mut read = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = &mut reading, if !read => read = true,
        }
    };
    if !read {
        // What is in the pipes already. A daemon that it left behind may hold them open
        // for ever.
        let _ = timeout(LAST_WORDS, reading).await;
    }
    status
}

fn with_output(mut ended: String, out: &Tail, err: &Tail) -> String {
    let text = format!("{}\n{}", out.text(), err.text());
    if text.contains("PRIVATE KEY") {
        ended.push_str(" (its output is withheld: a private key stands in it)");
        return ended;
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(MOST_LINES)..];
    if !last.is_empty() {
        let _ = write!(ended, ": {}", last.join(" | "));
    }
    ended
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of an output.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    /// Reads to the end and keeps the last bytes.
    async fn fill(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            self.0.extend(&buffer[..length]);
            let surplus = self.0.len().saturating_sub(MOST_BYTES);
            self.0.drain(..surplus);
        }
    }

    /// As text that a terminal and a log can show.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let visible = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
        String::from_utf8_lossy(&bytes).chars().map(visible).collect()
    }
}

const MOST_BYTES: usize = 2048;
const MOST_LINES: usize = 6;
const LAST_WORDS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> Result<(), String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        run(&argv, &[("RENEWED_DOMAINS", "a.example b.example".to_owned())], limit).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn failure_tells_status_and_last_lines() {
        assert_eq!(shell("exit 0", LONG).await, Ok(()));
        let error = shell("echo one; echo two >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(error, "sh ended with exit status: 3: one | two");
        let error = shell("seq 1 100000; exit 1", LONG).await.unwrap_err();
        assert!(error.ends_with("99999 | 100000") && error.len() < 200, "{error}");
        let error = run(&["/nonexistent/nginx".to_owned()], &[], LONG).await.unwrap_err();
        assert!(error.contains("/nonexistent/nginx could not be started"), "{error}");
    }

    #[tokio::test]
    async fn hooks_get_certbots_variables() {
        assert_eq!(shell("test \"$RENEWED_DOMAINS\" = 'a.example b.example'", LONG).await, Ok(()));
    }

    #[tokio::test]
    async fn a_private_key_in_the_output_is_withheld() {
        let script = "echo '-----BEGIN PRIVATE KEY-----'; echo c2VjcmV0; exit 1";
        let error = shell(script, LONG).await.unwrap_err();
        assert!(error.contains("withheld") && !error.contains("c2VjcmV0"), "{error}");
    }

    #[tokio::test]
    async fn a_time_out_kills_all_that_was_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        // Long enough for the shell to write its file, even on a busy machine.
        let error = shell(&script, Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error, "sh did not end within 2s");
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        timeout(LONG, async {
            // Gone, or a zombie that waits for init.
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_up_the_end() {
        let waited = timeout(LONG, shell("sleep 60 & exit 0", LONG)).await;
        assert_eq!(waited.unwrap(), Ok(()));
    }
}
