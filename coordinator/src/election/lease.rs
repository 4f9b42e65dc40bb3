//! The lease machine: when to campaign, to keep alive, to step down. It decides only. What time
//! it is, what the store has answered and how the dice fell is told to it; what it wants
//! done it returns.
//!
//! # Why nobody leads twice
//!
//! A store counts a lease from some moment *during* a call, never before it was sent. So a
//! term that is given up TTL after the *sending* of the last call that was confirmed ends
//! before the store can give the lease to somebody else, however late the answer came. The
//! machine gives it up a margin earlier, for what is under way then.
//!
//! Three rules keep it that way:
//! * Each call has a number. An answer counts only if the machine still waits for it, only
//!   once, and only for the moment when that very call was sent. A keep-alive that is slow is
//!   followed by another one; whichever is answered, a late answer extends nothing that its
//!   own sending does not justify.
//! * Only [`Answer::Won`] makes a leader, and only while that lease is fresh. A campaign that
//!   failed, or of which the outcome is not known, does not.
//! * Before anything else an event brings is looked at, a term whose deadline has passed is
//!   given up. A process that was stopped for an hour thus finds out with its first event.
//!
//! # When it stops
//!
//! On [`Event::Shutdown`] the leader steps down first, so that nothing new begins, but keeps
//! the lease alive while what has begun is brought to an end, so that its last writes
//! still pass the fence. Then it resigns, and a successor need not wait for the TTL. A campaign
//! that is under way then is waited for: if it were dropped, it might win, and nobody would
//! know.
//!
//! # Leaving leadership to others
//!
//! Three things make a node stand aside: it does not campaign, neither by itself nor upon a
//! vacancy, until some moment.
//! * [`Event::Transfer`]: it has just given leadership up so that somebody else has it. The way
//!   down is that of a shutdown; what follows is not the end but a wait.
//! * [`Event::Nominated`]: the leader is about to give leadership up in favour of another node.
//! * It has let its own lease lapse: its way to the store is bad, whatever the reason, and a
//!   healthy node should win. The wait doubles with each such term in a row, and ends to count
//!   with a term that lasts. Without this, a node that reaches the store now and then would take
//!   leadership again and again, and never for long.
//!
//! Each wait is bounded by this node's own monotonic clock, so that a successor who never comes costs
//! seconds; and it is over when somebody else leads, because then it has served its purpose.

use std::{mem, time::Duration};

use super::Monotonic;
use crate::store::Fence;

mod words;

pub use words::Reason;
pub(super) use words::{Action, Answer, Attempt, Call, Event, Timing};

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    timing: Timing,
    state: State,
    next_call: u64,
    /// Campaigns that failed in a row.
    failures: u32,
    /// Whether leadership became free since the campaign that is under way was sent.
    vacant: bool,
    stopping: bool,
    /// Until when leadership is left to others.
    aside: Option<Monotonic>,
    /// Terms in a row that ended because the lease could not be confirmed.
    lapses: u32,
}

#[derive(Debug)]
enum State {
    /// Not leading; campaigns at `until`, but not while it stands aside.
    Waiting {
        until: Monotonic,
    },
    Campaigning(Pending),
    Leading(Term),
    /// Stepped down, but still holding the lease for what has to be brought to an end.
    Draining {
        term: Term,
        until: Monotonic,
    },
    Resigning(Pending),
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    call: Call,
    sent: Monotonic,
}

#[derive(Debug)]
struct Term {
    fence: Fence,
    /// When the campaign that won it was sent.
    since: Monotonic,
    /// When the last call that was confirmed was sent.
    confirmed: Monotonic,
    /// Keep-alives without an answer that were sent after `confirmed`, oldest first.
    pending: Vec<Pending>,
    /// When the next keep-alive is sent.
    next: Monotonic,
}

