//! `struct neighbour`.

use netprobe_common::{event::Neighbour, flow::mapped};

use super::{device::Device, offset, probe, probe_into, typed};

/// A checked pointer to a `struct neighbour`.
#[derive(Clone, Copy)]
pub(crate) struct Neigh(*const u8);

impl Neigh {
    /// Wraps a tracepoint's argument; none where it is null.
    #[inline(always)]
    pub(crate) fn new(pointer: *const u8) -> Option<Self> {
        if pointer.is_null() { None } else { Some(Self(pointer)) }
    }

    /// Its device.
    #[inline(always)]
    pub(crate) fn device(self) -> Option<Device> {
        Device::new(typed(self.0, offset!(neigh_dev)))
    }

    /// `NUD_*` bits.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        typed(self.0, offset!(neigh_state))
    }

    /// Writes it into a record.
    #[inline(always)]
    pub(crate) fn store(self, to: &mut Neighbour) {
        let table: *const u8 = typed(self.0, offset!(neigh_table));
        let family: u32 = if table.is_null() { 2 } else { typed(table, offset!(neigh_table_family)) };
        let key = self.0 as u64;
        if family == 10 {
            to.family = 6;
            probe_into(&raw mut to.address, key, offset!(neigh_key));
        } else {
            to.family = 4;
            to.address = mapped(probe(key, offset!(neigh_key)));
        }
        to.state = u32::from(self.state());
        let mac: [u8; 6] = probe(key, offset!(neigh_lladdr));
        to.lladdr = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0];
        to.netns = 0;
        to.ifindex = 0;
        if let Some(device) = self.device() {
            to.netns = device.netns();
            to.ifindex = device.ifindex();
        }
    }
}
