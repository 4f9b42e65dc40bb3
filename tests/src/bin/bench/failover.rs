//! How long nobody leads, after crashes and hand-overs, on each store.

use std::time::Duration;

use anyhow::Result;
use chancery_tests::ha::cluster::Kind;
use chancery_tests::ha::failover::{End, series};
use chancery_tests::ha::world::{Options, World};
use chancery_tests::scene::Scene;

use crate::report::{self, Report, Row};

const TIMES: usize = 20;

/// Crashes and hand-overs, with the lease that each store is run with.
pub(crate) async fn measure() -> Result<Report> {
    let mut rows = Vec::new();
    for (kind, ttl_secs, words) in [(Kind::Etcd, 5, ETCD), (Kind::Consul, 10, CONSUL)] {
        let scene = Scene::new()?;
        let mut options = Options::new(kind);
        options.lease_ttl_secs = ttl_secs;
        options.agents = 0;
        options.clocks = false;
        let mut world = World::start(&scene, options).await?;
        report::progress(&format!("{TIMES} crashes on {}", kind.name()));
        let crashes = series(&mut world, End::Crash, TIMES).await?;
        report::progress(&format!("{TIMES} hand-overs on {}", kind.name()));
        let hand_overs = series(&mut world, End::HandOver, TIMES).await?;
        rows.extend(figures(&crashes, words.crash, words.crash_target));
        rows.extend(figures(&hand_overs, words.hand_over, HAND_OVER_TARGET));
    }
    let about = format!(
        "from kill -9 or SIGTERM of the leader to another coordinator leading, {TIMES} of each; \
         etcd with a TTL of 5 s, Consul with 10 s, three nodes each"
    );
    Ok(Report::new("failover", about, rows))
}

fn figures(took: &[Duration], words: [&'static str; 3], target: &'static str) -> [Row; 3] {
    let at = |place: usize| took[place].as_secs_f64();
    let [median, most, longest] = words;
    [
        Row::new(median, "s", at(took.len() / 2)),
        Row::new(most, "s", at(took.len() * 99 / 100)),
        Row::new(longest, "s", at(took.len() - 1)).target(target),
    ]
}

struct Words {
    crash: [&'static str; 3],
    crash_target: &'static str,
    hand_over: [&'static str; 3],
}

const ETCD: Words = Words {
    crash: ["etcd, crash, median", "etcd, crash, 99 of 100", "etcd, crash, longest"],
    crash_target: "at most TTL + 1 s = 6",
    hand_over: [
        "etcd, hand-over, median",
        "etcd, hand-over, 99 of 100",
        "etcd, hand-over, longest",
    ],
};
const CONSUL: Words = Words {
    crash: ["Consul, crash, median", "Consul, crash, 99 of 100", "Consul, crash, longest"],
    // Consul ends a session after its TTL, and takes up to as long again.
    crash_target: "Consul: at most TTL x 2 + lock-delay",
    hand_over: [
        "Consul, hand-over, median",
        "Consul, hand-over, 99 of 100",
        "Consul, hand-over, longest",
    ],
};
const HAND_OVER_TARGET: &str = "under 0.5";
