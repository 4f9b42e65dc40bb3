//! Does what the lease machine says, and tells it what comes of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chancery_shared::{clock::SharedClock, dice, number::Epoch};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Monotonic, Observation, Observer, Options, Outcome,
    leadership::Leadership,
    lease::{Action, Answer, Attempt, Call, Event, Machine, Reason, Timing},
    signs::{self, Sign},
};
use crate::store::{Campaign, Candidate, Error, Fence, Store};

/// What the election works with.
pub(super) struct Parts {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: SharedClock,
    pub(super) options: Options,
    pub(super) observer: Arc<dyn Observer>,
}

/// Takes part in the election until `shutdown`, and returns once the lease is given up. `transfers`
/// brings the epochs of terms that are to end.
pub(super) async fn run(
    parts: Parts,
    shutdown: CancellationToken,
    mut transfers: mpsc::Receiver<Epoch>,
    publish: watch::Sender<Option<Leadership>>,
) {
    let (tell, mut shown) = mpsc::channel(SIGNS_QUEUE);
    let mut watcher = JoinSet::new();
    watcher.spawn(signs::tell(parts.store.clone(), tell));

    let clock = parts.clock.clone();
    let timing = Timing::new(parts.options.ttl, parts.options.drain);
    let mut machine = Machine::new(timing, clock.monotonic());
    let mut runtime = Runtime::new(parts, publish);
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
            Some((call, answer)) = runtime.calls.next() => runtime.answered(call, answer),
            () = drained(runtime.draining.clone()) => {
                runtime.draining = None;
                Event::Drained
            }
            Some(epoch) = transfers.recv() => runtime.told_to_transfer(epoch),
            Some(sign) = shown.recv() => runtime.shown(sign),
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
    observer: Arc<dyn Observer>,
    publish: watch::Sender<Option<Leadership>>,
    calls: Calls,
    /// How long the call took that was answered last.
    took: Duration,
    /// The term that has stepped down but holds its lease.
    draining: Option<Leadership>,
    /// The latest term of which there was a leader record.
    newest: Epoch,
}

impl Runtime {
    fn new(parts: Parts, publish: watch::Sender<Option<Leadership>>) -> Self {
        let Parts { store, clock, options, observer } = parts;
        let candidate = Candidate { node: options.node, ttl: options.ttl };
        let calls = Calls::default();
        let (took, draining, newest) = (Duration::ZERO, None, Epoch(0));
        Self { store, clock, candidate, observer, publish, calls, took, draining, newest }
    }

    /// Notes how a call went, for those who count. Failures come as [`Action::Trouble`].
    fn answered(&mut self, call: Started, answer: Answer) -> Event {
        self.took = self.clock.monotonic().since(call.at);
        match (call.what, &answer) {
            (Attempt::Campaign, Answer::Lost) => {
                self.observer.observe(&Observation::Campaigned(Outcome::Lost));
            }
            (Attempt::KeepAlive, Answer::Done) => {
                self.observer.observe(&Observation::KeptAlive { took: self.took });
            }
            _ => {}
        }
        Event::Answered(call.call, answer)
    }

    /// The command is for one term: by now it may be over.
    fn told_to_transfer(&self, epoch: Epoch) -> Event {
        let leads = self.publish.borrow().as_ref().is_some_and(|term| term.epoch() == epoch);
        if leads { Event::Transfer } else { Event::Woken }
    }

    fn shown(&mut self, sign: Sign) -> Event {
        let at = self.clock.monotonic();
        match sign {
            Sign::Vacant => {
                self.observer.observe(&Observation::Vacant { at });
                Event::Vacant
            }
            Sign::Led(leader) => {
                self.newest = self.newest.max(leader.epoch);
                self.observer.observe(&Observation::Led { epoch: leader.epoch, at });
                if leader.node == self.candidate.node { Event::Woken } else { Event::Led }
            }
            Sign::Nominated(nomination) => {
                let counts = nomination.epoch >= self.newest;
                if counts && nomination.node != self.candidate.node {
                    Event::Nominated(Duration::from_millis(nomination.hold_millis).min(MOST_HELD))
                } else {
                    Event::Woken
                }
            }
        }
    }

    fn perform(&mut self, action: Action) {
        let (store, at) = (self.store.clone(), self.clock.monotonic());
        match action {
            Action::Campaign(call) => {
                let candidate = self.candidate.clone();
                let started = Started { call, what: Attempt::Campaign, at };
                self.calls.start(started, async move { campaign(&*store, &candidate).await });
            }
            Action::KeepAlive(call, fence) => {
                let started = Started { call, what: Attempt::KeepAlive, at };
                self.calls.start(started, async move { done(store.keep_alive(&fence).await) });
            }
            Action::Resign(call, fence) => {
                let started = Started { call, what: Attempt::Resign, at };
                self.calls.start(started, async move { done(store.resign(&fence).await) });
            }
            Action::Forget(call) => self.calls.forget(call),
            Action::Lead(fence, until) => self.lead(fence, until),
            Action::Extend(until) => {
                if let Some(leadership) = self.publish.borrow().as_ref() {
                    leadership.extend(until, self.took);
                }
            }
            Action::StepDown(reason) => self.step_down(reason),
            Action::Trouble(attempt, why) => self.trouble(attempt, &why),
            Action::Stop => {}
        }
    }

    fn lead(&mut self, fence: Fence, until: Monotonic) {
        tracing::info!(node = %self.candidate.node, epoch = %fence.epoch, "this coordinator leads");
        self.observer.observe(&Observation::Campaigned(Outcome::Won));
        let leadership = Leadership::new(fence, self.clock.clone(), until);
        self.publish.send_replace(Some(leadership));
    }

    fn step_down(&mut self, reason: Reason) {
        let Some(leadership) = self.publish.send_replace(None) else { return };
        leadership.end();
        self.observer.observe(&Observation::SteppedDown(reason));
        let (node, epoch) = (&self.candidate.node, leadership.epoch());
        if reason.is_hand_over() {
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
                self.observer.observe(&Observation::Campaigned(Outcome::Failed));
                tracing::warn!(%node, why, "cannot campaign for leadership; will try again");
            }
            Attempt::KeepAlive => {
                self.observer.observe(&Observation::KeepAliveFailed);
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

/// A call to the store.
#[derive(Clone, Copy, Debug)]
struct Started {
    call: Call,
    what: Attempt,
    at: Monotonic,
}

/// The calls to the store that are under way. Dropping this drops them.
#[derive(Default)]
struct Calls {
    tasks: JoinSet<Answer>,
    running: HashMap<Id, (Started, AbortHandle)>,
}

impl Calls {
    fn start(&mut self, call: Started, answer: impl Future<Output = Answer> + Send + 'static) {
        let handle = self.tasks.spawn(answer);
        self.running.insert(handle.id(), (call, handle));
    }

    fn forget(&mut self, call: Call) {
        self.running.retain(|_, (running, handle)| {
            if running.call == call {
                handle.abort();
            }
            running.call != call
        });
    }

    /// The next answer; `None` if no call is under way. Cancel-safe.
    async fn next(&mut self) -> Option<(Started, Answer)> {
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

/// Signs that the watcher may be ahead by.
const SIGNS_QUEUE: usize = 16;
/// The longest that a nomination can make this node hold back, whatever its record says.
const MOST_HELD: Duration = Duration::from_secs(10);
