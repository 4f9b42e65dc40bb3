//! Applying a desired state.

use chancery_proto::v1::{ApplyRequest, ApplyResponse};
use tonic::Status;

use super::super::Api;
use crate::{
    apply::{self, Desired, Plan},
    mirror::View,
    record::EventKind,
    store::Error,
};

impl Api {
    /// Plans and, unless it is a dry run, carries out.
    pub(super) async fn apply(
        &self,
        request: ApplyRequest,
        who: &str,
    ) -> Result<ApplyResponse, Status> {
        let desired = apply::read(&request.desired.clone().unwrap_or_default())
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        if request.dry_run {
            let (plan, _) = self.plan(&desired, request.prune).await?;
            return Ok(response(&plan, false));
        }
        let leadership = self.lead().await?;
        let _one_at_a_time = self.applying.lock().await;
        let mut tries = 0;
        loop {
            let (plan, present) = self.plan(&desired, request.prune).await?;
            if !request.expected_plan.is_empty() && request.expected_plan != plan.id() {
                return Err(Status::aborted(
                    "the plan has changed since it was shown; nothing was done: look at it again",
                ));
            }
            if plan.changes.is_empty() {
                return Ok(response(&plan, true));
            }
            let store = &*self.store;
            let related = apply::related(store, &present, &plan).await;
            let related = related.map_err(|error| self.refused(&error))?;
            let batch = plan.batch(leadership.batch(), &present, &related);
            match self.store.commit(batch).await {
                Ok(revision) => {
                    self.shown(revision).await;
                    self.record_changes(&plan, who);
                    return Ok(response(&plan, true));
                }
                // An order took a step meanwhile; the plan itself is compared again above.
                Err(Error::Conflict { .. }) if tries < TRIES => tries += 1,
                Err(error) => return Err(self.refused(&error)),
            }
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

fn response(plan: &Plan, applied: bool) -> ApplyResponse {
    ApplyResponse {
        changes: plan.changes.iter().map(apply::Change::to_wire).collect(),
        plan_id: plan.id(),
        applied,
        unchanged: plan.unchanged,
        kept: plan.kept.clone(),
    }
}

const TRIES: usize = 5;
/// Events for one apply: a fleet's first one must not push everything else out of the log.
const MOST_EVENTS: usize = 100;
