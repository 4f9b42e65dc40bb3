//! What the leader does all day: it starts the orders that are due.
//!
//! Level-triggered: what is due follows from the mirror, never from a message that could
//! be lost. A nudge (the mirror says which certificates a commit touched) only makes the
//! scheduler look at those again; a lagging nudge makes it look at all. Between nudges it sleeps until the
//! first due time, so that a hundred thousand certificates of which none is due cost nothing.
//!
//! Each issuer has places of its own for orders under way. A CA that hangs fills its own and no
//! other's; what finds no place stands in line for one (see [`places`]). Places are for orders that have
//! something to do: one that waits before it repeats a step is held outside, and its place
//! goes to another.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chancery_shared::{
    clock::{Monotonic, SharedClock},
    name::{CertName, IssuerName},
};
use jiff::Timestamp;
use tokio::{
    sync::broadcast::error::RecvError,
    task::{Id, JoinError, JoinSet},
};

mod due;
mod places;

pub use due::DueIndex;
use places::Places;

use crate::{
    election::Leadership,
    mirror::{Mirror, Touched},
    order::{Orders, Outcome, Tries},
    plan::{self, Turn},
};

/// Starts orders as they become due, for one term of leadership.
pub struct Scheduler {
    mirror: Arc<Mirror>,
    orders: Arc<Orders>,
    clock: SharedClock,
    leadership: Leadership,
    due: DueIndex,
    places: Places,
    running: JoinSet<Outcome>,
    /// Which task makes the order of which certificate.
    tasks: HashMap<Id, CertName>,
    /// Orders that wait before they are gone on with. They take no place.
    held: HashMap<CertName, Held>,
    /// The wall clock at the last look.
    looked_at: Timestamp,
}

/// An order that waits.
struct Held {
    until: Monotonic,
    tries: Tries,
}

