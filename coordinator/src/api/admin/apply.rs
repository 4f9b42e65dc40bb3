//! Applying a desired state.

use chancery_proto::v1::{ApplyRequest, ApplyResponse};
use chancery_shared::{name::IssuerName, number::Revision, secret::Secret, wire::to_timestamp};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tonic::Status;

use super::super::Api;
use crate::{
    apply::{self, Desired, Plan},
    election::Leadership,
    mirror::View,
    record::EventKind,
    seal::Context,
    store::{Batch, Error},
    sweep,
};

impl Api {
    /// Plans and, unless it is a dry run, carries out.
    pub(super) async fn apply(
        &self,
        request: ApplyRequest,
        who: &str,
    ) -> Result<ApplyResponse, Status> {
        let seal = |issuer: &IssuerName, secret: &Secret| {
            self.sealer.seal(&Context::external_account(issuer), secret.expose_secret())
        };
        let desired = apply::read(&request.desired.clone().unwrap_or_default(), &seal)
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        if request.dry_run {
            let (plan, _) = self.plan(&desired, request.prune).await?;
            let waits = apply::waits(&plan, &desired, &self.mirror.read(), self.clock.now());
            let mut response = response(&plan, false);
            let changes = response.changes.iter_mut().filter(|change| change.causes_order);
            for change in changes {
                if let Some((at, because)) = waits.get(change.name.as_str()) {
                    change.possible_at = Some(to_timestamp(*at));
                    change.because.clone_from(because);
                }
            }
            return Ok(response);
        }
        let leadership = self.lead().await?;
        let _one_at_a_time = self.applying.lock().await;
        // What is left of a former certificate must not become a new one's.
        let swept = sweep::sweep(&*self.store, &leadership, &self.mirror).await;
        swept.map_err(|error| self.refused(&error))?;
        let (mut plan, mut present) = self.plan(&desired, request.prune).await?;
        let expected = &request.expected_plan;
        let mut carried = Carried { whole: plan.clone(), transactions: 0 };
        let mut tries = 0;
        loop {
            carried.check(&plan, expected)?;
            let conflict = match self.carry_out(&leadership, &plan, &present, &mut carried).await {
                Ok(()) => break,
                Err(error) => error,
            };
            // An order took a step meanwhile; the plan itself is compared again above.
            if !matches!(conflict, Error::Conflict { .. }) || tries == TRIES {
                return Err(carried.partly(self.refused(&conflict)));
            }
            tries += 1;
            (plan, present) =
                self.plan(&desired, request.prune).await.map_err(|error| carried.partly(error))?;
            if carried.transactions == 0 {
                carried.whole = plan.clone();
            }
        }
        self.record_changes(&carried.whole, who);
        self.sweep(&leadership).await;
        Ok(ApplyResponse { transactions: carried.transactions, ..response(&carried.whole, true) })
    }

    /// Commits one transaction after the other, and waits until the mirror shows them.
    async fn carry_out(
        &self,
        leadership: &Leadership,
        plan: &Plan,
        present: &View,
        carried: &mut Carried,
    ) -> Result<(), Error> {
        let related = apply::related(&*self.store, present, plan).await?;
        let mut last = None;
        for turn in plan.batches(&leadership.batch(), present, &related) {
            last = self.commit_at_once(turn, carried).await?.max(last);
        }
        if let Some(revision) = last {
            self.shown(revision).await;
        }
        Ok(())
    }

    /// Commits batches that do not depend on one another, some at a time: each waits for a disk.
    /// After a failure no more are begun, and those under way are waited for.
    async fn commit_at_once(
        &self,
        batches: Vec<Batch>,
        carried: &mut Carried,
    ) -> Result<Option<Revision>, Error> {
        let mut left = batches.into_iter();
        let mut running = FuturesUnordered::new();
        let mut last = None;
        let mut failed: Option<Error> = None;
        loop {
            if failed.is_none()
                && running.len() < AT_ONCE
                && let Some(batch) = left.next()
            {
                running.push(self.store.commit(batch));
                continue;
            }
            match running.next().await {
                Some(Ok(revision)) => {
                    last = last.max(Some(revision));
                    carried.transactions += 1;
                }
                // A conflict is looked into and passes: what else fails says more.
                Some(Err(Error::Conflict { .. })) if failed.is_some() => {}
                Some(Err(error)) => failed = Some(error),
                None => return failed.map_or(Ok(last), Err),
            }
        }
    }

    /// Removes what is left of what was deleted: now, or else as soon as that can be done.
    pub(super) async fn sweep(&self, leadership: &Leadership) {
        if let Err(error) = sweep::sweep(&*self.store, leadership, &self.mirror).await {
            tracing::warn!(%error, "what is left of deleted objects is removed later");
            let (store, mirror) = (self.store.clone(), self.mirror.clone());
            let leadership = leadership.clone();
            tokio::spawn(async move { sweep::until_done(&*store, &leadership, &mirror).await });
        }
    }

    async fn plan(&self, desired: &Desired, prune: bool) -> Result<(Plan, View), Status> {
        let present = apply::present(&*self.store).await.map_err(|error| self.refused(&error))?;
        let plan = apply::compare(&present, desired, prune, self.clock.now())
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        Ok((plan, present))
    }

    fn record_changes(&self, plan: &Plan, who: &str) {
        for change in plan.changes.iter().take(MOST_EVENTS) {
            let wire = change.to_wire();
            let what = match wire.action() {
                chancery_proto::v1::change::Action::Create => "created",
                chancery_proto::v1::change::Action::Delete => "deleted",
                _ => "changed",
            };
            let details = wire.details.join("; ");
            let message = format!("{} {what} by {who}: {details}", wire.kind);
            self.events.record(EventKind::Applied, wire.name, message);
        }
        if let Some(more) = plan.changes.len().checked_sub(MOST_EVENTS).filter(|more| *more > 0) {
            self.events.record(EventKind::Applied, "", format!("{more} more changes by {who}"));
        }
    }
}

/// How far a plan has been carried out.
struct Carried {
    whole: Plan,
    transactions: u32,
}

impl Carried {
    /// Whether to go on with `plan`, which is the whole one or what is left of it.
    fn check(&self, plan: &Plan, expected: &str) -> Result<(), Status> {
        if self.transactions > 0 {
            if plan.is_part_of(&self.whole) {
                return Ok(());
            }
            return Err(self.partly(Status::aborted("the plan has changed meanwhile")));
        }
        if !expected.is_empty() && expected != plan.id() {
            return Err(Status::aborted(
                "the plan has changed since it was shown; nothing was done: look at it again",
            ));
        }
        Ok(())
    }

    /// What a failure means after a part was carried out.
    fn partly(&self, status: Status) -> Status {
        match self.transactions {
            0 => status,
            done => Status::new(
                status.code(),
                format!(
                    "a part of the plan is carried out ({done} transactions), the rest is not: {}; \
                     apply the same files again to complete it",
                    status.message()
                ),
            ),
        }
    }
}

fn response(plan: &Plan, applied: bool) -> ApplyResponse {
    ApplyResponse {
        changes: plan.changes.iter().map(apply::Change::to_wire).collect(),
        plan_id: plan.id(),
        applied,
        unchanged: plan.unchanged,
        kept: plan.kept.clone(),
        transactions: 0,
    }
}

const TRIES: usize = 5;
/// Transactions under way at once.
const AT_ONCE: usize = 16;
/// Events for one apply: a fleet's first one must not push everything else out of the log.
const MOST_EVENTS: usize = 100;
