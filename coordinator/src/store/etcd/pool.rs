//! The members of an etcd cluster, one client for each, and which of them is asked.
//!
//! The client library spreads requests over members but does not go on with another one when a
//! member fails. Here each request goes to the member that served last; what happens when that one does
//! not depends on the request:
//!
//! * [`Pool::repeat`], for what does no harm twice: on failure the next member is asked at once, and
//!   when a member is silent, the next one is asked *beside* it. So a member that is stopped or
//!   cut off costs a fraction of a short lease, not a time-out.
//! * [`Pool::once`], for what must not be done twice: the next member is asked only when the request
//!   surely had no effect.
//!
//! Both go round again, until the time-out of the call, while members answer that they have no
//! leader: an election among them takes a second or so.
//!
//! A member that was silent while another one answered is *suspected*: streams that hang on it
//! (see [`Endpoint::suspicion`]) move on, long before its connection is found to be dead.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use etcd_client::{Client, ResponseHeader};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    failure::{Failure, Kind},
    options::Options,
};

/// The members.
pub(super) struct Pool {
    endpoints: Vec<Arc<Endpoint>>,
    /// The one that served last.
    preferred: AtomicUsize,
    /// The cluster that answered first. Another one has other records under the same revisions.
    cluster: OnceLock<u64>,
    options: Arc<Options>,
}

/// One member.
pub(super) struct Endpoint {
    pub(super) index: usize,
    pub(super) address: String,
    options: Arc<Options>,
    slot: Mutex<Option<Handle>>,
    clients: AtomicU64,
    suspicion: watch::Sender<u64>,
    /// Whether etcd said that it knows no users.
    without_user: AtomicBool,
}

/// A client of one member.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) endpoint: usize,
    pub(super) client: Client,
    /// Tells it from the clients that the member had before.
    number: u64,
}

