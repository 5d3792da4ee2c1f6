//! The table of DNS exchanges: per client, name, type and outcome.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    explain::dns::is_same_base,
    model::{
        dns::Code,
        exchange::{DnsRow, DnsTable, Exchange, Search, Status},
        identity::Pod,
    },
};

/// Rows at most: names made up by the thousand must not fill memory. With 128 times each they take 8 MiB.
const ROWS_MAX: usize = 4_096;
/// Times kept of a row, for its median.
const TIMES: usize = 128;
/// Names with one beginning that are compared with each other.
const COMPARED_MAX: usize = 64;
/// Searches told.
const SEARCHES_MAX: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    client: Arc<str>,
    name: Arc<str>,
    kind: Arc<str>,
    status: Status,
}

#[derive(Default)]
struct Row {
    pod: Option<Arc<Pod>>,
    queries: u64,
    tries: u64,
    recent_ns: VecDeque<u64>,
    max_ns: Option<u64>,
}

/// The rows so far.
#[derive(Default)]
pub(super) struct Rows {
    rows: BTreeMap<RowKey, Row>,
    unlisted: u64,
    /// Messages were left out.
    pub(super) sampled: bool,
}

impl Rows {
    pub(super) fn add(&mut self, exchange: &Exchange) {
        let client = exchange.pod.as_ref().map_or_else(|| exchange.client.ip().to_string(), ToString::to_string);
        let (name, kind) = (Arc::clone(&exchange.name), Arc::clone(&exchange.kind));
        let key = RowKey { client: client.into(), name, kind, status: exchange.status() };
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&key) {
            self.unlisted += 1;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.pod.clone_from(&exchange.pod);
        row.queries += 1;
        row.tries += u64::from(exchange.tries);
        if let Some(took_ns) = exchange.took_ns() {
            row.max_ns = row.max_ns.max(Some(took_ns));
            if row.recent_ns.len() >= TIMES {
                row.recent_ns.pop_front();
            }
            row.recent_ns.push_back(took_ns);
        }
    }

    /// All rows, what failed first, then what was asked most.
    pub(super) fn table(&self) -> DnsTable {
        let mut rows: Vec<DnsRow> = self.rows.iter().map(|(key, row)| told(key, row)).collect();
        rows.sort_by_key(|row| (severity(row.status), std::cmp::Reverse(row.queries)));
        DnsTable {
            rows,
            searches: self.searches(),
            unlisted: self.unlisted,
            sampled: self.sampled,
            ..DnsTable::default()
        }
    }

    /// Names whose queries were multiplied by the search list: one client asked for them, and for them with another
    /// end, which does not exist.
    fn searches(&self) -> Vec<Search> {
        let mut clients: BTreeMap<(&str, &str), Vec<(&RowKey, u64)>> = BTreeMap::new();
        for (key, row) in self.rows.iter().filter(|(key, _)| matches!(&*key.kind, "A" | "AAAA")) {
            let first = key.name.split('.').next().unwrap_or_default();
            clients.entry((&key.client, first)).or_default().push((key, row.queries));
        }
        let mut searches: Vec<Search> = clients.into_values().flat_map(|names| of_one_beginning(&names)).collect();
        searches
            .sort_by(|a, b| b.queries.cmp(&a.queries).then_with(|| (&a.client, &a.name).cmp(&(&b.client, &b.name))));
        searches.truncate(SEARCHES_MAX);
        searches
    }
}

/// Searches among the names of one client that begin alike.
fn of_one_beginning(names: &[(&RowKey, u64)]) -> Vec<Search> {
    let is_miss = |key: &RowKey| key.status == Status::Code(Code::NxDomain);
    // The name meant is the one that was found; where none was, the shortest.
    let mut meant: Vec<&RowKey> = names.iter().map(|(key, _)| *key).filter(|key| !is_miss(key)).collect();
    meant.sort_by_key(|key| key.name.len());
    let missed = names.iter().map(|(key, _)| *key).filter(|key| is_miss(key)).min_by_key(|key| key.name.len());
    meant.extend(missed);
    let mut searches: Vec<Search> = Vec::new();
    for key in meant.into_iter().take(COMPARED_MAX) {
        let of_it = |(other, _): &&(&RowKey, u64)| other.name == key.name;
        let misses = |(other, _): &&(&RowKey, u64)| {
            is_miss(other) && other.name != key.name && is_same_base(&other.name, &key.name)
        };
        let told = searches.iter().any(|search| is_same_base(&search.name, &key.name));
        let missed: u64 = names.iter().take(COMPARED_MAX).filter(misses).map(|(_, queries)| queries).sum();
        if missed > 0 && !told {
            let own: u64 = names.iter().filter(of_it).map(|(_, queries)| queries).sum();
            let (client, name) = (Arc::clone(&key.client), Arc::clone(&key.name));
            searches.push(Search { client, name, queries: own + missed, misses: missed });
        }
    }
    searches
}

fn told(key: &RowKey, row: &Row) -> DnsRow {
    let mut times: Vec<u64> = row.recent_ns.iter().copied().collect();
    times.sort_unstable();
    DnsRow {
        client: Arc::clone(&key.client),
        pod: row.pod.clone(),
        name: Arc::clone(&key.name),
        kind: Arc::clone(&key.kind),
        status: key.status,
        queries: row.queries,
        tries: row.tries,
        // Of an even number the later one of the middle: a time that was measured.
        median_ns: times.get(times.len() / 2).copied(),
        max_ns: row.max_ns,
    }
}

/// What a reader must see first.
const fn severity(status: Status) -> u8 {
    match status {
        Status::Timeout | Status::Unreachable => 0,
        Status::Code(Code::NoError) => 4,
        Status::Code(Code::NxDomain) => 2,
        Status::Code(_) => 1,
        Status::Open | Status::Unknown => 3,
    }
}