impl Scheduler {
    /// A scheduler for one term, with at most `concurrency` orders at once at each issuer.
    pub fn new(
        mirror: Arc<Mirror>,
        orders: Arc<Orders>,
        clock: SharedClock,
        leadership: Leadership,
        concurrency: usize,
    ) -> Self {
        Self {
            mirror,
            orders,
            looked_at: clock.now(),
            clock,
            leadership,
            due: DueIndex::default(),
            places: Places::new(concurrency),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// Runs until the term ends. Orders under way are dropped where they are: the journal
    /// stands for the successor.
    pub async fn run(mut self) {
        let mut touched = self.mirror.touched();
        self.look_at_all();
        let leadership = self.leadership.clone();
        let ended = leadership.ended();
        tokio::pin!(ended);
        loop {
            self.mind_the_clock();
            self.start_due();
            let nap = self.nap();
            tokio::select! {
                // Each turn of the loop starts what is due, so nothing here can starve that.
                biased;
                () = &mut ended => break,
                nudge = touched.recv() => match nudge {
                    Ok(touched) => self.look_at_touched(&touched),
                    Err(RecvError::Lagged(_)) => self.look_at_all(),
                    Err(RecvError::Closed) => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.order_ended(ended),
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    fn order_ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                tracing::error!(%error, "an order's task died");
                let outcome = Outcome::Again { wait: AFTER_PANIC, tries: Tries::default() };
                (error.id(), outcome)
            }
        };
        let Some(name) = self.tasks.remove(&id) else { return };
        self.places.leave(&name);
        let (wait, tries) = match outcome {
            Outcome::Over => (RECHECK, Tries::default()),
            Outcome::Again { wait, tries } => (wait, tries),
        };
        let until = self.clock.monotonic().after(wait);
        self.held.insert(name.clone(), Held { until, tries });
        self.look_at(&name);
    }

    /// Due times are wall times. After the clock was set back, what waits for a little while
    /// would wait for long.
    fn mind_the_clock(&mut self) {
        let now = self.clock.now();
        let back = now.duration_until(self.looked_at);
        self.looked_at = now;
        if Duration::try_from(back).is_ok_and(|back| back > SET_BACK) {
            tracing::warn!("the wall clock was set back; looking at everything again");
            self.look_at_all();
        }
    }

    /// How long nothing will be due. Bounded, because wall clocks get set.
    fn nap(&self) -> Duration {
        let Some(due) = self.due.first_due() else { return LONGEST_NAP };
        let nap = Duration::try_from(self.clock.now().duration_until(due)).unwrap_or_default();
        nap.min(LONGEST_NAP)
    }

    fn start_due(&mut self) {
        let began = self.clock.monotonic();
        self.start_what_is_due();
        self.orders.metrics().passed(self.clock.monotonic().since(began));
    }

    fn start_what_is_due(&mut self) {
        loop {
            // Looked at anew, so that who was invited is due.
            let now = self.clock.now();
            while let Some(name) = self.due.pop_due(now) {
                let (issuer, urgent) = (self.issuer(&name), self.is_urgent(&name, now));
                if self.places.take(&name, issuer, urgent) {
                    self.start(name);
                }
            }
            let Some(next) = self.places.invite() else { return };
            self.look_at(&next);
        }
    }

    fn start(&mut self, name: CertName) {
        let tries = self.held.remove(&name).map(|held| held.tries).unwrap_or_default();
        let (orders, leadership) = (self.orders.clone(), self.leadership.clone());
        let task = self.running.spawn({
            let name = name.clone();
            async move { orders.run(&leadership, &name, tries).await }
        });
        self.tasks.insert(task.id(), name);
    }

    fn is_urgent(&self, name: &CertName, now: Timestamp) -> bool {
        let view = self.mirror.read();
        let state = view.states.get(name).map(|state| &*state.record);
        let info = view.renewal_infos.get(name).map(|info| &*info.record);
        plan::is_urgent(state, info, now)
    }

    /// Where the next order of a certificate is made; `None` if it names no issuer, which its order
    /// will tell.
    fn issuer(&self, name: &CertName) -> Option<IssuerName> {
        let view = self.mirror.read();
        let now = self.clock.now();
        let issuer = view.decide(name, |facts| match (plan::turn(facts, now).0, facts.order) {
            // No CA is asked.
            (Turn::Switch, _) => None,
            (_, Some(order)) => Some(order.issuer.clone()),
            (Turn::Standby, None) => plan::standby::issuer_for(facts.spec, facts.state).cloned(),
            (Turn::Order, None) => plan::issuer_for(facts.spec, facts.state).cloned(),
        });
        issuer.flatten()
    }

    fn look_at_touched(&mut self, touched: &Touched) {
        if touched.everything || touched.freezes {
            self.look_at_all();
            return;
        }
        if touched.issuers {
            self.release_held_back();
        }
        for name in &touched.certificates {
            // It may have become urgent, or another issuer's.
            let is_held_back = self.held.get(name).is_some_and(|held| held.tries.are_held_back());
            if is_held_back || self.is_to_switch(name) {
                self.held.remove(name);
            }
            self.look_at(name);
        }
    }

    /// Lets those ask again who wait for a CA's limits, because those may have been changed.
    fn release_held_back(&mut self) {
        let (waiting, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(_, held)| held.tries.are_held_back());
        self.held = held;
        let waiting: HashMap<CertName, Held> = waiting;
        for name in waiting.keys() {
            self.look_at(name);
        }
    }

    fn look_at_all(&mut self) {
        let began = self.clock.monotonic();
        let names: Vec<CertName> = self.mirror.read().certificates.keys().cloned().collect();
        self.due = DueIndex::default();
        self.places.clear_lines();
        for name in &names {
            self.look_at(name);
        }
        self.orders.metrics().surveyed(self.clock.monotonic().since(began));
    }

    /// Works out when `name` is due: from what the mirror shows, and not before its wait is over.
    fn look_at(&mut self, name: &CertName) {
        if self.places.has(name) {
            // Looked at again when its order is over.
            return;
        }
        self.places.leave_line(name);
        let now = self.clock.now();
        let Some(due) = self.due_time(name, now) else {
            self.due.remove(name);
            self.held.remove(name);
            return;
        };
        let wait = self.held.get(name).map(|held| held.until.since(self.clock.monotonic()));
        let not_before = now.checked_add(wait.unwrap_or_default()).unwrap_or(now);
        if due > not_before {
            // Whatever it waited for is over.
            self.held.remove(name);
        }
        self.due.set(name.clone(), due.max(not_before));
    }

    fn due_time(&self, name: &CertName, now: Timestamp) -> Option<Timestamp> {
        let view = self.mirror.read();
        view.decide(name, |facts| plan::turn(facts, now).1.due)
    }

    /// Whether the standby is to take over now: that waits for nothing that an order waits for.
    fn is_to_switch(&self, name: &CertName) -> bool {
        let view = self.mirror.read();
        let now = self.clock.now();
        let turn = view.decide(name, |facts| plan::turn(facts, now));
        turn.is_some_and(|(turn, decision)| turn == Turn::Switch && decision.is_due(now))
    }
}

/// The wall clock may be set while we sleep; a look at the first entry costs nothing.
const LONGEST_NAP: Duration = Duration::from_mins(1);
/// After an order is over; keeps a defect from becoming a busy loop.
const RECHECK: Duration = Duration::from_millis(100);
/// After an order's task has died of a defect, which is likely to be there still.
const AFTER_PANIC: Duration = Duration::from_secs(30);
/// How far back the clock may be set without a look at everything.
const SET_BACK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
