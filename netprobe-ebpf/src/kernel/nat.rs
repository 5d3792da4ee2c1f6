//! `struct nf_nat_range2`.

use netprobe_common::{event::NatChoice, flow::mapped};

use super::{has, offset, probe, probe_into};

/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED`.
const ADDRESSES: u32 = 1;
const PORTS: u32 = 2;

/// The address of a `struct nf_nat_range2`.
#[derive(Clone, Copy)]
pub(crate) struct Range(u64);

impl Range {
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// Writes addresses and ports; zero what the rule did not give.
    #[inline(always)]
    pub(crate) fn store(self, family: u8, to: &mut NatChoice) {
        let flags: u32 = if has!(nat_flags) { probe(self.0, offset!(nat_flags)) } else { 0 };
        to.low = [0; 16];
        to.high = [0; 16];
        if flags & ADDRESSES != 0 && family == 4 {
            to.low = mapped(probe(self.0, offset!(nat_low)));
            to.high = mapped(probe(self.0, offset!(nat_high)));
        } else if flags & ADDRESSES != 0 {
            probe_into(&raw mut to.low, self.0, offset!(nat_low));
            probe_into(&raw mut to.high, self.0, offset!(nat_high));
        }
        let gives = flags & PORTS != 0 && has!(nat_low_port) && has!(nat_high_port);
        to.low_port = if gives { u16::from_be(probe(self.0, offset!(nat_low_port))) } else { 0 };
        to.high_port = if gives { u16::from_be(probe(self.0, offset!(nat_high_port))) } else { 0 };
    }
}
