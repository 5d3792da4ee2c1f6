//! DNS exchanges: one line each, and their table.

use super::{grid, wrap};
use crate::{
    model::{
        dns::Answer,
        exchange::{DnsRow, DnsTable, Exchange, Outcome, Server, Status, Translated},
        flow::Proto,
    },
    render::{
        clock::{elapsed, millis},
        escape,
    },
};

const HEADINGS: [&str; 6] = ["  result", "type", "name", "queries", "med ms", "max ms"];
/// Columns of text; the ones after them are numbers.
const WORDS: usize = 3;

/// Who asked: the pod, else the address.
pub(super) fn client(exchange: &Exchange) -> String {
    let name = exchange.pod.as_ref().map_or_else(|| exchange.client.ip().to_string(), ToString::to_string);
    escape(&name).into_owned()
}

/// How long it took; nothing where that is not known.
pub(super) fn took(exchange: &Exchange) -> String {
    exchange.took_ns().map_or_else(|| "-".to_owned(), elapsed)
}

/// What was asked, what came of it, and who was asked.
pub(super) fn sentence(exchange: &Exchange) -> String {
    let mut text = format!("{} {}", exchange.kind, exchange.name);
    match &exchange.outcome {
        Outcome::Answered { answer, .. } => text += &answered(answer, &exchange.kind),
        Outcome::Unreachable { from, .. } => text += &format!(": unreachable, says {from} by ICMP"),
        Outcome::Timeout { waited_ns } => text += &format!(": no answer within {}", elapsed(*waited_ns)),
        Outcome::Open { waited_ns } => {
            text += &format!(": no answer yet, {} after it was asked", elapsed(*waited_ns));
        }
        Outcome::Unknown => text += ": no answer seen, but records were left out",
    }
    if exchange.tries > 1 {
        text += &format!(", {} tries", exchange.tries);
    }
    text += &format!("; asked {}", server(&exchange.server));
    if exchange.transport == Proto::Tcp {
        text += " over TCP";
    }
    match &exchange.translated {
        Translated::No => {}
        Translated::To(after) => text += &format!(", after DNAT {}", server(after)),
        Translated::Unknown => text += ", NAT not seen",
    }
    escape(&text).into_owned()
}

fn answered(answer: &Answer, kind: &str) -> String {
    let found: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
    let mut text = match (found.as_slice(), answer.records) {
        ([], 0) if answer.code == crate::model::dns::Code::NoError => format!(": no {kind} record"),
        ([], 0) => String::new(),
        ([], 1) => ": 1 record".to_owned(),
        ([], records) => format!(": {records} records"),
        (found, _) => format!(": {}", found.join(", ")),
    };
    if answer.truncated {
        text += ", truncated";
    }
    text
}

/// `10.96.0.10 (kube-system/kube-dns)`; the port where it is not 53.
fn server(server: &Server) -> String {
    let addr = if server.addr.port() == 53 { server.addr.ip().to_string() } else { server.addr.to_string() };
    server.name.as_ref().map_or(addr.clone(), |name| format!("{addr} ({name})"))
}

/// The table's lines, heading first, none wider than `columns` where that can be; sentences are wrapped at `wrap_at`.
pub(super) fn lines(table: &DnsTable, columns: usize, wrap_at: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if table.rows.is_empty() {
        lines.push("no query so far".to_owned());
    } else {
        let mut clients: Vec<&str> = Vec::new();
        for row in &table.rows {
            if !clients.contains(&&*row.client) {
                clients.push(&row.client);
            }
        }
        let mut cells = vec![HEADINGS.map(str::to_owned)];
        let of = |client: &str| table.rows.iter().filter(move |row| &*row.client == client).collect::<Vec<_>>();
        cells.extend(clients.iter().flat_map(|client| of(client)).map(row_cells));
        let mut rows = grid::lines(&cells, WORDS, columns).into_iter();
        lines.extend(rows.next());
        for client in clients {
            lines.push(escape(client).into_owned());
            lines.extend(rows.by_ref().take(of(client).len()));
            for search in table.searches.iter().filter(|search| &*search.client == client) {
                let text = format!(
                    "{} queries for {}: {} asked for it with the search list behind it, and got NXDOMAIN",
                    search.queries, search.name, search.misses
                );
                lines.extend(indented(&escape(&text), wrap_at));
            }
        }
    }
    let notes = [
        (table.open > 0).then(|| format!("{} wait for their answer", table.open)),
        (table.unlisted > 0).then(|| format!("{} are in no row: there are too many names", table.unlisted)),
        table.sampled.then(|| "some sockets sent more than 100 messages a second: not all are counted".to_owned()),
    ];
    for note in notes.into_iter().flatten() {
        lines.extend(wrap(&note, wrap_at, 0, 2).into_iter().enumerate().map(hanging));
    }
    lines
}

/// What is wrong, a sentence each: for a table that is redrawn in place.
pub(super) fn findings(table: &DnsTable, wrap_at: usize) -> Vec<String> {
    let sentence = |finding: &crate::model::finding::Finding| {
        escape(&format!("{} ({}): {}", finding.rule, finding.confidence, finding.claim)).into_owned()
    };
    let told = table.findings.iter().rev().take(3).map(|finding| sentence(finding));
    told.flat_map(|text| wrap(&text, wrap_at, 0, 2).into_iter().enumerate().map(hanging)).collect()
}

fn indented(text: &str, wrap_at: usize) -> Vec<String> {
    wrap(text, wrap_at, 2, 4)
        .into_iter()
        .enumerate()
        .map(|(at, row)| format!("{}{}", if at == 0 { "  " } else { "    " }, row))
        .collect()
}

fn hanging((at, row): (usize, String)) -> String {
    if at == 0 { row } else { format!("  {row}") }
}

fn row_cells(row: &DnsRow) -> [String; 6] {
    let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), millis);
    [
        format!("  {}", row.status),
        escape(&row.kind).into_owned(),
        escape(&row.name).into_owned(),
        row.queries.to_string(),
        time(row.median_ns),
        time(row.max_ns),
    ]
}

/// What needs somebody's eye.
pub(super) const fn is_bad(status: Status) -> bool {
    !matches!(status, Status::Code(crate::model::dns::Code::NoError) | Status::Open | Status::Unknown)
}
