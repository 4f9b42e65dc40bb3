//! Faults on each store, once each. `cargo xtask chaos` goes on for as long as one likes.

use anyhow::{Result, ensure};
use chancery_tests::ha::chaos::{self, Options, Schedule};
use chancery_tests::ha::cluster::Kind;
use chancery_tests::ha::fault::Fault;
use chancery_tests::scene::{self, Scene};

/// Each of these once.
async fn withstand(scene: &Scene, kind: Kind, faults: &[Fault]) -> Result<()> {
    let schedule = Schedule::Each(faults.to_vec());
    let options = Options { kind, seed: SEED, schedule };
    let verdict = chaos::run(scene, &options, |_| ()).await?;
    ensure!(verdict.violations.is_empty(), "{verdict:#?}");
    let ends = faults.iter().filter(|fault| fault.ends_a_term()).count();
    ensure!(verdict.leader_changes >= ends, "{ends}: {verdict:#?}");
    ensure!(verdict.accounts.issued > 8 && verdict.asked > 0, "{verdict:#?}");
    Ok(())
}

#[test]
fn no_fault_on_etcd_makes_two_leaders_or_loses_a_certificate() {
    scene::play(async |scene| withstand(scene, Kind::Etcd, &Fault::ALL).await);
}

#[test]
fn no_fault_on_consul_makes_two_leaders_or_loses_a_certificate() {
    // A session there lives for ten seconds at least, and each end of a term takes twice that.
    let faults = [
        Fault::KillLeader,
        Fault::PauseLeader,
        Fault::CutLeaderFromStore,
        Fault::LoseStoreMember,
        Fault::ClockBack,
        Fault::Terminate,
    ];
    scene::play(async |scene| withstand(scene, Kind::Consul, &faults).await);
}

/// `cargo xtask chaos --seed SEED` begins with the same dice.
const SEED: u64 = 3;