impl Machine {
    /// A machine that campaigns with its first event.
    pub(super) fn new(timing: Timing, now: Monotonic) -> Self {
        Self {
            timing,
            state: State::Waiting { until: now },
            next_call: 1,
            failures: 0,
            vacant: false,
            stopping: false,
            aside: None,
            lapses: 0,
        }
    }

    /// What `event` means at `now`. `dice` is a random number from 0 to 1.
    pub(super) fn handle(&mut self, now: Monotonic, event: Event, dice: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.give_up_what_is_over(now, dice, &mut actions);
        match event {
            Event::Woken => {}
            Event::Answered(call, answer) => self.answered(now, call, answer, dice, &mut actions),
            Event::Vacant => self.heard_of_vacancy(now),
            Event::Led => {
                self.aside = None;
                if let State::Waiting { until } = &mut self.state {
                    *until = (*until).max(now.after(jittered(POLL, dice)));
                }
            }
            Event::Nominated(hold) => self.aside = self.aside.max(Some(now.after(hold))),
            Event::Transfer => self.hand_over(now, Reason::Transfer, &mut actions),
            Event::Shutdown => self.shut_down(now, &mut actions),
            Event::Drained => {
                if let State::Draining { term, .. } = &self.state {
                    let fence = term.fence.clone();
                    self.resign(now, fence, &mut actions);
                }
            }
        }
        self.begin_what_is_due(now, &mut actions);
        actions
    }

    /// When the machine has to be woken if nothing happens before; `None` once it has stopped.
    pub(super) fn wake_at(&self) -> Option<Monotonic> {
        let timing = &self.timing;
        match &self.state {
            State::Waiting { until } => Some(self.campaigns_at(*until)),
            State::Campaigning(pending) => Some(pending.sent.after(timing.campaign_patience())),
            State::Resigning(pending) => Some(pending.sent.after(timing.resign_patience())),
            State::Leading(term) => Some(term.next.min(timing.deadline(term.confirmed))),
            State::Draining { term, until } => {
                Some(term.next.min(*until).min(timing.deadline(term.confirmed)))
            }
            State::Stopped => None,
        }
    }

    /// Ends terms and calls whose time has passed, whatever the event is.
    fn give_up_what_is_over(&mut self, now: Monotonic, dice: f64, actions: &mut Vec<Action>) {
        let timing = self.timing;
        match &mut self.state {
            State::Leading(term) if timing.deadline(term.confirmed) <= now => {
                self.lose(now, Reason::Unconfirmed, dice, actions);
            }
            State::Draining { term, until }
                if *until <= now || timing.deadline(term.confirmed) <= now =>
            {
                let fence = term.fence.clone();
                self.resign(now, fence, actions);
            }
            State::Campaigning(pending)
                if pending.sent.after(timing.campaign_patience()) <= now =>
            {
                actions.push(Action::Forget(pending.call));
                self.campaign_failed(now, no_answer(), dice, actions);
            }
            State::Resigning(pending) if pending.sent.after(timing.resign_patience()) <= now => {
                actions.push(Action::Forget(pending.call));
                actions.push(Action::Trouble(Attempt::Resign, no_answer()));
                self.given_up(now, actions);
            }
            _ => {}
        }
    }

    /// When one who would campaign at `until` does.
    fn campaigns_at(&self, until: Monotonic) -> Monotonic {
        self.aside.map_or(until, |aside| aside.max(until))
    }

    fn heard_of_vacancy(&mut self, now: Monotonic) {
        match &mut self.state {
            // One whose lease has lapsed lets the healthy go first.
            State::Waiting { until } if self.lapses > 0 => *until = now.after(POLL),
            State::Waiting { until } => *until = now,
            // The campaign may have reached the store before the vacancy did.
            State::Campaigning(_) => self.vacant = true,
            _ => {}
        }
    }

