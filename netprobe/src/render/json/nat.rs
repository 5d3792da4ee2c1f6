//! The table of `nat --watch`.

use serde::Serialize;

use super::flows::TranslationBody;
use crate::{
    model::flows::{NatLine, NatTable},
    render::Clock,
};

#[derive(Serialize)]
pub(super) struct TableBody<'a> {
    since: String,
    rows: Vec<Row<'a>>,
    more: u64,
}

/// Connections that are translated alike; the last one stands for them.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    last: TranslationBody<'a>,
    connections: u64,
}

impl<'a> TableBody<'a> {
    pub(super) fn new(table: &'a NatTable, clock: &Clock) -> Self {
        let row = |line: &'a NatLine| Row { last: TranslationBody::new(&line.last), connections: line.connections };
        Self { since: clock.rfc3339(table.since_ns), rows: table.lines.iter().map(row).collect(), more: table.more }
    }
}
