//! What a coordinator does while it leads, and what it does so that it can.

use std::{sync::Arc, time::Duration};

use chancery_shared::retry::Policy;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::coordinator::{Options, Parts};
use crate::{
    authority,
    challenge::dns01::Sweeper,
    election::{Leadership, transfer},
    errands::Errands,
    mirror::Touched,
    order::{self, Orders, Outside},
    record::EventKind,
    renewal_info::{self, Poller},
    scheduler::Scheduler,
    seal::rotation,
    sweep,
};

/// Does the leader's work whenever this coordinator leads.
pub(super) async fn lead(
    parts: Parts,
    options: Options,
    outside: Outside,
    shutdown: CancellationToken,
) {
    let sweeper = outside.answers_with.dns01.clone().map(|dns01| {
        let (store, mirror) = (parts.store.clone(), parts.mirror.clone());
        Sweeper::new(store, mirror, parts.events.clone(), parts.clock.clone(), dns01)
    });
    let orders = Arc::new(Orders::new(
        order::Parts {
            store: parts.store.clone(),
            mirror: parts.mirror.clone(),
            peers: parts.peers.clone(),
            sealer: parts.sealer.clone(),
            events: parts.events.clone(),
            metrics: parts.metrics.clone(),
            clock: parts.clock.clone(),
        },
        options.orders,
        outside,
    ));
    let mut terms = parts.leadership.clone();
    let follow = follow_seal(&parts);
    let work = async {
        loop {
            let Some(leadership) = terms.borrow_and_update().clone() else {
                if terms.changed().await.is_err() {
                    return;
                }
                continue;
            };
            one_term(&parts, &orders, sweeper.as_ref(), &options, leadership).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
        () = follow => {}
    }
}

/// The leader's work for one term.
async fn one_term(
    parts: &Parts,
    orders: &Arc<Orders>,
    sweeper: Option<&Sweeper>,
    options: &Options,
    leadership: Leadership,
) {
    let work = async {
        let message = format!("{} leads, epoch {}", options.node, leadership.epoch());
        parts.events.record(EventKind::LeaderElected, options.node.as_str(), message);
        let scheduler = Scheduler::new(
            parts.mirror.clone(),
            orders.clone(),
            parts.clock.clone(),
            leadership.clone(),
            options.concurrency,
        );
        let errands = Errands::new(
            parts.mirror.clone(),
            orders.clone(),
            parts.clock.clone(),
            leadership.clone(),
        );
        let poller = Poller::new(
            renewal_info::Parts {
                store: parts.store.clone(),
                mirror: parts.mirror.clone(),
                orders: orders.clone(),
                events: parts.events.clone(),
                clock: parts.clock.clone(),
                ask_now: parts.ask_now.clone(),
            },
            leadership.clone(),
        );
        // Side by side: an internal CA that cannot be made or read must not stop renewals.
        tokio::join!(
            forget_nomination(parts, &leadership),
            sweep(orders, &leadership),
            ensure_authority(parts, &leadership),
            scheduler.run(),
            errands.run(),
            // What the leader before has left half-way.
            sweep::until_done(&*parts.store, &leadership, &parts.mirror),
            poller.run(),
            reseal(parts, &leadership),
            async {
                if let Some(sweeper) = sweeper {
                    sweeper.run(&leadership).await;
                }
            }
        );
    };
    tokio::select! {
        biased;
        () = leadership.ended() => {}
        () = work => {}
    }
}

async fn forget_nomination(parts: &Parts, leadership: &Leadership) {
    if let Err(error) = transfer::forget(&*parts.store, leadership).await {
        tracing::debug!(%error, "the nomination of this leader could not be deleted");
    }
}

async fn sweep(orders: &Orders, leadership: &Leadership) {
    let mut waits = Policy::CONNECT.waits();
    while let Err(error) = orders.sweep(leadership).await {
        tracing::debug!(%error, "challenges that nobody needs cannot be removed yet");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

async fn ensure_authority(parts: &Parts, leadership: &Leadership) {
    let mut waits = Policy::CONNECT.waits();
    while let Err(error) =
        authority::ensure(&*parts.store, leadership, &parts.sealer, &parts.clock).await
    {
        tracing::warn!(%error, "the internal CA cannot be made yet");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

/// Loads data keys that another coordinator, or an operator through this one, has made.
async fn follow_seal(parts: &Parts) {
    let mut touched = parts.mirror.touched();
    // At once as well: they may have changed since they were loaded.
    loop {
        let ring = parts.mirror.read().seal.as_ref().map(|ring| ring.record.clone());
        if let Some(ring) = ring
            && let Err(error) = parts.sealer.reload(&ring)
        {
            tracing::error!(%error, "the data keys cannot be loaded");
        }
        if !seal_touched(&mut touched).await {
            return;
        }
    }
}

/// Moves records to the active data key as long as there are older keys. Each look reads all sealed
/// records: there are only as many as are needed.
async fn reseal(parts: &Parts, leadership: &Leadership) {
    let mut touched = parts.mirror.touched();
    let mut waits = RESEAL.waits();
    loop {
        let ring = parts.mirror.read().seal.as_ref().map(|ring| ring.record.clone());
        let Some(ring) = ring.filter(|ring| ring.keys.len() > 1) else {
            if !seal_touched(&mut touched).await {
                return;
            }
            waits.reset();
            continue;
        };
        let all_moved = reseal_once(parts, leadership).await;
        // Orders under way keep their key, what cannot be read waits for an operator, and keys are
        // dropped late: look again.
        let mut wait = waits.next_wait();
        if all_moved {
            let left = rotation::droppable_at(&ring).duration_since(parts.clock.now());
            wait = wait.max(Duration::try_from(left).unwrap_or_default());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            more = seal_touched(&mut touched) => {
                if !more {
                    return;
                }
                waits.reset();
            }
        }
    }
}

/// Whether nothing is under an older key any more.
async fn reseal_once(parts: &Parts, leadership: &Leadership) -> bool {
    let now = parts.clock.now();
    match rotation::reseal(&*parts.store, leadership, &parts.sealer, now).await {
        Ok(progress) if progress.dropped.is_empty() => {
            tracing::debug!(?progress, "older data keys are still needed");
            progress.remaining == 0 && progress.unreadable.is_empty()
        }
        Ok(progress) => {
            let message = format!(
                "every record is sealed under the active data key; dropped data key {}",
                progress.dropped.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            );
            parts.events.record(EventKind::SealRotated, "seal", message);
            false
        }
        Err(error) => {
            tracing::warn!(%error, "records cannot be sealed again yet");
            false
        }
    }
}

/// Resolves when a commit has touched the data keys; `false` if there will be no more commits.
async fn seal_touched(touched: &mut broadcast::Receiver<Arc<Touched>>) -> bool {
    loop {
        match touched.recv().await {
            Ok(touched) if !touched.seal && !touched.everything => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

/// Between looks at records that are still under an older data key.
const RESEAL: Policy =
    Policy { first: Duration::from_mins(1), most: Duration::from_hours(1), factor: 2 };
