//! How long nobody leads: after a crash of the leader, and when it hands over.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::wait;

use super::world::{PATIENCE, World};

/// What ends a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `kill -9`.
    Crash,
    /// SIGTERM.
    HandOver,
}

/// Ends the leader's term, and returns the time until another coordinator says on its `/metrics` that it
/// leads, as it is asked every few milliseconds. Afterwards all three run again.
pub async fn measure(world: &mut World, end: End) -> Result<Duration> {
    let leader = world.wait_for_leader(|_| true).await?;
    let process = world.coordinators[leader.coordinator].process()?;
    let begun = Instant::now();
    match end {
        End::Crash => process.kill_9()?,
        End::HandOver => process.terminate()?,
    }
    let took = loop {
        if world.leader().await.is_some_and(|now| now.epoch > leader.epoch) {
            break begun.elapsed();
        }
        if begun.elapsed() > PATIENCE {
            bail!("nobody leads {} s after a {end:?}", PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    };
    let former = &mut world.coordinators[leader.coordinator];
    if end == End::HandOver {
        let ended = former.process()?.wait_for_end(wait::SOON).await?;
        ensure!(ended.success(), "it ended with {ended}");
    }
    former.run().await?;
    Ok(took)
}

/// The times of several ends of a kind, shortest first.
pub async fn series(world: &mut World, end: End, times: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..times {
        took.push(measure(world, end).await?);
    }
    took.sort();
    Ok(took)
}

const LOOK: Duration = Duration::from_millis(5);
