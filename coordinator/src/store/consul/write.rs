//! Committing: one transaction for a step, again while others are faster, and finding out what has
//! become of a transaction whose answer was lost.
//!
//! # The head decides
//!
//! Every commit's transaction writes the head on the condition that it is still the one that the writer
//! knew. So commits happen one after the other; two coordinators that commit at once contend for the
//! head, and the slower one reads it anew and tries again. Within this process commits queue
//! up, so that only other processes are contended with.
//!
//! # When the answer is lost
//!
//! The same transaction is simply sent again, to the next address if need be. It cannot be
//! applied twice: the first time moves the head that it holds for. If the repetition is refused,
//! the journal tells whose commit moved the head, by the random id in the slot: ours, then the first try
//! was applied; another's, then ours can never be applied any more. [`Error::OutcomeUnknown`] is left
//! for the case that Consul does not answer for longer than the call may take.

use std::time::Duration;

use aws_lc_rs::rand;
use chancery_shared::{clock::Monotonic, number::Revision};

use super::{
    Keys, Parts,
    client::{Client, Request},
    journal::{Head, Slot, decode_head, encode_head},
    step::{Refusal, Step, Transaction},
    txn::{Op, Outcome, Refused},
};
use crate::store::{Change, Commit, Entry, Error, Operation};

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum NotDone {
    /// Something does not hold. Nothing was changed.
    Refused(Refusal),
    /// A call failed; the error says what may have been done.
    Failed(Error),
}

impl From<Error> for NotDone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// How one transaction ended.
enum Ended {
    /// It was applied, at this revision.
    Applied(Revision),
    /// It was not, and never will be.
    Refused {
        why: Refusal,
        /// Whether the head was still the one that it held for.
        head_holds: bool,
    },
}

impl Ended {
    fn refused(ops: &[(Op, Refusal)], refused: &[Refused]) -> Result<Self, Error> {
        let is_head = |refused: &Refused| {
            ops.get(refused.place).is_some_and(|(_, refusal)| *refusal == Refusal::Moved)
        };
        let head_holds = !refused.iter().any(is_head);
        Ok(Self::Refused { why: meaning(ops, refused)?, head_holds })
    }
}

impl Parts {
    /// Does a step, made anew for each head that it is tried behind. Returns the revision of its
    /// commit, or the current one if there was nothing to commit.
    pub(super) async fn write(
        &self,
        make: &(dyn Fn(Head) -> Step + Send + Sync),
    ) -> Result<Revision, NotDone> {
        let mut known = self.head.lock().await;
        let deadline = self.clock.monotonic().after(self.client.timeout() * 2);
        loop {
            // Taken out: should this be dropped while the transaction is under way, the head has
            // to be read again.
            let head = match known.take() {
                Some(head) => head,
                None => read_head(&self.client, &self.keys).await?,
            };
            let mut step = make(head);
            step.drop_absent(&self.absent(&step.unsure()).await?);
            if step.changes.is_empty() {
                *known = Some(head);
                return self.write_without_commit(&step, head).await;
            }
            let id = random_id();
            let transaction = step.transaction(&self.keys, head, &id);
            match self.apply(&transaction, head, &id, deadline).await? {
                Ended::Applied(revision) => {
                    let new = Head { sequence: head.sequence + 1, revision };
                    *known = Some(new);
                    self.follower.committed(head, commit_of(&step, revision));
                    return Ok(revision);
                }
                Ended::Refused { why: Refusal::Moved, .. } => {}
                Ended::Refused { why, head_holds } => {
                    *known = head_holds.then_some(head);
                    return Err(NotDone::Refused(why));
                }
            }
            if self.clock.monotonic() >= deadline {
                let busy = "other coordinators commit all the time; none of ours got through";
                return Err(Error::Unavailable(busy.to_owned()).into());
            }
            tokio::time::sleep(jittered(CONTENTION)).await;
        }
    }

    /// Checks what has to hold and moves locks, where no record changes.
    async fn write_without_commit(&self, step: &Step, head: Head) -> Result<Revision, NotDone> {
        let mut ops = step.transaction(&self.keys, head, "").ops;
        // Together with the checks, so that what is returned is from the same moment.
        if step.locks.is_empty() {
            ops.push((Op::read(&self.keys.head()), Refusal::Never));
        }
        let txn: Vec<Op> = ops.iter().map(|(op, _)| op.clone()).collect();
        let (outcome, _) = self.client.txn(&txn).await.map_err(super::client::Failure::of_write)?;
        match outcome {
            Outcome::Done(rows) => {
                let of_head = rows.iter().find(|row| row.key == self.keys.head());
                Ok(of_head.map_or(head.revision, |row| row.revision))
            }
            Outcome::Refused(refused) => Err(NotDone::Refused(meaning(&ops, &refused)?)),
        }
    }

