//! Replacing the data key while the fleet works.
//!
//! A rotation has three parts, and may be interrupted between and within them. [`add_key`]
//! puts a new key into the ring; from then on it seals. [`reseal`] seals again what is under
//! older keys, a few records at a time, each on the condition that nobody has written it since
//! it was read: who changes a record meanwhile wins, and the next pass looks again. When
//! nothing is under an older key any more, [`reseal`] drops that key.
//!
//! Dropping a key that something still needs would lose private keys, so it is careful:
//! * It counts what it cannot read or open as needing every key.
//! * A value that was sealed just before the rotation may still be on its way to the store. A
//!   key is dropped only after it has been out of use for [`GRACE`], far longer than any
//!   value takes.
//! * Orders in progress are not sealed again, since whoever works on one reckons with being its
//!   only writer. They end by themselves within their deadline; until then their key stays.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use chancery_shared::{name::InvalidName, number::Revision};
use jiff::Timestamp;

use super::{Context, Error, Sealer};
use crate::{
    election::Leadership,
    record::{
        self, Account, Authority, Bundle, DecodeError, IssuerSpec, NextKey, Order, Record,
        SealRing, Sealed, Standby, key,
    },
    store::{self, Batch, Entry, Packer, Store},
};

/// What [`reseal`] has done, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that were sealed again.
    pub resealed: usize,
    /// Records that are still under an older key.
    pub remaining: usize,
    /// Keys of records that cannot be read or opened: somebody has to look at them. As long as
    /// there are any, no data key is dropped.
    pub unreadable: Vec<String>,
    /// Data keys that were dropped.
    pub dropped: Vec<u32>,
}

/// Adds a data key, which seals from now on, and returns its number.
pub async fn add_key(
    store: &dyn Store,
    leadership: &Leadership,
    sealer: &Sealer,
    now: Timestamp,
) -> Result<u32, Error> {
    let (mut ring, revision) = read_ring(store).await?;
    sealer.reload(&ring)?;
    // The newest key is never dropped, so no number is ever used twice.
    let newest = ring.keys.iter().map(|key| key.id).max().unwrap_or(0);
    let added = sealer.make_data_key(newest + 1, now);
    ring.active = added.id;
    ring.keys.push(added);
    write_ring(store, leadership, &ring, revision).await?;
    sealer.reload(&ring)?;
    tracing::info!(data_key = ring.active, "a new data key seals from now on");
    Ok(ring.active)
}

/// Seals again what is under older data keys, and drops those that nothing needs any more.
/// Does nothing if there is only one; may be called again at any time.
pub async fn reseal(
    store: &dyn Store,
    leadership: &Leadership,
    sealer: &Sealer,
    now: Timestamp,
) -> Result<Progress, Error> {
    let (ring, revision) = read_ring(store).await?;
    sealer.reload(&ring)?;
    let mut progress = Progress::default();
    if ring.keys.len() < 2 {
        return Ok(progress);
    }
    for _ in 0..PASSES {
        let found = pass(store, leadership, sealer, &ring, &mut progress.resealed).await?;
        progress.remaining = found.stale;
        progress.unreadable = found.unreadable;
        if found.can_be_resealed == 0 {
            // This pass has changed nothing, so what it has seen is what there is.
            progress.dropped = drop_unused(
                store,
                leadership,
                sealer,
                (ring, revision),
                &found.used,
                now,
                &progress,
            )
            .await?;
            break;
        }
    }
    Ok(progress)
}

/// What a pass has seen.
#[derive(Debug, Default)]
struct Found {
    /// Data keys in use.
    used: BTreeSet<u32>,
    /// Records under an older key, before this pass.
    stale: usize,
    /// Those of them that can be sealed again.
    can_be_resealed: usize,
    unreadable: Vec<String>,
}

