//! A run shown from its recording: one that is over, or one that goes on elsewhere.

use anyhow::{Context as _, Result, bail};

use crate::{
    decode::Decoder,
    model::{
        counted::CountedRows,
        drops::Loss,
        facts::{HostFacts, NodeFacts},
        inventory::Inventory,
        symbols::Symbols,
        verdict::{Outcome, Told},
    },
    pipeline::{DnsOptions, DnsView, DropCounts, Input, Pipeline, Progress, Wanted},
    probe::tables::{HOLE, LOSS_NAMES},
    record::{Frame, Lost, ReadError},
    render::{FindingsLast, FindingsOnly, Render, Silent},
};

/// The beginning of a recording: what was known when the run began.
pub struct Beginning {
    /// The kernel, and the node's name.
    pub host: HostFacts,
    node: NodeFacts,
    inventory: Inventory,
    options: serde_json::Value,
    now_ns: u64,
}

impl Beginning {
    /// Reads it from the first frames; none where there is not all of it.
    ///
    /// # Errors
    ///
    /// What is wrong with a frame.
    pub fn read(frames: &mut impl Iterator<Item = Result<Frame, ReadError>>) -> Result<Option<Self>, ReadError> {
        let (mut host, mut node, mut inventory, mut options) = (None, None, None, None);
        for frame in frames {
            match frame? {
                Frame::HostFacts(facts) => host = Some(*facts),
                Frame::NodeFacts(facts) => node = Some(*facts),
                Frame::Inventory(known) => inventory = Some(*known),
                Frame::Options(value) => options = Some(value),
                Frame::Tick(now_ns) => {
                    let (Some(host), Some(node)) = (host, node) else { return Ok(None) };
                    let (inventory, options) = (inventory.unwrap_or_default(), options.unwrap_or_default());
                    return Ok(Some(Self { host, node, inventory, options, now_ns }));
                }
                _ => break,
            }
        }
        Ok(None)
    }

    fn command(&self) -> &str {
        self.options["command"].as_str().unwrap_or_default()
    }

    /// `out`, without what the run did not show. `in_place`: tables are redrawn in place.
    #[must_use]
    pub fn renderer(&self, out: Box<dyn Render>, in_place: bool) -> Box<dyn Render> {
        match self.command() {
            "drops" | "flows" | "nat" if in_place => Box::new(FindingsLast::new(Box::new(FindingsOnly(out)))),
            "drops" | "flows" | "nat" => Box::new(FindingsOnly(out)),
            _ if in_place => Box::new(FindingsLast::new(out)),
            _ => out,
        }
    }

    /// The run, to be fed the frames that follow.
    #[must_use]
    pub fn play(self, in_place: bool) -> Play {
        let is_why = self.command() == "why";
        let Self { host, node, inventory, options, now_ns } = self;
        let expect = serde_json::from_value(options["expect"].clone()).unwrap_or_default();
        let decoder = Decoder::new(host, Symbols::default());
        let mut pipeline = Pipeline::new(decoder, node, inventory, expect, now_ns);
        let namespaces = serde_json::from_value::<Option<_>>(options["namespaces"].clone()).unwrap_or_default();
        let cgroups = serde_json::from_value(options["cgroups"].clone()).unwrap_or_default();
        pipeline.show_flows_of(namespaces.map(|namespaces| Wanted { namespaces, cgroups }));
        if let Some(dns) = serde_json::from_value::<Option<DnsOptions>>(options["dns"].clone()).unwrap_or_default() {
            let view = if dns.view == DnsView::Lines { DnsView::Lines } else { DnsView::Table(in_place) };
            pipeline = pipeline.showing_dns(DnsOptions { view, ..dns });
        }
        Play { pipeline, options, in_place, is_why, held: None, now_ns, told: None }
    }
}

/// A run that is shown.
pub struct Play {
    pipeline: Pipeline,
    /// What the run was asked.
    options: serde_json::Value,
    in_place: bool,
    is_why: bool,
    /// The last tick is the end of the run, which `finish` tells: it is held back until more comes.
    held: Option<u64>,
    now_ns: u64,
    told: Option<Told>,
}

