//! Who is connected to this coordinator, and what the others have last said of theirs. In memory: it is so only
//! as long as the processes live, and nothing of it is worth a write to the store.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
};

use chancery_proto::v1::SeenAgent;
use chancery_shared::{
    clock::SharedClock,
    name::{AgentName, NodeName},
    wire::{from_timestamp, to_timestamp},
};
use jiff::Timestamp;

/// The agents that this coordinator has seen since it started.
pub struct Presence {
    clock: SharedClock,
    agents: Mutex<HashMap<AgentName, Entry>>,
    /// By the coordinator that has seen them.
    elsewhere: Mutex<BTreeMap<NodeName, HashMap<AgentName, Seen>>>,
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

impl Seen {
    /// Seen in two places.
    fn and(self, other: Self) -> Self {
        let since = self.connected_since.into_iter().chain(other.connected_since).min();
        Self {
            streams: self.streams.saturating_add(other.streams),
            connected_since: since,
            last_seen: self.last_seen.max(other.last_seen),
        }
    }
}

fn seen_of_wire(wire: &SeenAgent) -> Option<(AgentName, Seen)> {
    let seen = Seen {
        streams: wire.streams,
        connected_since: from_timestamp(wire.connected_since.as_ref()),
        last_seen: from_timestamp(wire.last_seen.as_ref())?,
    };
    Some((wire.agent.parse().ok()?, seen))
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
        Arc::new(Self { clock, agents: Mutex::default(), elsewhere: Mutex::default() })
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

    /// What is known of `agent`; `None` if no coordinator has seen it, as far as this one knows.
    pub fn of(&self, agent: &AgentName) -> Option<Seen> {
        let here = self.agents.lock().expect("no holder panics").get(agent).map(|entry| entry.seen);
        let elsewhere = self.elsewhere.lock().expect("no holder panics");
        let all = elsewhere.values().filter_map(|seen| seen.get(agent).copied());
        all.chain(here).reduce(Seen::and)
    }

    /// Takes in what the other coordinators say now; `None` from one that could not be asked, whose
    /// last word stands. Those that are not named are gone, and their agents are not connected there.
    pub fn learn(&self, others: BTreeMap<NodeName, Option<Vec<SeenAgent>>>) {
        let mut elsewhere = self.elsewhere.lock().expect("no holder panics");
        let gone = |node: &NodeName| others.get(node).is_none_or(Option::is_some);
        for (_, seen) in elsewhere.iter_mut().filter(|(node, _)| gone(node)) {
            for seen in seen.values_mut() {
                (seen.streams, seen.connected_since) = (0, None);
            }
        }
        for (node, agents) in others {
            let known = elsewhere.entry(node).or_default();
            known.extend(agents.unwrap_or_default().iter().filter_map(seen_of_wire));
        }
    }

    /// Whether `agent` has a stream open.
    pub fn is_connected(&self, agent: &AgentName) -> bool {
        self.of(agent).is_some_and(|seen| seen.streams > 0)
    }

    /// How many agents have a stream open to this very coordinator.
    pub fn connected_here(&self) -> usize {
        let agents = self.agents.lock().expect("no holder panics");
        agents.values().filter(|entry| entry.seen.streams > 0).count()
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
        for seen in self.elsewhere.lock().expect("no holder panics").values_mut() {
            seen.remove(agent);
        }
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

    #[test]
    fn those_of_other_coordinators_are_known_but_not_counted_here() {
        let presence = Presence::new(SystemClock::shared());
        let other = Presence::new(SystemClock::shared());
        let agent: AgentName = "web-1".parse().unwrap();
        let elsewhere = other.connect(&agent);
        presence.learn([("node-2".parse().unwrap(), Some(other.to_wire()))].into());
        assert!(presence.is_connected(&agent));
        assert_eq!((presence.connected_here(), other.connected_here()), (0, 1));
        drop(elsewhere);
        assert_eq!(other.connected_here(), 0);
    }
}