    /// Sends a transaction until it is known what has become of it.
    async fn apply(
        &self,
        transaction: &Transaction,
        head: Head,
        id: &str,
        deadline: Monotonic,
    ) -> Result<Ended, Error> {
        if !transaction.ahead.is_empty() {
            let ops: Vec<Op> = transaction.ahead.iter().map(|(op, _)| op.clone()).collect();
            if let Outcome::Refused(refused) = self.client.txn(&ops).await?.0 {
                return Ended::refused(&transaction.ahead, &refused);
            }
        }
        let ops: Vec<Op> = transaction.ops.iter().map(|(op, _)| op.clone()).collect();
        let mut doubtful = false;
        loop {
            let failure = match self.client.txn(&ops).await {
                Ok((Outcome::Done(rows), _)) => {
                    let of_head = rows.iter().find(|row| row.key == self.keys.head());
                    return of_head.map(|row| Ended::Applied(row.revision)).ok_or_else(|| {
                        Error::OutcomeUnknown("Consul's answer has no head in it".to_owned())
                    });
                }
                Ok((Outcome::Refused(refused), before)) => {
                    if (doubtful || before)
                        && let Some(revision) = self.find_own(head.sequence + 1, id).await?
                    {
                        return Ok(Ended::Applied(revision));
                    }
                    return Ended::refused(&transaction.ops, &refused);
                }
                Err(failure) => failure,
            };
            doubtful |= failure.doubtful;
            if !doubtful {
                return Err(failure.into());
            }
            if self.clock.monotonic() >= deadline {
                return Err(Error::OutcomeUnknown(failure.to_string()));
            }
            tracing::debug!(%failure, "the answer to a commit was lost; asking again");
            tokio::time::sleep(jittered(RETRY)).await;
        }
    }

    /// The revision of the commit with this number, if it is the one with this id.
    async fn find_own(&self, sequence: u64, id: &str) -> Result<Option<Revision>, Error> {
        let unknown = |what: &str| Error::OutcomeUnknown(what.to_owned());
        let key = self.keys.slot(sequence);
        let (outcome, _) = self
            .client
            .txn(&[Op::read(&key)])
            .await
            .map_err(|failure| unknown(&failure.to_string()))?;
        let Outcome::Done(rows) = outcome else { return Ok(None) };
        let Some(row) = rows.first() else { return Ok(None) };
        let slot = Slot::decode(&key, &row.value)?;
        if slot.sequence > sequence {
            return Err(unknown("the journal has moved on too far to tell"));
        }
        Ok((slot.sequence == sequence && slot.id == id).then_some(row.revision))
    }

    /// Those of `keys` that are not there.
    async fn absent(&self, keys: &[&str]) -> Result<Vec<String>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ops: Vec<Op> =
            keys.iter().map(|key| Op::check_absent(&self.keys.record(key))).collect();
        let there = match self.client.txn(&ops).await?.0 {
            Outcome::Done(_) => Vec::new(),
            Outcome::Refused(refused) => refused,
        };
        let is_there = |place: usize| there.iter().any(|refused| refused.place == place);
        let absent = keys.iter().enumerate().filter(|(place, _)| !is_there(*place));
        Ok(absent.map(|(_, key)| (*key).to_owned()).collect())
    }
}

/// The head, made if there is none yet.
pub(super) async fn read_head(client: &Client, keys: &Keys) -> Result<Head, Error> {
    loop {
        let request = Request::get(keys.head_path("?consistent"));
        if let Some(row) = client.rows(&request).await?.0.first() {
            return decode_head(&row.key, &row.value, row.revision);
        }
        // Whoever makes it: it is read again.
        client.txn(&[Op::set_if(&keys.head(), &encode_head(0), None)]).await?;
    }
}

/// What a refused transaction means: the first of its operations that would not tells.
fn meaning(ops: &[(Op, Refusal)], refused: &[Refused]) -> Result<Refusal, Error> {
    let first = refused.iter().min_by_key(|refused| refused.place);
    match first.and_then(|first| ops.get(first.place)) {
        Some((_, refusal)) if *refusal != Refusal::Never => Ok(refusal.clone()),
        _ => {
            let what = first.map_or("", |first| &first.what);
            Err(Error::Unavailable(format!("Consul refuses what it should take: {what}")))
        }
    }
}

/// What watches are told of a step.
fn commit_of(step: &Step, revision: Revision) -> Commit {
    let change = |operation: &Operation| match operation {
        Operation::Put(key, value) => {
            Change::Put(Entry { key: key.clone(), value: value.clone(), revision })
        }
        Operation::Delete(key) => Change::Delete { key: key.clone() },
    };
    Commit {
        revision,
        changes: step.changes.iter().map(|(operation, _)| change(operation)).collect(),
    }
}

/// A name for a commit that no other has.
fn random_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the operating system's random source works");
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

/// From half of `time` to all of it.
fn jittered(time: Duration) -> Duration {
    let mut byte = [0];
    rand::fill(&mut byte).expect("the operating system's random source works");
    time / 2 + time * u32::from(byte[0]) / 512
}

/// Between tries while others commit, too: about as long as a commit takes.
const CONTENTION: Duration = Duration::from_millis(10);
/// Between tries while Consul does not answer: an election of its servers takes seconds.
const RETRY: Duration = Duration::from_millis(200);
