//! How long nobody leads. `cargo xtask bench failover` measures more of the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use chancery_tests::ha::cluster::Kind;
use chancery_tests::ha::failover::{End, series};
use chancery_tests::ha::world::{Options, World};
use chancery_tests::scene;

#[test]
fn a_crash_costs_the_ttl_and_a_second_at_most_and_a_hand_over_half_a_second() {
    scene::play(async |scene| {
        let mut options = Options::new(Kind::Etcd);
        options.lease_ttl_secs = 5;
        options.agents = 0;
        options.clocks = false;
        let mut world = World::start(scene, options).await?;
        let bound = world.lease_ttl() + Duration::from_secs(1);
        within(&series(&mut world, End::Crash, 2).await?, bound)?;
        within(&series(&mut world, End::HandOver, 2).await?, Duration::from_millis(500))
    });
}

fn within(took: &[Duration], bound: Duration) -> Result<()> {
    ensure!(took.iter().all(|took| *took <= bound), "{took:?}, at most {bound:?}");
    Ok(())
}
