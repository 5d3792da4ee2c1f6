//! The devices at which packets are captured, and what was counted there.

use anyhow::{Result, anyhow};
use aya::maps::{PerCpuHashMap, PerCpuValues};
use netprobe_common::{config::CapturePlace, wire};

use super::{attach::Attached, tables::PodOf};

/// A device: inode number of its namespace, and its index there.
pub type PlaceId = (u32, u32);

/// What was counted at a device, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureCount {
    /// Packets that were to be sent.
    pub packets: u64,
    /// Of those, packets that found no room in the ring.
    pub lost: u64,
}

type Places<T> = PerCpuHashMap<T, u64, PodOf<CapturePlace>>;

const MAP: &str = "CAPTURE_PLACES";

const fn key((netns, ifindex): PlaceId) -> u64 {
    (netns as u64) << 32 | ifindex as u64
}

impl Attached {
    /// Captures at these devices too. Those that are `shared` carry others' packets as well.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn capture_at(&mut self, places: impl Iterator<Item = (PlaceId, bool)>) -> Result<()> {
        let map = self.ebpf.map_mut(MAP).ok_or_else(|| anyhow!("no map {MAP}"))?;
        let mut map: Places<_> = PerCpuHashMap::try_from(map)?;
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("count the CPUs ({what}): {error}"))?;
        for (id, shared) in places {
            if map.get(&key(id), 0).is_err() {
                let place = CapturePlace { shared: shared.into(), ..wire::zeroed() };
                map.insert(key(id), PerCpuValues::try_from(vec![PodOf(place); cpus])?, 0)?;
            }
        }
        Ok(())
    }

    /// What was counted at each device, also at those that are gone.
    ///
    /// # Errors
    ///
    /// When the map refuses.
    pub fn captured(&self) -> Result<Vec<(PlaceId, CaptureCount)>> {
        let map = self.ebpf.map(MAP).ok_or_else(|| anyhow!("no map {MAP}"))?;
        let map: Places<_> = PerCpuHashMap::try_from(map)?;
        let sum = |cpus: PerCpuValues<PodOf<CapturePlace>>| {
            cpus.iter().fold(CaptureCount::default(), |sum, PodOf(one)| CaptureCount {
                packets: sum.packets + one.packets,
                lost: sum.lost + one.lost,
            })
        };
        let place = |key: u64| ((key >> 32) as u32, key as u32);
        Ok(map.iter().flatten().map(|(key, cpus)| (place(key), sum(cpus))).collect())
    }
}
