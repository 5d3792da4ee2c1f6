//! `struct flowi4`, `flowi6`, next hops and IPv6 results.

use netprobe_common::flow::{FlowKey, mapped, mapped_word};

use super::{device::Device, has, offset, probe, typed};

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
        match self {
            Self::V4(pointer) => {
                let (src, dst) = (typed(pointer, offset!(fl4_saddr)), typed(pointer, offset!(fl4_daddr)));
                let last = FlowKey::last_word((0, 0), 0, 4, 0);
                FlowKey::from_words([0, mapped_word(src), 0, mapped_word(dst), last])
            }
            Self::V6(pointer) => {
                let src: [u64; 2] = probe(pointer as u64, offset!(fl6_saddr));
                let dst: [u64; 2] = probe(pointer as u64, offset!(fl6_daddr));
                FlowKey::from_words([src[0], src[1], dst[0], dst[1], FlowKey::last_word((0, 0), 0, 6, 0)])
            }
        }
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

/// A route's next hop: the address of a `struct fib_nh_common`, or 0. It is read of followed look-ups alone.
#[derive(Clone, Copy)]
pub(crate) struct NextHop(u64);

impl NextHop {
    const NONE: Self = Self(0);

    /// Wraps an address; nothing where it is 0.
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The device of a next hop by a checked pointer to it.
    #[inline(always)]
    pub(crate) fn checked_device(hop: *const u8) -> Option<Device> {
        if hop.is_null() { None } else { Device::new(typed(hop, offset!(nhc_dev))) }
    }

    /// Its device; 0 where there is none.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        let device: u64 = if self.0 == 0 { 0 } else { probe(self.0, offset!(nhc_dev)) };
        if device == 0 { 0 } else { probe(device, offset!(dev_ifindex)) }
    }

    /// Writes its gateway; zeroes where it has none.
    #[inline(always)]
    pub(crate) fn store_gateway(self, to: &mut [u8; 16]) {
        let family = if self.0 == 0 { 0 } else { probe::<u8>(self.0, offset!(nhc_gw_family)) };
        *to = match family {
            2 => mapped(probe(self.0, offset!(nhc_gw))),
            10 => probe(self.0, offset!(nhc_gw)),
            _ => [0; 16],
        };
    }
}

/// What a `struct fib6_result` says: the next hop, and the errno as the trace event computes it.
#[inline(always)]
pub(crate) fn fib6_result(net: *const u8, result: *const u8) -> (NextHop, i32) {
    let info: u64 = probe(result as u64, offset!(fib6_result_f6i));
    let null_entry: u64 = if has!(net_fib6_null) { probe(net as u64, offset!(net_fib6_null)) } else { 0 };
    if info == 0 || info == null_entry {
        return (NextHop::NONE, -101);
    }
    let err = match typed::<u8>(result, offset!(fib6_result_type)) {
        6 => -22,
        7 => -113,
        8 => -13,
        9 => -11,
        _ => 0,
    };
    let nh: u64 = probe(result as u64, offset!(fib6_result_nh));
    if nh == 0 || err != 0 {
        return (NextHop::NONE, err);
    }
    // `nh_common` is the first member of `fib6_nh` in every kernel so far; the offset says so.
    (NextHop::new(nh + offset!(fib6_nh_common) as u64), 0)
}

/// `fib6_table->tb6_id`.
#[inline(always)]
pub(crate) fn fib6_table_id(pointer: *const u8) -> u32 {
    if pointer.is_null() { 0 } else { typed(pointer, offset!(fib6_table_id)) }
}
