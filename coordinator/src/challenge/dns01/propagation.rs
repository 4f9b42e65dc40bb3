//! Waiting until every authoritative name server has a value.
//!
//! A CA asks any of them, so all are asked, directly: no cache stands between. All that wait
//! for names of one zone wait together: one task for each zone goes round its servers and asks each of them once
//! for each name, however many orders wait for values at it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chancery_shared::retry::Policy;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, oneshot};

use super::{
    Error,
    lookup::{Lookup, NameServer, txt_at},
};

/// Where a value is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Awaited {
    /// The zone.
    pub(super) zone: String,
    /// The servers to ask instead of those in its NS records, if there are any.
    pub(super) servers: Vec<SocketAddr>,
}

/// Knows who waits for what.
pub(super) struct Propagation {
    lookup: Lookup,
    rounds: Mutex<HashMap<Awaited, Arc<Round>>>,
}

/// All that wait for values in one zone.
#[derive(Default)]
struct Round {
    waiting: Mutex<Vec<Waiter>>,
    more: Notify,
}

struct Waiter {
    name: String,
    value: String,
    done: oneshot::Sender<()>,
    /// What was missing when it was looked for last.
    missing: Arc<Mutex<String>>,
}

impl Propagation {
    pub(super) fn new(lookup: Lookup) -> Arc<Self> {
        Arc::new(Self { lookup, rounds: Mutex::default() })
    }

    /// Waits until every server has `value` at `name`, for `deadline` at most. Dropping the future
    /// ends the waiting.
    pub(super) async fn wait(
        self: &Arc<Self>,
        place: Awaited,
        name: &str,
        value: &str,
        deadline: Duration,
    ) -> Result<(), Error> {
        let (done, seen) = oneshot::channel();
        let missing = Arc::new(Mutex::new("they were not asked yet".to_owned()));
        let waiter = Waiter {
            name: name.to_owned(),
            value: value.to_owned(),
            done,
            missing: missing.clone(),
        };
        self.join(place.clone(), waiter);
        if let Ok(Ok(())) = tokio::time::timeout(deadline, seen).await {
            return Ok(());
        }
        let missing = locked(&missing).clone();
        let waited_secs = deadline.as_secs();
        Err(Error::NotVisible { name: name.to_owned(), zone: place.zone, waited_secs, missing })
    }

    fn join(self: &Arc<Self>, place: Awaited, waiter: Waiter) {
        let mut rounds = locked(&self.rounds);
        if let Some(round) = rounds.get(&place) {
            locked(&round.waiting).push(waiter);
            round.more.notify_one();
            return;
        }
        let round = Arc::new(Round::default());
        locked(&round.waiting).push(waiter);
        rounds.insert(place.clone(), round.clone());
        tokio::spawn(self.clone().go_round(place, round));
    }

    /// Asks again and again, as long as anybody waits.
    async fn go_round(self: Arc<Self>, place: Awaited, round: Arc<Round>) {
        let mut waits = BETWEEN.waits();
        loop {
            match self.servers(&place).await {
                Ok(servers) => look(&servers, &round).await,
                Err(error) => {
                    for waiter in locked(&round.waiting).iter() {
                        *locked(&waiter.missing) = error.to_string();
                    }
                }
            }
            {
                // Both locks, in the order in which they are taken by those who come.
                let mut rounds = locked(&self.rounds);
                let mut waiting = locked(&round.waiting);
                waiting.retain(|waiter| !waiter.done.is_closed());
                if waiting.is_empty() {
                    rounds.remove(&place);
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(waits.next_wait()) => {}
                () = round.more.notified() => {
                    // Those who come together are looked for together.
                    tokio::time::sleep(GATHER).await;
                    waits.reset();
                }
            }
        }
    }

    /// What every server has at `name`, asked now.
    pub(super) async fn ask_all(
        &self,
        place: &Awaited,
        name: &str,
    ) -> Result<Vec<(String, Answer)>, Error> {
        let servers = self.servers(place).await?;
        let questions = servers.into_iter().map(|server| (name.to_owned(), server));
        let asked = stream::iter(questions).map(ask).buffer_unordered(QUESTIONS_AT_ONCE);
        Ok(asked.map(|(_, server, answer)| (server, answer)).collect().await)
    }

    async fn servers(&self, place: &Awaited) -> Result<Vec<NameServer>, Error> {
        if place.servers.is_empty() {
            return self.lookup.name_servers(&place.zone).await;
        }
        let named = |address: &SocketAddr| NameServer {
            name: address.to_string(),
            addresses: vec![*address],
        };
        Ok(place.servers.iter().map(named).collect())
    }
}

/// Asks every server for every name once, and tells those whose value is everywhere.
async fn look(servers: &[NameServer], round: &Round) {
    let names: BTreeSet<String> =
        locked(&round.waiting).iter().map(|waiter| waiter.name.clone()).collect();
    let questions: Vec<(String, NameServer)> = names
        .into_iter()
        .flat_map(|name| servers.iter().map(move |server| (name.clone(), server.clone())))
        .collect();
    let mut answers: BTreeMap<String, Vec<(String, Answer)>> = BTreeMap::new();
    let mut asked = stream::iter(questions).map(ask).buffer_unordered(QUESTIONS_AT_ONCE);
    while let Some((name, server, answer)) = asked.next().await {
        answers.entry(name).or_default().push((server, answer));
    }
    let mut waiting = locked(&round.waiting);
    for waiter in std::mem::take(&mut *waiting) {
        let missing = match answers.get(&waiter.name) {
            Some(answers) => missing(answers, &waiter.value),
            // It came while the others were looked for.
            None => vec!["they were not asked yet".to_owned()],
        };
        if missing.is_empty() {
            // Whoever waited may be gone.
            let _ = waiter.done.send(());
        } else {
            *locked(&waiter.missing) = missing.join("; ");
            waiting.push(waiter);
        }
    }
}

/// The values at a name, or why there is no answer.
pub(super) type Answer = Result<Vec<String>, String>;

/// What is missing of `value`, one sentence for each server.
fn missing(answers: &[(String, Answer)], value: &str) -> Vec<String> {
    let told = answers.iter().filter_map(|(server, answer)| match answer {
        Ok(values) if values.iter().any(|found| found == value) => None,
        Ok(values) if values.is_empty() => Some(format!("{server} has no TXT there")),
        Ok(values) => Some(format!("{server} has {} other TXT there", values.len())),
        Err(reason) => Some(format!("{server}: {reason}")),
    });
    told.collect()
}

/// The TXT values at `name`, from the first address of `server` that answers.
async fn ask((name, server): (String, NameServer)) -> (String, String, Answer) {
    let mut answer = Err("it has no address".to_owned());
    for address in &server.addresses {
        answer = txt_at(*address, &name).await;
        if answer.is_ok() {
            break;
        }
    }
    (name, server.name, answer)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

/// Between two looks at the same servers.
const BETWEEN: Policy =
    Policy { first: Duration::from_millis(250), most: Duration::from_secs(5), factor: 2 };
const GATHER: Duration = Duration::from_millis(50);
/// What is on the way to the servers of one zone.
const QUESTIONS_AT_ONCE: usize = 32;