/// Looks at every sealed record, and seals again what is under an older key.
async fn pass(
    store: &dyn Store,
    leadership: &Leadership,
    sealer: &Sealer,
    ring: &SealRing,
    resealed: &mut usize,
) -> Result<Found, Error> {
    let mut found = Found::default();
    for prefix in prefixes() {
        leadership.check()?;
        let mut work = Vec::new();
        for entry in store.list(&prefix).await?.entries {
            match look(sealer, ring.active, &entry) {
                Ok(Looked { data_key, resealed }) => {
                    found.used.insert(data_key);
                    found.stale += usize::from(data_key != ring.active);
                    work.extend(resealed.map(|value| (entry.key, entry.revision, value)));
                }
                Err(error) => {
                    tracing::error!(key = entry.key, %error, "cannot seal a record again");
                    found.unreadable.push(entry.key);
                }
            }
        }
        found.can_be_resealed += work.len();
        let mut batches = Vec::new();
        for chunk in work.chunks(CHUNK) {
            let mut packer = Packer::new(leadership.batch());
            for (key, revision, value) in chunk {
                packer
                    .add(Batch::unfenced().unchanged(key, Some(*revision)).put(key, value.clone()));
            }
            batches.extend(packer.finish());
        }
        for batch in batches {
            let records = batch.operations.len();
            match store.commit(batch).await {
                Ok(_) => *resealed += records,
                // Somebody has written one of them: the next pass looks again.
                Err(store::Error::Conflict { .. } | store::Error::OutcomeUnknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

/// A sealed record.
struct Looked {
    data_key: u32,
    /// Its new value, if it is to be sealed again.
    resealed: Option<Bytes>,
}

/// Reads one record, and seals it again if it is under an older key.
fn look(sealer: &Sealer, active: u32, entry: &Entry) -> Result<Looked, Error> {
    let folder = entry.key.split_inclusive('/').next().unwrap_or_default();
    match folder {
        key::BUNDLES => {
            let mut bundle: Bundle = record::decode(&entry.key, &entry.value)?;
            let context = Context::bundle(&bundle.certificate, bundle.generation);
            let data_key = renew(sealer, active, &context, &mut bundle.key)?;
            Ok(Looked::new(data_key, active, &bundle))
        }
        key::STANDBYS => {
            let mut standby: Standby = record::decode(&entry.key, &entry.value)?;
            let mut data_key = active;
            if let Some(bundle) = &mut standby.bundle {
                let context = Context::bundle(&bundle.certificate, bundle.generation);
                data_key = renew(sealer, active, &context, &mut bundle.key)?;
            }
            Ok(Looked::new(data_key, active, &standby))
        }
        key::ACCOUNTS => {
            let mut account: Account = record::decode(&entry.key, &entry.value)?;
            let issuer = entry.key[key::ACCOUNTS.len()..].parse();
            let issuer = issuer.map_err(|error: InvalidName| DecodeError::Damaged {
                key: entry.key.clone(),
                kind: Account::KIND,
                reason: error.to_string(),
            })?;
            let mut data_key = renew(sealer, active, &Context::account(&issuer), &mut account.key)?;
            if let Some(next) = &mut account.next_key {
                let of_next = renew(sealer, active, &Context::next_account(&issuer), next)?;
                // One of both is told: an older one, as long as there is any.
                data_key = if data_key == active { of_next } else { data_key };
            }
            Ok(Looked::new(data_key, active, &account))
        }
        key::NEXT_KEYS => {
            let mut next: NextKey = record::decode(&entry.key, &entry.value)?;
            let context = Context::next_key(&next.certificate);
            let data_key = renew(sealer, active, &context, &mut next.key)?;
            Ok(Looked::new(data_key, active, &next))
        }
        key::ISSUERS => {
            let mut issuer: IssuerSpec = record::decode(&entry.key, &entry.value)?;
            let mut data_key = active;
            if let Some(bound) = &mut issuer.external_account {
                let context = Context::external_account(&issuer.name);
                data_key = renew(sealer, active, &context, &mut bound.key)?;
            }
            Ok(Looked::new(data_key, active, &issuer))
        }
        key::ORDERS => {
            let order: Order = record::decode(&entry.key, &entry.value)?;
            Ok(Looked { data_key: order.key.data_key, resealed: None })
        }
        _ => {
            let mut authority: Authority = record::decode(&entry.key, &entry.value)?;
            let data_key = renew(sealer, active, &Context::authority(), &mut authority.key)?;
            Ok(Looked::new(data_key, active, &authority))
        }
    }
}

impl Looked {
    /// A record that was under `data_key` and is not any more.
    fn new<T: Record>(data_key: u32, active: u32, record: &T) -> Self {
        Self { data_key, resealed: (data_key != active).then(|| record::encode(record)) }
    }
}

/// Seals `value` again if it is under an older key; which key it was under.
fn renew(
    sealer: &Sealer,
    active: u32,
    context: &Context<'_>,
    value: &mut Sealed,
) -> Result<u32, Error> {
    let data_key = value.data_key;
    if data_key != active {
        let plaintext = sealer.open(context, value)?;
        *value = sealer.seal(context, plaintext.expose_secret());
    }
    Ok(data_key)
}

/// Drops the keys that nothing needs and that have been out of use for long enough.
async fn drop_unused(
    store: &dyn Store,
    leadership: &Leadership,
    sealer: &Sealer,
    (mut ring, revision): (SealRing, Revision),
    used: &BTreeSet<u32>,
    now: Timestamp,
    progress: &Progress,
) -> Result<Vec<u32>, Error> {
    if !progress.unreadable.is_empty() {
        return Ok(Vec::new());
    }
    let is_over =
        |id: u32| retired_at(&ring, id).is_some_and(|at| now.duration_since(at) >= grace());
    let dropped: Vec<u32> = ring
        .keys
        .iter()
        .map(|key| key.id)
        .filter(|id| *id != ring.active && !used.contains(id) && is_over(*id))
        .collect();
    if !dropped.is_empty() {
        ring.keys.retain(|key| !dropped.contains(&key.id));
        write_ring(store, leadership, &ring, revision).await?;
        sealer.reload(&ring)?;
        tracing::info!(data_keys = ?dropped, "dropped data keys that nothing needs any more");
    }
    Ok(dropped)
}

/// When a key has gone out of use: when the next one was made.
fn retired_at(ring: &SealRing, id: u32) -> Option<Timestamp> {
    let newer = ring.keys.iter().filter(|key| key.id > id);
    newer.map(|key| key.created_at).min()
}

/// When the oldest key may be dropped, if nothing is under it any more.
pub fn droppable_at(ring: &SealRing) -> Timestamp {
    let oldest = ring.keys.iter().map(|key| key.id).min();
    let retired_at = oldest.and_then(|oldest| retired_at(ring, oldest));
    retired_at.map_or(Timestamp::MIN, |at| at.checked_add(grace()).unwrap_or(at))
}

async fn read_ring(store: &dyn Store) -> Result<(SealRing, Revision), Error> {
    let entry = store.get(key::SEAL).await?;
    let entry = entry.ok_or_else(|| Error::RingDamaged("it is gone".to_owned()))?;
    Ok((record::decode(key::SEAL, &entry.value)?, entry.revision))
}

async fn write_ring(
    store: &dyn Store,
    leadership: &Leadership,
    ring: &SealRing,
    revision: Revision,
) -> Result<(), Error> {
    let batch = leadership
        .batch()
        .unchanged(key::SEAL, Some(revision))
        .put(key::SEAL, record::encode(ring));
    store.commit(batch).await?;
    Ok(())
}

/// Where sealed records stand. Bundles are by far the most, so they are listed in parts.
fn prefixes() -> impl Iterator<Item = String> {
    let first_characters = ('a'..='z').chain('0'..='9');
    let bundles = first_characters.map(|first| format!("{}{first}", key::BUNDLES));
    let others =
        [key::STANDBYS, key::ACCOUNTS, key::ISSUERS, key::NEXT_KEYS, key::ORDERS, key::AUTHORITY];
    let others = others.map(str::to_owned);
    bundles.chain(others)
}

fn grace() -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(GRACE).expect("an hour")
}

/// How long a data key stays after the next one was made, even if nothing is under it.
pub const GRACE: Duration = Duration::from_hours(1);
/// Records in one batch at most; large ones are fewer. Small batches leave room to others who write.
const CHUNK: usize = 16;
/// How often a pass looks again after others have written what it wanted to write.
const PASSES: usize = 10;

#[cfg(test)]
mod tests;
