//! Does what the lease machine says, and tells it what comes of it.

use std::{collections::HashMap, sync::Arc};

use chancery_shared::{clock::SharedClock, dice, retry::Policy};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    leadership::Leadership,
    lease::{Action, Answer, Attempt, Call, Event, Machine, Reason, Timing},
};
use crate::{
    record::key,
    store::{Campaign, Candidate, Change, Error, Fence, Store},
};

/// Takes part in the election until `shutdown`, and returns once the lease is given up.
pub(super) async fn run(
    store: Arc<dyn Store>,
    clock: SharedClock,
    options: Options,
    shutdown: CancellationToken,
    publish: watch::Sender<Option<Leadership>>,
) {
    let (tell, mut vacancies) = mpsc::channel(1);
    let mut watcher = JoinSet::new();
    watcher.spawn(tell_vacancies(store.clone(), tell));

    let timing = Timing::new(options.ttl, options.drain);
    let mut machine = Machine::new(timing, clock.monotonic());
    let candidate = Candidate { node: options.node, ttl: options.ttl };
    let mut runtime = Runtime::new(store, clock.clone(), candidate, publish);
    let mut event = Event::Woken;
    let mut told_to_stop = false;
    loop {
        for action in machine.handle(clock.monotonic(), event, dice::roll()) {
            if action == Action::Stop {
                return;
            }
            runtime.perform(action);
        }
        let wake_in = machine.wake_at().map(|wake| wake.since(clock.monotonic()));
        event = tokio::select! {
            // A shutdown is not kept waiting, and answers are heard before time-outs.
            biased;
            () = shutdown.cancelled(), if !told_to_stop => {
                told_to_stop = true;
                Event::Shutdown
            }
            Some((call, answer)) = runtime.calls.next() => Event::Answered(call, answer),
            () = drained(runtime.draining.clone()) => {
                runtime.draining = None;
                Event::Drained
            }
            Some(()) = vacancies.recv() => Event::Vacant,
            () = tokio::time::sleep(wake_in.unwrap_or_default()), if wake_in.is_some() => {
                Event::Woken
            }
        };
    }
}

struct Runtime {
    store: Arc<dyn Store>,
    clock: SharedClock,
    candidate: Candidate,
    publish: watch::Sender<Option<Leadership>>,
    calls: Calls,
    /// The term that has stepped down for a shutdown.
    draining: Option<Leadership>,
}

impl Runtime {
    fn new(
        store: Arc<dyn Store>,
        clock: SharedClock,
        candidate: Candidate,
        publish: watch::Sender<Option<Leadership>>,
    ) -> Self {
        Self { store, clock, candidate, publish, calls: Calls::default(), draining: None }
    }

    fn perform(&mut self, action: Action) {
        let store = self.store.clone();
        match action {
            Action::Campaign(call) => {
                let candidate = self.candidate.clone();
                self.calls.start(call, async move { campaign(&*store, &candidate).await });
            }
            Action::KeepAlive(call, fence) => {
                self.calls.start(call, async move { done(store.keep_alive(&fence).await) });
            }
            Action::Resign(call, fence) => {
                self.calls.start(call, async move { done(store.resign(&fence).await) });
            }
            Action::Forget(call) => self.calls.forget(call),
            Action::Lead(fence, until) => self.lead(fence, until),
            Action::Extend(until) => {
                if let Some(leadership) = self.publish.borrow().as_ref() {
                    leadership.extend(until);
                }
            }
            Action::StepDown(reason) => self.step_down(reason),
            Action::Trouble(attempt, why) => self.trouble(attempt, &why),
            Action::Stop => {}
        }
    }

    fn lead(&mut self, fence: Fence, until: super::Monotonic) {
        tracing::info!(node = %self.candidate.node, epoch = %fence.epoch, "this coordinator leads");
        let leadership = Leadership::new(fence, self.clock.clone(), until);
        self.publish.send_replace(Some(leadership));
    }

