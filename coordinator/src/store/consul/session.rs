//! Consul's sessions: what lives as long as it is renewed.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

use super::client::{Client, Failure, Request};
use crate::store::Error;

/// A session that is destroyed when this is dropped, unless it was kept.
pub(super) struct Session {
    client: Arc<Client>,
    id: Option<String>,
}

impl Session {
    /// Makes a session.
    ///
    /// Without health checks: its end is up to its TTL alone. With Consul's default it would die with
    /// the Consul agent that it was made at, while its owner lives and knows other agents.
    pub(super) async fn create(
        client: &Arc<Client>,
        name: &str,
        ttl: Duration,
    ) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "UPPERCASE")]
        struct Created {
            id: String,
        }
        let body = serde_json::json!({
            "Name": name,
            "TTL": format!("{}ms", ttl.as_millis()),
            "LockDelay": "0s",
            "Behavior": "release",
            "NodeChecks": [],
        });
        let request = Request::put("/v1/session/create", body.to_string());
        let answer = client.call(&request).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::unexpected(&answer).into());
        }
        let created: Created = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::nonsense(&error.to_string(), false))?;
        Ok(Self { client: client.clone(), id: Some(created.id) })
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// Lets it live on; it is its owner's from now on.
    pub(super) fn keep(mut self) -> String {
        self.id.take().unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let client = self.client.clone();
        // Also when a campaign is given up in the middle: it must not win behind our back.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = destroy(&client, &id).await {
                    tracing::debug!(%error, "a session that is not needed is left to expire");
                }
            });
        }
    }
}

/// Renews a session; whether it was still there.
pub(super) async fn renew(client: &Client, id: &str) -> Result<bool, Error> {
    if !is_id(id) {
        return Ok(false);
    }
    let request = Request::put(format!("/v1/session/renew/{id}"), Vec::new());
    let answer = client.call(&request).await?;
    match answer.status {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(Failure::unexpected(&answer).into()),
    }
}

/// Destroys a session, which frees all its locks. One that is gone is no error.
pub(super) async fn destroy(client: &Client, id: &str) -> Result<(), Error> {
    if !is_id(id) {
        return Ok(());
    }
    let request = Request::put(format!("/v1/session/destroy/{id}"), Vec::new());
    let answer = client.call(&request).await?;
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    Err(Failure::unexpected(&answer).into())
}

/// Whether it can be a session's id at all. Consul answers anything else with a server error.
fn is_id(id: &str) -> bool {
    id.len() == 36 && Uuid::try_parse(id).is_ok()
}
