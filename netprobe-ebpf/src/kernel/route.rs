//! `struct flowi4`, `flowi6`, next hops and IPv6 results.

use netprobe_common::flow::{FlowKey, mapped};

use super::{device::Device, has, offset, probe, probe_into, typed};

/// What a look-up asks.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) flow: FlowKey,
    pub(crate) oif: u32,
    pub(crate) iif: u32,
    pub(crate) mark: u32,
}

/// The incoming device of a `struct flowi4`: 0 or 1 where a task asks.
#[inline(always)]
pub(crate) fn flowi4_iif(pointer: *const u8) -> u32 {
    typed(pointer, offset!(fl4_iif))
}

/// The same of a `struct flowi6`.
#[inline(always)]
pub(crate) fn flowi6_iif(pointer: *const u8) -> u32 {
    typed(pointer, offset!(fl6_iif))
}

/// Reads a `struct flowi4`.
#[inline(always)]
pub(crate) fn flowi4(pointer: *const u8) -> Question {
    let mut flow = FlowKey::EMPTY;
    flow.family = 4;
    flow.proto = typed(pointer, offset!(fl4_proto));
    flow.src = mapped(typed::<u32>(pointer, offset!(fl4_saddr)).to_ne_bytes());
    flow.dst = mapped(typed::<u32>(pointer, offset!(fl4_daddr)).to_ne_bytes());
    flow.sport = u16::from_be(probe(pointer as u64, offset!(fl4_sport)));
    flow.dport = u16::from_be(probe(pointer as u64, offset!(fl4_dport)));
    Question {
        flow,
        oif: typed(pointer, offset!(fl4_oif)),
        iif: flowi4_iif(pointer),
        mark: typed(pointer, offset!(fl4_mark)),
    }
}

/// Reads a `struct flowi6`.
#[inline(always)]
pub(crate) fn flowi6(pointer: *const u8) -> Question {
    let mut flow = FlowKey::EMPTY;
    flow.family = 6;
    flow.proto = typed(pointer, offset!(fl6_proto));
    probe_into(&raw mut flow.src, pointer as u64, offset!(fl6_saddr));
    probe_into(&raw mut flow.dst, pointer as u64, offset!(fl6_daddr));
    flow.sport = u16::from_be(probe(pointer as u64, offset!(fl6_sport)));
    flow.dport = u16::from_be(probe(pointer as u64, offset!(fl6_dport)));
    Question {
        flow,
        oif: typed(pointer, offset!(fl6_oif)),
        iif: flowi6_iif(pointer),
        mark: typed(pointer, offset!(fl6_mark)),
    }
}

/// A route's next hop.
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    pub(crate) netns: u32,
    pub(crate) ifindex: u32,
    pub(crate) gateway: [u8; 16],
}

impl NextHop {
    const NONE: Self = Self { netns: 0, ifindex: 0, gateway: [0; 16] };

    /// Reads a `struct fib_nh_common`; nothing where it is null.
    #[inline(always)]
    pub(crate) fn read(pointer: *const u8) -> Self {
        if pointer.is_null() {
            return Self::NONE;
        }
        let mut hop = Self::NONE;
        if let Some(device) = Device::new(typed(pointer, offset!(nhc_dev))) {
            hop.netns = device.netns();
            hop.ifindex = device.ifindex();
        }
        match typed::<u8>(pointer, offset!(nhc_gw_family)) {
            2 => hop.gateway = mapped(probe(pointer as u64, offset!(nhc_gw))),
            10 => probe_into(&raw mut hop.gateway, pointer as u64, offset!(nhc_gw)),
            _ => {}
        }
        hop
    }
}

/// What a `struct fib6_result` says: the next hop, and the errno as the trace event computes it.
#[inline(always)]
pub(crate) fn fib6_result(net: *const u8, result: *const u8) -> (NextHop, i32) {
    let info: *const u8 = typed(result, offset!(fib6_result_f6i));
    let null_entry: u64 = if has!(net_fib6_null) { probe(net as u64, offset!(net_fib6_null)) } else { 0 };
    if info.is_null() || info as u64 == null_entry {
        return (NextHop::NONE, -101);
    }
    let err = match typed::<u8>(result, offset!(fib6_result_type)) {
        6 => -22,
        7 => -113,
        8 => -13,
        9 => -11,
        _ => 0,
    };
    let nh: *const u8 = typed(result, offset!(fib6_result_nh));
    if nh.is_null() || err != 0 {
        return (NextHop::NONE, err);
    }
    // `nh_common` is the first member of `fib6_nh` in every kernel so far; the offset says so.
    (NextHop::read(nh.wrapping_add(offset!(fib6_nh_common))), 0)
}

/// `fib6_table->tb6_id`.
#[inline(always)]
pub(crate) fn fib6_table_id(pointer: *const u8) -> u32 {
    if pointer.is_null() { 0 } else { typed(pointer, offset!(fib6_table_id)) }
}
