//! `struct neighbour`.

use netprobe_common::{event::Neighbour, flow::mapped};

use super::{device::At, offset, probe, probe_into, typed};

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
    pub(crate) fn at(self) -> At {
        At::of_device(probe(self.0 as u64, offset!(neigh_dev)))
    }

    /// `NUD_*` bits.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        typed(self.0, offset!(neigh_state))
    }

    /// Writes it into a record.
    #[inline(always)]
    pub(crate) fn store(self, at: At, to: &mut Neighbour) {
        let key = self.0 as u64;
        let table: u64 = probe(key, offset!(neigh_table));
        let family: u32 = if table == 0 { 2 } else { probe(table, offset!(neigh_table_family)) };
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
        to.netns = at.netns;
        to.ifindex = at.ifindex;
    }
}
