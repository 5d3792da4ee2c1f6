//! The tables of `flows`, and the lines of `nat`.

use super::grid;
use crate::{
    model::{
        flow::Flow,
        flows::{DeviceRow, FlowLine, FlowTable, NameSource, State, Translation},
        identity::Pod,
        sighting::Side,
    },
    render::{clock::elapsed, escape},
};

const DEVICE_HEADINGS: [&str; 6] = ["pod", "device", "packets out", "bytes out", "packets in", "bytes in"];
const FLOW_HEADINGS: [&str; 6] = ["peer", "by", "conns", "out", "in", "SYN-ACK"];
/// Columns of text in either; the others are numbers.
const DEVICE_WORDS: usize = 2;
const FLOW_WORDS: usize = 2;
/// Before each of a pod's flows.
const INDENT: &str = "  ";

/// Both tables, none wider than `columns` where that can be; sentences are wrapped at `wrap_at`.
pub(super) fn lines(table: &FlowTable, columns: usize, wrap_at: usize) -> Vec<String> {
    if table.devices.is_empty() {
        return vec!["no packet was seen".to_owned()];
    }
    let mut cells = vec![DEVICE_HEADINGS.map(str::to_owned)];
    cells.extend(table.devices.iter().map(device_cells));
    let mut lines = grid::lines(&cells, DEVICE_WORDS, columns);
    lines.extend(peers(table, columns.saturating_sub(INDENT.len()), wrap_at));
    if table.more > 0 {
        lines.push(format!("connections to peers that found no room here: {}", table.more));
    }
    lines
}

/// Peers, by pod.
fn peers(table: &FlowTable, columns: usize, wrap_at: usize) -> Vec<String> {
    let mut cells = vec![FLOW_HEADINGS.map(str::to_owned)];
    cells.extend(table.lines.iter().map(flow_cells));
    let mut rows = grid::lines(&cells, FLOW_WORDS, columns).into_iter();
    let Some(heading) = rows.next().filter(|_| !table.lines.is_empty()) else { return Vec::new() };
    let mut lines = vec![String::new(), format!("{INDENT}{heading}")];
    let mut above = None;
    for (row, line) in rows.zip(&table.lines) {
        let pod = who(line.pod.as_deref(), line.is_ended);
        if above.as_ref() != Some(&pod) {
            lines.push(pod.clone());
            above = Some(pod);
        }
        lines.push(format!("{INDENT}{row}"));
        let options = textwrap::Options::new(wrap_at).initial_indent("    ").subsequent_indent("      ");
        lines.extend(notes(line).iter().flat_map(|note| textwrap::wrap(note, &options)).map(Into::into));
    }
    lines
}

fn device_cells(row: &DeviceRow) -> [String; 6] {
    let kind = match (row.is_uplink, row.side) {
        (true, _) => "",
        (false, Side::Pod) => " (in the pod)",
        (false, _) => " (its link)",
    };
    [
        who(row.pod.as_deref(), row.is_ended),
        format!("{}{kind}", escape(&row.device)),
        row.amounts.out.packets.to_string(),
        bytes(row.amounts.out.bytes),
        row.amounts.into.packets.to_string(),
        bytes(row.amounts.into.bytes),
    ]
}

fn flow_cells(line: &FlowLine) -> [String; 6] {
    [
        peer(line),
        if line.devices.is_empty() { "-".to_owned() } else { escape(&line.devices.join("+")).into_owned() },
        line.connections.to_string(),
        bytes(line.amounts.out.bytes),
        bytes(line.amounts.into.bytes),
        line.handshake_ns.map_or_else(|| "-".to_owned(), elapsed),
    ]
}

pub(super) fn who(pod: Option<&Pod>, is_ended: bool) -> String {
    // The pod may say so itself.
    let ended = if is_ended && !pod.is_some_and(|pod| pod.is_ended) { " (ended)" } else { "" };
    pod.map_or_else(|| "(node)".to_owned(), |pod| format!("{}{ended}", escape(&pod.to_string())))
}

/// `10.0.0.4:3306 tcp shop/db`, `10.0.0.9 -> :8080 tcp`, `s3.example.com (203.0.113.9):443 tcp`
fn peer(line: &FlowLine) -> String {
    let asked_for = line.name.as_ref().filter(|name| name.source == NameSource::Dns);
    let mut end = match asked_for {
        Some(name) => format!("{} ({})", escape(&name.text), line.peer.ip()),
        None if line.initiated => Flow { proto: line.proto, src: line.peer, dst: line.peer }.destination(),
        None => line.peer.ip().to_string(),
    };
    if line.initiated && asked_for.is_some() && line.peer.port() != 0 {
        end.push_str(&format!(":{}", line.peer.port()));
    }
    let mut text = match (line.initiated, line.served_port) {
        (true, _) => format!("{end} {}", line.proto),
        (false, 0) => format!("{end} -> {}", line.proto),
        (false, port) => format!("{end} -> :{port} {}", line.proto),
    };
    if let Some(name) = line.name.as_ref().filter(|_| asked_for.is_none()) {
        text.push(' ');
        text.push_str(&escape(&name.text));
    }
    text
}

/// What a row has no column for: ends that are no good ends, and NAT.
fn notes(line: &FlowLine) -> Vec<String> {
    let told = |state: &State| matches!(state, State::Reset | State::Unanswered);
    let states: Vec<String> =
        line.states.iter().filter(|(state, _)| told(state)).map(|(state, count)| format!("{count} {state}")).collect();
    let mut notes = Vec::new();
    let resent = (line.retransmits > 0).then(|| format!("{} segments sent again", line.retransmits));
    let ends: Vec<String> = states.into_iter().chain(resent).collect();
    if !ends.is_empty() {
        notes.push(ends.join(", "));
    }
    notes.extend(line.nat.as_deref().map(|nat| translation(nat).1.join("; ")));
    notes
}

/// A translation: whose and what it was before, and what each hook made of it.
pub(super) fn translation(translation: &Translation) -> (String, Vec<String>) {
    let Translation { before, after, dnat, snat, snat_device, service, devices, pod, is_ended, .. } = translation;
    let header = format!("{}  {before}", who(pod.as_deref(), *is_ended));
    let mut words = Vec::new();
    if let Some(hook) = dnat {
        let service = service.as_deref().map(|name| format!(" of service {}", escape(name))).unwrap_or_default();
        words.push(format!("DNAT in {hook}: to {}{service}", after.destination()));
    }
    if let Some(hook) = snat {
        let whose = match snat_device {
            Some(device) => format!("the address of {}", escape(device)),
            None => "an address that no device of the node has".to_owned(),
        };
        let by = if devices.is_empty() { String::new() } else { format!(", leaves by {}", escape(&devices.join("+"))) };
        words.push(format!("SNAT in {hook}: from {}, {whose}{by}", after.source()));
    }
    (header, words)
}

/// `830 B`, `3.4 KiB`
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
