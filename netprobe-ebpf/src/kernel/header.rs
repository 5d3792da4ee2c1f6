//! Packet headers, read in two copies at most.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use netprobe_common::{
    event::PacketHead,
    filter::Traits,
    flow::{FlowKey, mapped_word},
};
use network_types::{ip::Ipv4Hdr, ip::Ipv6Hdr, tcp::TcpHdr};

use super::probe;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Protocols that carry packets.
const IPIP: u8 = 4;
const IPV6_IN: u8 = 41;
const GRE: u8 = 47;
/// UDP ports of overlays: VXLAN as registered and as Linux had it first (flannel, Cilium), Geneve.
const VXLAN: u16 = 4789;
const VXLAN_LINUX: u16 = 8472;
const GENEVE: u16 = 6081;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// EtherTypes of IPv6 and of an Ethernet frame in a tunnel.
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_TEB: u16 = 0x6558;
/// EtherType of IPv4.
pub(crate) const ETH_P_IP: u16 = 0x0800;
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// Extension headers looked through: a fourth one is not seen in the field, and each doubles
/// what the verifier has to visit.
const EXTENSIONS: usize = 3;

/// The first 40 bytes of a packet, by words as they lie in memory: an IPv4 header without options and 20 bytes behind it, or an
/// IPv6 header. Words, because BPF has no unaligned access, and a header of single bytes is read byte by byte.
pub(crate) type First = [u32; 10];

/// The first 20 bytes behind the IP header, likewise.
type L4 = [u32; TcpHdr::LEN / 4];

/// Byte `at` of the word, in memory order.
#[inline(always)]
const fn byte(word: u32, at: usize) -> u8 {
    word.to_ne_bytes()[at]
}

/// The first and the second half of a word, which are in network byte order.
#[inline(always)]
const fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Two words as one of twice the length, in memory order.
#[inline(always)]
const fn joined(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Addresses as words in memory order, and ports: what a glance needs.
pub(crate) struct Ends {
    pub(crate) src: (u64, u64),
    pub(crate) dst: (u64, u64),
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// It takes more than a glance: options, extension headers, a packet quoted by an ICMP error.
    pub(crate) all: bool,
}

impl Ends {
    #[inline(always)]
    pub(crate) fn read(ip: u64) -> Self {
        let first: First = probe(ip, 0);
        let version = byte(first[0], 0);
        let (src, dst, ports, all) = if version == 0x45 {
            ((0, mapped_word(first[3])), (0, mapped_word(first[4])), first[5], byte(first[2], 1) == ICMP)
        } else if version >> 4 == 6 {
            let src = (joined(first[2], first[3]), joined(first[4], first[5]));
            let dst = (joined(first[6], first[7]), joined(first[8], first[9]));
            let proto = byte(first[1], 2);
            (src, dst, probe(ip, Ipv6Hdr::LEN), proto != TCP && proto != UDP)
        } else {
            ((0, 0), (0, 0), 0, true)
        };
        let (sport, dport) = halves(ports);
        Self { src, dst, sport, dport, all }
    }
}

/// One place for headers per CPU and program. The 512-byte stack is too small for them; and a
/// program never runs twice at once on a CPU, while two programs may (a softirq interrupts a task).
#[map]
static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(Slot::Last as u32, 0);

/// Whose place in [`HEADERS`].
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Receive,
    Queue,
    Transmit,
    Consume,
    Drop,
    Icmp,
    Reset,
    Ingress,
    Egress,
    Last,
}

/// What the headers say.
#[repr(C)]
pub(crate) struct Headers {
    pub(crate) flow: FlowKey,
    /// The flow of the packet that an ICMP error quotes, or that a dropped tunnel packet carries; family 0 where there is
    /// none.
    pub(crate) inner: FlowKey,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) ip_len: u32,
    pub(crate) payload_len: u32,
    pub(crate) window: u16,
    pub(crate) frag: u16,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
    scratch: AtomicU64,
}

