//! Where the collector is, and what it wants to be told with each request.

use std::{borrow::Cow, fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};
use http::{HeaderName, HeaderValue, Uri, uri::Scheme};
use percent_encoding::percent_decode_str;

/// The collector's address: whether by TLS, its host and port, and what stands before `/v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli::agent) struct Endpoint {
    /// HTTPS.
    pub(super) is_secure: bool,
    /// As a `Host` header has it.
    pub(super) authority: String,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    path: String,
}

/// What an endpoint looks like.
const HINT: &str = "write http://HOST:4318 or https://HOST:4318";

impl Endpoint {
    /// The path of a signal.
    pub(super) fn path(&self, signal: &str) -> String {
        format!("{}{signal}", self.path)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}: {HINT}"))?;
        let is_secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(HINT.to_owned()),
        };
        let Some(authority) = uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@')) else {
            return Err(HINT.to_owned());
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let path = uri.path().trim_end_matches('/').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { is_secure, authority: authority.to_string(), host, port, path })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// `OTEL_EXPORTER_OTLP_HEADERS`: `name=value,name=value`, values percent-encoded (W3C Baggage).
pub(super) fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            bail!("OTEL_EXPORTER_OTLP_HEADERS is to be name=value,name=value");
        };
        let name: HeaderName = name.trim().parse().context("a name in OTEL_EXPORTER_OTLP_HEADERS is none of HTTP's")?;
        let mut value = HeaderValue::from_bytes(&Cow::from(percent_decode_str(value.trim())))
            .with_context(|| format!("the value of {name} in OTEL_EXPORTER_OTLP_HEADERS is none of HTTP's"))?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_http_or_https() {
        let endpoint: Endpoint = "http://collector.observability:4318/".parse().expect("an endpoint");
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("collector.observability", 4318));
        assert_eq!(endpoint.path("/v1/logs"), "/v1/logs");
        let endpoint: Endpoint = "http://[fd00::1]:4318/otlp".parse().expect("an endpoint");
        assert_eq!((endpoint.host.as_str(), endpoint.path("/v1/logs").as_str()), ("fd00::1", "/otlp/v1/logs"));
        for (text, port) in [("http://x", 80), ("https://x", 443), ("https://x:4318", 4318)] {
            let endpoint: Endpoint = text.parse().expect("an endpoint");
            assert_eq!((endpoint.is_secure, endpoint.port), (text.starts_with("https"), port));
            assert_eq!(endpoint.to_string(), text);
        }
        for text in ["collector:4318", "http://", "ftp://x", "http://user@x:1", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_percent_encoded() {
        let all = headers("api-key=a%20b, x = y%zz").expect("headers");
        let all: Vec<(&str, &[u8])> = all.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(all, [("api-key", &b"a b"[..]), ("x", b"y%zz")]);
        assert!(headers("no value").is_err() && headers("a b=c").is_err() && headers("a=%0a").is_err());
    }
}
