//! As much of HTTP/1.1 as is needed.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::Value;

/// A request.
pub(crate) struct Request {
    pub(super) method: String,
    pub(crate) path: String,
    query: String,
    pub(super) token: String,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The next request of a connection; none at its end.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            token: String::new(),
            headers: BTreeMap::new(),
            body: Vec::new(),
        };
        let mut length = 0;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            let (name, value) = (name.to_lowercase(), value.trim());
            match name.as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => value.trim_start_matches("Bearer ").clone_into(&mut request.token),
                _ => {}
            }
            request.headers.insert(name, value.to_owned());
        }
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    /// The line that tests look at, with the query as it means.
    pub(super) fn line(&self) -> String {
        format!("{} {}?{}", self.method, self.path, decoded(&self.query))
    }

    /// An option of the query; empty where it is not there.
    pub(super) fn option(&self, name: &str) -> String {
        self.options(name).into_iter().next().unwrap_or_default()
    }

    /// The same of one that may be there several times.
    pub(super) fn options(&self, name: &str) -> Vec<String> {
        let values = self.query.split('&').filter_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        values.map(decoded).collect()
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'+' {
            out.push(b' ');
        } else if byte == b'%' {
            let hex: String = bytes.by_ref().take(2).map(char::from).collect();
            out.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers with a body of known length.
pub(super) fn reply(out: &mut TcpStream, code: u16, headers: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n");
    out.write_all(&[head.as_bytes(), body].concat())
}

/// Begins an answer of unknown length.
pub(super) fn begin(out: &mut TcpStream) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// One line of it.
pub(super) fn chunk(out: &mut TcpStream, line: &Value) -> io::Result<()> {
    let text = format!("{line}\n");
    out.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

/// Its end.
pub(super) fn end(out: &mut TcpStream) -> io::Result<()> {
    out.write_all(b"0\r\n\r\n")
}