    fn step_down(&mut self, reason: Reason) {
        let Some(leadership) = self.publish.send_replace(None) else { return };
        leadership.end();
        let (node, epoch) = (&self.candidate.node, leadership.epoch());
        if reason == Reason::Shutdown {
            tracing::info!(%node, %epoch, %reason, "this coordinator steps down");
            self.draining = Some(leadership);
        } else {
            tracing::warn!(%node, %epoch, %reason, "this coordinator has lost leadership");
        }
    }

    fn trouble(&self, attempt: Attempt, why: &str) {
        let node = &self.candidate.node;
        match attempt {
            Attempt::Campaign => {
                tracing::warn!(%node, why, "cannot campaign for leadership; will try again");
            }
            Attempt::KeepAlive => {
                tracing::warn!(%node, why, "cannot keep the lease alive; will try again");
            }
            Attempt::Resign => {
                tracing::warn!(%node, why, "cannot give the lease up; it expires by itself");
            }
        }
    }
}

/// Resolves when what had begun in a term before the shutdown has ended.
async fn drained(term: Option<Leadership>) {
    match term {
        Some(leadership) => leadership.drained().await,
        None => std::future::pending().await,
    }
}

/// The calls to the store that are under way. Dropping this drops them.
#[derive(Default)]
struct Calls {
    tasks: JoinSet<Answer>,
    running: HashMap<Id, (Call, AbortHandle)>,
}

impl Calls {
    fn start(&mut self, call: Call, answer: impl Future<Output = Answer> + Send + 'static) {
        let handle = self.tasks.spawn(answer);
        self.running.insert(handle.id(), (call, handle));
    }

    fn forget(&mut self, call: Call) {
        self.running.retain(|_, (running, handle)| {
            if *running == call {
                handle.abort();
            }
            *running != call
        });
    }

    /// The next answer; `None` if no call is under way. Cancel-safe.
    async fn next(&mut self) -> Option<(Call, Answer)> {
        loop {
            let (id, answer) = match self.tasks.join_next_with_id().await? {
                Ok((id, answer)) => (id, answer),
                Err(error) => (error.id(), Answer::Failed(died(&error))),
            };
            // A call that was forgotten has no number any more.
            if let Some((call, _)) = self.running.remove(&id) {
                return Some((call, answer));
            }
        }
    }
}

fn died(error: &JoinError) -> String {
    format!("the call died: {error}")
}

async fn campaign(store: &dyn Store, candidate: &Candidate) -> Answer {
    match store.campaign(candidate).await {
        Ok(Campaign::Won(fence)) => Answer::Won(fence),
        Ok(Campaign::Lost) => Answer::Lost,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn done(result: Result<(), Error>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(Error::Fenced { .. }) => Answer::Fenced,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Tells whenever the leader record is deleted, and whenever it is found missing after the
/// store could not be watched for a while. Ends with its receiver.
async fn tell_vacancies(store: Arc<dyn Store>, tell: mpsc::Sender<()>) {
    let mut waits = Policy::CONNECT.waits();
    loop {
        if let Err(error) = tell_until_lost(&*store, &tell, || waits.reset()).await {
            tracing::debug!(%error, "cannot watch the leader record");
        }
        if tell.is_closed() {
            return;
        }
        tokio::time::sleep(waits.next_wait()).await;
    }
}

async fn tell_until_lost(
    store: &dyn Store,
    tell: &mpsc::Sender<()>,
    mut works: impl FnMut(),
) -> Result<(), Error> {
    let snapshot = store.list(key::LEADER).await?;
    let mut watch = store.watch(key::LEADER, snapshot.revision).await?;
    if !snapshot.entries.iter().any(|entry| entry.key == key::LEADER) {
        vacant(tell);
    }
    while let Some(commit) = watch.next().await {
        works();
        let is_vacancy =
            |change: &Change| matches!(change, Change::Delete { key } if key == key::LEADER);
        if commit?.changes.iter().any(is_vacancy) {
            vacant(tell);
        }
    }
    Ok(())
}

fn vacant(tell: &mpsc::Sender<()>) {
    // One that is still waiting to be heard says as much as two.
    let _ = tell.try_send(());
}
