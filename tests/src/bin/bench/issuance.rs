//! Many certificates at once, beside lego. Every challenge is really looked at by the CA.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::gate::Gate;
use chancery_tests::pebble::{self, Pebble};
use chancery_tests::scene::Scene;
use chancery_tests::{ports, usage, wait, world};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lego::{self, Took};
use crate::report::{self, Report, Row};

/// Each side has a Pebble of its own, fresh.
pub(crate) async fn measure(certificates: u32) -> Result<Report> {
    let scene = Scene::new()?;
    report::progress(&format!("{certificates} certificates by lego"));
    let peer = lego(&scene, certificates).await?;
    report::progress(&format!("they took {:.1} s; now by Chancery", peer.time.as_secs_f64()));
    let ours = chancery(&scene, "chancery", certificates, false).await?;
    // Not in the run that is timed: the gate would cost time.
    report::progress(&format!("{COUNTED} more, to count what the CA sees of them"));
    let counted = chancery(&scene, "counted", COUNTED, true).await?;
    let (connections, requests) = counted.seen.context("nothing was counted")?;
    let count = f64::from(certificates);
    let rate = |time: Duration| count / time.as_secs_f64();
    let cpu = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / count;
    let rows = vec![
        Row::new("certificates per second", "1/s", rate(ours.time))
            .beside("lego", rate(peer.time))
            .target("at least 5x"),
        Row::new("client CPU per certificate", "ms", cpu(ours.cpu))
            .beside("lego", cpu(peer.cpu))
            .target("at most 0.2x"),
        Row::new("requests per certificate", "", f64::from(requests) / f64::from(COUNTED))
            .target("at most 12"),
        Row::new("connections for all of those", "", f64::from(connections))
            .target("at most one an order at once, 32"),
    ];
    let about = format!(
        "{certificates} certificates by HTTP-01 from Pebble, which validates each without its \
         artificial sleep; lego with {} processes and a web root; requests and connections of \
         {COUNTED} more",
        lego::PROCESSES
    );
    Ok(Report::new("issue", about, rows))
}

/// What Chancery took, and what the CA saw of it.
struct Ours {
    time: Duration,
    cpu: Duration,
    /// Connections and requests, if they were counted.
    seen: Option<(u32, u32)>,
}

async fn start_pebble(scene: &Scene, name: &str, http01: SocketAddr) -> Result<Pebble> {
    let mut options = pebble::Options::new(http01);
    // Every order has an authorization of its own to do, on both sides.
    options.environment = vec![("PEBBLE_AUTHZREUSE".to_owned(), "0".to_owned())];
    Pebble::start(&scene.folder(name)?, &options).await
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("c{number:05}")).collect()
}

async fn chancery(scene: &Scene, name: &str, certificates: u32, counts: bool) -> Result<Ours> {
    let http01 = ports::free()?;
    let folder = scene.folder(name)?;
    let pebble = start_pebble(scene, &format!("{name}-pebble"), http01).await?;
    let gate = Gate::open(pebble.address(), pebble.https_root()).await?;
    let directory = if counts { gate.directory() } else { pebble.directory() };
    let mut options = coordinator::Options::new(http01);
    "warn".clone_into(&mut options.log);
    // What a coordinator does by default; the tests' own default is smaller.
    options.concurrency = 32;
    let mut coordinator = Coordinator::start(&folder, options).await?;
    let cli = coordinator.cli();
    // The first certificate makes the account, which is not counted on either side.
    let declare = |count: u32| {
        let names = names(count);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        world::declaration(&directory, pebble.https_root_path(), &names)
    };
    cli.apply(&folder, &declare(1)?).await?;
    wait_for_valid(&mut coordinator, 1).await?;

    let requests = gate.seen().len();
    let process = coordinator.process()?.id();
    let (start, cpu) = (Instant::now(), usage::cpu(process)?);
    cli.apply(&folder, &declare(certificates + 1)?).await?;
    wait_for_valid(&mut coordinator, certificates + 1).await?;
    let (time, cpu) = (start.elapsed(), usage::cpu(process)?.saturating_sub(cpu));
    let requests = u32::try_from(gate.seen().len() - requests)?;
    let seen = (u32::try_from(gate.connections())?, requests);
    Ok(Ours { time, cpu, seen: counts.then_some(seen) })
}

async fn wait_for_valid(coordinator: &mut Coordinator, wanted: u32) -> Result<()> {
    let cli = coordinator.cli();
    let what = format!("{wanted} certificates");
    wait::until(&what, Duration::from_mins(5), async || {
        let status = cli.json(&["status"]).await?;
        let valid = status["certificates"]["valid"].as_u64().context("no count")?;
        ensure!(valid >= u64::from(wanted), "{valid} are valid");
        Ok(())
    })
    .await
}

async fn lego(scene: &Scene, certificates: u32) -> Result<Took> {
    let http01 = ports::free()?;
    let pebble = start_pebble(scene, "lego-pebble", http01).await?;
    let names = names(certificates).iter().map(|name| world::server_name(name)).collect();
    let webroot = scene.folder("webroot")?;
    let _server = WebRoot::serve(http01, webroot.clone()).await?;
    lego::issue(scene.path(), &webroot, &pebble, names).await
}

/// A web server for what lego puts into its web root. It ends when it is dropped.
struct WebRoot(JoinHandle<()>);

impl WebRoot {
    async fn serve(address: SocketAddr, folder: PathBuf) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let folder = folder.join(".well-known/acme-challenge");
        let answer = move |Path(token): Path<String>| {
            let file = folder.join(token);
            async move { tokio::fs::read(file).await.map_err(|_| StatusCode::NOT_FOUND) }
        };
        let routes = Router::new().route("/.well-known/acme-challenge/{token}", get(answer));
        Ok(Self(tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        })))
    }
}

impl Drop for WebRoot {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Certificates in the run that counts connections and requests.
const COUNTED: u32 = 200;