impl Play {
    /// The time of the last tick, `CLOCK_MONOTONIC` nanoseconds of the recorded node.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Takes one frame, and shows what comes of it.
    ///
    /// # Errors
    ///
    /// A frame that makes no sense, and whatever the renderer returns.
    pub fn take(&mut self, frame: Frame, out: &mut dyn Render) -> Result<Progress> {
        let mut progress = Progress::default();
        if let Some(tick_ns) = self.held.take_if(|_| !matches!(frame, Frame::End | Frame::Verdict(_))) {
            progress = if self.is_why {
                self.pipeline.tick(tick_ns, &mut Silent::ButLosses)?
            } else {
                self.pipeline.tick(tick_ns, out)?
            };
        }
        match frame {
            Frame::Record(bytes) => self.pipeline.take(Input::Record(bytes)),
            Frame::FactsEvent(bytes) => {
                let event = serde_json::from_slice(&bytes).context("a change of the node makes no sense")?;
                self.pipeline.take(Input::Facts(event));
            }
            Frame::Inventory(inventory) => self.pipeline.take(Input::Inventory(*inventory)),
            Frame::News(news) => self.pipeline.take(Input::News(*news)),
            Frame::Symbol(symbol) => self.pipeline.decoder().symbols().learn(symbol.address, &symbol.name),
            Frame::Counts(value) => progress.shown += self.take_counts(value, out)?,
            Frame::Flows(value) => progress.shown += self.take_flows(value, out)?,
            Frame::Lost(lost) => self.take_loss(&lost, out)?,
            Frame::Tick(tick_ns) => {
                self.now_ns = tick_ns;
                self.held = Some(tick_ns);
            }
            Frame::Verdict(told) => self.told = Some(*told),
            Frame::Header(_) | Frame::HostFacts(_) | Frame::NodeFacts(_) | Frame::Options(_) | Frame::End => {}
        }
        Ok(progress)
    }

    fn take_counts(&mut self, value: serde_json::Value, out: &mut dyn Render) -> Result<u64> {
        let counts: DropCounts = serde_json::from_value(value).context("the drop counts make no sense")?;
        self.pipeline.take(Input::Drops(counts.rows));
        if counts.shown {
            out.drops(&self.pipeline.drop_table(counts.mono_ns), self.in_place)?;
        }
        Ok(counts.shown.into())
    }

    fn take_flows(&mut self, value: serde_json::Value, out: &mut dyn Render) -> Result<u64> {
        let rows: CountedRows = serde_json::from_value(value).context("the counted flows make no sense")?;
        let (mono_ns, is_shown) = (rows.mono_ns, rows.shown);
        self.pipeline.take(Input::Counted(rows));
        match (self.options["command"] == "nat", self.options["table"] == true) {
            _ if !is_shown => return Ok(0),
            (true, true) => out.nat(&self.pipeline.nat_table(mono_ns), self.in_place)?,
            (true, false) => {
                let fresh = self.pipeline.fresh_translations();
                fresh.iter().try_for_each(|translation| out.translation(translation))?;
                return Ok(fresh.len() as u64);
            }
            (false, _) => out.flows(&self.pipeline.flow_table(mono_ns), self.in_place)?,
        }
        Ok(1)
    }

    fn take_loss(&mut self, lost: &Lost, out: &mut dyn Render) -> Result<()> {
        let Lost { mono_ns, lost: many, what, hole } = lost;
        let what = LOSS_NAMES.iter().chain([&HOLE]).find(|name| **name == what).copied().unwrap_or("records");
        let loss = Loss { mono_ns: *mono_ns, lost: *many, what, hole: hole.clone() };
        out.loss(&loss)?;
        self.pipeline.take(Input::Lost(loss));
        Ok(())
    }

    /// A table that was redrawn in place may have been cut: its last state stands whole.
    fn show_whole(&mut self, out: &mut dyn Render) -> Result<()> {
        match self.options["command"].as_str() {
            _ if !self.in_place => {}
            Some("drops") => out.drops(&self.pipeline.drop_table(self.now_ns), false)?,
            Some("flows") => out.flows(&self.pipeline.flow_table(self.now_ns), false)?,
            Some("nat") => out.nat(&self.pipeline.nat_table(self.now_ns), false)?,
            _ => {}
        }
        Ok(())
    }

    /// Shows the end: what was waiting, the summary; of `why` its verdict, and how it ended.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns; `why` was interrupted before it had a verdict.
    pub fn finish(mut self, out: &mut dyn Render) -> Result<Option<Outcome>> {
        if !self.is_why {
            self.show_whole(out)?;
            self.pipeline.finish(self.now_ns, out)?;
            return Ok(None);
        }
        self.pipeline.finish(self.now_ns, &mut Silent::ButLosses)?;
        let Some(told) = self.told else { bail!("it was ended before it came to a verdict") };
        let verdict = told.with(|id| self.pipeline.finding(id));
        verdict.findings.iter().try_for_each(|finding| out.finding(finding))?;
        out.verdict(&verdict)?;
        Ok(Some(verdict.outcome))
    }
}
