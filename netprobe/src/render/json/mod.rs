//! One JSON object a line. `schema.json` says what is in them; a test holds the two together.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
};

use serde::Serialize;

use super::{Clock, Render};
use crate::model::{
    drops::{DropTable, Loss, Summary},
    exchange::{DnsTable, Exchange},
    finding::Finding,
    flows::{FlowTable, NatTable, Translation},
    journey::{Journey, Step},
    verdict::Verdict,
};

mod dns;
mod event;
mod flows;
mod nat;
mod object;
#[cfg(test)]
mod tests;

/// Renders for programs.
pub(super) struct Json {
    out: BufWriter<Box<dyn Write>>,
    clock: Clock,
}

impl Json {
    pub(super) fn new(out: Box<dyn Write>, clock: Clock) -> Self {
        Self { out: BufWriter::new(out), clock }
    }

    /// One object, one line.
    fn object(&mut self, kind: &'static str, mono_ns: u64, body: impl Serialize) -> io::Result<()> {
        let time = self.clock.rfc3339(mono_ns);
        let object = object::Object { kind, time: &time, node: self.clock.node(), body };
        serde_json::to_writer(&mut self.out, &object)?;
        self.out.write_all(b"\n")
    }
}

impl Render for Json {
    fn packet(&mut self, step: &Step, journey: &Journey) -> io::Result<()> {
        let body = event::Packet::new(step, journey.id);
        self.object("packet", step.sighting.packet.mono_ns, body)
    }

    fn journey(&mut self, journey: &Journey, from_step: usize, findings: &[Arc<Finding>]) -> io::Result<()> {
        for step in journey.steps.iter().skip(from_step) {
            self.packet(step, journey)?;
        }
        let body = object::JourneyBody::new(journey, findings, &self.clock);
        self.object("journey", journey.last_ns, body)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let body = object::FindingBody::new(finding, &self.clock);
        self.object("finding", finding.last_ns, body)?;
        self.flush()
    }

    fn drops(&mut self, table: &DropTable, _live: bool) -> io::Result<()> {
        let body = object::DropsBody::new(table, &self.clock);
        self.object("drops", table.mono_ns, body)?;
        self.flush()
    }

    fn flows(&mut self, table: &FlowTable, _live: bool) -> io::Result<()> {
        self.object("flows", table.mono_ns, flows::TableBody::new(table, &self.clock))?;
        self.flush()
    }

    fn translation(&mut self, translation: &Translation) -> io::Result<()> {
        self.object("nat", translation.first_ns, flows::TranslationBody::new(translation))?;
        self.flush()
    }

    fn nat(&mut self, table: &NatTable, _live: bool) -> io::Result<()> {
        self.object("nat-table", table.mono_ns, nat::TableBody::new(table, &self.clock))?;
        self.flush()
    }

    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.object("dns", exchange.asked_ns, dns::ExchangeBody::new(exchange))
    }

    fn dns(&mut self, table: &DnsTable, _live: bool) -> io::Result<()> {
        self.object("dns-table", table.mono_ns, dns::TableBody::new(table))?;
        self.flush()
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.object("verdict", verdict.mono_ns, object::VerdictBody::new(verdict))?;
        self.flush()
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        let hole = loss.hole.as_ref().map(|hole| object::HoleBody {
            device: &hole.device,
            netns: hole.netns,
            from: self.clock.rfc3339(hole.from_ns),
            to: hole.to_ns.map(|to_ns| self.clock.rfc3339(to_ns)),
            why: &hole.why,
        });
        self.object("loss", loss.mono_ns, object::LossBody { lost: loss.lost, what: loss.what, hole })?;
        self.flush()
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        let body = object::SummaryBody::new(summary, &self.clock);
        self.object("summary", summary.to_ns, body)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
