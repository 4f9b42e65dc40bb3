//! What must not have happened, found in the history of the store and at the CA. Pure: a history in,
//! violations out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::history::{Change, Commit};

/// A term of leadership, as the store tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Its number.
    pub epoch: u64,
    /// Who led.
    pub node: String,
    /// The commit that began it.
    pub since: u64,
}

/// The terms in the order in which they began.
pub fn terms(history: &[Commit]) -> Vec<Term> {
    let mut terms: Vec<Term> = Vec::new();
    for (revision, change) in changes(history) {
        let Some(record) = change.record.as_ref().filter(|_| change.key == LEADER) else {
            continue;
        };
        let epoch = record["epoch"].as_u64().unwrap_or_default();
        if terms.last().is_some_and(|last| last.epoch == epoch) {
            continue;
        }
        let node = record["node"].as_str().unwrap_or_default().to_owned();
        terms.push(Term { epoch, node, since: revision });
    }
    terms
}

/// Invariant 1: epochs only grow, and between two beginnings of a term no write of a leader is
/// another's than the holder's.
pub fn no_epochs_interleave(history: &[Commit]) -> Vec<String> {
    let mut found = Vec::new();
    for pair in terms(history).windows(2) {
        if pair[1].epoch <= pair[0].epoch {
            found.push(format!("epoch {} was followed by {}", pair[0].epoch, pair[1].epoch));
        }
    }
    let mut holder = None;
    // Who wrote the live order of a certificate last.
    let mut writers: BTreeMap<String, u64> = BTreeMap::new();
    for commit in history {
        let revision = commit.revision;
        // A commit that begins a term may write more than the leader record.
        for change in commit.changes.iter().filter(|change| change.key == LEADER) {
            holder = change.record.as_ref().and_then(|record| record["epoch"].as_u64());
        }
        for change in &commit.changes {
            if let Some(name) = change.under(BUNDLES).filter(|_| change.record.is_some()) {
                let certificate = name.split('/').next().unwrap_or_default();
                let writer = writers.get(certificate).copied();
                if writer.is_none() || writer != holder {
                    found.push(format!(
                        "{revision}: bundle {name} was stored in epoch {holder:?}, out of an \
                         order that epoch {writer:?} had written last"
                    ));
                }
            }
        }
        for change in &commit.changes {
            let Some(certificate) = change.under(ORDERS) else { continue };
            if let Some(order) = &change.record {
                let epoch = order["epoch"].as_u64();
                if epoch.is_none() || epoch != holder {
                    found.push(format!(
                        "{revision}: the order of {certificate} was written by epoch {epoch:?} \
                         in the term of {holder:?}"
                    ));
                }
                writers.insert(certificate.to_owned(), epoch.unwrap_or_default());
            } else {
                writers.remove(certificate);
            }
        }
    }
    found
}

/// An order, from its intent to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its identifier.
    pub id: String,
    /// The certificate.
    pub certificate: String,
    /// The generation that it was to become.
    pub generation: u64,
    /// The URLs that the CA's order had. One at most, or something is wrong.
    pub urls: BTreeSet<String>,
    /// Whether a bundle came of it.
    pub issued: bool,
    /// Whether it is still in the journal.
    pub live: bool,
}

/// Invariant 2: every order has an intent, an intent has one order and one bundle, and no
/// generation is there twice. Returns the intents as well.
pub fn orders(history: &[Commit]) -> (Vec<Intent>, Vec<String>) {
    let mut intents: Vec<Intent> = Vec::new();
    let mut live: BTreeMap<String, usize> = BTreeMap::new();
    let mut generations: BTreeMap<String, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for commit in history {
        let revision = commit.revision;
        for change in &commit.changes {
            let bundle = change.under(BUNDLES).filter(|_| change.record.is_some());
            let Some((certificate, generation)) = bundle.and_then(|name| name.split_once('/'))
            else {
                continue;
            };
            let generation = generation.parse().unwrap_or_default();
            let newest = generations.entry(certificate.to_owned()).or_default();
            if generation <= *newest {
                found.push(format!("{revision}: {certificate} {generation} after {newest}"));
            }
            *newest = generation;
            let intent = live.get(certificate).map(|at| &mut intents[*at]);
            match intent.filter(|intent| intent.generation == generation && !intent.issued) {
                Some(intent) => intent.issued = true,
                None => found.push(format!("{revision}: {certificate} {generation} has no order")),
            }
        }
        for change in &commit.changes {
            let Some(certificate) = change.under(ORDERS) else { continue };
            let Some(order) = &change.record else {
                live.remove(certificate);
                continue;
            };
            let id = text(&order["id"]);
            let at = match live.get(certificate) {
                Some(at) if intents[*at].id == id => *at,
                other => {
                    if let Some(at) = other {
                        found.push(format!(
                            "{revision}: order {id} of {certificate} took the place of {}",
                            intents[*at].id
                        ));
                    }
                    intents.push(Intent {
                        id,
                        certificate: certificate.to_owned(),
                        generation: order["generation"].as_u64().unwrap_or_default(),
                        urls: BTreeSet::new(),
                        issued: false,
                        live: true,
                    });
                    live.insert(certificate.to_owned(), intents.len() - 1);
                    intents.len() - 1
                }
            };
            if let Some(url) = order["stage"]["url"].as_str() {
                intents[at].urls.insert(url.to_owned());
            }
        }
    }
    for (at, intent) in intents.iter_mut().enumerate() {
        intent.live = live.get(&intent.certificate) == Some(&at);
        if intent.urls.len() > 1 {
            found.push(format!(
                "order {} of {} has {:?}",
                intent.id, intent.certificate, intent.urls
            ));
        }
    }
    (intents, found)
}