impl Headers {
    /// Returns `value`, of which the verifier knows nothing afterwards: it does not track what lies in maps.
    #[inline(always)]
    pub(crate) fn forget(&self, value: u32) -> u32 {
        let place = self.scratch.as_ptr();
        // SAFETY: `place` is valid, and only this program writes to this entry. Volatile, because the compiler would
        // otherwise see that nothing changes.
        unsafe {
            place.write_volatile(u64::from(value));
            place.read_volatile() as u32
        }
    }

    /// Reads the packet whose network header is at `ip`. What is no IP has family 0.
    #[inline(never)]
    pub(crate) fn read(slot: Slot, ip: u64, ether_type: u16) -> Option<&'static Self> {
        let place = HEADERS.get_ptr_mut(slot as u32)?;
        // SAFETY: a per-CPU entry that only this program uses; it does not run twice at once.
        let headers = unsafe { &mut *place };
        headers.clear();
        if may_be_ip(ether_type) {
            let first: First = probe(ip, 0);
            match byte(first[0], 0) >> 4 {
                4 => {
                    headers.ipv4(ip, &first, ether_type);
                    return Some(headers);
                }
                6 => {
                    headers.ipv6(ip, &first, ether_type);
                    return Some(headers);
                }
                _ => {}
            }
        }
        headers.flow.put([0, 0, 0, 0, FlowKey::last_word((0, 0), 0, 0, ether_type)]);
        Some(headers)
    }

    /// Takes the headers that lie in `first`, if it is TCP or UDP over IPv4 without options: most of all packets.
    #[inline(always)]
    pub(crate) fn plain(slot: Slot, first: &First) -> Option<&'static Self> {
        let proto = byte(first[2], 1);
        if byte(first[0], 0) != 0x45 || (proto != TCP && proto != UDP) {
            return None;
        }
        let place = HEADERS.get_ptr_mut(slot as u32)?;
        // SAFETY: as in `read`.
        let headers = unsafe { &mut *place };
        headers.clear();
        headers.ipv4_first(first);
        let l4 = [first[5], first[6], first[7], first[8], first[9]];
        let length = headers.ip_len.wrapping_sub(Ipv4Hdr::LEN as u32);
        let ports = if headers.frag & 0x1fff == 0 { headers.ends(&l4, proto, length) } else { (0, 0) };
        let last = FlowKey::last_word(ports, proto, 4, ETH_P_IP);
        headers.flow.put([0, mapped_word(first[3]), 0, mapped_word(first[4]), last]);
        Some(headers)
    }

    /// Clears all but the flow, which is written whole.
    #[inline(always)]
    fn clear(&mut self) {
        const WORDS: usize = (core::mem::offset_of!(Headers, scratch) - core::mem::offset_of!(Headers, seq)) / 8;
        let rest = (&raw mut self.seq).cast::<u64>();
        let inner = (&raw mut self.inner).cast::<u64>();
        // SAFETY: from `seq` to `scratch` there are whole words (`repr(C)`, all fields before are), and the last word of a
        // flow holds its family. Volatile, because the compiler would call a function that clears byte by byte.
        unsafe {
            inner.add(4).write_volatile(0);
            for word in 0..WORDS {
                rest.add(word).write_volatile(0);
            }
        }
    }

    #[inline(always)]
    fn ipv4(&mut self, address: u64, first: &First, ether_type: u16) {
        let ihl = usize::from(byte(first[0], 0) & 15) * 4;
        let proto = byte(first[2], 1);
        self.ipv4_first(first);
        // Only the first fragment has ports.
        let ports = if self.frag & 0x1fff != 0 {
            (0, 0)
        } else {
            let l4 = if ihl == Ipv4Hdr::LEN {
                [first[5], first[6], first[7], first[8], first[9]]
            } else {
                probe::<L4>(address, ihl)
            };
            self.transport(&l4, proto, address + ihl as u64, self.ip_len.wrapping_sub(ihl as u32))
        };
        let last = FlowKey::last_word(ports, proto, 4, ether_type);
        self.flow.put([0, mapped_word(first[3]), 0, mapped_word(first[4]), last]);
    }

    /// What stands beside the addresses.
    #[inline(always)]
    fn ipv4_first(&mut self, first: &First) {
        self.ttl = byte(first[2], 0);
        self.frag = halves(first[1]).1;
        self.ip_len = u32::from(halves(first[0]).1);
    }

    #[inline(always)]
    fn ipv6(&mut self, address: u64, first: &First, ether_type: u16) {
        self.flow.put([
            joined(first[2], first[3]),
            joined(first[4], first[5]),
            joined(first[6], first[7]),
            joined(first[8], first[9]),
            FlowKey::last_word((0, 0), 0, 6, ether_type),
        ]);
        self.ttl = byte(first[1], 3);
        let payload = u32::from(halves(first[1]).0);
        self.ip_len = payload + Ipv6Hdr::LEN as u32;
        let mut next = byte(first[1], 2);
        let mut at = address + Ipv6Hdr::LEN as u64;
        let mut skipped = 0u32;
        for _ in 0..EXTENSIONS {
            // Hop-by-hop, routing, destination options; fragment has its own length and offset.
            if next != 0 && next != 43 && next != 60 && next != 44 {
                break;
            }
            let extension: [u8; 4] = probe(at, 0);
            let length = if next == 44 { 8 } else { u32::from(extension[1]) * 8 + 8 };
            if next == 44 {
                self.frag = u16::from_be_bytes([extension[2], extension[3]]) >> 3;
            }
            next = extension[0];
            at += u64::from(length);
            skipped += length;
        }
        self.flow.proto = next;
        if self.frag & 0x1fff != 0 {
            return;
        }
        let l4: L4 = probe(at, 0);
        (self.flow.sport, self.flow.dport) = self.transport(&l4, next, at, payload.wrapping_sub(skipped));
    }

    /// What is in `inner` is carried, not quoted.
    #[inline(always)]
    pub(crate) fn carries(&self) -> bool {
        self.inner.family != 0 && self.flow.proto != ICMP && self.flow.proto != ICMPV6
    }

    /// Reads what a tunnel's packet carries, of which `read` was told before, to `inner`. Gives the number of its network
    /// (VNI), 0 where the tunnel has none.
    #[inline(never)]
    pub(crate) fn look_inside(slot: Slot, ip: u64) -> u32 {
        let Some(place) = HEADERS.get_ptr_mut(slot as u32) else { return 0 };
        // SAFETY: as in `read`.
        let headers = unsafe { &mut *place };
        if headers.frag & 0x1fff != 0 {
            return 0;
        }
        let at = ip + if headers.flow.family == 6 { Ipv6Hdr::LEN as u64 } else { Ipv4Hdr::LEN as u64 };
        let (inside, vni) = match headers.flow.proto {
            UDP => overlay(at, headers.flow.dport),
            IPIP | IPV6_IN => (at, 0),
            GRE => generic(at),
            _ => (0, 0),
        };
        if inside != 0 {
            quoted(inside, &mut headers.inner);
        }
        vni
    }

    /// Reads what lies behind the IP header, and gives the ports.
    #[inline(always)]
    fn transport(&mut self, l4: &L4, proto: u8, address: u64, length: u32) -> (u16, u16) {
        match proto {
            TCP | UDP => self.ends(l4, proto, length),
            ICMP | ICMPV6 => {
                let (kind, echo, errors) = (
                    byte(l4[0], 0),
                    if proto == ICMP { [0, 8] } else { [128, 129] },
                    if proto == ICMP { [3, 4, 5, 11, 12] } else { [1, 2, 3, 4, 4] },
                );
                (self.icmp_type, self.icmp_code) = (kind, byte(l4[0], 1));
                // The echo identifier stands for both ports, so that request and answer are one flow.
                if kind == echo[0] || kind == echo[1] {
                    let identifier = halves(l4[1]).0;
                    return (identifier, identifier);
                }
                if errors.contains(&kind) {
                    quoted(address + 8, &mut self.inner);
                }
                (0, 0)
            }
            _ => (0, 0),
        }
    }

    /// Reads a TCP or UDP header, and gives the ports.
    #[inline(always)]
    fn ends(&mut self, l4: &L4, proto: u8, length: u32) -> (u16, u16) {
        if proto == TCP {
            self.seq = u32::from_be(l4[1]);
            self.ack = u32::from_be(l4[2]);
            self.flags = byte(l4[3], 1);
            self.window = halves(l4[3]).1;
            self.payload_len = length.wrapping_sub(u32::from(byte(l4[3], 0) >> 4) * 4);
        } else {
            self.payload_len = length.wrapping_sub(8);
        }
        halves(l4[0])
    }

    /// What the user's filter looks at beside the flow.
    #[inline(always)]
    pub(crate) fn traits(&self) -> Traits {
        let len = if self.ip_len == 0 { 0 } else { self.ip_len + ETHERNET };
        Traits { len, flags: self.flags, icmp_type: self.icmp_type, icmp_code: self.icmp_code }
    }

    /// Writes them into a record.
    #[inline(always)]
    pub(crate) fn store(&self, head: &mut PacketHead) {
        head.flow = self.flow.copied();
        head.tcp_seq = self.seq;
        head.tcp_ack = self.ack;
        head.tcp_window = self.window;
        head.frag = self.frag;
        head.tcp_flags = self.flags;
        head.ttl = self.ttl;
        head.icmp_type = self.icmp_type;
        head.icmp_code = self.icmp_code;
        head.payload_len = self.payload_len;
        head.ip_len = self.ip_len;
    }
}

