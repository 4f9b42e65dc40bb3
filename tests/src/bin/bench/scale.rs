//! A hundred thousand certificates in etcd: what they need there, and of the coordinator.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_coordinator::record::key;
use chancery_coordinator::seal::{self, KeyFile};
use chancery_coordinator::store::Store;
use chancery_coordinator::store::etcd::{self, EtcdStore};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::etcd::{EtcdCluster, Options, Version};
use chancery_tests::process;
use chancery_tests::scene::Scene;
use chancery_tests::{ports, tls_client, usage, wait};
use tokio::time::Instant;

use crate::fleet::{self, Fleet};
use crate::report::{self, Report, Row};

/// Declares a fleet, then starts over it again and again.
pub(crate) async fn measure(count: u32) -> Result<Report> {
    let scene = Scene::new()?;
    report::progress(&format!("issuing {count} certificates, each with a key of its own"));
    let fleet = Fleet::issue(count)?;
    let mut options = Options::new(Version::V3_5, 1);
    // As in production: each commit is on the disk before it is acknowledged.
    options.fsync = true;
    let cluster = EtcdCluster::start(&scene.folder("etcd")?, options).await?;
    let mut options = coordinator::Options::new(ports::free()?);
    options.store = coordinator::Store::Etcd(cluster.endpoints());
    "10s".clone_into(&mut options.lease_ttl);
    "warn".clone_into(&mut options.log);
    let mut bench = Bench {
        coordinator: Coordinator::start(&scene.folder("coordinator")?, options).await?,
        store: open(&cluster).await?,
        cluster,
        fleet,
        rows: Vec::new(),
    };
    bench.wait_until_leading().await?;
    bench.apply(&scene).await?;
    bench.fill().await?;
    bench.sizes().await?;
    bench.starts().await?;
    bench.passes().await?;
    bench.answers().await?;
    let about = format!(
        "{count} certificates, each with its own key (P-256), in one etcd 3.5 with fsync; \
         written as a coordinator writes them, since no CA issues so many in a benchmark"
    );
    Ok(Report::new("scale", about, bench.rows))
}

struct Bench {
    coordinator: Coordinator,
    store: Arc<dyn Store>,
    cluster: EtcdCluster,
    fleet: Fleet,
    rows: Vec<Row>,
}

async fn open(cluster: &EtcdCluster) -> Result<Arc<dyn Store>> {
    let options = etcd::Options {
        endpoints: cluster.endpoints(),
        prefix: "/chancery/".to_owned(),
        user: None,
        ca_file: None,
        identity: None,
        timeout: Duration::from_secs(10),
    };
    Ok(EtcdStore::open(options, SystemClock::shared()).await?)
}

