//! Refusals, written down so that neither an attack nor a misconfigured fleet fills the store.
//!
//! All are counted and logged. Of those with the same subject and reason, one in ten minutes becomes
//! an event, and of all together not more than [`MOST`]; the first event afterwards says how
//! many were left out.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use chancery_shared::clock::{Monotonic, SharedClock};

use crate::{
    events::Events,
    metrics::{Metrics, Refusal},
    record::EventKind,
};

pub(super) struct Refusals {
    events: Events,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    /// `None` before the first refusal.
    ends: Option<Monotonic>,
    written: HashSet<(String, Refusal)>,
    left_out: u64,
}

impl Refusals {
    pub(super) fn new(events: Events, metrics: Arc<Metrics>, clock: SharedClock) -> Self {
        Self { events, metrics, clock, window: Mutex::default() }
    }

    /// Notes that somebody was refused. `subject` is the agent's name where the internal CA or a
    /// token vouches for it, otherwise the address.
    pub(super) fn refuse(
        &self,
        reason: Refusal,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.metrics.refused(reason);
        let (subject, message) = (subject.into(), message.into());
        let Some(left_out) = self.admit(reason, &subject) else {
            tracing::debug!(%subject, "{message}");
            return;
        };
        let message = match left_out {
            0 => message,
            more => format!("{message} ({more} more refusals before this were not written down)"),
        };
        self.events.record(EventKind::AgentRefused, subject, message);
    }

    /// Whether to write an event, and how many were left out since the last.
    fn admit(&self, reason: Refusal, subject: &str) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut window = self.window.lock().expect("no holder panics");
        if window.ends.is_none_or(|ends| ends <= now) {
            window.ends = Some(now.after(WINDOW));
            window.written.clear();
        }
        if window.written.len() >= MOST || !window.written.insert((subject.to_owned(), reason)) {
            window.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut window.left_out))
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

/// Events of refusals in one window.
const MOST: usize = 20;
const WINDOW: Duration = Duration::from_mins(10);
