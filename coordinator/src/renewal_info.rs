//! Asks CAs when they want their certificates renewed (RFC 9773), for as long as this coordinator leads.
//!
//! Each certificate is asked for once in the period that the CA named, at a place in it that is its own (see
//! [`crate::plan::ari`]), so that a hundred thousand certificates are a few requests a second and never a
//! burst, and so that a new leader goes on where the old one was. What the CA says is written
//! only if it says something else than before: mostly once in the life of a certificate.
//!
//! What is written touches the certificate in the mirror, so the scheduler decides about it anew. A CA
//! that cannot be asked changes nothing: what it last said holds, and without that the plan goes by the
//! certificate's life.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chancery_shared::{clock::SharedClock, dice, name::CertName};
use jiff::Timestamp;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::{Id, JoinError, JoinSet},
};

use crate::{
    election::Leadership,
    events::{Events, printable},
    mirror::{Mirror, Touched},
    order::{self, Orders, Suggestion},
    plan::ari,
    record::{self, EventKind, IssuerSpec, RenewalInfo, key},
    scheduler::DueIndex,
    store::Store,
};

/// What it works with.
#[derive(Clone)]
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its mirror.
    pub mirror: Arc<Mirror>,
    /// Reaches CAs.
    pub orders: Arc<Orders>,
    /// Is told of windows that have been moved.
    pub events: Events,
    /// Says what time it is.
    pub clock: SharedClock,
    /// Through which somebody says that it must be now.
    pub ask_now: AskNow,
}

/// Has CAs asked now about some certificates, and not when their turn comes.
#[derive(Clone, Debug)]
pub struct AskNow(broadcast::Sender<Arc<BTreeSet<CertName>>>);

impl Default for AskNow {
    fn default() -> Self {
        Self(broadcast::Sender::new(PRESSING))
    }
}

impl AskNow {
    /// Has them asked about these. Nothing comes of it where nobody leads.
    pub fn about(&self, certificates: BTreeSet<CertName>) {
        let _ = self.0.send(Arc::new(certificates));
    }
}

/// Asks, for one term of leadership.
pub struct Poller {
    parts: Parts,
    leadership: Leadership,
    due: DueIndex,
    running: JoinSet<Option<Duration>>,
    tasks: HashMap<Id, CertName>,
    asking: BTreeSet<CertName>,
    /// Not to be asked about before a time, whatever happens to them: the last question failed.
    held: HashMap<CertName, Timestamp>,
    /// Somebody wants to know now.
    pressed: BTreeSet<CertName>,
    pressing: broadcast::Receiver<Arc<BTreeSet<CertName>>>,
}

/// What is asked about.
struct Question {
    certificate: CertName,
    serial: String,
    leaf: Vec<u8>,
    issuer: IssuerSpec,
    known: Option<(RenewalInfo, chancery_shared::number::Revision)>,
}