    fn begin_what_is_due(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let call = Call(self.next_call);
        let aside = self.aside.is_some_and(|aside| now < aside);
        match &mut self.state {
            State::Waiting { until } if !aside && *until <= now => {
                self.state = State::Campaigning(Pending { call, sent: now });
                self.vacant = false;
                self.aside = None;
                actions.push(Action::Campaign(call));
                self.next_call += 1;
            }
            State::Leading(term) | State::Draining { term, .. } if term.next <= now => {
                if !term.pending.is_empty() {
                    actions.push(Action::Trouble(Attempt::KeepAlive, no_answer()));
                }
                term.pending.push(Pending { call, sent: now });
                term.next = now.after(self.timing.keep_alive_patience());
                actions.push(Action::KeepAlive(call, term.fence.clone()));
                self.next_call += 1;
            }
            _ => {}
        }
    }

    fn answered(
        &mut self,
        now: Monotonic,
        call: Call,
        answer: Answer,
        dice: f64,
        actions: &mut Vec<Action>,
    ) {
        match &mut self.state {
            State::Campaigning(pending) if pending.call == call => {
                let sent = pending.sent;
                self.campaign_answered(now, sent, answer, dice, actions);
            }
            State::Leading(term) | State::Draining { term, .. }
                if term.pending.iter().any(|pending| pending.call == call) =>
            {
                self.keep_alive_answered(now, call, answer, dice, actions);
            }
            State::Resigning(pending) if pending.call == call => {
                if let Answer::Failed(why) = answer {
                    actions.push(Action::Trouble(Attempt::Resign, why));
                }
                self.given_up(now, actions);
            }
            // The machine no longer waits for it. If it has won leadership that nobody
            // reckons with, others should not have to wait for its end.
            _ => {
                if let Answer::Won(fence) = answer {
                    let call = self.number();
                    actions.push(Action::Resign(call, fence));
                }
            }
        }
    }

    fn campaign_answered(
        &mut self,
        now: Monotonic,
        sent: Monotonic,
        answer: Answer,
        dice: f64,
        actions: &mut Vec<Action>,
    ) {
        match answer {
            Answer::Won(fence) if self.stopping => self.resign(now, fence, actions),
            // Too late to act on: the lease may end any moment.
            Answer::Won(fence) if self.timing.deadline(sent) <= now => {
                let call = self.number();
                actions.push(Action::Resign(call, fence));
                self.campaign_failed(now, "it was won too late".to_owned(), dice, actions);
            }
            Answer::Won(fence) => {
                self.failures = 0;
                let next = sent.after(self.timing.keep_alive_every());
                actions.push(Action::Lead(fence.clone(), self.timing.deadline(sent)));
                let (pending, since) = (Vec::new(), sent);
                self.state = State::Leading(Term { fence, since, confirmed: sent, pending, next });
            }
            Answer::Lost | Answer::Fenced | Answer::Done if self.stopping => self.stop(actions),
            Answer::Lost | Answer::Fenced | Answer::Done => {
                self.failures = 0;
                let wait = if self.vacant { Duration::ZERO } else { jittered(POLL, dice) };
                self.state = State::Waiting { until: now.after(wait) };
            }
            Answer::Failed(why) => self.campaign_failed(now, why, dice, actions),
        }
    }

    fn keep_alive_answered(
        &mut self,
        now: Monotonic,
        call: Call,
        answer: Answer,
        dice: f64,
        actions: &mut Vec<Action>,
    ) {
        let timing = self.timing;
        let draining = matches!(self.state, State::Draining { .. });
        let (State::Leading(term) | State::Draining { term, .. }) = &mut self.state else { return };
        if answer != Answer::Done {
            term.pending.retain(|pending| pending.call != call);
        }
        match answer {
            Answer::Done => {
                let confirmed = term.pending.iter().position(|pending| pending.call == call);
                let settled = ..=confirmed.expect("the caller has looked");
                for pending in term.pending.drain(settled) {
                    term.confirmed = pending.sent;
                    if pending.call != call {
                        actions.push(Action::Forget(pending.call));
                    }
                }
                if term.pending.is_empty() {
                    term.next = term.confirmed.after(timing.keep_alive_every());
                }
                if term.confirmed.since(term.since) >= timing.steady() {
                    self.lapses = 0;
                }
                actions.push(Action::Extend(timing.deadline(term.confirmed)));
            }
            Answer::Failed(why) => {
                term.next = term.next.min(now.after(jittered(timing.keep_alive_retry(), dice)));
                actions.push(Action::Trouble(Attempt::KeepAlive, why));
            }
            Answer::Fenced | Answer::Lost | Answer::Won(_) if draining => {
                self.given_up(now, actions);
            }
            Answer::Fenced | Answer::Lost | Answer::Won(_) => {
                self.lose(now, Reason::Fenced, dice, actions);
            }
        }
    }

