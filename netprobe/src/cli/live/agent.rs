//! What a run that never ends is read by, and what it forgets.

use anyhow::{Context as _, Result};
use netprobe_common::{config::DropKey, limits::COUNTED_MAX};

use super::Live;
use crate::{
    model::{drops::DropTable, flows::FlowTable},
    pipeline::DropCount,
    probe::{attach::give_memory_back, host},
};

/// Rows of which the reading takes so much memory for a moment that it is to be given back: some ten MiB.
const MANY_ROWS: usize = 10_000;

/// What was counted since start.
pub struct Tables {
    /// Drops.
    pub drops: DropTable,
    /// Packets and bytes by pod and device; no connections.
    pub devices: FlowTable,
}

/// What the run sees, and what it cannot.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Each tracepoint of the run, and whether it is attached.
    pub hooks: Vec<(&'static str, bool)>,
    /// Devices with classifiers, and those that could not have them.
    pub classifiers: (u64, u64),
    /// Rows of the table of flows, and how many it can hold.
    pub flow_rows: (u64, u64),
    /// Pods' namespaces.
    pub pods: u64,
}

impl Live {
    /// Reads the kernel's counts, and hands over what they come to.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn read_tables(&mut self) -> Result<Tables> {
        let now_ns = host::mono_ns();
        self.read_drops(now_ns)?;
        if self.watch.counts_flows() {
            self.read_over(now_ns)?;
        }
        let tables = self.tables();
        if self.pipeline.counted_rows() >= MANY_ROWS {
            give_memory_back();
        }
        Ok(tables)
    }

    /// The same of what was read last.
    fn tables(&mut self) -> Tables {
        let now_ns = host::mono_ns();
        Tables { drops: self.pipeline.drop_table(now_ns), devices: self.pipeline.device_table(now_ns) }
    }

    /// Who talks to whom, as of the last reading.
    #[must_use]
    pub fn flow_table(&self) -> FlowTable {
        self.pipeline.flow_table(host::mono_ns())
    }

    /// Forgets what is over, of pods that are gone for `keep_ns`, and hands over what is left of what was read last; none where
    /// nothing was forgotten. By comparison with the tables before, one can tell what was forgotten from what was counted.
    ///
    /// # Errors
    ///
    /// When a map refuses.
    pub fn forget(&mut self, keep_ns: u64) -> Result<Option<Tables>> {
        let (over, pods) = self.pipeline.forget(host::mono_ns(), keep_ns);
        let keys: Vec<DropKey> = over.iter().map(key).collect();
        self.attached.forget_drops(&keys).context("take old rows out of the table of drops")?;
        Ok((!over.is_empty() || pods > 0).then(|| self.tables()))
    }

    /// What the run sees.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let classifiers = self.attached.classifiers();
        Coverage {
            hooks: self.attached.status.iter().map(|row| (row.probe.program, row.obstacle.is_none())).collect(),
            classifiers: (classifiers.devices().count() as u64, classifiers.refused().len() as u64),
            flow_rows: (self.pipeline.counted_rows() as u64, u64::from(COUNTED_MAX)),
            pods: self.pipeline.facts().namespaces.len().saturating_sub(1) as u64,
        }
    }
}

const fn key(count: &DropCount) -> DropKey {
    let DropCount { location, netns, ifindex, reason, owner, .. } = *count;
    DropKey { location, netns, ifindex, reason, owner }
}
