//! The stream that brings an agent its certificates.
//!
//! A stream remembers what its agent has: what it said it knows, and what it was sent since. Each time
//! the mirror says that something about this agent has changed, the stream compares that with
//! what the agent is entitled to *now* and sends the differences, one at a time and only as fast as
//! the agent reads. Nothing is queued for an agent, so a slow one costs no memory, and a private
//! key is unsealed when it is about to be sent and not before.
//!
//! `revision` in a response is what this stream has told completely: within a round of
//! several differences it stays at the round before, and the last of them carries the new one. An
//! agent that resumes at a coordinator whose mirror lags behind that revision waits there, so
//! that it is never told of a past in which it lacked a certificate that it has.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chancery_proto::v1::{
    Bundle as WireBundle, Coordinators, Synced, WatchRequest, WatchResponse, Withdrawn,
    watch_response::Event,
};
use chancery_shared::{
    name::CertName,
    number::{Generation, Revision},
};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Api, authorize::Caller};
use crate::{mirror::View, record::Bundle, seal, status::Connected, store::Batch};

pub(super) type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// Opens a stream for `caller`.
pub(super) async fn open(
    api: &Arc<Api>,
    caller: Caller,
    request: WatchRequest,
    shutdown: CancellationToken,
) -> Result<WatchStream, Status> {
    let resumed = resume(api, Revision(request.resume_revision)).await?;
    let mut known = BTreeMap::new();
    for bundle in request.known {
        let name = bundle.certificate.parse::<CertName>();
        let name = name.map_err(|error| Status::invalid_argument(error.to_string()))?;
        known.insert(name, Generation(bundle.generation));
    }
    let mut signal = api.mirror.agent_signal(&caller.name);
    // The first comparison sees all that has been signalled before it.
    signal.mark_unchanged();
    let coordinators = api.mirror.coordinators();
    let mut session = Session {
        api: api.clone(),
        connected: api.status.presence().connect(&caller.name),
        caller,
        known,
        pending: VecDeque::new(),
        told: resumed,
        compared: resumed,
        synced: false,
        unsealed: true,
        signal,
        coordinators,
        news: true,
        shutdown,
    };
    session.compare();
    Ok(Box::pin(stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        match session.next().await {
            Ok(response) => Some((Ok(response), Some(session))),
            // The session ends here, and with it the agent counts as gone.
            Err(status) => Some((Err(status), None)),
        }
    })))
}

/// Waits until the mirror shows what the agent has seen already, and says where to go on from.
async fn resume(api: &Api, revision: Revision) -> Result<Revision, Status> {
    if tokio::time::timeout(CATCH_UP, api.mirror.wait_for(revision)).await.is_ok() {
        return Ok(revision);
    }
    // A store that was restored from a backup never gets there by itself, and must not lock its
    // agents out.
    let newest = api.store.commit(Batch::unfenced()).await.map_err(|error| api.refused(&error))?;
    if newest < revision {
        tracing::warn!(%newest, %revision, "an agent has seen more of the store than there is");
        return Ok(Revision(0));
    }
    Err(Status::unavailable("this coordinator is behind what the agent has seen; try another"))
}

struct Session {
    api: Arc<Api>,
    caller: Caller,
    /// What the agent has, or will have once it has read all that was sent.
    known: BTreeMap<CertName, Generation>,
    /// Certificates that differ, not sent yet.
    pending: VecDeque<CertName>,
    /// The revision up to which everything has been told.
    told: Revision,
    /// The revision of the last comparison.
    compared: Revision,
    synced: bool,
    /// Whether all keys could be unsealed since the last comparison.
    unsealed: bool,
    signal: watch::Receiver<u64>,
    coordinators: watch::Receiver<Arc<[String]>>,
    /// Whether the agent has not been told of the coordinators that are there.
    news: bool,
    shutdown: CancellationToken,
    #[expect(dead_code, reason = "counts the stream while it lives")]
    connected: Connected,
}

/// What there is to say about one certificate.
enum Difference {
    Bundle(Arc<Bundle>, Vec<Bytes>),
    Withdrawn,
}