impl Pool {
    pub(super) fn new(options: Options) -> Self {
        let options = Arc::new(options);
        let endpoint = |(index, address): (usize, &String)| {
            Arc::new(Endpoint {
                index,
                address: address.clone(),
                options: options.clone(),
                slot: Mutex::new(None),
                clients: AtomicU64::new(0),
                suspicion: watch::Sender::new(0),
                without_user: AtomicBool::new(false),
            })
        };
        Self {
            endpoints: options.endpoints.iter().enumerate().map(endpoint).collect(),
            preferred: AtomicUsize::new(0),
            cluster: OnceLock::new(),
            options,
        }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How long a call may take in all.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Does what does no harm when it is done twice, also at the same time: at one member after the
    /// other, and beside those that are silent for `hedge`.
    pub(super) async fn repeat<T, C, F>(&self, hedge: Duration, call: C) -> Result<T, Failure>
    where
        C: Fn(Handle) -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.timeout();
        let mut pause = FIRST_PAUSE;
        loop {
            let Ok(result) = timeout_at(deadline, self.round(hedge, &call)).await else {
                return Err(Failure::timed_out());
            };
            match result {
                Err(failure) if failure.may_pass() && Instant::now() + pause < deadline => {}
                decided => return decided,
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks every member, until one has answered.
    async fn round<T, C, F>(&self, hedge: Duration, call: &C) -> Result<T, Failure>
    where
        C: Fn(Handle) -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let mut left = self.in_order().into_iter();
        let mut running = FuturesUnordered::new();
        let mut silent: Vec<Arc<Endpoint>> = Vec::new();
        let mut failed: Option<Failure> = None;
        loop {
            if let Some(endpoint) = left.next() {
                silent.push(endpoint.clone());
                running.push(async move {
                    // A member may hang on another one that hangs, also when that has long been
                    // replaced: only asking it again helps.
                    let result = timeout(hedge * HEDGES, endpoint.attempt(call)).await;
                    let silent = || Err(Failure::timed_out().at(&endpoint.address));
                    (endpoint.clone(), result.unwrap_or_else(|_| silent()))
                });
            } else if running.is_empty() {
                return Err(failed.unwrap_or_else(Failure::timed_out));
            }
            let patience = if left.len() == 0 { self.timeout() } else { hedge };
            let Ok(Some((endpoint, result))) = timeout(patience, running.next()).await else {
                continue;
            };
            silent.retain(|other| other.index != endpoint.index);
            match result {
                Ok(value) => {
                    self.preferred.store(endpoint.index, Relaxed);
                    // They were asked before, and still say nothing.
                    for silent in &silent {
                        silent.suspect();
                    }
                    return Ok(value);
                }
                Err(failure) if failure.may_be_repeated() => {
                    failed = Some(Failure::of_both(failed, failure));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Does what must not be done twice: at the next member only if the one before surely
    /// did nothing.
    pub(super) async fn once<T, C, F>(&self, call: C) -> Result<T, Failure>
    where
        C: Fn(Handle) -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.timeout();
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.once_each(deadline, &call).await {
                Err(failure) if failure.may_be_sent_elsewhere() => failure,
                decided => return decided,
            };
            if !failure.may_pass() || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once_each<T, C, F>(&self, deadline: Instant, call: &C) -> Result<T, Failure>
    where
        C: Fn(Handle) -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let mut failed: Option<Failure> = None;
        for endpoint in self.in_order() {
            let Ok(result) = timeout_at(deadline, endpoint.attempt(call)).await else {
                // It must not stand in the way of the next call.
                endpoint.suspect();
                self.preferred.store((endpoint.index + 1) % self.endpoints.len(), Relaxed);
                return Err(Failure::timed_out().at(&endpoint.address));
            };
            match result {
                Ok(value) => {
                    self.preferred.store(endpoint.index, Relaxed);
                    return Ok(value);
                }
                Err(failure) if failure.may_be_sent_elsewhere() => {
                    failed = Some(Failure::of_both(failed, failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(failed.unwrap_or_else(Failure::timed_out))
    }

    /// The revision that an answer shows. Refuses the answer of another cluster than the one that
    /// this process has begun with: its revisions and leases mean something else.
    pub(super) fn check(&self, header: Option<&ResponseHeader>) -> Result<i64, Failure> {
        let Some(header) = header else {
            return Err(Failure::new(Kind::Unclear, "an answer without a header"));
        };
        let known = *self.cluster.get_or_init(|| header.cluster_id());
        if known == header.cluster_id() {
            return Ok(header.revision());
        }
        let reason = format!(
            "the member belongs to cluster {:x}, but this coordinator has begun with cluster \
             {known:x}; if the store was restored from a backup, restart every coordinator",
            header.cluster_id()
        );
        Err(Failure::new(Kind::Foreign, reason))
    }

    /// All members, the one that served last before the others.
    fn in_order(&self) -> Vec<Arc<Endpoint>> {
        let first = self.preferred.load(Relaxed) % self.endpoints.len();
        let (before, from) = self.endpoints.split_at(first);
        from.iter().chain(before).cloned().collect()
    }
}

impl Endpoint {
    /// One attempt; two if the first one shows that etcd no longer knows the token.
    pub(super) async fn attempt<T, C, F>(&self, call: &C) -> Result<T, Failure>
    where
        C: Fn(Handle) -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tokens = 0;
        loop {
            let handle = self.handle().await.map_err(|failure| failure.at(&self.address))?;
            let failure = match call(handle.clone()).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            self.give_back(&handle, &failure).await;
            if failure.kind != Kind::Token || tokens > 0 {
                // With a new token the same is no question of tokens.
                let kind = if failure.kind == Kind::Token { Kind::Refused } else { failure.kind };
                return Err(Failure { kind, ..failure }.at(&self.address));
            }
            tokens += 1;
        }
    }

    /// Changes when this member was silent while another one answered.
    pub(super) fn suspicion(&self) -> watch::Receiver<u64> {
        self.suspicion.subscribe()
    }

    fn suspect(&self) {
        self.suspicion.send_modify(|count| *count += 1);
    }

    /// The client of this member, made if there is none.
    async fn handle(&self) -> Result<Handle, Failure> {
        let mut slot = self.slot.lock().await;
        if let Some(handle) = &*slot {
            return Ok(handle.clone());
        }
        let client = self.connect().await?;
        let number = self.clients.fetch_add(1, Relaxed);
        let handle = Handle { endpoint: self.index, client, number };
        *slot = Some(handle.clone());
        Ok(handle)
    }

    /// Makes a client, and gets its token if there is a user. All files are read again: they may
    /// have been replaced.
    async fn connect(&self) -> Result<Client, Failure> {
        let with_user = !self.without_user.load(Relaxed);
        match self.connect_as(with_user).await {
            Err(failure) if failure.kind == Kind::NoAuth && with_user => {
                tracing::warn!(
                    endpoint = self.address,
                    "store.etcd.username is set, but this etcd has authentication switched off"
                );
                self.without_user.store(true, Relaxed);
                self.connect_as(false).await
            }
            result => result,
        }
    }

    async fn connect_as(&self, with_user: bool) -> Result<Client, Failure> {
        let files =
            self.options.read().map_err(|error| Failure::new(Kind::Files, error.to_string()))?;
        let options = self.options.connect_options(files, with_user);
        let connecting = Client::connect([&self.address], Some(options));
        // Checking a password takes etcd a while, on purpose.
        let patience = self.options.timeout / 2;
        let failure = match timeout(patience, connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::timed_out(),
        };
        // Whatever happens here, the request itself was not sent.
        let kind = if failure.kind == Kind::Unclear { Kind::Busy } else { failure.kind };
        Err(Failure { kind, ..failure })
    }

    /// Drops a client that cannot serve any more, unless it has been replaced already.
    async fn give_back(&self, handle: &Handle, failure: &Failure) {
        match failure.kind {
            Kind::Token => self.without_user.store(false, Relaxed),
            Kind::Unreachable | Kind::Untrusted | Kind::Foreign => {}
            _ => return,
        }
        let mut slot = self.slot.lock().await;
        if slot.as_ref().is_some_and(|present| present.number == handle.number) {
            *slot = None;
        }
    }
}

/// After how many times the wait for the next member a request is given up, and made again.
const HEDGES: u32 = 6;
/// Between two rounds while the members elect a leader.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
