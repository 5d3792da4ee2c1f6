//! The table of `nat --watch`.

use std::net::SocketAddr;

use super::{flows::who, grid};
use crate::{
    model::{
        flow::Flow,
        flows::{NatLine, NatTable, Translation},
    },
    render::escape,
};

const HEADINGS: [&str; 7] = ["pod", "from", "to", "becomes from", "to", "by", "conns"];
/// Columns of text; the others are numbers.
const WORDS: usize = 6;

/// The table, none of its lines wider than `columns` where that can be.
pub(super) fn lines(table: &NatTable, columns: usize) -> Vec<String> {
    if table.lines.is_empty() {
        return vec!["no connection was translated".to_owned()];
    }
    let mut cells = vec![HEADINGS.map(str::to_owned)];
    cells.extend(table.lines.iter().map(row));
    let mut lines = grid::lines(&cells, WORDS, columns);
    if table.more > 0 {
        lines.push(format!("connections that found no room here: {}", table.more));
    }
    lines
}

fn row(line: &NatLine) -> [String; 7] {
    let Translation { pod, is_ended, before, after, dnat, snat, snat_device, service, devices, .. } = &*line.last;
    let name = service.as_deref().map(|name| format!(" {}", escape(name))).unwrap_or_default();
    let device = snat_device.as_deref().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
    let same = || "-".to_owned();
    [
        who(pod.as_deref(), *is_ended),
        before.src.ip().to_string(),
        format!("{} {}{name}", end(before, before.dst), before.proto),
        if snat.is_some() { format!("{}{device}", after.src.ip()) } else { same() },
        if dnat.is_some() { end(after, after.dst) } else { same() },
        if devices.is_empty() { same() } else { escape(&devices.join("+")).into_owned() },
        line.connections.to_string(),
    ]
}

/// An end as people write it: with a port where there are ports.
fn end(flow: &Flow, at: SocketAddr) -> String {
    Flow { src: at, dst: at, ..*flow }.destination()
}
