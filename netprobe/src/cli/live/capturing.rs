//! Packets captured by TC classifiers: attached where they belong, and handed over as they are.

use std::collections::BTreeSet;

use anyhow::Result;
use netprobe_common::config::loss;

use super::{
    BATCH, HOUSEKEEPING_NS, Live,
    devices::{is_named, must_exist, wanted_inside},
};
use crate::probe::{
    captured::{CaptureCount, PlaceId},
    classifiers::Device,
    host,
    tables::Lost,
};
use crate::render::escape;

/// What a turn of a capture brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureTurn {
    /// Records taken.
    pub records: usize,
    /// The node has changed: names and devices may be others now.
    pub changed: bool,
}

impl Live {
    /// Whether the devices that the user named are there.
    pub(super) fn check_devices(&self) -> Result<()> {
        let facts = self.pipeline.facts();
        must_exist(&self.at, &wanted_inside(facts, self.namespaces.as_ref()), facts.node)
    }

    /// The devices where packets are captured now. Tells the programs of those that are new.
    pub(super) fn capture_places(&mut self, namespaces: Option<&BTreeSet<u32>>) -> BTreeSet<Device> {
        let node = self.pipeline.facts().node;
        let mut wanted = wanted_inside(self.pipeline.facts(), namespaces);
        wanted.retain(|(device, _)| is_named(&self.at, device, node));
        let places = wanted.iter().map(|(device, shared)| ((device.netns, device.ifindex), *shared));
        if let Err(error) = self.attached.capture_at(places) {
            log::warn!("packets at some devices are not seen: {error:#}");
        }
        wanted.into_iter().map(|(device, _)| device).collect()
    }

    /// Takes in what there is: changes of the node, and the records, each handed to `take`.
    ///
    /// # Errors
    ///
    /// When the node's network cannot be read.
    pub fn capture_turn(&mut self, mut take: impl FnMut(&[u8])) -> Result<CaptureTurn> {
        let now_ns = host::mono_ns();
        let changed = self.take_facts(now_ns)?;
        if now_ns.saturating_sub(self.housekeeping_ns) >= HOUSEKEEPING_NS {
            self.housekeeping_ns = now_ns;
            for hole in self.check_classifiers() {
                let for_s = hole.to_ns.map(|to_ns| to_ns.saturating_sub(hole.from_ns) / 1_000_000);
                let long = for_s.map_or_else(|| "from now on".to_owned(), |ms| format!("for {ms} ms at most"));
                log::warn!("packets at {} were missed {long}: {}", escape(&hole.device), escape(&hole.why));
            }
        }
        Ok(CaptureTurn { records: self.attached.drain(BATCH, &mut take), changed })
    }

    /// What was counted at each device.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn captured(&self) -> Result<Vec<(PlaceId, CaptureCount)>> {
        self.attached.captured()
    }

    /// The devices where packets are captured.
    pub fn captured_devices(&self) -> impl Iterator<Item = &Device> {
        self.attached.classifiers().devices()
    }

    /// Records that found no room since this was asked last, of packets or of what became of them.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn fresh_losses(&mut self) -> Result<u64> {
        let lost = self.attached.lost()?;
        let of = |lost: &Lost| lost.counters[loss::RING_FULL as usize];
        let fresh = of(&lost).saturating_sub(of(&self.lost));
        self.lost = lost;
        Ok(fresh)
    }
}
