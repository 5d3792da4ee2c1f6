//! The table of `drops`.

use std::collections::BTreeMap;

use super::grid;
use crate::{
    model::{
        drops::{DropRow, DropTable},
        sighting::Side,
    },
    render::escape,
};

const HEADINGS: [&str; 7] = ["pod", "where", "device", "reason", "site", "packets", "/s"];
/// Columns of text; the ones after them are numbers, set to the right.
const WORDS: usize = 5;

/// The table's lines, heading first, none wider than `columns` where that can be; noise is one
/// last sentence, wrapped at `wrap_at`.
pub(super) fn lines(table: &DropTable, columns: usize, wrap_at: usize) -> Vec<String> {
    let (noise, rows): (Vec<_>, Vec<_>) = table.rows.iter().partition(|row| row.noise.is_some());
    let mut lines = Vec::new();
    if rows.is_empty() {
        lines.push("no packet was dropped".to_owned());
    } else {
        let mut cells = vec![HEADINGS.map(str::to_owned)];
        cells.extend(rows.iter().map(|row| row_cells(row, table.interval_ns)));
        if rows.iter().any(|row| row.node.is_some()) {
            let nodes = rows.iter().map(|row| row.node.as_deref().map_or("-".into(), escape).into_owned());
            let nodes = std::iter::once("node".to_owned()).chain(nodes);
            let cells: Vec<_> = nodes.zip(cells).map(|(node, cells)| with_node(node, cells)).collect();
            lines.extend(grid::lines(&cells, WORDS + 1, columns));
        } else {
            lines.extend(grid::lines(&cells, WORDS, columns));
        }
    }
    if !noise.is_empty() {
        lines.extend(
            textwrap::wrap(&folded(&noise), textwrap::Options::new(wrap_at).subsequent_indent("  "))
                .into_iter()
                .map(Into::into),
        );
    }
    lines
}

/// The cells, and the node before them.
fn with_node(node: String, [pod, side, device, reason, site, packets, rate]: [String; 7]) -> [String; 8] {
    [node, pod, side, device, reason, site, packets, rate]
}

fn row_cells(row: &DropRow, interval_ns: u64) -> [String; 7] {
    let pod = row.pod.as_ref().map_or_else(|| "-".to_owned(), |pod| escape(&pod.to_string()).into_owned());
    let side = match row.side {
        Side::Node => "node",
        Side::Pod => "pod",
        Side::Unknown => "-",
    };
    let device = if row.device.is_empty() { "-".to_owned() } else { escape(&row.device).into_owned() };
    let per_second = match interval_ns {
        0 => "-".to_owned(),
        ns => (u128::from(row.fresh) * 1_000_000_000).div_ceil(u128::from(ns)).to_string(),
    };
    [
        pod,
        side.to_owned(),
        device,
        escape(&row.reason).into_owned(),
        escape(&row.site).into_owned(),
        row.packets.to_string(),
        per_second,
    ]
}

/// What a healthy node drops too, in one sentence.
fn folded(noise: &[&DropRow]) -> String {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for row in noise {
        *kinds.entry(row.noise.unwrap_or_default()).or_default() += row.packets;
    }
    let total: u64 = kinds.values().sum();
    let list: Vec<_> = kinds.iter().map(|(what, packets)| format!("{what} {packets}")).collect();
    format!("not in the table: {total} that a healthy node drops too ({})", list.join(", "))
}
