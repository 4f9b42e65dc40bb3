//! Who is connected to this coordinator. In memory: it is so only as long as this process lives.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use chancery_proto::v1::SeenAgent;
use chancery_shared::{clock::SharedClock, name::AgentName, wire::to_timestamp};
use jiff::Timestamp;

/// The agents that this coordinator has seen since it started.
pub struct Presence {
    clock: SharedClock,
    agents: Mutex<HashMap<AgentName, Entry>>,
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

#[derive(Clone, Copy)]
struct Entry {
    seen: Seen,
    /// Whether it goes with its last stream.
    removed: bool,
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
        self.agents.lock().expect("no holder panics").get(agent).map(|entry| entry.seen)
    }

    /// Whether `agent` has a stream open.
    pub fn is_connected(&self, agent: &AgentName) -> bool {
        self.of(agent).is_some_and(|seen| seen.streams > 0)
    }

    /// All that have been seen here, as they go over the wire.
    pub(crate) fn to_wire(&self) -> Vec<SeenAgent> {
        let agents = self.agents.lock().expect("no holder panics");
        let wire = |(name, entry): (&AgentName, &Entry)| SeenAgent {
            agent: name.to_string(),
            streams: entry.seen.streams,
            connected_since: entry.seen.connected_since.map(to_timestamp),
            last_seen: Some(to_timestamp(entry.seen.last_seen)),
        };
        agents.iter().map(wire).collect()
    }

    /// Forgets an agent that was removed, at once or with the end of its last stream.
    pub fn forget(&self, agent: &AgentName) {
        let mut agents = self.agents.lock().expect("no holder panics");
        match agents.get_mut(agent) {
            Some(entry) if entry.seen.streams > 0 => entry.removed = true,
            _ => drop(agents.remove(agent)),
        }
    }

    fn disconnect(&self, agent: &AgentName) {
        let now = self.clock.now();
        let mut agents = self.agents.lock().expect("no holder panics");
        let Some(Entry { seen, removed }) = agents.get_mut(agent) else { return };
        seen.streams = seen.streams.saturating_sub(1);
        if seen.streams > 0 {
            return;
        }
        seen.connected_since = None;
        seen.last_seen = now;
        if *removed {
            agents.remove(agent);
        }
    }

    fn update(&self, agent: &AgentName, change: impl FnOnce(&mut Seen, Timestamp)) {
        let now = self.clock.now();
        let mut agents = self.agents.lock().expect("no holder panics");
        let seen = Seen { streams: 0, connected_since: None, last_seen: now };
        let entry = agents.entry(agent.clone()).or_insert(Entry { seen, removed: false });
        // Whoever is let in has been made an agent again.
        entry.removed = false;
        entry.seen.last_seen = now;
        change(&mut entry.seen, now);
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
        self.presence.disconnect(&self.agent);
    }
}

#[cfg(test)]
mod tests {
    use chancery_shared::clock::SystemClock;

    use super::*;

    #[test]
    fn a_removed_agent_is_forgotten_with_its_last_stream() {
        let presence = Presence::new(SystemClock::shared());
        let agent: AgentName = "web-1".parse().unwrap();
        let (one, two) = (presence.connect(&agent), presence.connect(&agent));
        presence.forget(&agent);
        drop(one);
        assert!(presence.is_connected(&agent));
        drop(two);
        assert_eq!(presence.of(&agent), None);
    }

    #[test]
    fn one_that_joins_again_is_kept() {
        let presence = Presence::new(SystemClock::shared());
        let agent: AgentName = "web-1".parse().unwrap();
        let former = presence.connect(&agent);
        presence.forget(&agent);
        let present = presence.connect(&agent);
        drop(former);
        assert!(presence.is_connected(&agent));
        drop(present);
        let seen = presence.of(&agent).unwrap();
        assert_eq!((seen.streams, seen.connected_since), (0, None));
    }
}
