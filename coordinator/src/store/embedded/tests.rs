use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use chancery_shared::clock::{ManualClock, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::{
    record::key,
    store::{
        conformance::{Bench, candidate, conformance_suite, put, value, win, write},
        hub::{HISTORY_COMMITS, WATCH_QUEUE},
    },
};

struct EmbeddedBench {
    clock: Arc<ManualClock>,
    store: Arc<EmbeddedStore>,
    folder: TempDir,
}

#[async_trait]
impl Bench for EmbeddedBench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new("2026-01-02T03:04:05Z".parse().unwrap()));
        let store = EmbeddedStore::open(&folder.path().join("store"), clock.clone()).unwrap();
        Self { clock, store, folder }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn let_pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn restart(self) -> Self {
        let Self { clock, store, folder } = self;
        drop(Arc::into_inner(store).expect("all handles are gone"));
        let store = EmbeddedStore::open(&folder.path().join("store"), clock.clone()).unwrap();
        Self { clock, store, folder }
    }

    async fn forget_history(&self) {
        write(&self.store(), HISTORY_COMMITS).await;
    }

    const MORE_THAN_QUEUE: usize = WATCH_QUEUE + 1;
}

conformance_suite!(EmbeddedBench);

fn open(path: &Path) -> Result<Arc<EmbeddedStore>, Error> {
    EmbeddedStore::open(path, SystemClock::shared())
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    (folder, path)
}