impl Poller {
    /// One for a term.
    pub fn new(parts: Parts, leadership: Leadership) -> Self {
        Self {
            pressing: parts.ask_now.0.subscribe(),
            parts,
            leadership,
            due: DueIndex::default(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            asking: BTreeSet::new(),
            held: HashMap::new(),
            pressed: BTreeSet::new(),
        }
    }

    /// Runs until the term ends.
    pub async fn run(mut self) {
        let mut touched = self.parts.mirror.touched();
        self.look_at_all();
        let leadership = self.leadership.clone();
        let ended = leadership.ended();
        tokio::pin!(ended);
        loop {
            self.ask_due();
            let nap = self.nap();
            tokio::select! {
                biased;
                () = &mut ended => break,
                Some(answer) = self.running.join_next_with_id() => self.answered(answer),
                nudge = touched.recv() => match nudge {
                    Ok(touched) => self.look_at_touched(&touched),
                    Err(RecvError::Lagged(_)) => self.look_at_all(),
                    Err(RecvError::Closed) => break,
                },
                pressing = self.pressing.recv() => match pressing {
                    Ok(names) => self.press(&names),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    fn ask_due(&mut self) {
        while self.running.len() < AT_ONCE
            && let Some(name) = self.due.pop_due(self.parts.clock.now())
        {
            self.held.remove(&name);
            self.pressed.remove(&name);
            let Some(question) = self.question(&name) else { continue };
            let (parts, leadership) = (self.parts.clone(), self.leadership.clone());
            let task = self.running.spawn(async move { ask(&parts, &leadership, question).await });
            self.tasks.insert(task.id(), name.clone());
            self.asking.insert(name);
        }
    }

    fn answered(&mut self, answer: Result<(Id, Option<Duration>), JoinError>) {
        let (id, pause) = answer.unwrap_or_else(|error| {
            tracing::error!(%error, "a question about a renewal died");
            (error.id(), Some(AFTER_ERROR))
        });
        let Some(name) = self.tasks.remove(&id) else { return };
        self.asking.remove(&name);
        if let Some(pause) = pause {
            let now = self.parts.clock.now();
            self.held.insert(name.clone(), now.checked_add(pause).unwrap_or(now));
        }
        self.look_at(&name);
    }

    fn nap(&self) -> Duration {
        if self.running.len() >= AT_ONCE {
            return LONGEST_NAP;
        }
        let Some(due) = self.due.first_due() else { return LONGEST_NAP };
        let nap = Duration::try_from(self.parts.clock.now().duration_until(due));
        nap.unwrap_or_default().min(LONGEST_NAP)
    }

    fn look_at_touched(&mut self, touched: &Touched) {
        if touched.everything {
            self.look_at_all();
            return;
        }
        for name in &touched.certificates {
            self.look_at(name);
        }
    }

    fn press(&mut self, names: &BTreeSet<CertName>) {
        for name in names {
            self.held.remove(name);
            self.pressed.insert(name.clone());
            self.look_at(name);
        }
    }

    fn look_at_all(&mut self) {
        let names: Vec<CertName> = self.parts.mirror.read().certificates.keys().cloned().collect();
        self.due = DueIndex::default();
        for name in &names {
            self.look_at(name);
        }
    }

    /// Works out when `name` is asked for next.
    fn look_at(&mut self, name: &CertName) {
        if self.asking.contains(name) {
            return;
        }
        let now = self.parts.clock.now();
        let Some(next) = self.next_ask(name) else {
            self.due.remove(name);
            self.held.remove(name);
            self.pressed.remove(name);
            return;
        };
        // What is due stays so: its turn of this period would be lost.
        if self.pressed.contains(name) || self.due.is_due(name, now) {
            self.due.set(name.clone(), now);
            return;
        }
        let held = self.held.get(name).copied().unwrap_or(next);
        self.due.set(name.clone(), next.max(held));
    }

    fn next_ask(&self, name: &CertName) -> Option<Timestamp> {
        let view = self.parts.mirror.read();
        view.certificates.get(name)?;
        let issued = view.states.get(name)?.record.issued.as_ref()?;
        let now = self.parts.clock.now();
        if issued.not_after <= now {
            return None;
        }
        let info = view.renewal_infos.get(name).map(|info| &*info.record);
        Some(ari::next_ask(name, issued, info, now))
    }

    fn question(&self, name: &CertName) -> Option<Question> {
        let view = self.parts.mirror.read();
        let state = view.states.get(name)?;
        let issued = state.record.issued.as_ref()?;
        let bundle = &view.bundles.get(name)?.record;
        if bundle.generation != state.record.generation {
            return None;
        }
        let known = view.renewal_infos.get(name);
        Some(Question {
            certificate: name.clone(),
            serial: issued.serial.clone(),
            leaf: bundle.leaf.clone(),
            issuer: (*view.issuers.get(&issued.issuer)?.record).clone(),
            known: known.map(|known| ((*known.record).clone(), known.revision)),
        })
    }
}

/// Asks, and writes down what is new. Returns how long to wait before the next question if that is
/// not for the window's record to say.
async fn ask(parts: &Parts, leadership: &Leadership, question: Question) -> Option<Duration> {
    let Question { certificate, serial, leaf, issuer, known } = question;
    let suggestion = match parts.orders.suggestion(leadership, &issuer, &leaf).await {
        Ok(Some(suggestion)) => suggestion,
        // This CA does not say.
        Ok(None) => return Some(UNSUPPORTED),
        Err(error) => {
            tracing::debug!(%certificate, %error, "the CA does not say when to renew");
            return Some(after(&error));
        }
    };
    let Suggestion { id, start, end, explanation_url, retry_after } = suggestion;
    let since = parts.clock.now();
    let every = ari::ask_every(retry_after);
    let mut info = RenewalInfo {
        certificate,
        serial,
        id,
        start,
        end,
        explanation_url: explanation_url.map(|url| printable(&url, LONGEST_URL)),
        ask_every_secs: u32::try_from(every.as_secs()).unwrap_or(u32::MAX),
        moved: false,
        since,
    };
    let (former, revision) = known.unzip();
    let same = former.as_ref().filter(|former| former.serial == info.serial);
    if let Some(same) = same {
        (info.since, info.moved) = (same.since, same.moved);
        if *same == info {
            return None;
        }
        info.moved |= (same.start, same.end) != (info.start, info.end);
        info.since = since;
    }
    // Deleted meanwhile: there is nothing to write down.
    let spec = spec_revision(parts, &info.certificate)?;
    let at = key::renewal_info(&info.certificate);
    let batch = leadership
        .batch()
        .unchanged(key::certificate(&info.certificate), Some(spec))
        .unchanged(&at, revision)
        .put(&at, record::encode(&info));
    match parts.store.commit(batch).await {
        Ok(revision) => {
            if same.is_some_and(|same| (same.start, same.end) != (info.start, info.end)) {
                tell(parts, &info);
            }
            let _ = tokio::time::timeout(OWN_WRITE, parts.mirror.wait_for(revision)).await;
            None
        }
        Err(error) => {
            tracing::debug!(certificate = %info.certificate, %error, "a window was not written down");
            Some(after(&error.into()))
        }
    }
}

/// How long to leave the CA alone: as long as it asks for, and at least a while, so that all
/// who had an error together do not come together again.
fn after(error: &order::Error) -> Duration {
    let (order::Class::Repeat(least) | order::Class::Fail(least)) = error.class() else {
        return AFTER_ERROR;
    };
    least + AFTER_ERROR.mul_f64(0.5 + dice::roll())
}

/// For the condition that the certificate was not deleted meanwhile.
fn spec_revision(parts: &Parts, name: &CertName) -> Option<chancery_shared::number::Revision> {
    parts.mirror.read().certificates.get(name).map(|spec| spec.revision)
}

fn tell(parts: &Parts, info: &RenewalInfo) {
    let why = info.explanation_url.as_ref().map(|url| format!(": {url}")).unwrap_or_default();
    let message = format!(
        "the CA has moved the time to renew it to between {} and {}{why}",
        info.start, info.end
    );
    parts.events.record(EventKind::WindowMoved, info.certificate.as_str(), message);
}

/// Questions under way. CAs allow a thousand a second.
const AT_ONCE: usize = 8;
const LONGEST_NAP: Duration = Duration::from_mins(1);
/// Until a CA that has no renewal information is asked whether it has any now.
const UNSUPPORTED: Duration = Duration::from_hours(12);
const AFTER_ERROR: Duration = Duration::from_mins(30);
/// Wishes that are not lost while the poller is busy.
const PRESSING: usize = 64;
const OWN_WRITE: Duration = Duration::from_secs(5);
const LONGEST_URL: usize = 500;
