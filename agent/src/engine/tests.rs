use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::Arc,
    time::Duration,
};

use chancery_proto::v1::{self, DeploymentState};

use chancery_shared::clock::SystemClock;

use super::{Engine, Event};
use crate::{
    bundle::tests::wire,
    service::ThisHost,
    testing::{Running, Site, deployment},
};

fn bundle(certificate: &str, generation: u64) -> v1::Bundle {
    wire(certificate, generation, &[&format!("{certificate}.example.org")])
}

/// A site with one service, and its configuration.
async fn site() -> (Site, String) {
    let mut site = Site::new();
    let service = site.service("nginx").await;
    (site, service)
}

fn inodes(site: &Site) -> BTreeSet<(std::path::PathBuf, u64, i64, i64)> {
    let mut all = BTreeSet::new();
    let mut folders = vec![site.path("certs"), site.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            all.insert((path, metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
        }
    }
    all
}

#[tokio::test]
async fn ten_certificates_cost_one_test_and_one_reload_and_a_restart_costs_nothing() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    let bundles: Vec<_> = (0..10).map(|i| bundle(&format!("web{i}"), 1)).collect();
    agent.sync(&bundles).await;
    let snapshot = agent
        .until(|snapshot| {
            let states = snapshot.report.deployments.iter().map(v1::DeploymentReport::state);
            states.filter(|state| *state == DeploymentState::Installed).count() == 10
        })
        .await;
    for deployment in &snapshot.report.deployments {
        let generations = (deployment.installed_generation, deployment.served_generation);
        assert_eq!(generations, (1, 1), "{deployment:?}");
    }
    assert_eq!(site.calls(), ["nginx test", "nginx reload"]);
    assert_eq!(agent.service("nginx").unwrap().reloads, 1);

    // The same again, and a restart: nothing is written, nothing is run.
    let before = inodes(&site);
    agent.sync(&bundles).await;
    agent.stop().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&bundles).await;
    agent.stop().await;
    assert_eq!(inodes(&site), before);
    assert_eq!(site.calls(), [""; 0]);
}

#[tokio::test]
async fn a_new_generation_replaces_the_old_one_and_few_are_kept() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("keep = 2", &service));
    for generation in 1..=5 {
        agent.send(bundle("web", generation)).await;
        agent
            .until(|snapshot| {
                deployment(snapshot, "web").is_some_and(|web| {
                    web.served_generation == generation && web.state() == DeploymentState::Installed
                })
            })
            .await;
    }
    agent.stop().await;
    let builds: BTreeSet<_> = fs::read_dir(site.path("certs/.chancery/web"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(builds.into_iter().collect::<Vec<_>>(), ["3", "4", "5"]);
}

#[tokio::test]
async fn a_broken_configuration_is_never_loaded_and_nothing_is_switched_until_it_is_repaired() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;
    site.calls();

    site.set("nginx.broken", true);
    agent.send(bundle("web", 2)).await;
    let failed = agent.until_state("web", DeploymentState::TestFailed).await;
    assert!(failed.message.contains("exit status: 1: checking"), "{}", failed.message);
    assert_eq!((failed.delivered_generation, failed.installed_generation), (2, 1));
    assert_eq!(failed.served_generation, 1);
    let snapshot = agent
        .until(|snapshot| deployment(snapshot, "web").is_some_and(|web| web.failures > 2))
        .await;
    let again = deployment(&snapshot, "web").unwrap();
    assert!(again.message.contains("none was switched"), "{}", again.message);
    assert!(!agent.service("nginx").unwrap().healthy);
    let calls = site.calls();
    // Only the first attempt was with the new files; no attempt has led to a reload.
    assert_eq!(calls[0], "nginx test .chancery/web/2");
    assert!(calls[1..].iter().all(|call| call == "nginx test .chancery/web/1"), "{calls:?}");

    site.set("nginx.broken", false);
    let repaired = agent.until_state("web", DeploymentState::Installed).await;
    assert_eq!((repaired.served_generation, repaired.failures), (2, 0));
    assert!(agent.service("nginx").unwrap().healthy);
    assert!(site.calls().ends_with(&["nginx reload".to_owned()]));
    agent.stop().await;
}

