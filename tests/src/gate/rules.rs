//! What a test asks of the gate: each rule waits for a kind of request.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use super::Endpoint;

/// An answer in the ACME server's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 429 `rateLimited`, with this `Retry-After`.
    TooManyRequests {
        /// Seconds, or a date, as the header has it.
        retry_after: Option<String>,
    },
    /// 503, with this `Retry-After`.
    Unavailable {
        /// Seconds, or a date, as the header has it.
        retry_after: Option<String>,
    },
    /// 409 `alreadyReplaced` (RFC 9773 section 7.4).
    AlreadyReplaced,
    /// 500 `serverInternal`.
    ServerInternal,
    /// 400 `badNonce`.
    BadNonce,
    /// The connection is closed; the ACME server got nothing.
    Cut,
    /// The connection is closed after the ACME server has done what was asked.
    CutAfter,
    /// Half of what the ACME server said, after it has done what was asked.
    Garbled,
    /// Success, with something else in it: a portal's page, or an object as it could be.
    Instead {
        /// What it says it is.
        content_type: &'static str,
        /// What it is.
        body: String,
    },
}

/// When a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the ACME server gets it.
    Before,
    /// After the ACME server has answered, before the client hears of it.
    After,
}

/// A request that is to be held, or is being held. Dropped, it lets the request go.
#[derive(Debug)]
pub struct Hold {
    endpoint: Endpoint,
    reached: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Hold {
    /// Waits until the request is there, and held.
    pub async fn reached(&mut self, deadline: Duration) -> Result<()> {
        tokio::time::timeout(deadline, &mut self.reached)
            .await
            .with_context(|| format!("no request for {:?} came to be held", self.endpoint))?
            .context("the gate was closed")
    }

    /// Whether the client hung up while its request was held. The ACME server does not get a
    /// request that was held before it, then.
    pub fn is_abandoned(&self) -> bool {
        self.release.is_closed()
    }

    /// Lets the request go on.
    pub fn release(self) {
        let _ = self.release.send(());
    }
}

/// What to do with a request now.
pub(super) enum Deed {
    Hold(Held),
    Answer(Answer),
}

/// The gate's side of a [`Hold`].
pub(super) struct Held {
    reached: oneshot::Sender<()>,
    release: oneshot::Receiver<()>,
}

impl Held {
    pub(super) async fn wait(self) {
        let _ = self.reached.send(());
        // An error means that the test dropped its side, which releases as well.
        let _ = self.release.await;
    }
}

#[derive(Default)]
pub(super) struct Rules {
    waiting: Vec<Rule>,
}

struct Rule {
    endpoint: Endpoint,
    moment: Moment,
    what: What,
}

enum What {
    Hold(Held),
    Answer { answer: Answer, left: usize },
}

impl Rules {
    pub(super) fn hold(&mut self, endpoint: Endpoint, moment: Moment) -> Hold {
        let (reached, was_reached) = oneshot::channel();
        let (release, was_released) = oneshot::channel();
        let what = What::Hold(Held { reached, release: was_released });
        self.waiting.push(Rule { endpoint, moment, what });
        Hold { endpoint, reached: was_reached, release }
    }

    pub(super) fn answer(&mut self, endpoint: Endpoint, times: usize, answer: Answer) {
        let moment = match answer {
            Answer::CutAfter | Answer::Garbled => Moment::After,
            _ => Moment::Before,
        };
        if times > 0 {
            self.waiting.push(Rule {
                endpoint,
                moment,
                what: What::Answer { answer, left: times },
            });
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.retain(|rule| matches!(rule.what, What::Hold(_)));
    }

    /// Whether no answer is left to give.
    pub(super) fn has_answered(&self) -> bool {
        self.waiting.iter().all(|rule| matches!(rule.what, What::Hold(_)))
    }

    /// What the first rule for such a request says; it is used up by that.
    pub(super) fn take(&mut self, endpoint: Endpoint, moment: Moment) -> Option<Deed> {
        let found = |rule: &Rule| rule.endpoint == endpoint && rule.moment == moment;
        let at = self.waiting.iter().position(found)?;
        if let What::Answer { answer, left } = &mut self.waiting[at].what
            && *left > 1
        {
            *left -= 1;
            return Some(Deed::Answer(answer.clone()));
        }
        Some(match self.waiting.remove(at).what {
            What::Hold(held) => Deed::Hold(held),
            What::Answer { answer, .. } => Deed::Answer(answer),
        })
    }
}
