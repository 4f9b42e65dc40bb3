//! Reading entries and listings.

use std::time::Duration;

use bytes::Bytes;
use chancery_shared::number::Revision;
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
            let mut entries = Vec::new();
            match self.read_pages(prefix, &mut |entry| entries.push(entry)).await {
                Err((failure, _)) if failure.kind == Kind::Compacted => {}
                Ok(revision) => return Ok(Snapshot { revision, entries }),
                Err((failure, _)) => return Err(failure.of_read()),
            }
        }
        let reason = "etcd is compacted faster than records can be listed; set its \
                      --auto-compaction-retention to 5m or more";
        Err(Error::Unavailable(reason.to_owned()))
    }

    pub(super) async fn read_in_pages(
        &self,
        prefix: &str,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Revision, Error> {
        self.read_pages(prefix, each).await.map_err(|(failure, after)| match failure.kind {
            Kind::Compacted => Error::Compacted { after },
            _ => failure.of_read(),
        })
    }

    /// Reads page after page; a failure comes with the revision that the pages had to show.
    ///
    /// While the entries of one page are handed over, the next one is on its way. etcd counts what is
    /// left of a range in each answer, one key after the other, which a listing of hundreds of
    /// thousands would feel: so a page ends where its folder ends, at the latest.
    async fn read_pages(
        &self,
        prefix: &str,
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Revision, (Failure, Revision)> {
        let prefix = self.keys.record(prefix);
        let all = end_of(&prefix);
        let mut page = Page { from: prefix.into_bytes(), end: all.clone(), at: 0, limit: PAGE };
        let (at, mut response) =
            self.read_page(&page).await.map_err(|failure| (failure, Revision(0)))?;
        page.at = at;
        loop {
            let next = match response.kvs().last() {
                Some(last) if response.more() => {
                    let mut from = last.key().to_vec();
                    from.push(0);
                    Some((from, self.keys.end_of_folder(last.key()).min(all.clone())))
                }
                // The folder is read, others follow.
                _ if page.end < all => Some((page.end.clone(), all.clone())),
                _ => None,
            };
            page.limit = page_of(response.kvs());
            let kvs = response.take_kvs();
            let hand_over = async {
                for kv in &kvs {
                    // A key that is no text is none of ours.
                    if let Some(name) = self.keys.name(kv.key()) {
                        each(entry(name, kv));
                    }
                }
            };
            let Some((from, end)) = next else {
                hand_over.await;
                return Ok(revision(at));
            };
            (page.from, page.end) = (from, end);
            let (read, ()) = tokio::join!(self.read_page(&page), hand_over);
            (_, response) = read.map_err(|failure| (failure, revision(at)))?;
        }
    }

    async fn read_page(&self, page: &Page) -> Result<(i64, GetResponse), Failure> {
        let read = async |limit| {
            let options = GetOptions::new()
                .with_range(page.end.clone())
                .with_limit(limit)
                .with_revision(page.at);
            let call = |handle| self.range(handle, page.from.clone(), options.clone());
            self.pool.repeat(PAGE_HEDGE, call).await
        };
        match read(page.limit).await {
            // Those before were smaller.
            Err(failure) if failure.kind == Kind::TooLarge && page.limit > PAGE => read(PAGE).await,
            decided => decided,
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

/// A part of a listing.
struct Page {
    from: Vec<u8>,
    end: Vec<u8>,
    /// The revision that it has to show; 0 for the present one.
    at: i64,
    limit: i64,
}

/// How many entries the next page may have, by the size of those of the last one.
fn page_of(last: &[KeyValue]) -> i64 {
    let bytes: usize = last.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
    let each = bytes / last.len().max(1);
    i64::try_from(PAGE_BYTES / each.max(1)).unwrap_or(LARGEST_PAGE).clamp(PAGE, LARGEST_PAGE)
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
/// Entries in a page of small ones.
const LARGEST_PAGE: i64 = 8192;
/// How large a page is meant to be.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
pub(super) const LARGEST_ANSWER: usize = 128 * 1024 * 1024;
const TRIES: usize = 3;
