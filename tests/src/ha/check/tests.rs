//! Each checker on a history that is good, and on one that is not: a checker that cannot fail
//! checks nothing.

use serde_json::json;

use super::*;

/// A history, one commit for each list of changes.
fn history(commits: &[&[Change]]) -> Vec<Commit> {
    let revisions = 1_u64..;
    let commits = revisions.zip(commits);
    commits.map(|(revision, changes)| Commit { revision, changes: changes.to_vec() }).collect()
}

fn put(key: &str, record: Value) -> Change {
    Change { key: key.to_owned(), record: Some(record) }
}

fn delete(key: &str) -> Change {
    Change { key: key.to_owned(), record: None }
}

fn leader(epoch: u64) -> Change {
    put("leader", json!({ "epoch": epoch, "node": format!("node-{epoch}") }))
}

/// The order `id` of `www`, which is to become generation 1.
fn order(id: &str, epoch: u64, url: Option<&str>) -> Change {
    let stage = json!({ "stage": "placed", "url": url });
    put("orders/www", json!({ "id": id, "generation": 1, "epoch": epoch, "stage": stage }))
}

fn bundle(generation: u64) -> Change {
    put(&format!("bundles/www/{generation:020}"), json!({}))
}

/// An order that a second leader takes up and brings to its end.
fn good() -> Vec<Commit> {
    history(&[
        &[leader(1)],
        &[order("a", 1, None)],
        &[order("a", 1, Some("u1"))],
        &[delete("leader")],
        &[leader(4)],
        &[order("a", 4, Some("u1"))],
        &[bundle(1), delete("orders/www")],
    ])
}

fn at_ca(url: &str, after: Duration, finalized: bool) -> AtCa {
    let names = vec!["www.chancery.example".to_owned()];
    AtCa { url: url.to_owned(), at: start() + after, names, finalized }
}

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn window(from: u64, to: u64) -> Window {
    let at = |secs| start() + Duration::from_secs(secs);
    Window { what: "a fault".to_owned(), from: at(from), to: at(to), clock: false }
}

#[test]
fn a_good_history_has_no_violations() {
    assert_eq!(no_epochs_interleave(&good()), [""; 0]);
    let (intents, found) = orders(&good());
    assert_eq!(found, [""; 0]);
    assert_eq!(intents.len(), 1);
    assert!(intents[0].issued && !intents[0].live);
    let epochs: Vec<u64> = terms(&good()).iter().map(|term| term.epoch).collect();
    assert_eq!(epochs, [1, 4]);
    let at_ca = [at_ca("u1", Duration::ZERO, true)];
    let (accounts, found) = accounts(&intents, &at_ca, &[]);
    assert_eq!(found, [""; 0]);
    assert_eq!((accounts.at_ca, accounts.intended, accounts.issued), (1, 1, 1));
}

/// Asserts that exactly one violation is found, and that it says this.
#[track_caller]
fn bites(found: &[String], says: &str) {
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(says), "{found:#?}");
}

#[test]
fn an_epoch_that_does_not_grow_is_found() {
    let bad = history(&[&[leader(2)], &[delete("leader")], &[leader(1)]]);
    bites(&no_epochs_interleave(&bad), "epoch 2 was followed by 1");
}

#[test]
fn a_write_of_a_former_leader_is_found() {
    let mut bad = good();
    // The first leader goes on after the second has begun.
    bad.insert(5, Commit { revision: 55, changes: vec![order("a", 1, Some("u1"))] });
    bites(&no_epochs_interleave(&bad), "55: the order of www was written by epoch Some(1)");
}

#[test]
fn a_write_while_nobody_leads_is_found() {
    let mut bad = good();
    bad.insert(4, Commit { revision: 45, changes: vec![order("a", 1, Some("u1"))] });
    bites(&no_epochs_interleave(&bad), "in the term of None");
}

#[test]
fn a_bundle_of_a_former_leader_is_found() {
    let mut bad = good();
    // The order was not taken up: it is the former leader that stores its bundle.
    bad.remove(5);
    bites(&no_epochs_interleave(&bad), "out of an order that epoch Some(1) had written last");
}

#[test]
fn a_second_order_in_the_place_of_a_live_one_is_found() {
    let mut bad = good();
    bad.insert(6, Commit { revision: 65, changes: vec![order("b", 4, None)] });
    bites(&orders(&bad).1, "order b of www took the place of a");
}

#[test]
fn a_second_order_at_the_ca_for_one_intent_is_found() {
    let mut bad = good();
    bad.insert(6, Commit { revision: 65, changes: vec![order("a", 4, Some("u2"))] });
    bites(&orders(&bad).1, "{\"u1\", \"u2\"}");
}

#[test]
fn a_generation_that_is_stored_twice_is_found() {
    let mut bad = good();
    bad.extend(history(&[&[order("b", 4, None)], &[bundle(1)]]));
    bites(&orders(&bad).1, "www 1 after 1");
}

#[test]
fn a_bundle_without_an_order_is_found() {
    let bad = history(&[&[leader(1)], &[bundle(1)]]);
    bites(&orders(&bad).1, "www 1 has no order");
    bites(&no_epochs_interleave(&bad), "epoch None had written last");
}

#[test]
fn an_orphan_is_counted_when_a_fault_explains_it_and_found_when_none_does() {
    let (intents, _) = orders(&good());
    let orders = [at_ca("u0", Duration::from_secs(8), false), at_ca("u1", Duration::ZERO, true)];
    let (accounts_explained, found) = accounts(&intents, &orders, &[window(7, 9)]);
    assert_eq!(found, [""; 0]);
    assert_eq!(accounts_explained.orphans, ["u0 (www.chancery.example): a fault"]);
    // One that strikes while the order is under way does, one that strikes later does not.
    let (struck, found) = accounts(&intents, &orders, &[window(9, 12)]);
    assert_eq!((struck.orphans.len(), found.len()), (1, 0));
    bites(&accounts(&intents, &orders, &[window(10, 12)]).1, "nobody knows u0");
    bites(&accounts(&intents, &orders, &[window(0, 1)]).1, "nobody knows u0");
    let clock = Window { clock: true, ..window(7, 9) };
    bites(&accounts(&intents, &orders, &[clock]).1, "nobody knows u0");
}

#[test]
fn a_certificate_that_was_issued_for_nothing_is_found() {
    let mut history = good();
    // The order was given up instead.
    history.last_mut().unwrap().changes.remove(0);
    let (intents, _) = orders(&history);
    let orders = [at_ca("u1", Duration::ZERO, true)];
    bites(&accounts(&intents, &orders, &[]).1, "was finalized for nothing: u1");
    let other = [window(0, 1)];
    bites(&accounts(&intents, &orders, &other).1, "was finalized for nothing: u1");
    let clock = Window { clock: true, ..window(0, 1) };
    let (accounts, found) = accounts(&intents, &orders, &[clock]);
    assert_eq!((accounts.forsaken.len(), found.len()), (1, 0));
}

#[test]
fn an_order_that_the_ca_does_not_have_is_found() {
    let (intents, _) = orders(&good());
    bites(&accounts(&intents, &[], &[]).1, "the CA does not have u1");
}

#[test]
fn an_order_of_two_intents_is_found() {
    let (mut intents, _) = orders(&good());
    intents.push(Intent { id: "b".to_owned(), ..intents[0].clone() });
    let orders = [at_ca("u1", Duration::ZERO, true)];
    bites(&accounts(&intents, &orders, &[]).1, "u1 belongs to orders a and b");
}
