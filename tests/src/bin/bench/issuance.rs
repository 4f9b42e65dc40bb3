//! Many certificates at once, beside lego. Every challenge is really looked at by the CA.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use chancery_tests::coordinator::{self, Coordinator};
use chancery_tests::dns::{self, Bind};
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

/// How names are proven.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// By files, over HTTP.
    Http01,
    /// By TXT records in a BIND that takes updates.
    Dns01,
}

/// Each side has a Pebble of its own, fresh, and with DNS-01 a BIND of its own.
pub(crate) async fn measure(certificates: u32) -> Result<Report> {
    let scene = Scene::new()?;
    let mut rows = Vec::new();
    for proof in [Proof::Http01, Proof::Dns01] {
        rows.extend(beside_lego(&scene, proof, certificates).await?);
    }
    // Not in the runs that are timed: the gate would cost time.
    report::progress(&format!("{COUNTED} more, to count what the CA sees of them"));
    let counted = chancery(&scene, Proof::Http01, COUNTED, true).await?;
    let (connections, requests) = counted.seen.context("nothing was counted")?;
    rows.extend([
        Row::new("requests per certificate", "", f64::from(requests) / f64::from(COUNTED))
            .target("at most 12"),
        Row::new("connections for all of those", "", f64::from(connections))
            .target("at most one an order at once, 32"),
    ]);
    let about = format!(
        "{certificates} certificates by HTTP-01 and as many by DNS-01 from Pebble, which validates \
         each without its artificial sleep; lego with {} processes and a web root, and with RFC 2136 \
         updates of a BIND, which it is told not to look at before the CA does; requests and \
         connections of {COUNTED} more by HTTP-01",
        lego::PROCESSES
    );
    Ok(Report::new("issue", about, rows))
}

async fn beside_lego(scene: &Scene, proof: Proof, certificates: u32) -> Result<[Row; 2]> {
    report::progress(&format!("{certificates} certificates by lego, {proof:?}"));
    let peer = lego(scene, proof, certificates).await?;
    report::progress(&format!("they took {:.1} s; now by Chancery", peer.time.as_secs_f64()));
    let ours = chancery(scene, proof, certificates, false).await?;
    let count = f64::from(certificates);
    let rate = |time: Duration| count / time.as_secs_f64();
    let cpu = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / count;
    let (per_second, per_certificate) = match proof {
        Proof::Http01 => ("certificates per second", "client CPU per certificate"),
        Proof::Dns01 => {
            ("with DNS-01, certificates per second", "with DNS-01, client CPU for each")
        }
    };
    Ok([
        Row::new(per_second, "1/s", rate(ours.time))
            .beside("lego", rate(peer.time))
            .target("at least 5x"),
        Row::new(per_certificate, "ms", cpu(ours.cpu))
            .beside("lego", cpu(peer.cpu))
            .target("at most 0.2x"),
    ])
}

/// What Chancery took, and what the CA saw of it.
struct Ours {
    time: Duration,
    cpu: Duration,
    /// Connections and requests, if they were counted.
    seen: Option<(u32, u32)>,
}

/// A CA, and the name server that it asks if names are proven there.
struct Ca {
    pebble: Pebble,
    http01: SocketAddr,
    bind: Option<Bind>,
}

impl Ca {
    async fn start(scene: &Scene, whose: &str, proof: Proof) -> Result<Self> {
        let bind = match proof {
            Proof::Http01 => None,
            Proof::Dns01 => {
                let folder = scene.folder(&format!("{whose}-{proof:?}-bind"))?;
                Some(Bind::start(&folder, &[(ZONE, "")]).await?)
            }
        };
        let http01 = ports::free()?;
        let mut options = pebble::Options::new(http01);
        options.dns = bind.as_ref().map(Bind::address);
        // Every order has an authorization of its own to do, on both sides.
        options.environment = vec![("PEBBLE_AUTHZREUSE".to_owned(), "0".to_owned())];
        let folder = scene.folder(&format!("{whose}-{proof:?}-pebble"))?;
        Ok(Self { pebble: Pebble::start(&folder, &options).await?, http01, bind })
    }
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("c{number:05}")).collect()
}

async fn chancery(scene: &Scene, proof: Proof, certificates: u32, counts: bool) -> Result<Ours> {
    let whose = if counts { "counted" } else { "chancery" };
    let ca = Ca::start(scene, whose, proof).await?;
    let folder = scene.folder(&format!("{whose}-{proof:?}"))?;
    let gate = Gate::open(ca.pebble.address(), ca.pebble.https_root()).await?;
    let directory = if counts { gate.directory() } else { ca.pebble.directory() };
    let mut options = coordinator::Options::new(ca.http01);
    "warn".clone_into(&mut options.log);
    // What a coordinator does by default; the tests' own defaults are smaller.
    options.concurrency = 32;
    "10m".clone_into(&mut options.deadline);
    if let Some(bind) = &ca.bind {
        let provider = dns::rfc2136("bind", bind.address(), &bind.key().write(&folder)?, &[ZONE]);
        options.more = format!("\n[dns01]\nresolvers = [\"{}\"]\n{provider}", bind.address());
    }
    let mut coordinator = Coordinator::start(&folder, options).await?;
    let cli = coordinator.cli();
    // The first certificate makes the account, which is not counted on either side.
    let declare = |count: u32| {
        let names = names(count);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let declared = world::declaration(&directory, ca.pebble.https_root_path(), &names)?;
        anyhow::Ok(match proof {
            Proof::Http01 => declared,
            Proof::Dns01 => declared
                .replace("[[certificate]]\n", "[[certificate]]\nchallenges = [\"dns-01\"]\n"),
        })
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

async fn lego(scene: &Scene, proof: Proof, certificates: u32) -> Result<Took> {
    let ca = Ca::start(scene, "lego", proof).await?;
    let names = names(certificates).iter().map(|name| world::server_name(name)).collect();
    let state = scene.folder(&format!("lego-{proof:?}"))?;
    if let Some(bind) = &ca.bind {
        return lego::issue(&state, &lego::Proof::Dns01(bind), &ca.pebble, names).await;
    }
    let webroot = scene.folder("webroot")?;
    let _server = WebRoot::serve(ca.http01, webroot.clone()).await?;
    lego::issue(&state, &lego::Proof::Http01(&webroot), &ca.pebble, names).await
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

/// The zone of all names.
const ZONE: &str = "chancery.example";
/// Certificates in the run that counts connections and requests.
const COUNTED: u32 = 200;
