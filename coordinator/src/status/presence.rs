//! Who is connected to this coordinator. In memory: it is so only as long as this process lives.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use chancery_shared::{clock::SharedClock, name::AgentName};
use jiff::Timestamp;

/// The agents that this coordinator has seen since it started.
pub struct Presence {
    clock: SharedClock,
    agents: Mutex<HashMap<AgentName, Seen>>,
}

/// What is known of an agent's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Open streams.
    pub streams: u32,
    /// Since when there has been one, while there is one.
    pub connected_since: Option<Timestamp>,
    /// When it was last heard.
    pub last_seen: Timestamp,
}

impl Presence {
    /// Nobody yet.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { clock, agents: Mutex::default() })
    }

    /// Counts a stream of `agent` until the result is dropped.
    pub fn connect(self: &Arc<Self>, agent: &AgentName) -> Connected {
        self.update(agent, |seen, now| {
            seen.streams += 1;
            seen.connected_since.get_or_insert(now);
        });
        Connected { presence: self.clone(), agent: agent.clone() }
    }

    /// Notes that `agent` was heard just now.
    pub fn heard(&self, agent: &AgentName) {
        self.update(agent, |_, _| {});
    }

    /// What is known of `agent`; `None` if it was not seen since this process started.
    pub fn of(&self, agent: &AgentName) -> Option<Seen> {
        self.agents.lock().expect("no holder panics").get(agent).copied()
    }

    /// Whether `agent` has a stream open.
    pub fn is_connected(&self, agent: &AgentName) -> bool {
        self.of(agent).is_some_and(|seen| seen.streams > 0)
    }

    /// Forgets an agent that was removed, unless it still has a stream, whose end forgets it.
    pub fn forget(&self, agent: &AgentName) {
        let mut agents = self.agents.lock().expect("no holder panics");
        if agents.get(agent).is_some_and(|seen| seen.streams == 0) {
            agents.remove(agent);
        }
    }

    fn update(&self, agent: &AgentName, change: impl FnOnce(&mut Seen, Timestamp)) {
        let now = self.clock.now();
        let mut agents = self.agents.lock().expect("no holder panics");
        let new = Seen { streams: 0, connected_since: None, last_seen: now };
        let seen = agents.entry(agent.clone()).or_insert(new);
        seen.last_seen = now;
        change(seen, now);
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presence")
    }
}

/// A stream that is open.
#[derive(Debug)]
pub struct Connected {
    presence: Arc<Presence>,
    agent: AgentName,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.presence.update(&self.agent, |seen, _| {
            seen.streams = seen.streams.saturating_sub(1);
            if seen.streams == 0 {
                seen.connected_since = None;
            }
        });
    }
}
