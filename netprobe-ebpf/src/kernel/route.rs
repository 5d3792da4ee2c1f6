//! `struct flowi4`, `flowi6`, next hops and IPv6 results.

use netprobe_common::flow::{FlowKey, mapped};

use super::{device::Device, has, offset, probe, probe_into, typed};

/// A checked pointer to a `struct flowi4` or `flowi6`: what a look-up asks. Fields are read when
/// they are needed: most look-ups are somebody else's.
#[derive(Clone, Copy)]
pub(crate) enum Question {
    V4(*const u8),
    V6(*const u8),
}

impl Question {
    /// Source and destination of an IPv4 question, in network byte order.
    #[inline(always)]
    pub(crate) fn ipv4(self) -> Option<(u32, u32)> {
        match self {
            Self::V4(pointer) => Some((typed(pointer, offset!(fl4_saddr)), typed(pointer, offset!(fl4_daddr)))),
            Self::V6(_) => None,
        }
    }

    /// Addresses, and nothing else yet.
    #[inline(always)]
    pub(crate) fn addresses(self) -> FlowKey {
        let mut flow = FlowKey::EMPTY;
        match self {
            Self::V4(pointer) => {
                flow.family = 4;
                flow.src = mapped(typed::<u32>(pointer, offset!(fl4_saddr)).to_ne_bytes());
                flow.dst = mapped(typed::<u32>(pointer, offset!(fl4_daddr)).to_ne_bytes());
            }
            Self::V6(pointer) => {
                flow.family = 6;
                probe_into(&raw mut flow.src, pointer as u64, offset!(fl6_saddr));
                probe_into(&raw mut flow.dst, pointer as u64, offset!(fl6_daddr));
            }
        }
        flow
    }

    /// Protocol and ports, into what [`Self::addresses`] gave.
    #[inline(always)]
    pub(crate) fn complete(self, flow: &mut FlowKey) {
        match self {
            Self::V4(pointer) => {
                flow.proto = typed(pointer, offset!(fl4_proto));
                flow.sport = u16::from_be(probe(pointer as u64, offset!(fl4_sport)));
                flow.dport = u16::from_be(probe(pointer as u64, offset!(fl4_dport)));
            }
            Self::V6(pointer) => {
                flow.proto = typed(pointer, offset!(fl6_proto));
                flow.sport = u16::from_be(probe(pointer as u64, offset!(fl6_sport)));
                flow.dport = u16::from_be(probe(pointer as u64, offset!(fl6_dport)));
            }
        }
        // The same union holds ICMP's type and code: those are no ports.
        if flow.proto == 1 || flow.proto == 58 {
            (flow.sport, flow.dport) = (0, 0);
        }
    }

    /// Whether either of its ports is this one. Where no port is asked for they are 0.
    #[inline(always)]
    pub(crate) fn names_port(self, port: u16) -> bool {
        let mut flow = FlowKey::EMPTY;
        self.complete(&mut flow);
        flow.sport == port || flow.dport == port
    }

    /// Device asked to be the input.
    #[inline(always)]
    pub(crate) fn iif(self) -> u32 {
        match self {
            Self::V4(pointer) => typed(pointer, offset!(fl4_iif)),
            Self::V6(pointer) => typed(pointer, offset!(fl6_iif)),
        }
    }

    /// Device the caller demanded.
    #[inline(always)]
    pub(crate) fn oif(self) -> u32 {
        match self {
            Self::V4(pointer) => typed(pointer, offset!(fl4_oif)),
            Self::V6(pointer) => typed(pointer, offset!(fl6_oif)),
        }
    }

    /// Firewall mark.
    #[inline(always)]
    pub(crate) fn mark(self) -> u32 {
        match self {
            Self::V4(pointer) => typed(pointer, offset!(fl4_mark)),
            Self::V6(pointer) => typed(pointer, offset!(fl6_mark)),
        }
    }
}

/// A route's next hop.
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    pub(crate) ifindex: u32,
    pub(crate) gateway: [u8; 16],
}

impl NextHop {
    const NONE: Self = Self { ifindex: 0, gateway: [0; 16] };

    /// Namespace of the device of a `struct fib_nh_common`; 0 where there is none.
    #[inline(always)]
    pub(crate) fn netns(pointer: *const u8) -> u32 {
        if pointer.is_null() {
            return 0;
        }
        Device::new(typed(pointer, offset!(nhc_dev))).map_or(0, Device::netns)
    }

    /// Reads a `struct fib_nh_common`; nothing where it is null.
    #[inline(always)]
    pub(crate) fn read(pointer: *const u8) -> Self {
        if pointer.is_null() {
            return Self::NONE;
        }
        let mut hop = Self::NONE;
        if let Some(device) = Device::new(typed(pointer, offset!(nhc_dev))) {
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
