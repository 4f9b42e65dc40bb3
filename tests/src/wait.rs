//! Waiting for a state, with a deadline, and a failure that says what was seen last.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How long the suites wait for anything that takes no time by itself. Generous: a loaded
/// machine must not fail a test, and a passing test does not wait.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks `probe` again and again until it returns `Ok`, and returns that. The error says what
/// was waited for, and the last `Err` of the probe. Safe to cancel where the probe is.
pub async fn until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    let mut last = None;
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(not_yet)) => last = Some(not_yet.to_string()),
            Err(_) if last.is_none() => last = Some("it did not even answer".to_owned()),
            Err(_) => {}
        }
        if Instant::now() + pause >= end {
            let last = last.unwrap_or_default();
            bail!("waited {} s in vain for {what}; last: {last}", deadline.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until `condition` holds; `what` says it in words.
pub async fn until_true(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    until(what, deadline, async || if condition() { Ok(()) } else { Err("not yet") }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_success_ends_it() {
        let mut left = 3;
        let got = until("zero", SOON, async || {
            left -= 1;
            if left == 0 { Ok("done") } else { Err(format!("{left} left")) }
        });
        assert_eq!(got.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn the_error_tells_what_was_seen_last() {
        let short = Duration::from_millis(30);
        let error = until("the moon", short, async || Err::<(), _>("new moon")).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for the moon; last: new moon");
        let never = until("an answer", short, std::future::pending::<Result<(), String>>);
        assert!(never.await.unwrap_err().to_string().contains("did not even answer"));
    }
}
