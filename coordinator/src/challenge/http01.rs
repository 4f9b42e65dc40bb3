//! HTTP-01 (RFC 8555 section 8.3): every coordinator answers every challenge, from its mirror.
//!
//! The CA may ask any of the fleet's front ends, from several places at once; each
//! forwards `/.well-known/acme-challenge/` to any coordinator. A token is unguessable and what is
//! answered is no secret, so the listener needs no authentication. It answers nothing else, and one
//! request on each connection.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chancery_shared::challenge_type::ChallengeType;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::listener;
use crate::{mirror::Mirror, record::Challenge};

/// Answers until `shutdown`. Requests that are answered then are dropped: the CA asks again.
pub async fn serve(
    listener: TcpListener,
    mirror: Arc<Mirror>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let service = TowerToHyperService::new(routes(mirror));
    let mut http = http1::Builder::new();
    http.keep_alive(false);
    let accepting = listener::accept(listener, "HTTP-01", |tcp| {
        let connection = http.serve_connection(TokioIo::new(tcp), service.clone());
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for HTTP-01 failed");
            }
        }
    });
    shutdown.run_until_cancelled_owned(accepting).await;
    Ok(())
}

/// The routes alone, for whoever has no listener.
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

#[cfg(test)]
mod tests {
    use chancery_shared::clock::SystemClock;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinHandle,
    };
    use tokio_util::sync::DropGuard;

    use super::*;
    use crate::{
        record::{self, key},
        store::{Batch, Store as _, memory::MemoryStore},
    };

    const ASKS: &str = "GET /.well-known/acme-challenge/token HTTP/1.1\r\nhost: a.test\r\n\r\n";

    async fn served() -> (std::net::SocketAddr, JoinHandle<Result<(), Infallible>>, DropGuard) {
        let store = MemoryStore::new(SystemClock::shared());
        let challenge = Challenge {
            order: uuid::Uuid::now_v7(),
            certificate: "www".parse().unwrap(),
            identifier: "a.test".parse().unwrap(),
            challenge_type: ChallengeType::Http01,
            key_authorization: "token.thumbprint".to_owned(),
            txt: None,
            standing: None,
            left: Vec::new(),
        };
        let batch = Batch::unfenced().put(key::challenge("token"), record::encode(&challenge));
        store.commit(batch).await.unwrap();
        let stop = CancellationToken::new();
        let mirror = Mirror::start(store, stop.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, mirror, stop.clone()));
        (address, serving, stop.drop_guard())
    }

    async fn answer_to(connection: &mut TcpStream, asks: &str) -> String {
        connection.write_all(asks.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_token_is_answered_and_the_connection_closed() {
        let (address, serving, stop) = served().await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        let answer = answer_to(&mut connection, ASKS).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("token.thumbprint"));
        let mut connection = TcpStream::connect(address).await.unwrap();
        let answer = answer_to(&mut connection, &ASKS.replace("token", "other")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        drop(stop);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_listened_to_for_long_nor_beside_too_many() {
        let (address, _serving, _stop) = served().await;
        let mut silent = Vec::new();
        for _ in 0..listener::AT_ONCE {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            silent.push(connection);
        }
        // Accepted in their order: this one finds no place, and is closed unheard.
        let mut late = TcpStream::connect(address).await.unwrap();
        let _ = late.write_all(ASKS.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = late.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        // All time passes at once from here on.
        tokio::time::pause();
        for mut connection in silent {
            let _ = connection.read_to_end(&mut answer).await;
        }
        tokio::time::resume();
        let mut connection = TcpStream::connect(address).await.unwrap();
        let answer = answer_to(&mut connection, ASKS).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
