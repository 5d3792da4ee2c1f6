//! Renderers that stand before others, or take a part of what others show.

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

/// What a renderer is handed, as a value: one for each method of [`Render`], which says what it is.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Shown<'a> {
    Packet(&'a Step, &'a Journey),
    Journey(&'a Journey, usize, &'a [Arc<Finding>]),
    Finding(&'a Finding),
    Drops(&'a DropTable, bool),
    Flows(&'a FlowTable, bool),
    Translation(&'a Translation),
    Nat(&'a NatTable, bool),
    Exchange(&'a Exchange),
    Dns(&'a DnsTable, bool),
    Verdict(&'a Verdict),
    Loss(&'a Loss),
    Summary(&'a Summary),
    Flush,
}

impl Shown<'_> {
    /// Hands it on.
    ///
    /// # Errors
    ///
    /// As that renderer.
    pub fn to(self, out: &mut dyn Render) -> io::Result<()> {
        match self {
            Self::Packet(step, journey) => out.packet(step, journey),
            Self::Journey(journey, from_step, findings) => out.journey(journey, from_step, findings),
            Self::Finding(finding) => out.finding(finding),
            Self::Drops(table, live) => out.drops(table, live),
            Self::Flows(table, live) => out.flows(table, live),
            Self::Translation(translation) => out.translation(translation),
            Self::Nat(table, live) => out.nat(table, live),
            Self::Exchange(exchange) => out.exchange(exchange),
            Self::Dns(table, live) => out.dns(table, live),
            Self::Verdict(verdict) => out.verdict(verdict),
            Self::Loss(loss) => out.loss(loss),
            Self::Summary(summary) => out.summary(summary),
            Self::Flush => out.flush(),
        }
    }
}

/// A renderer that does with most of what it is handed the same: hands it on, or leaves it out.
pub trait Relay {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// Its destination takes no more.
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()>;
}

impl<R: Relay> Render for R {
    fn packet(&mut self, step: &Step, journey: &Journey) -> io::Result<()> {
        self.relay(Shown::Packet(step, journey))
    }

    fn journey(&mut self, journey: &Journey, from_step: usize, findings: &[Arc<Finding>]) -> io::Result<()> {
        self.relay(Shown::Journey(journey, from_step, findings))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.relay(Shown::Finding(finding))
    }

    fn drops(&mut self, table: &DropTable, live: bool) -> io::Result<()> {
        self.relay(Shown::Drops(table, live))
    }

    fn flows(&mut self, table: &FlowTable, live: bool) -> io::Result<()> {
        self.relay(Shown::Flows(table, live))
    }

    fn translation(&mut self, translation: &Translation) -> io::Result<()> {
        self.relay(Shown::Translation(translation))
    }

    fn nat(&mut self, table: &NatTable, live: bool) -> io::Result<()> {
        self.relay(Shown::Nat(table, live))
    }

    fn exchange(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.relay(Shown::Exchange(exchange))
    }

    fn dns(&mut self, table: &DnsTable, live: bool) -> io::Result<()> {
        self.relay(Shown::Dns(table, live))
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.relay(Shown::Verdict(verdict))
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.relay(Shown::Loss(loss))
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.relay(Shown::Summary(summary))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.relay(Shown::Flush)
    }
}

/// Hands everything on but packets and journeys.
pub struct FindingsOnly(pub Box<dyn Render>);

impl Relay for FindingsOnly {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        match shown {
            Shown::Packet(..) | Shown::Journey(..) => Ok(()),
            other => other.to(&mut *self.0),
        }
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

    fn keep_finding(&mut self, finding: &Finding) {
        match self.findings.iter_mut().find(|other| other.id == finding.id) {
            Some(other) => *other = finding.clone(),
            None => self.findings.push(finding.clone()),
        }
    }

    fn keep_loss(&mut self, loss: &Loss) {
        let same = |other: &&mut Loss| other.what == loss.what && other.hole.is_none() && loss.hole.is_none();
        match self.losses.iter_mut().find(same) {
            Some(other) => other.lost += loss.lost,
            None => self.losses.push(loss.clone()),
        }
    }
}

impl Relay for FindingsLast {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        match shown {
            Shown::Finding(finding) => self.keep_finding(finding),
            Shown::Loss(loss) => self.keep_loss(loss),
            Shown::Summary(_) => {
                self.losses.drain(..).try_for_each(|loss| self.out.loss(&loss))?;
                self.findings.drain(..).try_for_each(|finding| self.out.finding(&finding))?;
                shown.to(&mut *self.out)?;
            }
            other => other.to(&mut *self.out)?,
        }
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

impl Relay for Silent {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        if let (Self::ButLosses, Shown::Loss(loss)) = (*self, shown) {
            log::warn!("lost: {} {}", loss.lost, loss.what);
        }
        Ok(())
    }
}