    /// Steps down because the lease is gone, and campaigns again in a moment.
    fn lose(&mut self, now: Monotonic, reason: Reason, dice: f64, actions: &mut Vec<Action>) {
        let until = now.after(jittered(POLL, dice));
        let state = mem::replace(&mut self.state, State::Waiting { until });
        if let State::Leading(term) = state {
            actions.extend(term.pending.iter().map(|pending| Action::Forget(pending.call)));
        }
        actions.push(Action::StepDown(reason));
        if reason == Reason::Unconfirmed {
            self.lapses = self.lapses.saturating_add(1);
            self.aside = Some(now.after(self.timing.handicap(self.lapses)));
        }
    }

    fn campaign_failed(
        &mut self,
        now: Monotonic,
        why: String,
        dice: f64,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Trouble(Attempt::Campaign, why));
        if self.stopping {
            self.stop(actions);
            return;
        }
        let wait = (FIRST_WAIT * 2_u32.pow(self.failures.min(10))).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting { until: now.after(jittered(wait, dice)) };
    }

    fn shut_down(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if mem::replace(&mut self.stopping, true) {
            return;
        }
        match &self.state {
            State::Waiting { .. } => self.stop(actions),
            State::Leading(_) => self.hand_over(now, Reason::Shutdown, actions),
            // Its outcome decides.
            _ => {}
        }
    }

    /// Steps down, if it leads, but keeps the lease until what has begun has ended.
    fn hand_over(&mut self, now: Monotonic, reason: Reason, actions: &mut Vec<Action>) {
        match mem::replace(&mut self.state, State::Stopped) {
            State::Leading(term) => {
                actions.push(Action::StepDown(reason));
                self.state = State::Draining { term, until: now.after(self.timing.drain) };
            }
            state => self.state = state,
        }
    }

    fn resign(&mut self, now: Monotonic, fence: Fence, actions: &mut Vec<Action>) {
        let call = self.number();
        let state = mem::replace(&mut self.state, State::Resigning(Pending { call, sent: now }));
        if let State::Draining { term, .. } = state {
            actions.extend(term.pending.iter().map(|pending| Action::Forget(pending.call)));
        }
        actions.push(Action::Resign(call, fence));
    }

    /// The lease is given up, as far as the store could be told.
    fn given_up(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.stopping {
            self.stop(actions);
            return;
        }
        self.aside = Some(now.after(self.timing.patience_with_successors()));
        self.state = State::Waiting { until: now };
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Stopped;
        actions.push(Action::Stop);
    }

    fn number(&mut self) -> Call {
        let call = Call(self.next_call);
        self.next_call += 1;
        call
    }
}

fn no_answer() -> String {
    "the store did not answer in time".to_owned()
}

/// From half of `wait` to all of it, so that coordinators do not act in step.
fn jittered(wait: Duration, dice: f64) -> Duration {
    wait.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
}

/// How often one who does not lead looks whether leadership is free, at the least often. A
/// resignation is noticed at once; this is for leases that expire without a sound, and bounds what
/// a crash costs on top of the TTL.
const POLL: Duration = Duration::from_millis(500);
/// Wait after the first campaign that failed.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait after campaigns that failed: a store that is back has a leader within moments.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