impl Session {
    /// The next response; an error is the last.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            // Each time, for a round may take as long as a slow agent makes it.
            if let Err(status) = self.api.still_admitted(&self.caller.identity) {
                if !self.api.mirror.read().agents.contains_key(&self.caller.name) {
                    // It may have been removed at another coordinator.
                    self.api.status.presence().forget(&self.caller.name);
                }
                return Err(status);
            }
            while let Some(name) = self.pending.pop_front() {
                if let Some(event) = self.event(name) {
                    if self.pending.is_empty() && self.synced {
                        self.told = self.compared;
                    }
                    return Ok(self.response(event));
                }
            }
            self.told = self.compared;
            if let Some(event) = self.coordinators() {
                return Ok(self.response(event));
            }
            if !self.synced {
                self.synced = true;
                return Ok(self.response(Event::Synced(Synced {})));
            }
            if self.wait().await? {
                self.compare();
            }
        }
    }

    /// Waits until something has changed. Whether that may be its certificates: to compare them is to
    /// look at all there are, which thousands of streams must not do whenever a coordinator
    /// comes or goes.
    async fn wait(&mut self) -> Result<bool, Status> {
        let left = self.api.clock.now().duration_until(self.caller.identity.not_after);
        let left = Duration::try_from(left).unwrap_or_default();
        // A key may be sealed under a data key that is still on its way to this coordinator.
        let left = left.min(if self.unsealed { LONGEST_WAIT } else { UNSEAL_AGAIN });
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {
                Err(Status::unavailable("this coordinator is stopping; connect to another"))
            }
            // Fails only when the mirror is gone, and then everything is.
            _ = self.signal.changed() => Ok(true),
            Ok(()) = self.coordinators.changed() => {
                self.news = true;
                Ok(false)
            }
            () = tokio::time::sleep(left) => Ok(!self.unsealed),
        }
    }

    /// Who is there, if the agent has not been told.
    fn coordinators(&mut self) -> Option<Event> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        let addresses = self.coordinators.borrow_and_update().to_vec();
        (!addresses.is_empty()).then_some(Event::Coordinators(Coordinators { addresses }))
    }

    /// Lists the certificates that differ from what the agent has.
    fn compare(&mut self) {
        let view = self.api.mirror.read();
        // A listing may not know of commits that have only deleted; the agent may.
        self.compared = self.compared.max(view.last_commit);
        self.unsealed = true;
        let Some(agent) = view.agents.get(&self.caller.name) else { return };
        let withdrawn = self.known.keys().filter(|name| {
            let spec = view.certificates.get(*name);
            !spec.is_some_and(|spec| agent.record.labels.satisfy(&spec.record.labels))
        });
        let mut pending: VecDeque<_> = withdrawn.cloned().collect();
        for name in view.entitlement(&agent.record) {
            let newest = view.bundles.get(name).map(|bundle| bundle.record.generation);
            if newest > self.known.get(name).copied() {
                pending.push_back(name.clone());
            }
        }
        self.pending = pending;
    }

    /// What there is to say about a certificate now, if there still is anything.
    fn event(&mut self, name: CertName) -> Option<Event> {
        let known = self.known.get(&name).copied();
        let difference = difference(&self.api.mirror.read(), &self.caller, &name, known);
        match difference? {
            Difference::Withdrawn => {
                self.known.remove(&name);
                Some(Event::Withdrawn(Withdrawn { certificate: name.to_string() }))
            }
            Difference::Bundle(bundle, chain) => {
                let Some(wire) = self.unseal(&bundle, chain) else {
                    self.unsealed = false;
                    return None;
                };
                self.known.insert(name, bundle.generation);
                Some(Event::Bundle(wire))
            }
        }
    }

    /// The bundle with its key. One that cannot be unsealed is an operator's business, and must not
    /// keep the agent from its other certificates.
    fn unseal(&self, bundle: &Bundle, chain: Vec<Bytes>) -> Option<WireBundle> {
        let context = seal::Context {
            kind: "bundle",
            name: bundle.certificate.as_str(),
            generation: bundle.generation,
        };
        let open = || self.api.sealer.open(&context, &bundle.key);
        // The data key may have come a moment ago, with the rotation by another coordinator.
        let ring = || self.api.mirror.read().seal.as_ref().map(|ring| ring.record.clone());
        let opened = open().or_else(|error| match ring() {
            Some(ring) if self.api.sealer.reload(&ring).is_ok() => open(),
            _ => Err(error),
        });
        match opened {
            Ok(key) => Some(WireBundle {
                certificate: bundle.certificate.to_string(),
                generation: bundle.generation.0,
                leaf_der: Bytes::copy_from_slice(&bundle.leaf),
                chain_der: chain,
                // Owned by the message from here on, which is encoded and dropped at once.
                private_key_der: key.expose_secret().to_vec(),
                identifiers: bundle.identifiers.iter().map(ToString::to_string).collect(),
            }),
            Err(error) => {
                let (certificate, generation) = (&bundle.certificate, bundle.generation);
                let error = &error as &dyn std::error::Error;
                tracing::error!(%certificate, %generation, error, "a bundle cannot be unsealed");
                None
            }
        }
    }

    fn response(&self, event: Event) -> WatchResponse {
        WatchResponse { revision: self.told.0, event: Some(event) }
    }
}

fn difference(
    view: &View,
    caller: &Caller,
    name: &CertName,
    known: Option<Generation>,
) -> Option<Difference> {
    let agent = view.agents.get(&caller.name)?;
    let spec = view.certificates.get(name);
    if !spec.is_some_and(|spec| agent.record.labels.satisfy(&spec.record.labels)) {
        return known.map(|_| Difference::Withdrawn);
    }
    let bundle = &view.bundles.get(name)?.record;
    // Never a lower one: invariant 4.
    if known.is_some_and(|known| known >= bundle.generation) {
        return None;
    }
    let chain: Option<Vec<_>> =
        bundle.chain.iter().map(|issuer| view.chains.get(issuer).cloned()).collect();
    if chain.is_none() {
        tracing::error!(certificate = %name, generation = %bundle.generation, "an issuing certificate of the bundle is not in the store");
    }
    Some(Difference::Bundle(bundle.clone(), chain?))
}

const CATCH_UP: Duration = Duration::from_secs(5);
const UNSEAL_AGAIN: Duration = Duration::from_secs(5);
/// A timer far in the future is as good as none.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
