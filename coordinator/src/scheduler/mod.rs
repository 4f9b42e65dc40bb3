//! What the leader does all day: it starts the orders that are due.
//!
//! Level-triggered: what is due follows from the mirror, never from a message that could
//! be lost. A nudge (the mirror says which certificates a commit touched) only makes the
//! scheduler look at those again; a lagging nudge makes it look at all. Between nudges it sleeps until the
//! first due time, so that a hundred thousand certificates of which none is due cost nothing.
//!
//! Each issuer has places of its own for orders under way. A CA that hangs fills its own and no
//! other's; what finds no place waits in line for one (see [`places`]).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chancery_shared::{
    clock::SharedClock,
    name::{CertName, IssuerName},
};
use jiff::Timestamp;
use tokio::{
    sync::broadcast::error::RecvError,
    task::{Id, JoinSet},
};

mod due;
mod places;

pub use due::DueIndex;
use places::Places;

use crate::{
    election::Leadership,
    mirror::{Mirror, Touched},
    order::Orders,
    plan,
};

/// Starts orders as they become due, for one term of leadership.
pub struct Scheduler {
    mirror: Arc<Mirror>,
    orders: Arc<Orders>,
    clock: SharedClock,
    leadership: Leadership,
    due: DueIndex,
    places: Places,
    running: JoinSet<()>,
    /// Which task makes the order of which certificate.
    tasks: HashMap<Id, CertName>,
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
            clock,
            leadership,
            due: DueIndex::default(),
            places: Places::new(concurrency),
            running: JoinSet::new(),
            tasks: HashMap::new(),
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
            self.start_due();
            let nap = self.nap();
            tokio::select! {
                () = &mut ended => break,
                nudge = touched.recv() => match nudge {
                    Ok(touched) => self.look_at_touched(&touched),
                    Err(RecvError::Lagged(_)) => self.look_at_all(),
                    Err(RecvError::Closed) => break,
                },
                Some(ended) = self.running.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    if let Err(error) = ended {
                        tracing::error!(%error, "an order's task died");
                    }
                    if let Some(name) = self.tasks.remove(&id) {
                        self.places.leave(&name);
                        self.look_at(&name, RECHECK);
                    }
                }
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// How long nothing will be due. Bounded, because wall clocks get set.
    fn nap(&self) -> Duration {
        let Some(due) = self.due.first_due() else { return LONGEST_NAP };
        let nap = Duration::try_from(self.clock.now().duration_until(due)).unwrap_or_default();
        nap.min(LONGEST_NAP)
    }

    fn start_due(&mut self) {
        loop {
            // Looked at anew, so that who was invited is due.
            let now = self.clock.now();
            while let Some(name) = self.due.pop_due(now) {
                let issuer = self.issuer(&name);
                if self.places.take(&name, issuer) {
                    self.start(name);
                }
            }
            let Some(next) = self.places.invite() else { return };
            self.look_at(&next, Duration::ZERO);
        }
    }

    fn start(&mut self, name: CertName) {
        let (orders, leadership) = (self.orders.clone(), self.leadership.clone());
        let task = self.running.spawn({
            let name = name.clone();
            async move { orders.run(&leadership, &name).await }
        });
        self.tasks.insert(task.id(), name);
    }

    /// Where the next order of a certificate is made; `None` if it names no issuer, which its order
    /// will tell.
    fn issuer(&self, name: &CertName) -> Option<IssuerName> {
        let view = self.mirror.read();
        if let Some(order) = view.orders.get(name) {
            return Some(order.record.issuer.clone());
        }
        let state = view.states.get(name).map(|state| &*state.record);
        plan::issuer_for(&view.certificates.get(name)?.record, state).cloned()
    }

    fn look_at_touched(&mut self, touched: &Touched) {
        if touched.everything {
            self.look_at_all();
            return;
        }
        for name in &touched.certificates {
            self.look_at(name, Duration::ZERO);
        }
    }

    fn look_at_all(&mut self) {
        let names: BTreeSet<CertName> = self.mirror.read().certificates.keys().cloned().collect();
        self.due = DueIndex::default();
        self.places.clear_lines();
        for name in &names {
            self.look_at(name, Duration::ZERO);
        }
    }

    /// Works out when `name` is due: from what the mirror shows, and not before `least` from now.
    fn look_at(&mut self, name: &CertName, least: Duration) {
        if self.places.has(name) {
            // Looked at again when its order is over.
            return;
        }
        self.places.leave_line(name);
        let now = self.clock.now();
        match self.due_time(name, now) {
            Some(due) => {
                let not_before = now.checked_add(least).unwrap_or(now);
                self.due.set(name.clone(), due.max(not_before));
            }
            None => self.due.remove(name),
        }
    }

    fn due_time(&self, name: &CertName, now: Timestamp) -> Option<Timestamp> {
        let view = self.mirror.read();
        let facts = plan::Facts {
            spec: &view.certificates.get(name)?.record,
            state: view.states.get(name).map(|state| &*state.record),
            order: view.orders.get(name).map(|order| &*order.record),
        };
        Some(plan::decide(&facts, now).due)
    }
}

/// The wall clock may be set while we sleep; a look at the first entry costs nothing.
const LONGEST_NAP: Duration = Duration::from_mins(1);
/// After an order is over; keeps a defect from becoming a busy loop.
const RECHECK: Duration = Duration::from_millis(100);
