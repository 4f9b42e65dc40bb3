//! The HTTP of the clouds: a proxy that ends TLS itself, and a server without TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::extract::Query;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Asked, Shared};
use crate::authority::ServerCertificate;

pub(super) const CLOUDFLARE: &str = "api.cloudflare.com";
pub(super) const ROUTE_53: &str = "route53.amazonaws.com";
pub(super) const GOOGLE: &str = "dns.googleapis.com";
pub(super) const GOOGLE_OAUTH: &str = "oauth2.googleapis.com";
pub(super) const DIGITALOCEAN: &str = "api.digitalocean.com";
pub(super) const OVH: &str = "eu.api.ovh.com";
pub(super) const DESEC: &str = "desec.io";
/// All of them.
pub(super) const HOSTS: [&str; 7] =
    [CLOUDFLARE, ROUTE_53, GOOGLE, GOOGLE_OAUTH, DIGITALOCEAN, OVH, DESEC];

/// A proxy that plays whatever server it is asked for.
pub(super) async fn proxy(
    address: SocketAddr,
    certificate: &ServerCertificate,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>> {
    let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()?));
    let listener = TcpListener::bind(address).await.context("no port for the clouds")?;
    Ok(tokio::spawn(accept(listener, move |stream| {
        pretend(stream, acceptor.clone(), shared.clone())
    })))
}

async fn pretend(mut stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    if read_connect(&mut stream).await.is_err() {
        return;
    }
    // A client that gives up, or is killed, is nothing to tell.
    if let Ok(stream) = acceptor.accept(stream).await {
        serve(stream, shared).await;
    }
}

/// A server without TLS.
pub(super) async fn plain(address: SocketAddr, shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.context("no port for the clouds")?;
    Ok(tokio::spawn(accept(listener, move |stream| serve(stream, shared.clone()))))
}

async fn accept<F, W>(listener: TcpListener, work: F)
where
    F: Fn(TcpStream) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    // Dropped with this task, and then all connections are closed.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        connections.spawn(work(stream));
    }
}

/// Reads `CONNECT host:port`, and says that it is connected.
async fn read_connect(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // The client's TLS begins right behind: not a byte too many.
        head.push(stream.read_u8().await?);
        anyhow::ensure!(head.len() < 8192, "no end of the head");
    }
    anyhow::ensure!(head.starts_with(b"CONNECT "), "not a CONNECT");
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    Ok(())
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| handle(shared.clone(), request));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri);
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let asked = Asked {
        method: parts.method,
        host: host.to_owned(),
        path: parts.uri.path().to_owned(),
        query: query.map(|query| query.0).unwrap_or_default(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let answer = shared.answer(&asked).await;
    let kind = if answer.body.starts_with('<') { "text/xml" } else { "application/json" };
    let mut response = Response::builder().status(answer.status).header(CONTENT_TYPE, kind);
    if let Some(secs) = answer.retry_after {
        response = response.header(RETRY_AFTER, secs);
    }
    Ok(response.body(Full::from(answer.body)).expect("the parts are valid"))
}
