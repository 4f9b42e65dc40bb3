//! Every write to the store, in the order in which it took effect, as the store itself tells it.
//!
//! etcd keeps all revisions until somebody compacts it, which nobody here does: the history is read
//! when all is over. Consul keeps the last value of a key only. But each commit there leaves a slot
//! in a ring, in the same transaction, with all that it changed; a witness reads the ring
//! often enough to miss none, and a gap would be an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::consul::ConsulCluster;
use crate::etcd::EtcdCluster;
use crate::process::Process;
use crate::{tls_client, wait};

use super::cluster::Cluster;

/// What one transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the order of all.
    pub revision: u64,
    /// What it did to records.
    pub changes: Vec<Change>,
}

/// What a transaction did to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key of the record, as the coordinators call it.
    pub key: String,
    /// What stands in the record from then on; none when it was deleted.
    pub record: Option<Value>,
}

impl Change {
    /// The rest of the key, when it begins with this.
    pub fn under(&self, prefix: &str) -> Option<&str> {
        self.key.strip_prefix(prefix)
    }

    fn new(key: &str, value: Option<&[u8]>) -> Self {
        let record = value.map(|value| {
            let mut envelope: Value = serde_json::from_slice(value).unwrap_or_default();
            envelope["data"].take()
        });
        Self { key: key.to_owned(), record }
    }
}

/// Sees to it that no write escapes.
pub enum Witness {
    /// etcd remembers by itself.
    Etcd,
    /// Reads Consul's ring again and again.
    Consul(Ring),
}

impl Witness {
    /// Begins to look, before anything happens.
    pub fn start(cluster: &Cluster) -> Self {
        match cluster {
            Cluster::Etcd(_) => Self::Etcd,
            Cluster::Consul(cluster) => Self::Consul(Ring::watch(cluster)),
        }
    }

    /// All that was committed so far. The store has to be well.
    pub async fn history(&self, cluster: &Cluster, folder: &Path) -> Result<Vec<Commit>> {
        match (self, cluster) {
            (Self::Etcd, Cluster::Etcd(cluster)) => of_etcd(cluster, folder).await,
            (Self::Consul(ring), Cluster::Consul(cluster)) => ring.history(cluster).await,
            _ => bail!("the witness belongs to another store"),
        }
    }
}

async fn of_etcd(cluster: &EtcdCluster, folder: &Path) -> Result<Vec<Commit>> {
    // A watch tells what happens from the first revision on, and does not end. This ends it.
    let put = cluster.etcdctl(&["put", SENTINEL, "end", "-w", "json"]).await?.success()?;
    let said: Value = serde_json::from_str(&put.out)?;
    let end = said["header"]["revision"].as_u64().context("etcd told no revision")?;
    let mut command =
        cluster.etcdctl_command(&["watch", "", "--prefix", "--rev=1", "-w", "json"])?;
    let name = format!("history-{end}");
    let mut watch = Process::start(&name, folder, &mut command)?;
    let commits = watch
        .wait_until("the history of etcd", wait::SOON, async || {
            let log = std::fs::read_to_string(folder.join(format!("{name}.log")))?;
            let commits = parse_etcd(&log)?;
            ensure!(commits.contains_key(&end), "at {:?} of {end}", commits.keys().last());
            Ok(commits)
        })
        .await?;
    let commits = commits.into_iter();
    Ok(commits.map(|(revision, changes)| Commit { revision, changes }).collect())
}