/// IPv4, IPv6, a VLAN tag before one of them, or not known yet: what else begins like an IP header is none.
#[inline(always)]
const fn may_be_ip(ether_type: u16) -> bool {
    matches!(ether_type, 0 | 0x0800 | 0x86dd | 0x8100 | 0x88a8)
}

/// Where the IP packet inside a UDP datagram is, if it is a tunnel's: by its port, and by what follows. And the VNI.
#[inline(always)]
fn overlay(udp: u64, port: u16) -> (u64, u32) {
    let words: [u32; 2] = probe(udp, UDP_HEADER);
    let (first, behind) = (words[0], udp + UDP_HEADER as u64 + 8);
    let frame = match port {
        // RFC 7348: the flag I says that there is a VNI.
        VXLAN | VXLAN_LINUX if byte(first, 0) & 8 != 0 => behind,
        // RFC 8926: the length of the options, in words, is in the first byte.
        GENEVE if halves(first).1 == ETH_P_TEB => behind + u64::from(byte(first, 0) & 0x3f) * 4,
        _ => return (0, 0),
    };
    let ether_type: [u8; 2] = probe(frame, 12);
    let is_ip = matches!(u16::from_be_bytes(ether_type), ETH_P_IP | ETH_P_IPV6);
    (if is_ip { frame + u64::from(ETHERNET) } else { 0 }, u32::from_be(words[1]) >> 8)
}

