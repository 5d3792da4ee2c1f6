//! Renderers that leave things out.

use std::{io, sync::Arc};

use super::Render;
use crate::model::{
    drops::{DropTable, Loss, Summary},
    finding::Finding,
    flows::{FlowTable, Translation},
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

/// Leaves everything out, but for losses, which go to stderr.
pub struct Silent;

impl Render for Silent {
    fn packet(&mut self, _: &Step, _: &Journey) -> io::Result<()> {
        Ok(())
    }

    fn journey(&mut self, _: &Journey, _: usize, _: &[Arc<Finding>]) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, _: &Finding) -> io::Result<()> {
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

    fn verdict(&mut self, _: &Verdict) -> io::Result<()> {
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        log::warn!("lost: {} {}", loss.lost, loss.what);
        Ok(())
    }

    fn summary(&mut self, _: &Summary) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