impl Bench {
    /// Declares all of them in one file, twice. What they were issued is there already, so that
    /// nothing is ordered.
    async fn apply(&mut self, scene: &Scene) -> Result<()> {
        self.fleet.write_states(&self.store).await?;
        let toml = self.fleet.declaration();
        report::progress(&format!("applying a file of {} MB", toml.len() / 1_000_000));
        let start = Instant::now();
        self.apply_file(scene, &toml).await?;
        self.rows.push(Row::new("apply of a file with all", "s", start.elapsed().as_secs_f64()));
        let peak = usage::resident_peak(self.coordinator.process()?.id())?;
        self.rows.push(Row::new("memory for that, at most", "MB", megabytes(peak)));
        report::progress("applying it again");
        let start = Instant::now();
        self.apply_file(scene, &toml).await?;
        self.rows.push(Row::new("apply again, no change", "s", start.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn apply_file(&self, scene: &Scene, toml: &str) -> Result<()> {
        let file = scene.path().join("fleet.toml");
        std::fs::write(&file, toml)?;
        let file = file.display().to_string();
        let mut command = self.coordinator.cli().command(&["apply", "-f", &file, "--yes"])?;
        let said = process::run(&mut command, PATIENCE).await?;
        // Not what it printed besides: a plan with all of them.
        ensure!(said.status.success(), "apply failed: {}", said.err);
        Ok(())
    }

    /// Writes their bundles.
    async fn fill(&mut self) -> Result<()> {
        report::progress("writing their bundles");
        let key_file = KeyFile::load(&self.coordinator.seal_key())?;
        let now = SystemClock::new().now();
        let sealer = seal::bootstrap(&*self.store, &key_file, now).await?;
        self.fleet.write_bundles(&self.store, &sealer).await
    }

    /// What they need in etcd.
    async fn sizes(&mut self) -> Result<()> {
        let mut bytes = 0;
        for folder in [key::CERTIFICATES, key::STATES, key::BUNDLES] {
            let (size, count) = fleet::size(&self.store, folder).await?;
            ensure!(count == self.fleet.len(), "{count} entries in {folder}");
            bytes += size;
        }
        let each = |bytes: f64| bytes / float(self.fleet.len());
        let records = Row::new("records of a certificate", "bytes", each(float(bytes)));
        self.rows.push(records.target("about 2000"));
        let in_use = self.etcd_metric("etcd_mvcc_db_total_size_in_use_in_bytes").await?;
        self.rows.push(Row::new("etcd's database, per certificate", "bytes", each(in_use)));
        let (_, events) = fleet::size(&self.store, key::EVENTS).await?;
        self.rows.push(Row::new("events that are kept", "", float(events)).target("at most 1000"));
        Ok(())
    }

    /// From the start of the process until it leads, with the whole mirror read.
    async fn starts(&mut self) -> Result<()> {
        let (mut took, mut resident, mut peak) = (Vec::new(), 0, 0);
        for _ in 0..STARTS {
            report::progress("starting the leader");
            let status = self.coordinator.process()?.stop(wait::SOON).await?;
            ensure!(status.success(), "the coordinator did not stop: {status}");
            let start = Instant::now();
            self.coordinator.spawn()?;
            self.wait_until_leading().await?;
            took.push(start.elapsed().as_secs_f64());
            let process = self.coordinator.process()?.id();
            resident = resident.max(usage::resident(process)?);
            peak = peak.max(usage::resident_peak(process)?);
        }
        took.sort_by(f64::total_cmp);
        let [least, most] = [took[0], took[STARTS - 1]];
        self.rows.push(Row::new("start until it leads, fastest", "s", least));
        self.rows.push(Row::new("start until it leads, slowest", "s", most).target("under 5"));
        self.rows.push(Row::new("memory then", "MB", megabytes(resident)));
        self.rows.push(Row::new("memory, at most", "MB", megabytes(peak)).target("under 500"));
        Ok(())
    }

    async fn wait_until_leading(&mut self) -> Result<()> {
        let http = self.coordinator.http_address();
        let leader = format!("leader: {},", self.coordinator.node());
        self.coordinator
            .process()?
            .wait_until("the leader", PATIENCE, async || {
                let (_, body) = tls_client::get_plain(http, "/readyz").await?;
                ensure!(body.contains(&leader), "{body}");
                Ok(())
            })
            .await
    }

    /// What it does while nothing is due.
    async fn passes(&mut self) -> Result<()> {
        let whole = self.seconds("chancery_scheduler_survey_duration_seconds").await?;
        self.rows.push(Row::new("a look at all, none is due", "ms", whole.each * 1000.0));
        report::progress(&format!("watching it for {} s", WATCHED.as_secs()));
        let process = self.coordinator.process()?.id();
        let reads_before = self.reads().await?;
        let before = self.seconds("chancery_scheduler_pass_duration_seconds").await?;
        let cpu = usage::cpu(process)?;
        tokio::time::sleep(WATCHED).await;
        let cpu = usage::cpu(process)?.saturating_sub(cpu);
        let after = self.seconds("chancery_scheduler_pass_duration_seconds").await?;
        let reads = self.reads().await? - reads_before;
        let passes = after.count - before.count;
        ensure!(passes >= 1.0, "there was no pass in {WATCHED:?}");
        let each = (after.sum - before.sum) / passes;
        self.rows.push(Row::new("a pass, none is due", "ms", each * 1000.0).target("under 50"));
        let reads = Row::new("reads of the store meanwhile, beside the leases", "", reads);
        self.rows.push(reads.target("0"));
        let share = cpu.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
        self.rows.push(Row::new("CPU meanwhile", "%", share));
        Ok(())
    }

    /// What operators wait for.
    async fn answers(&mut self) -> Result<()> {
        let cli = self.coordinator.cli();
        for (what, words) in [
            ("status", &["status"][..]),
            ("cert show", &["cert", "show", "www-000000"]),
            ("cert list -o json", &["cert", "list"]),
        ] {
            let start = Instant::now();
            cli.json(words).await?;
            self.rows.push(Row::new(what, "s", start.elapsed().as_secs_f64()));
        }
        let start = Instant::now();
        let metrics = self.coordinator.metrics().await?;
        self.rows.push(Row::new("a scrape of /metrics", "s", start.elapsed().as_secs_f64()));
        self.rows.push(Row::new("its size", "MB", float(metrics.len()) / 1e6));
        Ok(())
    }

    /// Reads that etcd has answered, but those which go with keeping leases alive.
    async fn reads(&self) -> Result<f64> {
        let ranges = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"";
        let reads = self.etcd_metric(ranges).await?;
        let metrics = self.coordinator.metrics().await?;
        let count = "chancery_lease_keep_alive_duration_seconds_count";
        Ok(reads - value(&metrics, count)?)
    }

    async fn etcd_metric(&self, name: &str) -> Result<f64> {
        let (_, metrics) = tls_client::get_plain(self.cluster.metrics(0), "/metrics").await?;
        value(&metrics, name)
    }

    /// A histogram of the coordinator.
    async fn seconds(&self, name: &str) -> Result<Times> {
        let metrics = self.coordinator.metrics().await?;
        let sum = value(&metrics, &format!("{name}_sum"))?;
        let count = value(&metrics, &format!("{name}_count"))?;
        Ok(Times { sum, count, each: if count > 0.0 { sum / count } else { 0.0 } })
    }
}

/// How often something was timed, and how long it took.
struct Times {
    sum: f64,
    count: f64,
    each: f64,
}

/// The sample that begins with `name`, in Prometheus' text format.
fn value(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.with_context(|| format!("no {name} in the metrics"))
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_000_000.0
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn float(count: usize) -> f64 {
    count as f64
}

const STARTS: usize = 3;
/// Longer than the scheduler ever sleeps.
const WATCHED: Duration = Duration::from_secs(65);
const PATIENCE: Duration = Duration::from_mins(5);
