//! HTTP-01 (RFC 8555 section 8.3): every coordinator answers every challenge, from its mirror.
//!
//! The CA may ask any of the fleet's front ends, from several places at once; each
//! forwards `/.well-known/acme-challenge/` to any coordinator. A token is unguessable and what is
//! answered is no secret, so the listener needs no authentication. It answers nothing else.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chancery_shared::challenge_type::ChallengeType;

use crate::{mirror::Mirror, record::Challenge};

/// The listener's routes.
pub fn routes(mirror: Arc<Mirror>) -> Router {
    Router::new().route("/.well-known/acme-challenge/{token}", get(answer)).with_state(mirror)
}

async fn answer(State(mirror): State<Arc<Mirror>>, Path(token): Path<String>) -> Response {
    let view = mirror.read();
    let presented = view.challenges.get(&token).map(|challenge| &challenge.record);
    let is_ours = |challenge: &&Arc<Challenge>| challenge.challenge_type == ChallengeType::Http01;
    let Some(challenge) = presented.filter(is_ours) else {
        tracing::debug!("asked for a token that no order has presented");
        return StatusCode::NOT_FOUND.into_response();
    };
    tracing::debug!(identifier = %challenge.identifier, "answered a challenge");
    let content_type = [(header::CONTENT_TYPE, "application/octet-stream")];
    (content_type, challenge.key_authorization.clone()).into_response()
}
