//! What the store shows of the others: whether leadership is free, who has it, and who is to have it
//! next.

use std::{sync::Arc, time::Duration};

use chancery_shared::retry::Policy;
use tokio::sync::mpsc;

use crate::{
    record::{self, Leader, Nomination, Record, key},
    store::{Change, Entry, Error, Store},
};

/// Something that the store shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The leader record was deleted, or is not there.
    Vacant,
    /// There is a leader record. It may outlive the lease.
    Led(Leader),
    /// The leader means to hand over to this node.
    Nominated(Nomination),
}

/// Tells each sign as it appears, and what is so whenever the store could not be watched for a
/// while. Ends with its receiver.
pub(super) async fn tell(store: Arc<dyn Store>, tell: mpsc::Sender<Sign>) {
    let mut waits = RECONNECT.waits();
    while !tell.is_closed() {
        if let Err(error) = tell_until_lost(&*store, &tell, || waits.reset()).await {
            tracing::debug!(%error, "cannot watch the leader record");
        }
        tokio::select! {
            biased;
            () = tell.closed() => return,
            () = tokio::time::sleep(waits.next_wait()) => {}
        }
    }
}

async fn tell_until_lost(
    store: &dyn Store,
    tell: &mpsc::Sender<Sign>,
    mut works: impl FnMut(),
) -> Result<(), Error> {
    // The key of nominations begins with that of the leader record: one watch has both.
    let snapshot = store.list(key::LEADER).await?;
    let mut watch = store.watch(key::LEADER, snapshot.revision).await?;
    let is_led = snapshot.entries.iter().any(|entry| entry.key == key::LEADER);
    let vacant = (!is_led).then_some(Sign::Vacant);
    // In this order: one who is to hold back must know before it hears that leadership is free.
    for sign in snapshot.entries.iter().filter_map(sign).chain(vacant) {
        let _ = tell.send(sign).await;
    }
    while let Some(commit) = watch.next().await {
        works();
        for change in &commit?.changes {
            let sign = match change {
                Change::Put(entry) => sign(entry),
                Change::Delete { key } => (key == key::LEADER).then_some(Sign::Vacant),
            };
            if let Some(sign) = sign
                && tell.send(sign).await.is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn sign(entry: &Entry) -> Option<Sign> {
    match entry.key.as_str() {
        key::LEADER => readable(entry).map(Sign::Led),
        key::NOMINATION => readable(entry).map(Sign::Nominated),
        _ => None,
    }
}

/// Between tries to watch. Short, however often it was lost: under a leader that stays nothing happens
/// that would show that a watch works, and what is missed is a vacancy.
const RECONNECT: Policy =
    Policy { first: Duration::from_millis(250), most: Duration::from_secs(3), factor: 2 };

/// What cannot be read says nothing; the mirror tells operators of it.
fn readable<T: Record>(entry: &Entry) -> Option<T> {
    record::decode(&entry.key, &entry.value).ok()
}
