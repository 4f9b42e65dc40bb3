//! What can go wrong, and how it is made to.
//!
//! A fault strikes, has its effect, and is put right again, before the next one. It takes as
//! long as its effect takes to show: a leader is away until another one leads.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::wait;

use super::check::Window;
use super::dice::Dice;
use super::world::{PATIENCE, World, is_ready};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The leader dies (SIGKILL).
    KillLeader,
    /// The leader stands still for longer than its lease is good (SIGSTOP), and goes on as if
    /// nothing had happened.
    PauseLeader,
    /// The leader reaches the CA and the agents, but not the store.
    CutLeaderFromStore,
    /// The leader reaches all but the CA.
    CutLeaderFromCa,
    /// One member of the store dies: its leader.
    LoseStoreMember,
    /// Most members of the store die, and it serves nobody until they are back.
    LoseStoreQuorum,
    /// The leader's wall clock jumps ahead.
    ClockAhead,
    /// The leader's wall clock jumps back.
    ClockBack,
    /// The leader is told to end (SIGTERM).
    Terminate,
    /// An operator has the lease handed over.
    Transfer,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::KillLeader,
        Self::PauseLeader,
        Self::CutLeaderFromStore,
        Self::CutLeaderFromCa,
        Self::LoseStoreMember,
        Self::LoseStoreQuorum,
        Self::ClockAhead,
        Self::ClockBack,
        Self::Terminate,
        Self::Transfer,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "the leader was killed",
            Self::PauseLeader => "the leader was paused",
            Self::CutLeaderFromStore => "the leader was cut off from the store",
            Self::CutLeaderFromCa => "the leader was cut off from the CA",
            Self::LoseStoreMember => "the store lost its leader",
            Self::LoseStoreQuorum => "the store lost its quorum",
            Self::ClockAhead => "the leader's clock jumped ahead",
            Self::ClockBack => "the leader's clock jumped back",
            Self::Terminate => "the leader was told to end",
            Self::Transfer => "the lease was transferred",
        }
    }

    /// Whether another term begins because of it, on any store.
    pub fn ends_a_term(self) -> bool {
        match self {
            Self::KillLeader
            | Self::PauseLeader
            | Self::CutLeaderFromStore
            | Self::LoseStoreQuorum
            | Self::Terminate
            | Self::Transfer => true,
            Self::CutLeaderFromCa | Self::LoseStoreMember | Self::ClockAhead | Self::ClockBack => {
                false
            }
        }
    }

    /// Strikes, waits for the effect, puts it right, and waits until all is ready again.
    pub async fn strike(self, world: &mut World, dice: &mut Dice) -> Result<Window> {
        let leader = world.wait_for_leader(|_| true).await?;
        let from = Instant::now();
        let what = format!("{} (node-{})", self.name(), leader.coordinator);
        self.happen(world, leader.coordinator, leader.epoch, dice)
            .await
            .with_context(|| what.clone())?;
        recover(world).await.with_context(|| format!("after {what}"))?;
        let clock = matches!(self, Self::ClockAhead | Self::ClockBack);
        Ok(Window { what, from, to: Instant::now(), clock })
    }

    async fn happen(
        self,
        world: &mut World,
        leader: usize,
        epoch: u64,
        dice: &mut Dice,
    ) -> Result<()> {
        match self {
            Self::KillLeader => {
                world.coordinators[leader].process()?.kill_9()?;
                world.wait_for_leader(|now| now.epoch > epoch).await?;
                world.coordinators[leader].spawn()?;
            }
            Self::PauseLeader => {
                world.coordinators[leader].process()?.pause()?;
                let next = world.wait_for_leader(|now| now.epoch > epoch).await;
                world.coordinators[leader].process()?.resume()?;
                next?;
            }
            Self::CutLeaderFromStore => {
                for store in &world.store_nodes {
                    world.network.cut(&world.nodes[leader], store)?;
                }
                world.wait_for_leader(|now| now.epoch > epoch).await?;
                world.network.heal_all()?;
            }
            Self::CutLeaderFromCa => {
                world.network.cut(&world.nodes[leader], &world.ca)?;
                sleep(HELD).await;
                world.network.heal_all()?;
            }
            Self::LoseStoreMember => {
                let member = world.cluster.leader().await?;
                world.cluster.kill_9(member)?;
                world.cluster.leader().await?;
                world.wait_for_leader(|_| true).await?;
                world.cluster.restart(member)?;
            }
            Self::LoseStoreQuorum => lose_quorum(world, dice).await?,
            Self::ClockAhead => jump(world, leader, epoch, JUMP_SECS).await?,
            Self::ClockBack => jump(world, leader, epoch, -JUMP_SECS).await?,
            Self::Terminate => {
                let process = world.coordinators[leader].process()?;
                process.terminate()?;
                let ended = process.wait_for_end(wait::SOON).await?;
                ensure!(ended.success(), "it ended with {ended}");
                world.wait_for_leader(|now| now.epoch > epoch).await?;
                world.coordinators[leader].spawn()?;
            }
            Self::Transfer => {
                world.cli(leader).text(&["lease", "transfer"]).await?;
                world.wait_for_leader(|now| now.epoch > epoch).await?;
            }
        }
        Ok(())
    }
}

async fn lose_quorum(world: &mut World, dice: &mut Dice) -> Result<()> {
    let stays = dice.below(world.store_nodes.len());
    let lost: Vec<usize> = (0..world.store_nodes.len()).filter(|at| *at != stays).collect();
    for member in &lost {
        world.cluster.kill_9(*member)?;
    }
    // Each coordinator gives up what it cannot confirm.
    wait::until("the end of all leadership", PATIENCE, async || match world.leader().await {
        None => Ok(()),
        Some(leader) => Err(format!("node-{} says that it leads", leader.coordinator)),
    })
    .await?;
    for coordinator in &mut world.coordinators {
        coordinator.process()?.must_run().context("without its store")?;
    }
    for member in lost {
        world.cluster.restart(member)?;
    }
    world.cluster.wait_until_healthy().await
}

/// A wrong clock is no reason to lead no more.
async fn jump(world: &World, leader: usize, epoch: u64, by_secs: i64) -> Result<()> {
    world.set_clock(leader, by_secs)?;
    sleep(HELD).await;
    let then = world.wait_for_leader(|_| true).await?;
    world.set_clock(leader, 0)?;
    ensure!(then.epoch == epoch, "it led no more, though only its clock was wrong: {then:?}");
    Ok(())
}

/// Waits until everything is as it was: the store, the coordinators, a leader.
async fn recover(world: &mut World) -> Result<()> {
    world.cluster.wait_until_healthy().await?;
    for coordinator in &mut world.coordinators {
        coordinator.process()?.must_run()?;
    }
    for coordinator in &world.coordinators {
        let what = format!("{} to be ready", coordinator.node());
        wait::until(&what, PATIENCE, async || {
            ensure!(is_ready(coordinator).await, "not yet");
            Ok(())
        })
        .await?;
    }
    world.wait_for_leader(|_| true).await?;
    Ok(())
}

/// How long a fault lasts that has no effect to wait for: a lease is kept alive meanwhile, and orders
/// are made.
const HELD: Duration = Duration::from_secs(4);
/// By how much a clock jumps.
const JUMP_SECS: i64 = 3600;
