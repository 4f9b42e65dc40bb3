//! The ways to make a service read its files again.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::Host;
use crate::config::Reload;

/// Reloads. The error is a text for operators.
pub(super) async fn reload(
    host: &dyn Host,
    reload: &Reload,
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<(), String> {
    match reload {
        Reload::Command(argv) => host.run(argv, environment, limit).await,
        Reload::Systemd(unit) => {
            let argv = ["systemctl", "reload", unit].map(str::to_owned);
            host.run(&argv, environment, limit).await
        }
        Reload::Signal { signal, pid_file } => send(*signal, pid_file),
    }
}

fn send(signal: Signal, pid_file: &Path) -> Result<(), String> {
    let file = pid_file.display();
    let text = fs::read_to_string(pid_file)
        .map_err(|error| format!("the pid file {file} cannot be read: {error}"))?;
    let pid = text.trim().parse().ok().filter(|pid: &i32| *pid > 1).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("the pid file {file} holds no process number"))?;
    kill_process(pid, signal).map_err(|errno| {
        format!(
            "process {} of {file} cannot be signalled: {}",
            pid.as_raw_nonzero(),
            std::io::Error::from(errno)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ThisHost;

    #[tokio::test]
    async fn a_signal_goes_to_the_process_of_the_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let (pid_file, seen) = (dir.path().join("pid"), dir.path().join("seen"));
        let script = format!(
            "trap 'echo hup > {}; exit 0' HUP; echo $$ > {}; while :; do sleep 0.01; done",
            seen.display(),
            pid_file.display()
        );
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", &script])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let limit = Duration::from_secs(30);
        let way = Reload::Signal { signal: Signal::HUP, pid_file };
        tokio::time::timeout(limit, async {
            while reload(&ThisHost, &way, &[], limit).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            child.wait().await.unwrap();
        })
        .await
        .unwrap();
        assert_eq!(fs::read_to_string(seen).unwrap(), "hup\n");
    }

    #[test]
    fn a_pid_file_without_a_process_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        for (contents, expected) in [
            (None, "cannot be read"),
            (Some(""), "no process number"),
            (Some("-1"), "no process number"),
            (Some("1"), "no process number"),
            (Some("2147483647"), "cannot be signalled"),
        ] {
            if let Some(contents) = contents {
                fs::write(&pid_file, contents).unwrap();
            }
            let error = send(Signal::HUP, &pid_file).unwrap_err();
            assert!(error.contains(expected) && error.contains("/pid"), "{contents:?}: {error}");
        }
    }
}
