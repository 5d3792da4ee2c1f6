//! DNS exchanges and their table, field by field.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::object::PodRef;
use crate::model::{
    dns::Answer,
    exchange::{DnsRow, DnsTable, Exchange, Outcome, Search, Server, Translated},
};

#[derive(Serialize)]
struct End {
    ip: IpAddr,
    port: u16,
}

impl End {
    const fn new(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), port: addr.port() }
    }
}

#[derive(Serialize)]
struct ServerRef<'a> {
    ip: IpAddr,
    port: u16,
    name: Option<&'a str>,
}

impl<'a> ServerRef<'a> {
    fn new(server: &'a Server) -> Self {
        let Server { addr, name } = server;
        Self { ip: addr.ip(), port: addr.port(), name: name.as_deref() }
    }
}

#[derive(Serialize)]
pub(super) struct ExchangeBody<'a> {
    pod: Option<PodRef<'a>>,
    client: End,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    server: ServerRef<'a>,
    server_after: Option<ServerRef<'a>>,
    dnat: Option<bool>,
    result: String,
    addresses: &'a [IpAddr],
    records: Option<u16>,
    truncated: Option<bool>,
    tries: u32,
    took_ns: Option<u64>,
    transport: String,
}

impl<'a> ExchangeBody<'a> {
    pub(super) fn new(exchange: &'a Exchange) -> Self {
        let Exchange { asked_ns: _, pod, client, transport, name, kind, server, translated, tries, outcome } = exchange;
        let answer: Option<&Answer> = match outcome {
            Outcome::Answered { answer, .. } => Some(answer),
            Outcome::Unreachable { .. } | Outcome::Timeout { .. } | Outcome::Open { .. } | Outcome::Unknown => None,
        };
        let (server_after, dnat) = match translated {
            Translated::Unknown => (None, None),
            Translated::No => (None, Some(false)),
            Translated::To(server) => (Some(ServerRef::new(server)), Some(true)),
        };
        Self {
            pod: pod.as_deref().map(PodRef::new),
            client: End::new(*client),
            name,
            kind,
            server: ServerRef::new(server),
            server_after,
            dnat,
            result: exchange.status().to_string(),
            addresses: answer.map_or(&[], |answer| &answer.addresses),
            records: answer.map(|answer| answer.records),
            truncated: answer.map(|answer| answer.truncated),
            tries: *tries,
            took_ns: exchange.took_ns(),
            transport: transport.to_string(),
        }
    }
}

#[derive(Serialize)]
struct RowRef<'a> {
    client: &'a str,
    pod: Option<PodRef<'a>>,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    result: String,
    queries: u64,
    tries: u64,
    median_ns: Option<u64>,
    max_ns: Option<u64>,
}

impl<'a> RowRef<'a> {
    fn new(row: &'a DnsRow) -> Self {
        let DnsRow { client, pod, name, kind, status, queries, tries, median_ns, max_ns } = row;
        Self {
            client,
            pod: pod.as_deref().map(PodRef::new),
            name,
            kind,
            result: status.to_string(),
            queries: *queries,
            tries: *tries,
            median_ns: *median_ns,
            max_ns: *max_ns,
        }
    }
}

#[derive(Serialize)]
struct SearchRef<'a> {
    client: &'a str,
    name: &'a str,
    queries: u64,
    misses: u64,
}

impl<'a> SearchRef<'a> {
    fn new(search: &'a Search) -> Self {
        let Search { client, name, queries, misses } = search;
        Self { client, name, queries: *queries, misses: *misses }
    }
}

#[derive(Serialize)]
pub(super) struct TableBody<'a> {
    rows: Vec<RowRef<'a>>,
    searches: Vec<SearchRef<'a>>,
    open: u64,
    unlisted: u64,
    sampled: bool,
}

impl<'a> TableBody<'a> {
    pub(super) fn new(table: &'a DnsTable) -> Self {
        // The findings are objects of their own.
        let DnsTable { mono_ns: _, rows, searches, open, unlisted, sampled, findings: _ } = table;
        Self {
            rows: rows.iter().map(RowRef::new).collect(),
            searches: searches.iter().map(SearchRef::new).collect(),
            open: *open,
            unlisted: *unlisted,
            sampled: *sampled,
        }
    }
}
