//! Which coordinator to try next.
//!
//! The list in the configuration is where it begins; after that the coordinators themselves say who
//! is there, and that is kept on disk, so that an agent finds a fleet whose coordinators have all been
//! replaced one by one. Each round tries every one once, in random order, so that the agents of a coordinator
//! that died spread over the others. Those that were there once, but were not named the last time, come last.

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use chancery_shared::{dice, durable};

use crate::text;

/// The coordinators that are known.
#[derive(Debug)]
pub(crate) struct Candidates {
    configured: Vec<String>,
    /// Those that a coordinator has named the last time.
    present: Vec<String>,
    /// Those that were named before, the latest first.
    former: Vec<String>,
    file: PathBuf,
    /// What is left of the present round.
    round: VecDeque<String>,
    /// The one that was tried last.
    last: Option<String>,
}

impl Candidates {
    /// The configured ones, and those that the file in `state_dir` names.
    pub(crate) fn load(configured: &[String], state_dir: &Path) -> Self {
        let file = state_dir.join("coordinators");
        let (present, former) = match durable::read_file(&file) {
            Ok(text) => parse(&text.unwrap_or_default()),
            Err(error) => {
                tracing::warn!(
                    "going on with the configured coordinators only: {}",
                    text::durable(&error)
                );
                Default::default()
            }
        };
        let configured = configured.to_vec();
        Self { configured, present, former, file, round: VecDeque::new(), last: None }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.first_choice().len() + self.second_choice().len()
    }

    /// The next one to try.
    pub(crate) fn next(&mut self) -> String {
        if self.round.is_empty() {
            let (mut first, mut second) = (self.first_choice(), self.second_choice());
            shuffle(&mut first);
            shuffle(&mut second);
            first.append(&mut second);
            // Another one than the one that has just failed.
            if let Some(place) = first.iter().position(|one| Some(one) == self.last.as_ref()) {
                let last = first.remove(place);
                first.push(last);
            }
            self.round = first.into();
        }
        let next = self.round.pop_front().expect("the configuration names one at least");
        self.last = Some(next.clone());
        next
    }

    /// Begins a new round: the present coordinator was good.
    pub(crate) fn worked(&mut self) {
        self.round.clear();
    }

    /// Takes in the list that a coordinator has told.
    pub(crate) fn told(&mut self, addresses: Vec<String>) {
        let mut seen = BTreeSet::new();
        let mut named: Vec<_> = addresses
            .into_iter()
            .filter(|address| is_address(address) && seen.insert(address.clone()))
            .take(MOST)
            .collect();
        named.sort();
        if named.is_empty() || named == self.present {
            return;
        }
        let before = std::mem::replace(&mut self.present, named);
        let mut former: Vec<String> = Vec::new();
        for address in before.into_iter().chain(std::mem::take(&mut self.former)) {
            if !self.present.contains(&address) && !former.contains(&address) {
                former.push(address);
            }
        }
        former.truncate(MOST_FORMER);
        self.former = former;
        self.round.clear();
        tracing::debug!(coordinators = ?self.present, "the coordinators are known");
        if let Err(error) = durable::write_file(&self.file, self.text().as_bytes(), 0o600) {
            tracing::warn!("cannot remember the coordinators: {}", text::durable(&error));
        }
    }

    fn first_choice(&self) -> Vec<String> {
        let told = self.present.iter().filter(|one| !self.configured.contains(*one));
        self.configured.iter().chain(told).cloned().collect()
    }

    fn second_choice(&self) -> Vec<String> {
        let former = self.former.iter();
        former.filter(|one| !self.configured.contains(*one)).cloned().collect()
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (word, addresses) in [(PRESENT, &self.present), (FORMER, &self.former)] {
            for address in addresses {
                text.push_str(word);
                text.push_str(address);
                text.push('\n');
            }
        }
        text
    }
}

/// What the file says; nothing of what it does not say well.
fn parse(text: &[u8]) -> (Vec<String>, Vec<String>) {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Default::default();
    }
    let with = |word: &str, most| -> Vec<String> {
        let addresses = text.lines().filter_map(|line| line.strip_prefix(word));
        addresses.filter(|address| is_address(address)).take(most).map(str::to_owned).collect()
    };
    (with(PRESENT, MOST), with(FORMER, MOST_FORMER))
}

/// Whether this looks like `host:port`. Whether it is a coordinator is for TLS to say.
fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    text.len() <= LONGEST
        && text.chars().all(|c| c.is_ascii_graphic())
        && port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn shuffle(list: &mut [String]) {
    for place in (1..list.len()).rev() {
        list.swap(place, dice::pick(place + 1));
    }
}

/// First line of version 1 of the file.
const HEADER: &str = "chancery-coordinators-1";
const PRESENT: &str = "present ";
const FORMER: &str = "former ";
const MOST: usize = 32;
const MOST_FORMER: usize = 16;
const LONGEST: usize = 300;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn round(candidates: &mut Candidates) -> Vec<String> {
        (0..candidates.count()).map(|_| candidates.next()).collect()
    }

    #[test]
    fn what_was_told_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let configured = strings(&["a:1"]);
        let mut candidates = Candidates::load(&configured, dir.path());
        candidates.told(strings(&["c:1", "b:1", "b:1"]));
        candidates.told(strings(&["d:1", "b:1"]));
        // Nothing is not news, nor is rubbish.
        candidates.told(Vec::new());
        candidates.told(strings(&["rubbish", ":1", "x:0", "a b:1"]));
        let mut again = Candidates::load(&configured, dir.path());
        assert_eq!(
            (again.present.clone(), again.former.clone()),
            (candidates.present, candidates.former)
        );
        let mut first: Vec<_> = round(&mut again);
        assert_eq!(first.pop().as_deref(), Some("c:1"), "who was not named again comes last");
        first.sort();
        assert_eq!(first, ["a:1", "b:1", "d:1"]);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["", "chancery-coordinators-2\npresent b:1\n", "\u{0}\n", "present b:1"] {
            std::fs::write(dir.path().join("coordinators"), damaged).unwrap();
            let candidates = Candidates::load(&strings(&["a:1"]), dir.path());
            assert_eq!(candidates.count(), 1, "{damaged:?}");
        }
    }

    #[test]
    fn each_is_tried_once_a_round_and_the_last_one_not_at_once_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut candidates = Candidates::load(&strings(&["a:1", "b:1", "c:1"]), dir.path());
        for _ in 0..20 {
            let last = candidates.last.clone();
            let mut tried = round(&mut candidates);
            assert_ne!(tried.first(), last.as_ref());
            tried.sort();
            assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        }
    }

    #[test]
    fn agents_of_a_dead_coordinator_spread_over_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let configured = strings(&["a:1", "b:1", "c:1"]);
        let mut landed: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..200 {
            let mut candidates = Candidates::load(&configured, dir.path());
            candidates.last = Some("a:1".to_owned());
            *landed.entry(candidates.next()).or_default() += 1;
        }
        assert!(!landed.contains_key("a:1"));
        // Out of 200 coins, fewer than 60 heads come once in a hundred million tries.
        assert!(landed.values().all(|count| *count >= 60), "{landed:?}");
    }
}
