//! Flows counted by TC classifiers: attached where they belong, read, and shown.

use anyhow::{Context as _, Result};

use super::{Live, Watch, devices::wanted};
use crate::{
    decode::counted::counted,
    model::counted::{Counted, CountedRows},
    pipeline::{Input, rows_over},
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
            Watch::Drops => return,
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

    /// Reads the counted flows, and takes those that are over out of the kernel's table.
    fn take_counted(&mut self, now_ns: u64, shown: bool) -> Result<()> {
        // The answers that came before these connections.
        self.take_records();
        let keyed = self.attached.counted()?;
        let rows: Vec<Counted> = keyed.iter().map(|(key, row)| counted(key, row)).collect();
        let over = rows_over(&rows, now_ns);
        let mut read = CountedRows { mono_ns: now_ns, shown, ..CountedRows::default() };
        for (at, row) in rows.into_iter().enumerate() {
            if !over.contains(&at) {
                read.rows.push(row);
            } else if let Some(last) = self.attached.take_counted(&keyed[at].0)? {
                read.over.push(counted(&keyed[at].0, &last));
            }
        }
        if self.recorder.is_some() {
            self.keep(&Frame::Flows(serde_json::to_value(&read).context("write the counted flows as JSON")?));
        }
        self.pipeline.take(Input::Counted(read));
        Ok(())
    }

    /// Reads the counted flows and shows them.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn show_flows(&mut self, out: &mut dyn Render, live: bool) -> Result<()> {
        let now_ns = host::mono_ns();
        self.take_counted(now_ns, true)?;
        let table = self.pipeline.flow_table(now_ns, self.namespaces.as_ref());
        Ok(out.flows(&table, live)?)
    }

    /// Reads the counted flows and tells the translations that are new. Gives how many.
    ///
    /// # Errors
    ///
    /// Whatever the renderer returns.
    pub fn tell_translations(&mut self, out: &mut dyn Render) -> Result<u64> {
        self.take_counted(host::mono_ns(), true)?;
        let fresh = self.pipeline.fresh_translations(self.namespaces.as_ref());
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
        self.take_counted(host::mono_ns(), false)
    }
}
