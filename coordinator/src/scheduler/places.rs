//! Places for orders under way: so many for each issuer, and a line in front of those that are
//! taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chancery_shared::name::{CertName, IssuerName};

/// Who has a place, and who waits for one.
#[derive(Debug)]
pub(super) struct Places {
    each: usize,
    taken: HashMap<CertName, Option<IssuerName>>,
    issuers: BTreeMap<Option<IssuerName>, Issuer>,
    /// Where those stand who wait.
    waiting: HashMap<CertName, (Option<IssuerName>, Place)>,
    /// Counts those who ever waited, so that the first to come is the first to be served.
    arrivals: u64,
}

#[derive(Debug, Default)]
struct Issuer {
    taken: usize,
    line: BTreeSet<(Place, CertName)>,
}

/// A place in a line: what can wait stands behind what cannot.
type Place = (CanWait, u64);
type CanWait = bool;

impl Places {
    /// `each` places for each issuer.
    pub(super) fn new(each: usize) -> Self {
        Self {
            each,
            taken: HashMap::new(),
            issuers: BTreeMap::new(),
            waiting: HashMap::new(),
            arrivals: 0,
        }
    }

    /// Whether `name` has a place.
    pub(super) fn has(&self, name: &CertName) -> bool {
        self.taken.contains_key(name)
    }

    /// Gives `name` a place, or puts it at the end of the line, or of the part of it that is urgent.
    /// Returns whether it has one.
    pub(super) fn take(
        &mut self,
        name: &CertName,
        issuer: Option<IssuerName>,
        urgent: bool,
    ) -> bool {
        self.leave_line(name);
        let places = self.issuers.entry(issuer.clone()).or_default();
        if places.taken < self.each {
            places.taken += 1;
            self.taken.insert(name.clone(), issuer);
            return true;
        }
        self.arrivals += 1;
        let place = (!urgent, self.arrivals);
        places.line.insert((place, name.clone()));
        self.waiting.insert(name.clone(), (issuer, place));
        false
    }

    /// Gives the place of `name` up.
    pub(super) fn leave(&mut self, name: &CertName) {
        let Some(issuer) = self.taken.remove(name) else { return };
        if let Some(places) = self.issuers.get_mut(&issuer) {
            places.taken -= 1;
        }
        self.forget_idle();
    }

    /// Takes `name` out of the line, if it stands in one.
    pub(super) fn leave_line(&mut self, name: &CertName) {
        let Some((issuer, place)) = self.waiting.remove(name) else { return };
        if let Some(places) = self.issuers.get_mut(&issuer) {
            places.line.remove(&(place, name.clone()));
        }
        self.forget_idle();
    }

    /// Takes somebody out of the line for whom there is a place now, and who has to take it.
    pub(super) fn invite(&mut self) -> Option<CertName> {
        let mut issuers = self.issuers.values_mut().filter(|places| places.taken < self.each);
        let (_, name) = issuers.find_map(|places| places.line.pop_first())?;
        self.waiting.remove(&name);
        Some(name)
    }

    /// Sends all who wait away; who has a place keeps it.
    pub(super) fn clear_lines(&mut self) {
        self.waiting.clear();
        self.issuers.values_mut().for_each(|places| places.line.clear());
        self.forget_idle();
    }

    fn forget_idle(&mut self) {
        self.issuers.retain(|_, places| places.taken > 0 || !places.line.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CertName {
        text.parse().unwrap()
    }

    fn take(places: &mut Places, certificate: &str, issuer: &str) -> bool {
        places.take(&name(certificate), Some(issuer.parse().unwrap()), false)
    }

    #[test]
    fn what_is_urgent_goes_before_all_that_can_wait() {
        let mut places = Places::new(1);
        assert!(take(&mut places, "a", "ca"));
        assert!(!take(&mut places, "b", "ca"));
        assert!(!take(&mut places, "c", "ca"));
        for urgent in ["d", "c"] {
            assert!(!places.take(&name(urgent), Some("ca".parse().unwrap()), true));
        }
        for next in ["d", "c", "b"] {
            places.leave(&name("a"));
            assert_eq!(places.invite(), Some(name(next)));
            assert!(take(&mut places, "a", "ca"));
        }
    }

    #[test]
    fn a_full_issuer_leaves_the_others_alone() {
        let mut places = Places::new(2);
        assert!(take(&mut places, "a", "slow"));
        assert!(take(&mut places, "b", "slow"));
        assert!(!take(&mut places, "c", "slow"));
        assert!(take(&mut places, "d", "fast"));
        assert!(places.take(&name("e"), None, false));
        assert!(places.has(&name("a")) && !places.has(&name("c")));
        assert_eq!(places.invite(), None);
    }

    #[test]
    fn who_came_first_is_served_first() {
        let mut places = Places::new(1);
        assert!(take(&mut places, "a", "ca"));
        for waiting in ["d", "c", "b"] {
            assert!(!take(&mut places, waiting, "ca"));
        }
        places.leave_line(&name("d"));
        assert_eq!(places.invite(), None);
        places.leave(&name("a"));
        assert_eq!(places.invite(), Some(name("c")));
        assert!(take(&mut places, "c", "ca"));
        assert_eq!(places.invite(), None);
        places.leave(&name("c"));
        // One who was invited and does not come keeps nobody from coming.
        assert_eq!(places.invite(), Some(name("b")));
        assert_eq!(places.invite(), None);
        assert!(places.waiting.is_empty());
    }

    #[test]
    fn a_line_that_was_sent_away_is_empty() {
        let mut places = Places::new(1);
        assert!(take(&mut places, "a", "ca"));
        assert!(!take(&mut places, "b", "ca"));
        places.clear_lines();
        assert!(places.has(&name("a")));
        places.leave(&name("a"));
        assert_eq!(places.invite(), None);
        assert!(places.issuers.is_empty());
        assert!(take(&mut places, "b", "ca"));
    }
}
