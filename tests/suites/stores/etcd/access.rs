//! Who may use the store, and what it says when it is full.

use std::{fs, path::Path, time::Duration};

use chancery_coordinator::store::{
    Batch, Error, Store as _,
    etcd::{ClientCertificate, EtcdStore, Options, User},
};
use chancery_shared::clock::SystemClock;
use chancery_tests::{
    authority::Authority,
    etcd::{self, EtcdCluster, Version},
};

use super::{open, options, put, start, value};

async fn refusal(options: Options) -> String {
    let opening = EtcdStore::open(options, SystemClock::shared());
    let opened = tokio::time::timeout(Duration::from_secs(20), opening).await;
    match opened.expect("it does not wait for what does not come by itself") {
        Err(Error::Misconfigured(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn as_user(cluster: &EtcdCluster, folder: &Path, password: &str) -> Options {
    let password_file = folder.join("password");
    fs::write(&password_file, password).unwrap();
    let user = User { name: "chancery".to_owned(), password_file };
    Options { user: Some(user), ..options(cluster) }
}

async fn with_user() -> (tempfile::TempDir, EtcdCluster) {
    let user = etcd::User {
        name: "chancery".to_owned(),
        password: "open sesame".to_owned(),
        prefix: "/chancery/".to_owned(),
    };
    start(etcd::Options { user: Some(user), ..etcd::Options::new(Version::V3_5, 1) }).await
}

#[tokio::test]
async fn wrong_credentials_and_missing_rights_end_the_start_at_once() {
    let (folder, cluster) = with_user().await;
    let wrong = refusal(as_user(&cluster, folder.path(), "open barley\n")).await;
    assert!(wrong.contains("authentication failed"), "{wrong}");
    assert!(wrong.contains("store.etcd.username") && !wrong.contains("barley"), "{wrong}");
    let right = as_user(&cluster, folder.path(), "open sesame\n");
    let elsewhere = Options { prefix: "/elsewhere/".to_owned(), ..right.clone() };
    let refused = refusal(elsewhere).await;
    assert!(refused.contains("permission denied"), "{refused}");
    let nobody = refusal(options(&cluster)).await;
    assert!(nobody.contains("user name is empty"), "{nobody}");
    let store = open(right).await;
    store.commit(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_token_that_a_restart_has_made_void_is_replaced() {
    let (folder, mut cluster) = with_user().await;
    let store = open(as_user(&cluster, folder.path(), "open sesame\n")).await;
    let start = store.commit(put("a", "1")).await.unwrap();
    let mut watch = store.watch("", start).await.unwrap();
    cluster.kill_9(0).unwrap();
    cluster.restart(0).unwrap();
    cluster.wait_until_healthy().await.unwrap();
    let next = store.commit(put("a", "2")).await.unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some("2"));
    let told = watch.next().await.unwrap();
    assert_eq!(told.unwrap().revision, next, "the watch has a new token, too");
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    let tls = etcd::Options { tls: true, ..etcd::Options::new(Version::V3_5, 1) };
    let (folder, cluster) = start(tls).await;
    let (cert_file, key_file) = cluster.client_certificate();
    let right = Options {
        ca_file: Some(cluster.root_path()),
        identity: Some(ClientCertificate { cert_file, key_file }),
        ..options(&cluster)
    };
    open(right.clone()).await.commit(put("a", "1")).await.unwrap();
    let foreign = Authority::new().unwrap();
    let own = foreign.issue(&["client.chancery.example"]).unwrap();
    let (cert_file, key_file) = own.write(folder.path(), "foreign").unwrap();
    let stranger = ClientCertificate { cert_file, key_file };
    for identity in [Some(stranger), None] {
        let refused = refusal(Options { identity, ..right.clone() }).await;
        assert!(refused.contains("store.etcd.ca_file, cert_file and key_file"), "{refused}");
    }
    let root = folder.path().join("foreign-root.pem");
    fs::write(&root, foreign.root_pem()).unwrap();
    let refused = refusal(Options { ca_file: Some(root), ..right }).await;
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn a_full_store_says_so_and_leaves_nothing_behind() {
    let small =
        etcd::Options { quota_bytes: Some(4 << 20), ..etcd::Options::new(Version::V3_4, 1) };
    let (_folder, cluster) = start(small).await;
    let store = open(options(&cluster)).await;
    let mut written = 0;
    let error = loop {
        let batch = Batch::unfenced().put(format!("k{written}"), vec![7; 100_000]);
        match store.commit(batch).await {
            // The write that crosses the quota may be applied and refused.
            Ok(_) | Err(Error::OutcomeUnknown(_)) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the quota is 4 MiB");
    };
    let Error::Full(reason) = &error else { panic!("{error}") };
    assert!(reason.contains("database space exceeded") && reason.contains("disarm"), "{reason}");
    assert_eq!(
        store.list("k").await.unwrap().entries.len(),
        written,
        "what was refused is not there"
    );
    let health = store.health().await.unwrap();
    assert!(health.warnings.iter().any(|warning| warning.contains("NOSPACE")), "{health:?}");
    // The way out begins with deletes, and those are taken.
    store.commit(Batch::unfenced().delete("k0")).await.unwrap();
}
