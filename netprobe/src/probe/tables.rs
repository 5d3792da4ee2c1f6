//! What the programs counted: losses, drops, and flows at their places.

use anyhow::{Result, anyhow};
use aya::maps::{MapError, PerCpuArray, PerCpuHashMap};
use netprobe_common::{
    config::{Count, DropKey, PlaceKey, loss},
    wire::Wire,
};

use super::attach::Attached;

/// A wire struct as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct PodOf<T>(pub T);

// SAFETY: `Wire` promises what `Pod` asks: plain bytes, no padding, every bit pattern valid.
unsafe impl<T: Wire> aya::Pod for PodOf<T> {}

/// What was lost, by kind, since the programs were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Counters in the order of `netprobe_common::config::loss`.
    pub counters: [u64; loss::KINDS as usize],
}

/// What is lost where packets at a device were not seen.
pub const HOLE: &str = "holes in the counts of a device";

/// What each loss counter counts, in its order.
pub const LOSS_NAMES: [&str; loss::KINDS as usize] = [
    "records (the ring was full)",
    "rows of the flow table (full)",
    "rows of the drop table (full)",
    "unreadable packets",
    "packets not counted (the table of flows was full)",
];

/// Sum over CPUs: packets, bytes, and the time of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Total {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub last_ns: u64,
}

impl Attached {
    /// Reads the loss counters.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn lost(&self) -> Result<Lost> {
        let map = self.ebpf.map("LOST").ok_or_else(|| anyhow!("no map LOST"))?;
        let map: PerCpuArray<_, PodOf<[u64; loss::KINDS as usize]>> = PerCpuArray::try_from(map)?;
        let mut lost = Lost::default();
        for cpu in map.get(&0, 0)?.iter() {
            for (sum, one) in lost.counters.iter_mut().zip(cpu.0) {
                *sum += one;
            }
        }
        Ok(lost)
    }

    /// Reads the drop table.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn drops(&self) -> Result<Vec<(DropKey, Total)>> {
        let map = self.ebpf.map("DROPS").ok_or_else(|| anyhow!("no map DROPS"))?;
        let map: PerCpuHashMap<_, PodOf<DropKey>, PodOf<Count>> = PerCpuHashMap::try_from(map)?;
        Ok(map.iter().flatten().map(|(key, cpus)| (key.0, total(cpus.iter()))).collect())
    }

    /// Takes rows out of the drop table. One that is gone already is none the less.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn forget_drops(&mut self, keys: &[DropKey]) -> Result<()> {
        let map = self.ebpf.map_mut("DROPS").ok_or_else(|| anyhow!("no map DROPS"))?;
        let mut map: PerCpuHashMap<_, PodOf<DropKey>, PodOf<Count>> = PerCpuHashMap::try_from(map)?;
        for key in keys {
            match map.remove(&PodOf(*key)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the rows of the place table that have been quiet since `before_ns` out of it, so
    /// that it does not fill up. Gives them with their counts.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn retire_places(&mut self, before_ns: u64) -> Result<Vec<(PlaceKey, Total)>> {
        let map = self.ebpf.map_mut("PLACES").ok_or_else(|| anyhow!("no map PLACES"))?;
        let mut map: PerCpuHashMap<_, PodOf<PlaceKey>, PodOf<Count>> = PerCpuHashMap::try_from(map)?;
        let rows: Vec<_> = map.iter().flatten().map(|(key, cpus)| (key, total(cpus.iter()))).collect();
        let mut quiet = Vec::new();
        for (key, total) in rows.into_iter().filter(|(_, total)| total.last_ns < before_ns) {
            map.remove(&key)?;
            quiet.push((key.0, total));
        }
        Ok(quiet)
    }
}

fn total<'a>(cpus: impl Iterator<Item = &'a PodOf<Count>>) -> Total {
    cpus.fold(Total::default(), |sum, PodOf(count)| Total {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
        last_ns: sum.last_ns.max(count.last_ns),
    })
}
