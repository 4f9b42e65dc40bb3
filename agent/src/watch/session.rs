//! One connection to one coordinator: the stream of bundles, reports, rotation.

use std::{pin::pin, sync::Arc, time::Duration};

use chancery_proto::v1::{WatchRequest, WatchResponse, watch_response::Event as WireEvent};
use chancery_shared::retry::Policy;
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{Client, Failure, Link};
use crate::{
    engine::Event,
    identity::{self, Identity, rotation},
    report::{self, Snapshot},
};

/// How a connection ended.
pub(super) enum End {
    /// It never got as far as a stream.
    Failed(Failure),
    /// It had worked.
    Lost(Failure),
    /// There is a new identity to connect with.
    Rotated,
    Stopped,
}

impl Link {
    /// Connects and stays connected. `diagnose`: ask for the reason of a failure that has
    /// none.
    pub(super) async fn session(
        &mut self,
        address: &str,
        stop: &CancellationToken,
        diagnose: bool,
    ) -> End {
        let opening = timeout(OPEN_TIMEOUT, self.open(address, diagnose));
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return End::Stopped,
            opened = opening => opened,
        };
        let (client, mut stream) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(failure)) => return End::Failed(failure),
            Err(_) => return End::Failed(Failure::Unavailable("no answer in time".to_owned())),
        };
        if self.events.send(Event::Connected).await.is_err() {
            return End::Stopped;
        }
        let (identity, store, clock) =
            (self.identity.clone(), self.store.clone(), self.clock.clone());
        let mut reports = pin!(reports(client.clone(), self.published.clone()));
        let rotation = rotation(&identity, &store, client.clone(), &clock, self.rotate_after);
        let mut rotation = pin!(rotation);
        let mut synced = false;
        loop {
            let failure = tokio::select! {
                // A stop is not kept waiting; what is reported does not wait for what arrives.
                biased;
                () = stop.cancelled() => {
                    last_report(client, &self.published).await;
                    return End::Stopped;
                }
                failure = &mut reports => failure,
                identity = &mut rotation => return self.rotated(identity),
                message = stream.message() => match message {
                    Ok(Some(message)) => match self.pass_on(message).await {
                        Passed::Synced => {
                            if !synced {
                                tracing::info!(agent = %identity.agent(), "connected to {address}");
                            }
                            synced = true;
                            continue;
                        }
                        Passed::Other => continue,
                        Passed::NobodyListens => return End::Stopped,
                    },
                    Ok(None) => Failure::Unavailable("it has ended the stream".to_owned()),
                    Err(status) => Failure::of_status(&status),
                },
            };
            return if synced { End::Lost(failure) } else { End::Failed(failure) };
        }
    }

    async fn open(
        &self,
        address: &str,
        diagnose: bool,
    ) -> Result<(Client, Streaming<WatchResponse>), Failure> {
        let expired_at = self.identity.not_after();
        if expired_at <= self.clock.now() {
            return Err(Failure::Refused(format!("it expired at {expired_at}")));
        }
        let config =
            self.identity.client().map_err(|error| Failure::Unavailable(error.to_string()))?;
        match self.watch(address, config.clone()).await {
            Err(failure @ Failure::Unavailable(_)) if diagnose => {
                Err(self.reach.verdict(address, config).await.unwrap_or(failure))
            }
            other => other,
        }
    }

    async fn watch(
        &self,
        address: &str,
        config: ClientConfig,
    ) -> Result<(Client, Streaming<WatchResponse>), Failure> {
        let mut client = self.reach.connect(address, config).await?;
        let request = WatchRequest {
            resume_revision: self.revision,
            known: self.published.borrow().known.clone(),
            info: Some(report::info()),
        };
        let answer = client.watch(request).await;
        let stream = answer.map_err(|status| Failure::of_status(&status))?.into_inner();
        Ok((client, stream))
    }

    /// Hands a message to the engine.
    async fn pass_on(&mut self, message: WatchResponse) -> Passed {
        let (event, passed) = match message.event {
            Some(WireEvent::Bundle(bundle)) => (Event::Bundle(Box::new(bundle)), Passed::Other),
            Some(WireEvent::Withdrawn(gone)) => (Event::Withdrawn(gone.certificate), Passed::Other),
            Some(WireEvent::Synced(_)) => (Event::Synced, Passed::Synced),
            // Says nothing of certificates, so the place in the stream stays as it is.
            Some(WireEvent::Coordinators(list)) => {
                self.candidates.told(list.addresses);
                return Passed::Other;
            }
            // Of a newer coordinator.
            None => return Passed::Other,
        };
        if self.events.send(event).await.is_err() {
            return Passed::NobodyListens;
        }
        // The engine keeps what it cannot store yet, so this much is done with.
        self.revision = message.revision;
        passed
    }

    fn rotated(&mut self, identity: Identity) -> End {
        tracing::info!(valid_until = %identity.not_after(), "the agent has a new identity");
        self.rotate_after = identity::earliest_next(&identity, &self.clock);
        self.identity = identity;
        End::Rotated
    }
}

/// What became of a message.
enum Passed {
    Synced,
    Other,
    NobodyListens,
}

/// Reports whenever something has changed. What failed is sent with the next change, or
/// after a while. Ends only if the coordinator refuses the agent.
async fn reports(mut client: Client, mut published: watch::Receiver<Arc<Snapshot>>) -> Failure {
    let (mut waits, mut told) = (Policy::CONNECT.waits(), false);
    loop {
        let report = published.borrow_and_update().report.clone();
        let sent = timeout(REPORT_TIMEOUT, client.report(report)).await;
        let failure = match sent {
            Ok(Ok(_)) => {
                (waits, told) = (Policy::CONNECT.waits(), false);
                None
            }
            Ok(Err(status)) => match Failure::of_status(&status) {
                refused @ Failure::Refused(_) => return refused,
                failure => Some(failure.to_string()),
            },
            Err(_) => Some("no answer in time".to_owned()),
        };
        let wait = failure.map(|failure| {
            if std::mem::replace(&mut told, true) {
                tracing::debug!("still no report could be sent: {failure}");
            } else {
                tracing::warn!("a report could not be sent, trying again: {failure}");
            }
            waits.next_wait()
        });
        let changed = async {
            if published.changed().await.is_err() {
                // The engine has ended; the last report is sent by the session.
                std::future::pending::<()>().await;
            }
        };
        match wait {
            // For ever, unless something changes.
            None => changed.await,
            Some(wait) => tokio::select! {
                biased;
                () = sleep(wait) => {}
                () = changed => {}
            },
        }
    }
}

/// One more try to tell how things stand before the process ends.
async fn last_report(mut client: Client, published: &watch::Receiver<Arc<Snapshot>>) {
    let report = published.borrow().report.clone();
    let _ = timeout(LAST_REPORT_TIMEOUT, client.report(report)).await;
}

const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(2);
