//! What happened, written down without ever holding up what happens.
//!
//! [`Events::record`] puts an event into a bounded queue and returns; one task writes the queue
//! to the store in batches. Sequence numbers are shared by all coordinators: a batch requires that
//! its first number is still free, and is renumbered when another coordinator was faster. Only the
//! newest [`KEPT`] events stay; the batch that adds one deletes the oldest in the same step.
//!
//! A full queue (the store has been away for long) drops events, and counts them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, name::NodeName, number::Epoch, retry::Policy};
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    record::{self, Event, EventKind, key},
    store::{self, Batch, Store},
};

/// Hands events to the task that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Pending>,
    epoch: EpochSource,
    clock: ClockHandle,
    metrics: Arc<Metrics>,
}

/// What the recorder needs to know.
pub struct Options {
    /// The coordinator that writes.
    pub node: NodeName,
    /// Time of the events.
    pub clock: SharedClock,
    /// The epoch of the present term, 0 if this coordinator does not lead.
    pub epoch: Box<dyn Fn() -> Epoch + Send + Sync>,
    /// Counts the events that are dropped.
    pub metrics: Arc<Metrics>,
}

/// An event without its number.
#[derive(Clone, Debug)]
struct Pending {
    at: Timestamp,
    kind: EventKind,
    subject: String,
    message: String,
    epoch: Epoch,
}

impl Events {
    /// Starts the task that writes. On `shutdown` it writes what is in the queue, for a few seconds
    /// at most, and ends; wait for it, so that the last events are not lost.
    pub fn start(
        store: Arc<dyn Store>,
        options: Options,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let events = Self {
            queue: sender,
            epoch: EpochSource(options.epoch.into()),
            clock: ClockHandle(options.clock),
            metrics: options.metrics.clone(),
        };
        let writer = Writer { store, node: options.node, known: None, metrics: options.metrics };
        let task = tokio::spawn(writer.run(queue, shutdown));
        (events, task)
    }

    /// Writes down that something happened. Never waits and never fails; what does not
    /// fit into the queue is counted. `subject` is the certificate, agent or issuer that it is
    /// about, `message` one sentence for people, without secrets.
    pub fn record(&self, kind: EventKind, subject: impl Into<String>, message: impl Into<String>) {
        let event = Pending {
            at: self.clock.0.now(),
            kind,
            subject: printable(&subject.into(), MAX_SUBJECT),
            message: printable(&message.into(), MAX_MESSAGE),
            epoch: (self.epoch.0)(),
        };
        let Pending { subject, message, .. } = &event;
        tracing::info!(kind = kind.code(), %subject, "{message}");
        if self.queue.try_send(event).is_err() {
            self.metrics.event_dropped();
        }
    }
}

/// `text` without control characters, which could talk to a terminal, and cut to `most` bytes.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let harmless = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
    // A character has a byte at least, so no more of them are needed to see that it is too long.
    let mut clean: String = text.trim().chars().take(most + 1).map(harmless).collect();
    if clean.len() > most {
        clean.truncate(clean.floor_char_boundary(most.saturating_sub(ELLIPSIS.len())));
        clean.push_str(ELLIPSIS);
    }
    clean
}