/// What `etcdctl watch -w json` prints: one answer of the watch a line.
fn parse_etcd(printed: &str) -> Result<BTreeMap<u64, Vec<Change>>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Events")]
        events: Option<Vec<Event>>,
        #[serde(rename = "CompactRevision")]
        compacted: u64,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        r#type: u8,
        kv: KeyValue,
    }
    #[derive(Deserialize)]
    struct KeyValue {
        key: String,
        mod_revision: u64,
        #[serde(default)]
        value: String,
    }

    let mut commits: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
    // The last line may be half printed.
    let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
    for line in whole.lines() {
        let answer: Answer = serde_json::from_str(line).context("etcdctl printed no JSON")?;
        ensure!(answer.compacted == 0, "etcd was compacted at {}", answer.compacted);
        for event in answer.events.unwrap_or_default() {
            let key = String::from_utf8(BASE64_STANDARD.decode(&event.kv.key)?)?;
            let value = BASE64_STANDARD.decode(&event.kv.value)?;
            let changes = commits.entry(event.kv.mod_revision).or_default();
            if let Some((_, key)) = key.split_once(RECORDS) {
                changes.push(Change::new(key, (event.r#type == 0).then_some(value.as_slice())));
            }
        }
    }
    Ok(commits)
}

/// What was seen of Consul's ring.
pub struct Ring {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    slots: BTreeMap<u64, Slot>,
    /// A slot that changed after it was written.
    trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Slot {
    sequence: u64,
    previous: u64,
    id: String,
    changes: Vec<SlotChange>,
    /// Where Consul says that it was written.
    #[serde(skip)]
    revision: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SlotChange {
    key: String,
    value: Option<String>,
}

impl Ring {
    fn watch(cluster: &ConsulCluster) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let addresses: Vec<_> = (0..cluster.size()).map(|server| cluster.address(server)).collect();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            for turn in 0.. {
                ticks.tick().await;
                // Any server of them answers for all, unless it is in trouble.
                let address = addresses[turn % addresses.len()];
                let asked = tls_client::get_plain(address, RING);
                if let Ok(Ok((status, body))) = tokio::time::timeout(LOOK * 4, asked).await
                    && status.is_success()
                    && let Ok(slots) = parse_ring(&body)
                {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).note(slots);
                }
            }
        });
        Self { seen, task }
    }

    async fn history(&self, cluster: &ConsulCluster) -> Result<Vec<Commit>> {
        let (status, body) = tls_client::get_plain(cluster.address(0), RING).await?;
        ensure!(status.is_success(), "Consul's ring: {status} {body}");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.note(parse_ring(&body)?);
        if let Some(trouble) = &seen.trouble {
            bail!("{trouble}");
        }
        commits(seen.slots.values())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn note(&mut self, slots: Vec<Slot>) {
        for slot in slots {
            if let Some(before) = self.slots.get(&slot.sequence)
                && *before != slot
            {
                self.trouble = Some(format!("commit {} became another one", slot.sequence));
            }
            self.slots.insert(slot.sequence, slot);
        }
    }
}

fn parse_ring(body: &str) -> Result<Vec<Slot>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        value: Option<String>,
        modify_index: u64,
    }
    let rows: Vec<Row> = serde_json::from_str(body)?;
    let mut slots = Vec::new();
    for row in rows {
        let value = BASE64_STANDARD.decode(row.value.unwrap_or_default())?;
        let slot: Slot = serde_json::from_slice(&value)?;
        slots.push(Slot { revision: row.modify_index, ..slot });
    }
    Ok(slots)
}

/// The slots in order, each of which has to continue the one before.
fn commits<'a>(slots: impl Iterator<Item = &'a Slot>) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    let mut last: Option<&Slot> = None;
    for slot in slots {
        if let Some(last) = last {
            ensure!(
                slot.sequence == last.sequence + 1 && slot.previous == last.revision,
                "commit {} does not continue {}",
                slot.sequence,
                last.sequence
            );
        }
        last = Some(slot);
        let mut changes = Vec::new();
        for change in &slot.changes {
            let value = change.value.as_ref().map(|value| BASE64_STANDARD.decode(value));
            changes.push(Change::new(&change.key, value.transpose()?.as_deref()));
        }
        commits.push(Commit { revision: slot.revision, changes });
    }
    Ok(commits)
}

/// Where coordinators keep their records in etcd, after a prefix.
const RECORDS: &str = "/records/";
const SENTINEL: &str = "end-of-history";
/// All slots of Consul's ring.
const RING: &str = "/v1/kv/chancery/journal/?recurse";
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_tells_transactions_whole_and_deletions_as_such() {
        // {"kind":"x","version":1,"data":{"a":1}}
        let value = "eyJraW5kIjoieCIsInZlcnNpb24iOjEsImRhdGEiOnsiYSI6MX19";
        let key = BASE64_STANDARD.encode("/chancery/records/orders/www");
        let line = format!(
            "{{\"Events\":[{{\"kv\":{{\"key\":\"{key}\",\"mod_revision\":5,\"value\":\"{value}\"}}}},\
             {{\"type\":1,\"kv\":{{\"key\":\"{key}\",\"mod_revision\":6}}}}],\"CompactRevision\":0}}\n"
        );
        let commits = parse_etcd(&(line.clone() + "{\"Events\":[")).unwrap();
        assert_eq!(commits.keys().copied().collect::<Vec<_>>(), [5, 6]);
        let change = &commits[&5][0];
        assert_eq!(change.under("orders/"), Some("www"));
        assert_eq!(change.record, Some(serde_json::json!({"a": 1})));
        assert_eq!(commits[&6][0].record, None);
        let compacted = line.replace("\"CompactRevision\":0", "\"CompactRevision\":3");
        assert!(parse_etcd(&compacted).unwrap_err().to_string().contains("compacted at 3"));
    }

    fn slot(sequence: u64, previous: u64) -> Slot {
        let changes = vec![SlotChange { key: format!("k{sequence}"), value: None }];
        Slot { sequence, previous, id: String::new(), changes, revision: sequence * 10 }
    }

    #[test]
    fn a_gap_in_the_ring_is_seen() {
        let whole = [slot(1, 0), slot(2, 10), slot(3, 20)];
        assert_eq!(commits(whole.iter()).unwrap().len(), 3);
        assert!(commits([slot(1, 0), slot(3, 20)].iter()).is_err());
        assert!(commits([slot(1, 0), slot(2, 11)].iter()).is_err());
    }

    #[test]
    fn a_slot_that_changes_afterwards_is_seen() {
        let mut seen = Seen::default();
        seen.note(vec![slot(1, 0), slot(2, 10)]);
        seen.note(vec![slot(2, 10)]);
        assert_eq!(seen.trouble, None);
        seen.note(vec![slot(2, 9)]);
        assert_eq!(seen.trouble.as_deref(), Some("commit 2 became another one"));
    }
}
