//! The tables that a run shows, and the counts behind them.

use anyhow::{Context as _, Result};

use super::Live;
use crate::{
    model::{
        counted::CountedRows,
        drops::DropTable,
        flows::{FlowTable, NatTable},
    },
    pipeline::{DropCount, DropCounts, Input},
    probe::host,
    record::{Frame, Symbol},
    render::Render,
};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who loses packets.
    Drops,
    /// Who talks to whom.
    Flows,
    /// What NAT makes of connections.
    Nat,
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Over the one before.
    InPlace,
    /// After the one before.
    Below,
    /// The last of a run. Where tables were shown one after the other, it is left out if it says what the one before
    /// said.
    Last {
        /// Those before were drawn in place: it takes their place, whole.
        in_place: bool,
    },
}

/// A table as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Drops(DropTable),
    Flows(FlowTable),
    Nat(NatTable),
}

impl Table {
    fn show(&self, out: &mut dyn Render, live: bool) -> std::io::Result<()> {
        match self {
            Self::Drops(table) => out.drops(table, live),
            Self::Flows(table) => out.flows(table, live),
            Self::Nat(table) => out.nat(table, live),
        }
    }

    /// What it says, whenever that was.
    fn timeless(&self) -> Self {
        match self.clone() {
            Self::Drops(table) => Self::Drops(DropTable { mono_ns: 0, ..table }),
            Self::Flows(table) => Self::Flows(FlowTable { mono_ns: 0, ..table }),
            Self::Nat(table) => Self::Nat(NatTable { mono_ns: 0, ..table }),
        }
    }
}

/// Counts as they were read, for the recording.
enum Read {
    Drops(DropCounts),
    Flows(CountedRows),
}

impl Live {
    /// Reads what is counted and shows it.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn show_table(&mut self, kind: Kind, draw: Draw, out: &mut dyn Render) -> Result<()> {
        let now_ns = host::mono_ns();
        let (table, read) = match kind {
            Kind::Drops => {
                let read = Read::Drops(self.read_drops(now_ns)?);
                (Table::Drops(self.pipeline.drop_table(now_ns)), read)
            }
            Kind::Flows => {
                let read = Read::Flows(self.read_over(now_ns)?);
                (Table::Flows(self.pipeline.flow_table(now_ns)), read)
            }
            Kind::Nat => {
                let read = Read::Flows(self.read_over(now_ns)?);
                (Table::Nat(self.pipeline.nat_table(now_ns)), read)
            }
        };
        let said = self.last_table.as_ref().is_some_and(|last| last.timeless() == table.timeless());
        let shown = !(draw == Draw::Last { in_place: false } && said);
        match read {
            Read::Drops(counts) => self.keep_drops(&DropCounts { shown, ..counts })?,
            Read::Flows(rows) => self.keep_flows(&CountedRows { shown, ..rows })?,
        }
        if shown {
            table.show(out, draw == Draw::InPlace)?;
            self.last_table = Some(table);
        }
        Ok(())
    }

    /// Reads the drops, so that the run's sum has them.
    pub(super) fn take_drops(&mut self, now_ns: u64) -> Result<()> {
        let counts = self.read_drops(now_ns)?;
        self.keep_drops(&counts)
    }

    pub(super) fn read_drops(&mut self, now_ns: u64) -> Result<DropCounts> {
        let rows: Vec<DropCount> = self
            .attached
            .drops()?
            .into_iter()
            .map(|(key, total)| DropCount {
                location: key.location,
                netns: key.netns,
                ifindex: key.ifindex,
                reason: key.reason,
                owner: key.owner,
                packets: total.packets,
                bytes: total.bytes,
                last_ns: total.last_ns,
            })
            .collect();
        // Resolved now, so that the recording has the names before the counts.
        for row in &rows {
            self.pipeline.decoder().symbols().name(row.location);
        }
        for (address, name) in self.pipeline.decoder().symbols().take_fresh() {
            self.keep(&Frame::Symbol(Symbol { address, name: name.to_string() }));
        }
        self.pipeline.take(Input::Drops(rows.clone()));
        Ok(DropCounts { mono_ns: now_ns, shown: false, rows })
    }

    fn keep_drops(&mut self, counts: &DropCounts) -> Result<()> {
        if self.recorder.is_some() {
            self.keep(&Frame::Counts(serde_json::to_value(counts).context("write the drop counts as JSON")?));
        }
        Ok(())
    }
}
