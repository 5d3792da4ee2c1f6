//! The table of `drops`.

use std::collections::BTreeMap;

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
/// A column is never cut below this.
const NARROWEST: usize = 8;

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
        let widths = widths(&cells, columns);
        lines.extend(cells.iter().map(|row| line(row, &widths)));
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

/// Widths of the columns: what they hold, the widest words cut until the line fits.
fn widths(cells: &[[String; 7]], columns: usize) -> [usize; 7] {
    let mut widths = [0; 7];
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(display_width(cell));
        }
    }
    let gaps = 2 * (widths.len() - 1);
    while widths.iter().sum::<usize>() + gaps > columns {
        match widths[..WORDS].iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    widths
}

fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let mut line = String::new();
    for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let cell = cut(cell, width);
        let space = " ".repeat(width.saturating_sub(display_width(&cell)));
        if index > 0 {
            line.push_str("  ");
        }
        if index < WORDS {
            line.push_str(&cell);
            line.push_str(&space);
        } else {
            line.push_str(&space);
            line.push_str(&cell);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// `text` in at most `width` columns, with `…` where something is missing.
fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if display_width(&short) + display_width(c.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        short.push(c);
    }
    short + "…"
}

fn display_width(text: &str) -> usize {
    textwrap::core::display_width(text)
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
