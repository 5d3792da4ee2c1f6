//! One request to the collector.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::Endpoint;

/// Bytes of an answer that are read: it holds two numbers and a sentence.
const ANSWER_BYTES: usize = 64 << 10;

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may work later; after this time, where the collector says.
    Later { reason: String, after: Option<Duration> },
    /// It would be refused again.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later { reason, .. } | Self::Refused(reason) => f.write_str(reason),
        }
    }
}

fn later(reason: impl ToString) -> Trouble {
    Trouble::Later { reason: reason.to_string(), after: None }
}

/// Sends to one collector.
pub(super) struct Poster {
    pub(super) endpoint: Endpoint,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
}

impl Poster {
    /// Sends a message, and gives the answer.
    pub(super) async fn post(&self, signal: &str, body: Vec<u8>) -> Result<Bytes, Trouble> {
        match timeout(self.timeout, self.exchange(signal, body)).await {
            Ok(done) => done,
            Err(_) => Err(later(format!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    /// A connection of its own for each: there are few, and none is to be looked after.
    async fn exchange(&self, signal: &str, body: Vec<u8>) -> Result<Bytes, Trouble> {
        let request = self.request(signal, body)?;
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(later)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(later)?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(later)?;
        let (status, after) = (answer.status(), retry_after(answer.headers()));
        let read = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        // Those that OTLP says to try again (opentelemetry.io/docs/specs/otlp, "Failures").
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Trouble::Later { reason: format!("HTTP {status}"), after }),
            status if status.is_success() => read.map(|body| body.to_bytes()).map_err(later),
            status => Err(Trouble::Refused(format!("HTTP {status}"))),
        }
    }

    fn request(&self, signal: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.endpoint.path(signal))
            .header(HOST, &self.endpoint.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::from(body)).map_err(|error| Trouble::Refused(error.to_string()))
    }
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
