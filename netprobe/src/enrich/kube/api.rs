//! One request to the API, within bounds of time and size.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Limited};
use kube::client::{Body, Client, ClientBuilder};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::time::timeout;

use super::{
    Part,
    config::Found,
    error::{KubeError, Trouble, chain},
};
use crate::enrich::inventory::object::{Object, or_default};

/// How long an answer may take that is no watch.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer, bytes: a page of 500 pods has 2 to 10 MB.
const ANSWER_MAX: usize = 64 << 20;
/// The largest object of a watch, bytes: etcd keeps 1.5 MiB.
const LINE_MAX: usize = 8 << 20;
/// Objects asked for at once.
const PAGE: u32 = 500;

/// The API.
pub(super) struct Api {
    client: Client,
    pub(super) place: String,
}

/// What a list says besides its objects.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMeta {
    pub(super) resource_version: String,
    /// There is more behind this word.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) token: String,
}

/// A part of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) items: Vec<Object>,
}

/// The API's own account of a failure.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
}

impl Api {
    /// Makes a client; asks nothing yet.
    pub(super) fn new(mut found: Found) -> Result<Self, KubeError> {
        let place = found.place.to_string();
        // Else the system's certificates are read, and a system without any is no client.
        if found.config.cluster_url.scheme_str() == Some("http") {
            found.config.root_cert.get_or_insert_default();
        }
        let builder = ClientBuilder::try_from(found.config)
            .map_err(|error| KubeError::Config { place: place.clone(), reason: chain(&error) })?;
        Ok(Self { client: builder.build(), place })
    }

    /// The same for kube's own ways of asking.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The object at `path`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        self.answer(Request::get(path).body(Body::empty())).await
    }

    /// What the API makes of `body`, posted to `path`.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Trouble> {
        let request = Request::post(path).header("content-type", "application/json");
        self.answer(request.body(Body::from(body.to_string().into_bytes()))).await
    }

    /// Creates `body` in the collection at `path`.
    pub(super) async fn create(&self, path: &str, body: &serde_json::Value) -> Result<(), Trouble> {
        self.post::<IgnoredAny>(path, body).await.map(drop)
    }

    /// Changes what `body` has of the object at `path` (RFC 7386).
    pub(super) async fn patch(&self, path: &str, body: &serde_json::Value) -> Result<(), Trouble> {
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        self.answer::<IgnoredAny>(request.body(Body::from(body.to_string().into_bytes()))).await.map(drop)
    }

    /// A page of `part`; the first one without a token.
    pub(super) async fn page(&self, part: Part, node: &str, token: &str) -> Result<Page, Trouble> {
        let mut path = format!("{}limit={PAGE}", path(part, node));
        if !token.is_empty() {
            path.push_str("&continue=");
            path.push_str(&escaped(token));
        }
        self.get(&path).await
    }

    /// Watches `part` from a version on.
    pub(super) async fn watch(&self, part: Part, node: &str, version: &str, seconds: u64) -> Result<Lines, Trouble> {
        let (start, version) = (path(part, node), escaped(version));
        let path =
            format!("{start}watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}");
        let response =
            timeout(ANSWER, self.send(Request::get(path).body(Body::empty()))).await.map_err(|_| late())??;
        Ok(Lines { body: response.into_body(), read: BytesMut::new(), searched: 0 })
    }

    async fn answer<T: DeserializeOwned>(&self, request: http::Result<Request<Body>>) -> Result<T, Trouble> {
        let bytes = timeout(ANSWER, async {
            let response = self.send(request).await?;
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| Trouble::Away(chain(&*error)))
        });
        let bytes: Bytes = bytes.await.map_err(|_| late())??;
        serde_json::from_slice(&bytes).map_err(|error| Trouble::Odd(format!("no JSON as expected: {error}")))
    }

    /// Sends a request; an answer other than success is trouble.
    async fn send(&self, request: http::Result<Request<Body>>) -> Result<Response<Body>, Trouble> {
        let request = request.map_err(|error| Trouble::Odd(error.to_string()))?;
        let response = self.client.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

fn late() -> Trouble {
    Trouble::Away(format!("no answer within {} s", ANSWER.as_secs()))
}

/// How long an answer may be that says why there is none, bytes.
const REFUSAL_MAX: usize = 64 << 10;

async fn refusal(response: Response<Body>) -> Trouble {
    let code = response.status();
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = Limited::new(response.into_body(), REFUSAL_MAX).collect().await.map(|body| body.to_bytes());
    let status: Status = body.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let message = if status.message.is_empty() { reason(code) } else { status.message };
    Trouble::Status { code: code.as_u16(), message, retry_after: asked.map(Duration::from_secs) }
}

fn reason(code: StatusCode) -> String {
    code.canonical_reason().unwrap_or("no reason is given").to_owned()
}

/// The path of a part's list, up to its first option.
fn path(part: Part, node: &str) -> String {
    let of_node = |is: &str| format!("/api/v1/pods?fieldSelector=spec.nodeName{is}{}&", escaped(node));
    match part {
        Part::Near => of_node("%3D"),
        // Those of this node come by a watch of their own.
        Part::Far => of_node("%21%3D"),
        Part::Services => "/api/v1/services?".to_owned(),
        Part::Slices => "/apis/discovery.k8s.io/v1/endpointslices?".to_owned(),
        Part::Nodes => "/api/v1/nodes?".to_owned(),
    }
}

/// `text` as a part of a query (RFC 3986).
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The lines of a watch, one object each.
pub(super) struct Lines {
    body: Body,
    read: BytesMut,
    /// Bytes of `read` that hold no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line; none at the end. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            if let Some(at) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + at).freeze();
                self.read.advance(1);
                self.searched = 0;
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.read.len();
            if self.searched > LINE_MAX {
                return Err(Trouble::Odd(format!("an object of more than {} MiB", LINE_MAX >> 20)));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_letter_is_escaped() {
        assert_eq!(escaped("a-b.c_d~9"), "a-b.c_d~9");
        assert_eq!(escaped("a=b&c+d/\n"), "a%3Db%26c%2Bd%2F%0A");
    }

    #[tokio::test]
    async fn lines_are_whole_however_they_are_cut() {
        let mut lines = Lines {
            body: Body::from(b"{\"a\":1}\n\n {\"b\":2}\r\nrest".to_vec()),
            read: BytesMut::from(&b"x\n{"[..]),
            searched: 0,
        };
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("the body is whole") {
            all.push(String::from_utf8(line.to_vec()).expect("it is text"));
        }
        assert_eq!(all, ["x", "{{\"a\":1}", " {\"b\":2}\r"], "what has no end was cut, and is no object");
    }
}
