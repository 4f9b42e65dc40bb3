//! Programs that run beside a test: their output in a file, signals, their end, and nothing
//! of them left when the test is over, however it ends.
//!
//! They stay in the test's process group, so that a runner that kills the group of a hanging
//! test kills them, too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::wait;

/// A running program. Dropped, it and all that it started are killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    left_running: bool,
}

impl Process {
    /// Starts a command. What it prints is appended to `<folder>/<name>.log`; it has no input.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{} cannot be written", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} could not be started: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log, left_running: false })
    }

    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with what it printed.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until it has printed `text`. An error when it ends before that.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let log = self.log.clone();
        let what = format!("{} to print {text:?}", self.name);
        self.wait_until(&what, deadline, async || {
            let printed = read(&log);
            ensure!(printed.contains(text), "it printed: {}", tail(&printed, 3));
            Ok(())
        })
        .await
    }

    /// Waits like [`wait::until`] for a state of this program. An error with its last words when
    /// it ends before that.
    pub async fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut probe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let found = wait::until(what, deadline, async || {
            let ended = self.ended()?;
            // Asked after the look at its end, so that its last words count.
            match probe().await {
                Ok(value) => Ok(Ok(value)),
                Err(_) if ended.is_some() => Ok(Err(())),
                Err(not_yet) => Err(not_yet),
            }
        });
        if let Ok(value) = found.await? {
            return Ok(value);
        }
        self.must_run()?;
        bail!("{} ended", self.name)
    }

    /// Its exit status when it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("{} cannot be waited for", self.name))
    }

    /// An error with its last words when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended ({status}); its last words: {}", self.name, tail(&self.log(), 8));
        }
        Ok(())
    }

    /// Waits until it ends.
    pub async fn wait_for_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let child = &mut self.child;
        wait::until(&what, deadline, async || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or("it runs".to_owned())
        })
        .await
    }

    /// Kills it at once (SIGKILL), as a crash or the out-of-memory killer would, and waits
    /// until it is gone. What it started itself is left alone.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("{} cannot be killed", self.name))?;
        self.child.wait().with_context(|| format!("{} cannot be waited for", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.terminate()?;
        self.wait_for_end(deadline).await
    }

    /// Stops it in mid-step (SIGSTOP), as a paused machine would.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Lets it run on after this program has ended. For a demo that is kept.
    pub fn leave_running(&mut self) {
        self.left_running = true;
    }

    fn signal(&self, to_send: Signal) -> Result<()> {
        signal(self.id(), to_send).with_context(|| format!("{} cannot be signalled", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.left_running || self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // Stopped first, so that it starts no more children while they are looked up.
        let _ = self.pause();
        let children = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for child in children {
            let _ = signal(child, Signal::KILL);
        }
    }
}

/// What a command that ran to its end said.
#[derive(Debug, Clone)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// An error with all that it said, unless it succeeded.
    pub fn success(self) -> Result<Self> {
        if !self.status.success() {
            bail!("it failed ({}):\n{}{}", self.status, self.err, self.out);
        }
        Ok(self)
    }
}

/// Runs a command to its end, which must come within `deadline`. It is killed when this is
/// cancelled.
pub async fn run(command: &mut Command, deadline: Duration) -> Result<Said> {
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("")));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(deadline, output)
        .await
        .with_context(|| format!("{shown} did not end within {} s", deadline.as_secs()))?
        .with_context(|| format!("{shown} could not be started"))?;
    Ok(Said {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// What stands in a log so far.
fn read(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// The last lines of a text, on one line.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}

/// All processes that a process started, and those that they started.
fn descendants(of: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut look = vec![of];
    while let Some(id) = look.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                found.push(child);
                look.push(child);
            }
        }
    }
    found
}

/// Sends a signal to the process with this id.
pub(crate) fn signal(id: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("not a process id")?;
    rustix::process::kill_process(pid, signal).context("no signal can be sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Process {
        Process::start("shell", folder, Command::new("sh").args(["-c", script])).unwrap()
    }

    fn runs(id: u32) -> bool {
        // A zombie that init has not collected yet runs no more.
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn dropped_it_takes_its_children_along() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "sleep 1000 & echo child $!; wait");
        process.wait_for_log("child", wait::SOON).await.unwrap();
        let child = process.log().split_whitespace().nth(1).unwrap().parse().unwrap();
        let parent = process.id();
        assert!(runs(child) && runs(parent));
        drop(process);
        wait::until_true("their end", wait::SOON, || !runs(child) && !runs(parent)).await.unwrap();
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "echo no such key >&2; exit 3");
        let error = process.wait_for_log("ready", wait::SOON).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such key"), "{error}");
    }

    #[tokio::test]
    async fn it_can_be_asked_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "trap 'exit 7' TERM; echo ready; sleep 1000 & wait");
        process.wait_for_log("ready", wait::SOON).await.unwrap();
        let children = descendants(process.id());
        assert_eq!(process.stop(wait::SOON).await.unwrap().code(), Some(7));
        for child in children {
            signal(child, Signal::KILL).unwrap();
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_all_that_it_said() {
        let said =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 4"]), wait::SOON)
                .await
                .unwrap();
        assert_eq!((said.out.as_str(), said.err.as_str()), ("out\n", "err\n"));
        let error = said.success().unwrap_err().to_string();
        assert!(error.contains("exit status: 4") && error.contains("err\nout"), "{error}");
    }
}