/// The task that writes.
struct Writer {
    store: Arc<dyn Store>,
    node: NodeName,
    /// Sequence numbers in the store, as far as known; `None` if they have to be listed.
    known: Option<BTreeSet<u64>>,
    metrics: Arc<Metrics>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Pending>, shutdown: CancellationToken) {
        let mut batch = Vec::new();
        while shutdown
            .run_until_cancelled(queue.recv_many(&mut batch, BATCH))
            .await
            .is_some_and(|received| received > 0)
        {
            let mut waits = Policy::CONNECT.waits();
            while !batch.is_empty() {
                if let Err(error) = self.write(&mut batch).await {
                    tracing::warn!(%error, "events cannot be written yet");
                    let wait = tokio::time::sleep(waits.next_wait());
                    if shutdown.run_until_cancelled(wait).await.is_none() {
                        break;
                    }
                }
            }
            if shutdown.is_cancelled() {
                break;
            }
        }
        queue.close();
        if tokio::time::timeout(FLUSH, self.flush(batch, queue)).await.is_err() {
            tracing::warn!("the last events could not be written in time");
        }
    }

    /// Writes what is left, each batch tried once.
    async fn flush(&mut self, mut batch: Vec<Pending>, mut queue: mpsc::Receiver<Pending>) {
        loop {
            while !batch.is_empty() {
                if let Err(error) = self.write(&mut batch).await {
                    tracing::warn!(%error, "the last events cannot be written");
                    let lost = batch.len() + queue.len();
                    (0..lost).for_each(|_| self.metrics.event_dropped());
                    return;
                }
            }
            if queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
        }
    }

    /// Tries to write `batch` once and empties it. `Ok` with events left in it means: try again at
    /// once, with other numbers.
    async fn write(&mut self, batch: &mut Vec<Pending>) -> Result<(), store::Error> {
        if self.known.is_none() {
            self.list(batch).await?;
            if batch.is_empty() {
                return Ok(());
            }
        }
        let known = self.known.get_or_insert_default();
        let first = known.last().map_or(1, |last| last + 1);
        let mut writes = Batch::unfenced().absent(key::event(first));
        let mut after = known.clone();
        for (sequence, event) in (first..).zip(batch.iter()) {
            let event = self.numbered(sequence, event);
            writes = writes.put(key::event(sequence), record::encode(&event));
            after.insert(sequence);
        }
        let self_known = &mut self.known;
        while after.len() > KEPT && writes.operations.len() < MAX_OPERATIONS {
            let oldest = after.pop_first().expect("there are more than KEPT");
            writes = writes.delete(key::event(oldest));
        }
        match self.store.commit(writes).await {
            Ok(_) => {
                *self_known = Some(after);
                batch.clear();
                Ok(())
            }
            Err(store::Error::Conflict { .. }) => {
                *self_known = None;
                Ok(())
            }
            Err(error) => {
                // Possibly written after all: the listing will tell.
                *self_known = None;
                Err(error)
            }
        }
    }

    /// Learns the numbers in the store, and takes those events out of `batch` that a commit of
    /// unknown outcome has written after all.
    async fn list(&mut self, batch: &mut Vec<Pending>) -> Result<(), store::Error> {
        let snapshot = self.store.list(key::EVENTS).await?;
        let mut known = BTreeSet::new();
        for entry in &snapshot.entries {
            let number = entry.key.strip_prefix(key::EVENTS).and_then(|text| text.parse().ok());
            let Some(sequence) = number else { continue };
            known.insert(sequence);
            batch.retain(|event| record::encode(&self.numbered(sequence, event)) != entry.value);
        }
        self.known = Some(known);
        Ok(())
    }

    fn numbered(&self, sequence: u64, event: &Pending) -> Event {
        Event {
            sequence,
            at: event.at,
            kind: event.kind,
            subject: event.subject.clone(),
            message: event.message.clone(),
            node: self.node.clone(),
            epoch: event.epoch,
        }
    }
}

/// Where the epoch comes from.
#[derive(Clone)]
struct EpochSource(Arc<dyn Fn() -> Epoch + Send + Sync>);

impl std::fmt::Debug for EpochSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochSource")
    }
}

/// Where the time comes from.
#[derive(Clone)]
struct ClockHandle(SharedClock);

impl std::fmt::Debug for ClockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClockHandle")
    }
}

/// Events that stay in the store.
pub const KEPT: usize = 1000;
const QUEUE: usize = 1024;
/// Events in one batch; with as many deletions it stays under the 64 operations that the
/// narrowest store takes.
const BATCH: usize = 24;
const MAX_OPERATIONS: usize = Batch::MOST_KEYS;
const MAX_SUBJECT: usize = 128;
const MAX_MESSAGE: usize = 1000;
const ELLIPSIS: &str = "…";
const FLUSH: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