fn message(result: Result<Arc<EmbeddedStore>, Error>) -> String {
    match result {
        Ok(_) => panic!("this cannot be opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_second_open_is_refused_and_names_the_file() {
    let (_folder, path) = place();
    let first = open(&path).unwrap();
    let refused = open(&path);
    assert!(matches!(refused, Err(Error::InUse(_))));
    assert!(message(refused).contains(path.to_str().unwrap()));
    first.commit(put("a", "1")).await.unwrap();
    drop(first);
    assert_eq!(value(&*open(&path).unwrap(), "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn only_its_owner_can_read_the_file() {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (folder, path) = place();
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o600, "an open file is no longer legible to others");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[tokio::test]
async fn a_restart_frees_the_lease_and_forgets_the_leader() {
    let (_folder, path) = place();
    let store = open(&path).unwrap();
    let fence = win::<EmbeddedBench>(&*store, "a").await;
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(store.get(key::LEADER).await.unwrap(), None);
    let refused = store.commit(Batch::fenced(fence.clone()).put("x", "1")).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let next = win::<EmbeddedBench>(&*store, "b").await;
    assert!(next.epoch > fence.epoch);
    assert_eq!(store.campaign(&candidate::<EmbeddedBench>("c")).await.unwrap(), Campaign::Lost);
}

#[tokio::test]
async fn what_is_no_store_is_told_and_left_alone() {
    let (_folder, path) = place();
    for contents in [b"certainly not a store".to_vec(), vec![0; 100_000]] {
        std::fs::write(&path, &contents).unwrap();
        let refused = open(&path);
        assert!(matches!(refused, Err(Error::Damaged(_))), "{}", message(refused));
        let message = message(refused);
        assert!(
            message.contains(path.to_str().unwrap()) && message.contains("backup"),
            "{message}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), contents);
    }
}

#[tokio::test]
async fn a_damaged_page_is_found_when_the_store_is_opened() {
    let (_folder, path) = place();
    let store = open(&path).unwrap();
    for n in 0..50 {
        store.commit(put(&format!("key/{n}"), &"x".repeat(200))).await.unwrap();
    }
    drop(store);
    let mut contents = std::fs::read(&path).unwrap();
    let live = contents.windows(40).rposition(|window| window == [b'x'; 40]).unwrap();
    let all_of_it = contents.iter_mut().filter(|byte| **byte == b'x');
    assert!(live > 0 && all_of_it.map(|byte| *byte = b'y').count() > 200 * 50);
    std::fs::write(&path, contents).unwrap();
    let refused = open(&path);
    assert!(matches!(refused, Err(Error::Damaged(_))), "{}", message(refused));
}

#[tokio::test]
async fn a_place_that_cannot_be_used_is_told_with_the_remedy() {
    let (folder, path) = place();
    let text = message(open(&path.join("missing/store")));
    assert!(text.contains("create its folder") && text.contains("missing/store"), "{text}");
    let text = message(open(folder.path()));
    assert!(text.contains("is a folder"), "{text}");
}

/// A small file system of our own would need root, so the limit is the process's: the child
/// may not make files larger than this.
#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let (_folder, path) = place();
    let mut child = child("full", &path);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    assert!(lines.contains(&"FULL TOLD, GONE ON".to_owned()), "{lines:?}");
}

/// Commits and says so, until it is killed.
#[test]
fn what_was_acknowledged_survives_kill_9_whole() {
    let (_folder, path) = place();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut child = child("commit", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let enough = acknowledged + 3 + round * 7;
        // Killed right when it says something: it is then in the middle of what follows.
        while acknowledged < enough {
            let line = lines.next().expect("the child goes on until it is killed");
            if let Some(n) = line.strip_prefix("COMMITTED ") {
                acknowledged = n.parse().unwrap();
            }
        }
        child.kill().unwrap();
        // What it still said before it died counts as well.
        for line in lines {
            if let Some(n) = line.strip_prefix("COMMITTED ") {
                acknowledged = n.parse().unwrap();
            }
        }
        child.wait().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            let found = check_whole(&*store).await;
            assert!(found >= acknowledged, "{acknowledged} acknowledged, {found} found");
            acknowledged = found;
        });
    }
}

/// Batches have three keys; all show the same number, which is returned.
async fn check_whole(store: &dyn Store) -> u64 {
    let entries = store.list("n/").await.unwrap().entries;
    assert_eq!(entries.len(), 3);
    let numbers: Vec<u64> = entries
        .iter()
        .map(|entry| std::str::from_utf8(&entry.value).unwrap().trim_end().parse().unwrap())
        .collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "half a batch: {numbers:?}");
    numbers[0]
}

/// Runs `role` in a process of its own: this test binary again, with only `as_child`.
fn child(role: &str, path: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::embedded::tests::as_child", "--nocapture"])
        .env(ROLE, role)
        .env("CHANCERY_TEST_STORE", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const ROLE: &str = "CHANCERY_TEST_ROLE";

/// Does nothing unless one of the tests above runs it in a process of its own.
#[test]
fn as_child() {
    let Ok(role) = std::env::var(ROLE) else {
        assert!(std::env::var("CHANCERY_TEST_STORE").is_err());
        return;
    };
    let path = PathBuf::from(std::env::var("CHANCERY_TEST_STORE").unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "commit" => commit_until_killed(&path).await,
            "full" => fill_up(&path).await,
            _ => panic!("unknown role"),
        }
    });
}

async fn commit_until_killed(path: &Path) {
    let store = open(path).unwrap();
    let first = match store.get("n/1").await.unwrap() {
        Some(_) => check_whole(&*store).await + 1,
        None => 1,
    };
    for n in first..first + 100_000 {
        // Some values are large enough for pages of their own.
        let value = format!("{n}{}", " ".repeat(usize::try_from(n % 5).unwrap() * 3000));
        store.commit(put("n/1", &value).put("n/2", value.clone()).put("n/3", value)).await.unwrap();
        say(&format!("COMMITTED {n}"));
    }
}

async fn fill_up(path: &Path) {
    let store = open(path).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    let size = std::fs::metadata(path).unwrap().len();
    limit_file_size(Some(size + 64 * 1024));
    let mut written = 0;
    let error = loop {
        match store.commit(put(&format!("fill/{written}"), &"x".repeat(50_000))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the limit is not felt");
    };
    assert!(!matches!(error, Error::OutcomeUnknown(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    // What was there is there, what failed is not.
    assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(store.list("fill/").await.unwrap().entries.len(), written);
    limit_file_size(None);
    store.commit(put("b", &"x".repeat(50_000))).await.unwrap();
    drop(store);
    assert_eq!(open(path).unwrap().list("fill/").await.unwrap().entries.len(), written);
    say("FULL TOLD, GONE ON");
}

#[expect(clippy::print_stdout, reason = "how a child tells its parent")]
fn say(line: &str) {
    // The harness may have begun a line of its own.
    println!("\n{line}");
    std::io::stdout().flush().unwrap();
}

/// Above the limit, writes fail instead of ending the process: a signal handler is installed.
fn limit_file_size(bytes: Option<u64>) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    use tokio::signal::unix::{SignalKind, signal};

    /// "File size limit exceeded", on every Linux architecture that Rust runs on but MIPS.
    const SIGXFSZ: i32 = 25;
    // The handler stays when the stream is dropped.
    drop(signal(SignalKind::from_raw(SIGXFSZ)).unwrap());
    let limits = getrlimit(Resource::Fsize);
    let current = bytes.or(limits.maximum);
    setrlimit(Resource::Fsize, rustix::process::Rlimit { current, ..limits }).unwrap();
}
