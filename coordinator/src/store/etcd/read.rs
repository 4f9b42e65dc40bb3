//! Reading entries and listings.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{GetOptions, GetResponse, KeyValue};

use super::{
    Entry, Error, EtcdStore, Snapshot,
    failure::{Failure, Kind},
    keys::{end_of, revision},
    pool::Handle,
};

impl EtcdStore {
    pub(super) async fn read_entry(&self, key: &str) -> Result<Option<Entry>, Error> {
        let full = self.keys.record(key);
        let call = |handle| self.range(handle, full.clone().into_bytes(), GetOptions::new());
        let (_, response) = self.pool.repeat(HEDGE, call).await.map_err(Failure::of_read)?;
        Ok(response.kvs().first().map(|kv| entry(key.to_owned(), kv)))
    }

    pub(super) async fn read_all(&self, prefix: &str) -> Result<Snapshot, Error> {
        // A compaction may overtake a listing, again and again only if it is far too frequent.
        for _ in 0..TRIES {
            match self.read_pages(prefix).await {
                Err(failure) if failure.kind == Kind::Compacted => {}
                decided => return decided.map_err(Failure::of_read),
            }
        }
        let reason = "etcd is compacted faster than records can be listed; set its \
                      --auto-compaction-retention to 5m or more";
        Err(Error::Unavailable(reason.to_owned()))
    }

    async fn read_pages(&self, prefix: &str) -> Result<Snapshot, Failure> {
        let prefix = self.keys.record(prefix);
        let end = end_of(&prefix);
        let mut from = prefix.into_bytes();
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let options =
                GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at);
            let call = |handle| self.range(handle, from.clone(), options.clone());
            let (shown, response) = self.pool.repeat(PAGE_HEDGE, call).await?;
            if at == 0 {
                at = shown;
            }
            for kv in response.kvs() {
                // A key that is no text is none of ours.
                entries.extend(self.keys.name(kv.key()).map(|name| entry(name, kv)));
            }
            match response.kvs().last() {
                Some(last) if response.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(Snapshot { revision: revision(at), entries }),
            }
        }
    }

    /// One range, and the revision of the store when it was read.
    async fn range(
        &self,
        handle: Handle,
        key: Vec<u8>,
        options: GetOptions,
    ) -> Result<(i64, GetResponse), Failure> {
        let mut kv = handle.client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        let response = kv.get(key, Some(options)).await.map_err(|error| Failure::of(&error))?;
        Ok((self.pool.check(response.header())?, response))
    }

    /// What etcd has at `full` now, read through one member, by quorum.
    pub(super) async fn read_at(
        &self,
        handle: Handle,
        full: &str,
    ) -> Result<Option<KeyValue>, Failure> {
        let (_, response) = self.range(handle, full.into(), GetOptions::new()).await?;
        Ok(response.kvs().first().cloned())
    }

    /// The revision of the store now, by quorum.
    pub(super) async fn current(&self) -> Result<i64, Failure> {
        let key = self.keys.leader();
        let options = GetOptions::new().with_count_only();
        let call = |handle| self.range(handle, key.into(), options.clone());
        Ok(self.pool.repeat(HEDGE, call).await?.0)
    }
}

pub(super) fn entry(key: String, kv: &KeyValue) -> Entry {
    let value = Bytes::copy_from_slice(kv.value());
    Entry { key, value, revision: revision(kv.mod_revision()) }
}

/// How long a member may be silent before another one is asked as well.
pub(super) const HEDGE: Duration = Duration::from_millis(500);
const PAGE_HEDGE: Duration = Duration::from_secs(2);
/// Entries in a page: with the largest values that a batch can write, a page is just taken.
const PAGE: i64 = 512;
pub(super) const LARGEST_ANSWER: usize = 128 * 1024 * 1024;
const TRIES: usize = 3;
