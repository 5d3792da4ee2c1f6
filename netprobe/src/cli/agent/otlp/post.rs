//! One request to the collector.

use std::{fmt, time::Duration};

use anyhow::anyhow;
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{Endpoint, tls::Tls};

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

/// With the causes of an error: hyper's own words are those of its layers.
fn later(error: impl Into<anyhow::Error>) -> Trouble {
    Trouble::Later { reason: format!("{:#}", error.into()), after: None }
}

/// Sends to one collector.
pub(super) struct Poster {
    pub(super) endpoint: Endpoint,
    /// For HTTPS.
    pub(super) tls: Option<Tls>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
}

impl Poster {
    /// Sends a message, and gives the answer.
    pub(super) async fn post(&self, signal: &str, body: Vec<u8>) -> Result<Bytes, Trouble> {
        match timeout(self.timeout, self.exchange(signal, body)).await {
            Ok(done) => done,
            Err(_) => Err(later(anyhow!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    /// A connection of its own for each: there are few, and none is to be looked after.
    async fn exchange(&self, signal: &str, body: Vec<u8>) -> Result<Bytes, Trouble> {
        let request = self.request(signal, body)?;
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(later)?;
        let answer = match &self.tls {
            None => send(stream, request).await?,
            Some(tls) => send(tls.begin(stream).await.map_err(later)?, request).await?,
        };
        let (status, after) = (answer.status(), retry_after(answer.headers()));
        let read = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        // Those that OTLP says to try again (opentelemetry.io/docs/specs/otlp, "Failures").
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Trouble::Later { reason: format!("HTTP {status}"), after }),
            status if status.is_success() => read.map(|body| body.to_bytes()).map_err(|error| later(anyhow!(error))),
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

/// Sends a request by a connection of its own.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(later)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(later)
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
