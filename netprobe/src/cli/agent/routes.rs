//! What is asked, and the answer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
};
use tokio::sync::Notify;

use super::{
    body::Body,
    shared::{Listener, Shared, What},
    streams,
};
use crate::render::metrics::Exposition;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// Answers a request. Streams are for the socket alone, which root alone can open.
pub(super) async fn answer(
    listener: Listener,
    request: &Request<Incoming>,
    shared: &Arc<Shared>,
    cut: Arc<Notify>,
) -> Result<Response<Body>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    let uri = request.uri();
    let is_watch = uri.query().is_some_and(|query| query.split('&').any(|word| word == "watch=1" || word == "watch"));
    Ok(match (uri.path(), listener) {
        ("/metrics", _) => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
            let exposition = Exposition::accepted(accept);
            text(StatusCode::OK, exposition.media_type(), shared.metrics(exposition))
        }
        ("/healthz", _) => condition(shared.stuck()),
        ("/readyz", _) => condition(shared.unready()),
        ("/v1/status", Listener::Socket) => text(StatusCode::OK, JSON, format!("{}\n", shared.status())),
        // Who asks for the head alone gets it without the stream.
        ("/v1/findings" | "/v1/drops" | "/v1/flows", Listener::Socket) if request.method() == Method::HEAD => {
            text(StatusCode::OK, LINES, "")
        }
        ("/v1/findings", Listener::Socket) => stream(streams::findings(shared, is_watch, cut)),
        ("/v1/drops", Listener::Socket) => stream(streams::tables(shared, What::Drops, is_watch, cut)),
        ("/v1/flows", Listener::Socket) => stream(streams::tables(shared, What::Flows, is_watch, cut)),
        (_, Listener::Http) => text(StatusCode::NOT_FOUND, TEXT, "here are /metrics, /healthz and /readyz\n"),
        (_, Listener::Socket) => {
            let paths = "here are /metrics, /healthz, /readyz, /v1/findings, /v1/drops, /v1/flows and /v1/status\n";
            text(StatusCode::NOT_FOUND, TEXT, paths)
        }
    })
}

fn condition(wrong: Option<String>) -> Response<Body> {
    match wrong {
        None => text(StatusCode::OK, TEXT, "ok\n"),
        Some(wrong) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, wrong + "\n"),
    }
}

fn text(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    with(status, media_type, Body::of(body))
}

fn stream(body: Body) -> Response<Body> {
    with(StatusCode::OK, LINES, body)
}

fn with(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