/// An order that the CA made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtCa {
    /// Its URL.
    pub url: String,
    /// When the CA was asked for it.
    pub at: Instant,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Whether it was finalized: the CA issued a certificate.
    pub finalized: bool,
}

/// A time in which something was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What.
    pub what: String,
    /// Since when.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
    /// Whether it was a wall clock that was wrong, and nothing else.
    pub clock: bool,
}

/// The CA's orders beside the intended ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Orders that the CA made.
    pub at_ca: usize,
    /// Intents in the journal that came to have an order.
    pub intended: usize,
    /// Bundles that came of them.
    pub issued: usize,
    /// Orders of the CA that no intent knows, and what explains each.
    pub orphans: Vec<String>,
    /// Orders that the CA finalized and that no bundle came of, and what explains each.
    pub forsaken: Vec<String>,
}

/// Compares the CA's orders with the journal: the CA has as many as were intended, but for orphans
/// (newOrder was sent, and its answer was lost), each of which a fault at that time has to explain.
/// An order has a deadline by the wall clock: a clock that was wrong explains that one was given up.
pub fn accounts(intents: &[Intent], at_ca: &[AtCa], windows: &[Window]) -> (Accounts, Vec<String>) {
    let mut accounts = Accounts { at_ca: at_ca.len(), ..Accounts::default() };
    let mut found = Vec::new();
    let mut owners: BTreeMap<&str, &Intent> = BTreeMap::new();
    for intent in intents {
        accounts.intended += usize::from(!intent.urls.is_empty());
        accounts.issued += usize::from(intent.issued);
        for url in &intent.urls {
            if let Some(other) = owners.insert(url, intent) {
                found.push(format!("{url} belongs to orders {} and {}", other.id, intent.id));
            }
        }
    }
    // The last fault that may have to do with what came to the CA from then until then.
    let explain = |clock: bool, from: Instant, to: Instant| {
        let reaches = |window: &Window| window.from <= to && from <= window.to + LATE;
        windows.iter().rfind(|window| window.clock == clock && reaches(window))
    };
    for order in at_ca {
        let (list, what, explained) = match owners.remove(order.url.as_str()) {
            None => {
                let explained = explain(false, order.at, order.at + UNDER_WAY);
                (&mut accounts.orphans, "nobody knows", explained)
            }
            Some(intent) if order.finalized && !intent.issued && !intent.live => {
                let explained = explain(true, order.at, order.at + LIFE);
                (&mut accounts.forsaken, "was finalized for nothing:", explained)
            }
            Some(_) => continue,
        };
        let names = order.names.join(", ");
        match explained {
            Some(window) => list.push(format!("{} ({names}): {}", order.url, window.what)),
            None => found.push(format!("{what} {} ({names}), and no fault explains it", order.url)),
        }
    }
    for (url, intent) in owners {
        found.push(format!("the CA does not have {url} of order {}", intent.id));
    }
    (accounts, found)
}

fn changes(history: &[Commit]) -> impl Iterator<Item = (u64, &Change)> {
    history
        .iter()
        .flat_map(|commit| commit.changes.iter().map(move |change| (commit.revision, change)))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

const LEADER: &str = "leader";
const ORDERS: &str = "orders/";
const BUNDLES: &str = "bundles/";
/// What a fault has begun may come to the CA a while after its end: a request that waited in a
/// process that was paused, or was sent again on a connection that was cut.
const LATE: Duration = Duration::from_secs(5);
/// How long an order may be under way at the CA before it is written down: a fault that strikes
/// meanwhile takes the answer.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// An order takes no longer, faults included.
const LIFE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