#[tokio::test]
async fn what_the_service_does_not_serve_goes_back_and_the_others_stay() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1), bundle("mail", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.until_state("mail", DeploymentState::Installed).await;

    site.set("nginx.ignores-mail", true);
    agent.sync(&[bundle("web", 2), bundle("mail", 2)]).await;
    let mail = agent.until_state("mail", DeploymentState::ProbeFailed).await;
    assert!(mail.message.contains("another certificate is served: serial"), "{}", mail.message);
    assert!(mail.message.contains("certs/mail"), "{}", mail.message);
    let web = agent.until_state("web", DeploymentState::Installed).await;
    assert_eq!((web.installed_generation, web.served_generation), (2, 2));
    assert_eq!((mail.served_generation, mail.delivered_generation), (1, 2));

    site.set("nginx.ignores-mail", false);
    let mail = agent.until_state("mail", DeploymentState::Installed).await;
    assert_eq!((mail.installed_generation, mail.served_generation), (2, 2));
    agent.stop().await;
    assert_eq!(site.link("mail").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_failed_reload_goes_back_and_reloads_again() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;
    site.calls();
    site.set("nginx.stuck", true);
    agent.send(bundle("web", 2)).await;
    let failed = agent.until_state("web", DeploymentState::ReloadFailed).await;
    assert!(failed.message.contains("exit status: 7"), "{}", failed.message);
    assert!(failed.message.contains("the former files are back"), "{}", failed.message);
    assert!(failed.message.contains("again failed too"), "{}", failed.message);
    assert_eq!((failed.installed_generation, failed.served_generation), (1, 1));
    let calls = site.calls();
    assert_eq!(calls[..3], ["nginx test .chancery/web/2", "nginx reload", "nginx reload"]);
    site.set("nginx.stuck", false);
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
}

#[tokio::test]
async fn on_a_first_install_a_failed_test_removes_the_link_and_a_failed_probe_keeps_it() {
    let (site, service) = site().await;
    site.set("nginx.broken", true);
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    let failed = agent.until_state("web", DeploymentState::TestFailed).await;
    assert_eq!(failed.installed_generation, 0);
    assert!(failed.message.contains("the link was removed"), "{}", failed.message);

    site.set("nginx.ignores-web", true);
    site.set("nginx.broken", false);
    let failed = agent.until_state("web", DeploymentState::ProbeFailed).await;
    assert!(failed.message.contains("the new ones stay"), "{}", failed.message);
    assert_eq!(failed.served_generation, 0);
    assert_eq!(site.link("web").as_deref(), Some("1"));
    site.set("nginx.ignores-web", false);
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
}

#[tokio::test]
async fn one_service_does_not_hold_up_another() {
    let (mut site, nginx) = site().await;
    let services = nginx + &site.service("mail").await;
    let agent = Running::start(site.config("", &services));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;

    site.set("mail.broken", true);
    agent.send(bundle("web", 2)).await;
    // It is the same certificate: nginx gets it, although mail cannot use it yet.
    agent
        .until(|snapshot| {
            snapshot.report.services.iter().any(|s| s.service == "nginx" && s.reloads == 2)
        })
        .await;
    let failed = agent.until_state("web", DeploymentState::TestFailed).await;
    assert!(failed.message.starts_with("mail: "), "{}", failed.message);
    site.set("mail.broken", false);
    let web = agent.until_state("web", DeploymentState::Installed).await;
    assert_eq!(web.served_generation, 2);
    agent.stop().await;
    assert_eq!(site.link("web").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_switch_that_was_never_activated_is_activated_at_the_next_start() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;
    let before = fs::read(site.path("state/state.json")).unwrap();
    agent.send(bundle("web", 2)).await;
    agent.until(|snapshot| deployment(snapshot, "web").unwrap().served_generation == 2).await;
    agent.stop().await;
    site.calls();

    // As if it was killed after the switch: the files are new, the record is not.
    fs::write(site.path("state/state.json"), before).unwrap();
    let agent = Running::start(site.config("", &service));
    agent
        .until(|snapshot| deployment(snapshot, "web").is_some_and(|web| web.served_generation == 2))
        .await;
    agent.stop().await;
    assert_eq!(site.calls(), ["nginx test .chancery/web/2", "nginx reload"]);
}

#[tokio::test]
async fn without_its_records_the_agent_takes_nothing_away() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    let second = bundle("web", 2);
    for (bundle, generation) in [(bundle("web", 1), 1), (second.clone(), 2)] {
        agent.send(bundle).await;
        agent
            .until(|snapshot| {
                deployment(snapshot, "web").is_some_and(|web| web.served_generation == generation)
            })
            .await;
    }
    agent.stop().await;
    fs::write(site.path("state/state.json"), "damaged").unwrap();
    fs::remove_dir_all(site.path("state/bundles")).unwrap();
    site.set("nginx.broken", true);
    let agent = Running::start(site.config("", &service));
    agent.send(bundle("web", 1)).await;
    let refused = agent.until_state("web", DeploymentState::InstallFailed).await;
    assert!(refused.message.contains("has had generation 2 before"), "{}", refused.message);
    agent.send(second).await;
    let failed = agent.until_state("web", DeploymentState::TestFailed).await;
    assert_eq!(failed.installed_generation, 2, "{}", failed.message);
    site.set("nginx.broken", false);
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
    assert_eq!(site.link("web").as_deref(), Some("2"));
}

#[tokio::test]
async fn another_mode_is_another_build_of_the_same_generation() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
    site.calls();
    let agent = Running::start(site.config("mode = '0640'", &service));
    agent.until(|snapshot| snapshot.report.services.iter().any(|s| s.reloads == 2)).await;
    agent.until_state("web", DeploymentState::Installed).await;
    assert_eq!(site.link("web").as_deref(), Some("1.1"));
    let mode = fs::metadata(site.path("certs/web/privkey.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_never_goes_back_and_takes_no_other_content() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    let web = bundle("web", 5);
    agent.sync(std::slice::from_ref(&web)).await;
    agent.until_state("web", DeploymentState::Installed).await;

    agent.send(bundle("web", 4)).await;
    let mut mismatch = bundle("web", 6);
    mismatch.private_key_der = bundle("web", 6).private_key_der;
    agent.send(mismatch).await;
    let refused = agent.until_state("web", DeploymentState::InstallFailed).await;
    assert!(refused.message.contains("does not belong"), "{}", refused.message);
    agent.send(bundle("web", 5)).await;
    let refused = agent
        .until(|snapshot| deployment(snapshot, "web").unwrap().message.contains("another content"))
        .await;
    let web = deployment(&refused, "web").unwrap();
    assert_eq!((web.delivered_generation, web.served_generation), (5, 5));

    agent.send(bundle("web", 6)).await;
    agent.until(|snapshot| deployment(snapshot, "web").unwrap().served_generation == 6).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
}

#[tokio::test]
async fn withdrawn_files_stay_but_are_not_managed() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    let web = bundle("web", 1);
    agent.sync(std::slice::from_ref(&web)).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.events.send(Event::Withdrawn("web".to_owned())).await.unwrap();
    let snapshot = agent
        .until(|snapshot| {
            deployment(snapshot, "web").unwrap().state() == DeploymentState::Withdrawn
        })
        .await;
    assert!(snapshot.known.is_empty());
    assert!(site.path("certs/web/privkey.pem").exists());
    assert_eq!(
        fs::read_dir(site.path("state/bundles")).unwrap().count(),
        0,
        "its key is forgotten"
    );

    agent.send(web).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.send(bundle("web", 2)).await;
    agent.until(|snapshot| deployment(snapshot, "web").unwrap().served_generation == 2).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_loses_nothing() {
    let (site, service) = site().await;
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until_state("web", DeploymentState::Installed).await;

    // A folder where the temporary file should go.
    let obstacle = site.path("state/bundles/.web.bundle.tmp");
    fs::create_dir(&obstacle).unwrap();
    agent.send(bundle("web", 2)).await;
    let failed = agent.until_state("web", DeploymentState::InstallFailed).await;
    assert!(failed.message.contains("web.bundle"), "{}", failed.message);
    assert_eq!((failed.delivered_generation, failed.served_generation), (1, 1));
    fs::remove_dir(&obstacle).unwrap();
    agent.until(|snapshot| deployment(snapshot, "web").unwrap().served_generation == 2).await;
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_foreign_file_in_the_way_stops_only_its_own_certificate() {
    let (site, service) = site().await;
    fs::create_dir_all(site.path("certs")).unwrap();
    fs::write(site.path("certs/web"), "mine").unwrap();
    let agent = Running::start(site.config("", &service));
    agent.sync(&[bundle("web", 1), bundle("mail", 1)]).await;
    let failed = agent.until_state("web", DeploymentState::InstallFailed).await;
    assert!(failed.message.contains("move it away"), "{}", failed.message);
    agent.until_state("mail", DeploymentState::Installed).await;
    assert_eq!(fs::read(site.path("certs/web")).unwrap(), b"mine");
    fs::remove_file(site.path("certs/web")).unwrap();
    agent.until_state("web", DeploymentState::Installed).await;
    agent.stop().await;
}

#[tokio::test]
async fn stopping_in_the_middle_is_quick_and_taken_up_again() {
    let (site, service) = site().await;
    let slow = service.replace("echo checking;", "echo checking; [ ! -e slow ] || sleep 60;");
    site.set("slow", true);
    let agent = Running::start(site.config("", &slow));
    agent.sync(&[bundle("web", 1)]).await;
    agent.until(|snapshot| deployment(snapshot, "web").is_some()).await;
    tokio::time::timeout(Duration::from_secs(20), agent.stop()).await.unwrap();
    site.set("slow", false);
    let agent = Running::start(site.config("", &service));
    let web = agent.until_state("web", DeploymentState::Installed).await;
    assert_eq!(web.served_generation, 1);
    agent.stop().await;
}

#[test]
fn every_crash_point_is_listed_and_exists() {
    fn sources(dir: &std::path::Path, text: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let call = concat!("crash_", "point(\"");
    let used: BTreeSet<&str> =
        text.split(call).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(used, crate::CRASH_POINTS.iter().copied().collect());
}

#[tokio::test]
async fn what_is_due_in_a_burst_waits_for_its_end() {
    let site = Site::new();
    let (mut engine, _published) =
        Engine::open(Arc::new(site.config("", "")), SystemClock::shared(), Arc::new(ThisHost))
            .unwrap();
    let now = engine.clock.monotonic();
    engine.waits.certificates.insert("web".parse().unwrap(), now);
    assert_eq!(engine.due_in(), Some(Duration::ZERO));
    engine.gate.set_syncing(true);
    engine.gate.arrived(now);
    assert!(engine.due_in().unwrap() > Duration::from_secs(5), "it would spin until then");
}
