//! Renderers that leave things out.

use std::{io, sync::Arc};

use super::Render;
use crate::model::{
    drops::{DropTable, Loss, Summary},
    exchange::{DnsTable, Exchange},
    finding::Finding,
    flows::{FlowTable, NatTable, Translation},
    journey::{Journey, Step},
    verdict::Verdict,
};

/// Hands everything on but packets and journeys.
pub struct FindingsOnly(pub Box<dyn Render>);

impl Render for FindingsOnly {
    fn packet(&mut self, _: &Step, _: &Journey) -> io::Result<()> {
        Ok(())
    }

    fn journey(&mut self, _: &Journey, _: usize, _: &[Arc<Finding>]) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.0.finding(finding)
    }

    fn drops(&mut self, table: &DropTable, live: bool) -> io::Result<()> {
        self.0.drops(table, live)
    }

    fn flows(&mut self, table: &FlowTable, live: bool) -> io::Result<()> {
        self.0.flows(table, live)
    }

    fn translation(&mut self, translation: &Translation) -> io::Result<()> {
        self.0.translation(translation)
    }

    fn nat(&mut self, table: &NatTable, live: bool) -> io::Result<()> {
        self.0.nat(table, live)
    }

    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.0.exchange(exchange)
    }

    fn dns(&mut self, table: &DnsTable, live: bool) -> io::Result<()> {
        self.0.dns(table, live)
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.0.verdict(verdict)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.0.loss(loss)
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.0.summary(summary)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Holds findings and losses back until the run ends: a table that is redrawn in place would wipe them out.
pub struct FindingsLast {
    out: Box<dyn Render>,
    /// The last word on each finding, in order of first mention.
    findings: Vec<Finding>,
    losses: Vec<Loss>,
}

impl FindingsLast {
    /// In front of `out`.
    #[must_use]
    pub fn new(out: Box<dyn Render>) -> Self {
        Self { out, findings: Vec::new(), losses: Vec::new() }
    }
}

impl Render for FindingsLast {
    fn packet(&mut self, step: &Step, journey: &Journey) -> io::Result<()> {
        self.out.packet(step, journey)
    }

    fn journey(&mut self, journey: &Journey, from_step: usize, findings: &[Arc<Finding>]) -> io::Result<()> {
        self.out.journey(journey, from_step, findings)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        match self.findings.iter_mut().find(|other| other.id == finding.id) {
            Some(other) => *other = finding.clone(),
            None => self.findings.push(finding.clone()),
        }
        Ok(())
    }

    fn drops(&mut self, table: &DropTable, live: bool) -> io::Result<()> {
        self.out.drops(table, live)
    }

    fn flows(&mut self, table: &FlowTable, live: bool) -> io::Result<()> {
        self.out.flows(table, live)
    }

    fn translation(&mut self, translation: &Translation) -> io::Result<()> {
        self.out.translation(translation)
    }

    fn nat(&mut self, table: &NatTable, live: bool) -> io::Result<()> {
        self.out.nat(table, live)
    }

    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.out.exchange(exchange)
    }

    fn dns(&mut self, table: &DnsTable, live: bool) -> io::Result<()> {
        self.out.dns(table, live)
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.out.verdict(verdict)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        match self
            .losses
            .iter_mut()
            .find(|other| other.what == loss.what && other.hole.is_none() && loss.hole.is_none())
        {
            Some(other) => other.lost += loss.lost,
            None => self.losses.push(loss.clone()),
        }
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.losses.drain(..).try_for_each(|loss| self.out.loss(&loss))?;
        self.findings.drain(..).try_for_each(|finding| self.out.finding(&finding))?;
        self.out.summary(summary)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Takes findings and losses alone, as they come: a renderer for whoever has no use for the rest.
pub trait Sink {
    /// A finding that is new or has changed.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Records that were lost.
    fn loss(&mut self, loss: &Loss) -> io::Result<()>;
}

impl<S: Sink> Render for S {
    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        Sink::finding(self, finding)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        Sink::loss(self, loss)
    }

    fn packet(&mut self, _: &Step, _: &Journey) -> io::Result<()> {
        Ok(())
    }

    fn journey(&mut self, _: &Journey, _: usize, _: &[Arc<Finding>]) -> io::Result<()> {
        Ok(())
    }

    fn drops(&mut self, _: &DropTable, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn flows(&mut self, _: &FlowTable, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn translation(&mut self, _: &Translation) -> io::Result<()> {
        Ok(())
    }

    fn nat(&mut self, _: &NatTable, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn exchange(&mut self, _: &Exchange) -> io::Result<()> {
        Ok(())
    }

    fn dns(&mut self, _: &DnsTable, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn verdict(&mut self, _: &Verdict) -> io::Result<()> {
        Ok(())
    }

    fn summary(&mut self, _: &Summary) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Leaves everything out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// Losses are told on stderr.
    ButLosses,
    /// Losses too: somebody else tells them.
    Wholly,
}

impl Sink for Silent {
    fn finding(&mut self, _: &Finding) -> io::Result<()> {
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        if *self == Self::ButLosses {
            log::warn!("lost: {} {}", loss.lost, loss.what);
        }
        Ok(())
    }
}
