//! What has happened, for people and for comparing two runs.

use std::{collections::VecDeque, time::Duration};

/// The lines of one run.
#[derive(Debug)]
pub struct Trace {
    last: VecDeque<(Duration, String)>,
    kept: usize,
    hash: u64,
    count: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { last: VecDeque::new(), kept: KEPT, hash: FNV_OFFSET, count: 0 }
    }
}

impl Trace {
    /// Keeps all lines from here on, not only the last ones.
    pub fn keep_all(&mut self) {
        self.kept = usize::MAX;
    }

    /// Adds a line. Nothing that is random for other reasons than the seed may stand in it.
    pub fn note(&mut self, at: Duration, line: String) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let bytes = millis.to_le_bytes();
        for byte in bytes.into_iter().chain(line.bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        self.count += 1;
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        self.last.push_back((at, line));
    }

    /// Stands for all lines and their times: two runs with one hash went the same way.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last lines that are not mere heartbeat, oldest first.
    pub fn last_of_interest(&self, most: usize) -> Vec<String> {
        let shown = self.last.iter().filter(|(_, line)| !is_heartbeat(line));
        let lines: Vec<String> =
            shown.map(|(at, line)| format!("{:>8.3} s  {line}", at.as_secs_f64())).collect();
        lines[lines.len().saturating_sub(most)..].to_vec()
    }
}

/// What happens all the time.
fn is_heartbeat(line: &str) -> bool {
    ["campaign: lost", "keep-alive: done", ": get ", " events/"].iter().any(|w| line.contains(w))
}

const KEPT: usize = 2000;
/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_lines_and_times_apart() {
        let hash = |at, line: &str| {
            let mut trace = Trace::default();
            trace.note(Duration::from_millis(at), line.to_owned());
            trace.hash()
        };
        assert_eq!(hash(1, "a"), hash(1, "a"));
        assert_ne!(hash(1, "a"), hash(2, "a"));
        assert_ne!(hash(1, "a"), hash(1, "b"));
    }

    #[test]
    fn heartbeats_are_not_shown() {
        let mut trace = Trace::default();
        for line in ["node-1: commit orders/a", "node-1: keep-alive: done", "node-2 crashes"] {
            trace.note(Duration::from_secs(1), line.to_owned());
        }
        let shown = trace.last_of_interest(10);
        assert_eq!(shown, ["   1.000 s  node-1: commit orders/a", "   1.000 s  node-2 crashes"]);
        assert_eq!(trace.last_of_interest(1).len(), 1);
    }
}
