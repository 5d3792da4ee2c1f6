//! Anything above → bytes. A renderer formats and nothing else: it never resolves a name, reads a
//! clock, or decides what is worth showing.

use std::{
    io::{self, Write},
    sync::Arc,
};

use clap::ValueEnum;

use crate::model::{
    drops::{DropTable, Loss, Summary},
    exchange::{DnsTable, Exchange},
    finding::Finding,
    flows::{FlowTable, NatTable, Translation},
    journey::{Journey, Step},
    verdict::Verdict,
};

mod clock;
mod escape;
mod event;
mod json;
mod less;
pub mod metrics;
pub mod otlp;
pub mod pcapng;
#[cfg(test)]
mod samples;
mod schema;
mod text;

pub use clock::Clock;
pub use escape::escape;
pub use less::{FindingsLast, FindingsOnly, Relay, Shown, Silent};
pub use schema::schema;

/// Writes what the pipeline produces, in one format.
///
/// # Errors
///
/// Every method returns what the destination returns. `BrokenPipe` means that the reader has
/// gone: the run ends quietly.
pub trait Render {
    /// One step, as soon as it is known. `step` is one of `journey.steps`.
    fn packet(&mut self, step: &Step, journey: &Journey) -> io::Result<()>;

    /// The steps from `from_step` on, and what `findings` say of them. The findings themselves
    /// are written by [`finding`](Self::finding).
    fn journey(&mut self, journey: &Journey, from_step: usize, findings: &[Arc<Finding>]) -> io::Result<()>;

    /// A finding that is new or has changed.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Who loses packets, at one moment. `live` redraws in place, where the format can.
    fn drops(&mut self, table: &DropTable, live: bool) -> io::Result<()>;

    /// Who talks to whom by which device, at one moment. `live` redraws in place, where the format can.
    fn flows(&mut self, table: &FlowTable, live: bool) -> io::Result<()>;

    /// What NAT made of a connection: once for each.
    fn translation(&mut self, translation: &Translation) -> io::Result<()>;

    /// What NAT makes of connections, at one moment. `live` redraws in place, where the format can.
    fn nat(&mut self, table: &NatTable, live: bool) -> io::Result<()>;

    /// A DNS query and what became of it.
    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()>;

    /// Who asks DNS for what, and what becomes of it, at one moment. `live` redraws in place, where the format can.
    fn dns(&mut self, table: &DnsTable, live: bool) -> io::Result<()>;

    /// The end of `why`; its findings were written before.
    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()>;

    /// Records that were lost.
    fn loss(&mut self, loss: &Loss) -> io::Result<()>;

    /// The end of the run.
    fn summary(&mut self, summary: &Summary) -> io::Result<()>;

    /// Hands everything written so far to the reader. To be called when the pipeline has nothing
    /// more at hand; findings, tables, losses and the summary do it themselves.
    fn flush(&mut self) -> io::Result<()>;
}

/// The outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line (`netprobe --schema`).
    Json,
}

/// What a renderer must know of the run and of its destination.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The run's clock and node.
    pub clock: Clock,
    /// Columns to wrap sentences at.
    pub columns: usize,
    /// Lines of the terminal, where it is one: tables are cut to fit it.
    pub lines: Option<usize>,
    /// Whether to write colours.
    pub colour: bool,
}

impl Format {
    /// A renderer of this format that writes to `out`.
    pub fn renderer(self, out: Box<dyn Write>, setup: Setup) -> Box<dyn Render> {
        match self {
            Self::Text => Box::new(text::Text::new(out, setup)),
            Self::Json => Box::new(json::Json::new(out, setup.clock)),
        }
    }
}
