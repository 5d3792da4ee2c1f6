//! Flows counted by TC classifiers: attached where they belong, read, and shown.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::{
    FlowsAt, Live, Watch,
    devices::{uplinks, wanted},
};
use crate::{
    decode::counted::counted,
    facts::FactsEvent,
    model::{
        counted::{Counted, CountedRows},
        drops::Hole,
        inventory::News,
    },
    pipeline::{Input, Leaving, Pipeline, rows_over},
    probe::host,
    record::Frame,
    render::{Render, escape},
};

impl Live {
    /// Has the classifiers at the devices where they belong now. A device that cannot be had is told, and costs its own
    /// packets only.
    pub(super) fn classify(&mut self) {
        let namespaces = self.namespaces.clone();
        let wanted = match self.watch {
            Watch::Packets if !self.dns => return,
            Watch::Drops | Watch::Agent(FlowsAt::Off) => return,
            Watch::Agent(FlowsAt::All) => wanted(self.pipeline.facts(), None),
            Watch::Agent(FlowsAt::Uplinks) => uplinks(self.pipeline.facts()),
            // Whoever is followed: behind DNAT the query goes to another pod.
            Watch::Packets => wanted(self.pipeline.facts(), None),
            Watch::Flows | Watch::Translations => wanted(self.pipeline.facts(), namespaces.as_ref()),
            Watch::Capture(_) => self.capture_places(namespaces.as_ref()),
        };
        let facts = &self.facts;
        let refused = self.attached.classify(&wanted, |netns| {
            let place = facts.place(netns)?;
            Ok(move || place.enter())
        });
        for (device, why) in refused {
            log::warn!("packets at {} are not seen: {}", escape(&device.name), escape(&why));
        }
        let behind: Vec<String> = self.attached.take_behind().into_iter().map(|device| device.name).collect();
        if !behind.is_empty() {
            log::warn!(
                "packets that an earlier TC filter drops, redirects or accepts for good are not seen: {}",
                escape(&behind.join(", "))
            );
        }
    }

    /// Has the classifiers' filters looked after. Says where packets were not seen meanwhile.
    pub(super) fn check_classifiers(&mut self) -> Vec<Hole> {
        let facts = &self.facts;
        self.attached.check_filters(|netns| {
            let place = facts.place(netns)?;
            Ok(move || place.enter())
        })
    }

    /// Before somebody loses a device or an address, takes out the rows that are told to be theirs by it.
    pub(super) fn take_leaving(&mut self, event: &FactsEvent) -> Result<()> {
        if !self.watch.counts_flows() {
            return Ok(());
        }
        match self.pipeline.leaving(event) {
            Some(leaving) => self.take_rows(&leaving),
            None => Ok(()),
        }
    }

    /// The same of what the cluster's changes take away.
    pub(super) fn take_moving(&mut self, news: &News) -> Result<()> {
        match self.pipeline.moving(news) {
            Some(leaving) if self.watch.counts_flows() => self.take_rows(&leaving),
            _ => Ok(()),
        }
    }

    fn take_rows(&mut self, leaving: &Leaving) -> Result<()> {
        let read = CountedRows { mono_ns: host::mono_ns(), leaving: true, ..CountedRows::default() };
        let read = self.read_counted(read, |pipeline, rows| pipeline.rows_leaving(rows, leaving))?;
        self.keep_flows(&read)
    }

    /// Reads the counted flows, and takes those that are over out of the kernel's table. Gives what a recording is to keep.
    pub(super) fn read_over(&mut self, now_ns: u64) -> Result<CountedRows> {
        let read = CountedRows { mono_ns: now_ns, ..CountedRows::default() };
        self.read_counted(read, |_, rows| rows_over(rows, now_ns))
    }

    /// The same; `over` tells which rows to take out, by their positions.
    fn read_counted(
        &mut self,
        mut read: CountedRows,
        over: impl FnOnce(&Pipeline, &[Counted]) -> BTreeSet<usize>,
    ) -> Result<CountedRows> {
        // The answers that came before these connections.
        self.take_records();
        self.pipeline.clear_rows();
        let (mut keys, mut rows): (_, Vec<Counted>) = (Vec::new(), Vec::new());
        self.attached.counted(|key, row| {
            keys.push(*key);
            rows.push(counted(key, row));
        })?;
        let over = over(&self.pipeline, &rows);
        for at in &over {
            if let Some(last) = self.attached.take_counted(&keys[*at])? {
                read.over.push(counted(&keys[*at], &last));
            }
        }
        drop(keys);
        // In place: there may be hundreds of thousands.
        let mut at = 0..rows.len();
        rows.retain(|_| at.next().is_some_and(|at| !over.contains(&at)));
        read.rows = rows;
        // It is large, and of use to a recording alone.
        let kept = if self.recorder.is_some() { read.clone() } else { CountedRows::default() };
        self.pipeline.take(Input::Counted(read));
        Ok(kept)
    }

    /// Writes what was read into the recording.
    pub(super) fn keep_flows(&mut self, read: &CountedRows) -> Result<()> {
        if self.recorder.is_some() {
            self.keep(&Frame::Flows(serde_json::to_value(read).context("write the counted flows as JSON")?));
        }
        Ok(())
    }

    /// Reads the counted flows and tells the translations that are new. Gives how many.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn tell_translations(&mut self, out: &mut dyn Render) -> Result<u64> {
        let read = self.read_over(host::mono_ns())?;
        self.keep_flows(&CountedRows { shown: true, ..read })?;
        let fresh = self.pipeline.fresh_translations();
        for translation in &fresh {
            out.translation(translation)?;
        }
        Ok(fresh.len() as u64)
    }

    /// Reads the counted flows, so that those that are over make room.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn tidy_flows(&mut self) -> Result<()> {
        let read = self.read_over(host::mono_ns())?;
        self.keep_flows(&read)
    }
}