/// Where the IP packet behind a GRE header (RFC 2784, RFC 2890) is.
#[inline(always)]
fn generic(gre: u64) -> (u64, u32) {
    let (flags, protocol) = halves(probe::<u32>(gre, 0));
    // A checksum and a key take four bytes each.
    let options = u64::from(flags >> 15) * 4 + u64::from(flags >> 13 & 1) * 4;
    let is_ip = matches!(protocol, ETH_P_IP | ETH_P_IPV6);
    (if is_ip { gre + 4 + options } else { 0 }, 0)
}

/// The quoted packet's five-tuple, to `flow`.
#[inline(never)]
fn quoted(ip: u64, flow: &mut FlowKey) {
    let first: First = probe(ip, 0);
    let version = byte(first[0], 0);
    let (addresses, proto, length) = match version >> 4 {
        4 => ([0, mapped_word(first[3]), 0, mapped_word(first[4])], byte(first[2], 1), usize::from(version & 15) * 4),
        6 => {
            let src = [joined(first[2], first[3]), joined(first[4], first[5])];
            let dst = [joined(first[6], first[7]), joined(first[8], first[9])];
            ([src[0], src[1], dst[0], dst[1]], byte(first[1], 2), Ipv6Hdr::LEN)
        }
        _ => return,
    };
    let l4: [u32; 2] = probe(ip, length);
    let ports = match proto {
        TCP | UDP => halves(l4[0]),
        ICMP | ICMPV6 => (halves(l4[1]).0, halves(l4[1]).0),
        _ => (0, 0),
    };
    let [a, b, c, d] = addresses;
    flow.put([a, b, c, d, FlowKey::last_word(ports, proto, version >> 4, 0)]);
}
