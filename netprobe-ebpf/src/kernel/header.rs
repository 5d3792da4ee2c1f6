//! Packet headers, read in two copies at most.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use netprobe_common::{
    event::PacketHead,
    filter::Traits,
    flow::{FlowKey, mapped},
};
use network_types::{ip::Ipv4Hdr, ip::Ipv6Hdr, tcp::TcpHdr};

use super::{probe, probe_into};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// Extension headers looked through: a fourth one is not seen in the field, and each doubles
/// what the verifier has to visit.
const EXTENSIONS: usize = 3;

/// The first bytes of a packet, in one copy: a header without options and what is behind it. Aligned so that addresses are
/// read by words.
///
/// Functions hand it on by reference: kernels before 6.13 allow 512 bytes of stack to all functions of a chain of calls
/// together.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
union First {
    four: Four,
    six: Six,
}

/// As IPv4 has them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Four {
    ip: Ipv4Hdr,
    l4: L4,
}

/// As IPv6 has them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Six {
    ip: Ipv6Hdr,
    l4: L4,
}

/// The first bytes behind the IP header.
#[repr(C)]
#[derive(Clone, Copy)]
struct L4([u8; TcpHdr::LEN]);

impl First {
    /// Reads what is at `ip`, behind which a kernel's packet always has more memory than this takes.
    #[inline(always)]
    fn read(ip: u64) -> Self {
        probe(ip, 0)
    }

    /// As IPv4 would have it.
    #[inline(always)]
    fn four(&mut self) -> &mut Four {
        // SAFETY: plain bytes, all of them written by `probe`.
        unsafe { &mut self.four }
    }

    /// As IPv6 would have it.
    #[inline(always)]
    fn six(&mut self) -> &mut Six {
        // SAFETY: likewise.
        unsafe { &mut self.six }
    }

    /// 4, 6, or what else the first half byte says.
    #[inline(always)]
    fn version(&mut self) -> u8 {
        self.four().ip.vihl >> 4
    }
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
    /// By words: the compiler would take addresses in bytes apart, and keep each byte on the stack.
    #[inline(always)]
    pub(crate) fn read(ip: u64) -> Self {
        let [a, b, c, d, e, f]: [u64; 6] = probe(ip, 0);
        if a as u8 == 0x45 {
            let (src, dst) = (mapped_words((b >> 32) as u32), mapped_words(c as u32));
            return Self::new(src, dst, (c >> 32) as u32, (b >> 8) as u8 == ICMP);
        }
        if a as u8 >> 4 == 6 {
            let next = (a >> 48) as u8;
            return Self::new((b, c), (d, e), f as u32, next != TCP && next != UDP);
        }
        Self::new((0, 0), (0, 0), 0, true)
    }

    /// `ports` in memory order, as the addresses.
    #[inline(always)]
    fn new(src: (u64, u64), dst: (u64, u64), ports: u32, all: bool) -> Self {
        Self { src, dst, sport: u16::from_be(ports as u16), dport: u16::from_be((ports >> 16) as u16), all }
    }
}

/// `flow::mapped` as two words, all in memory order.
#[inline(always)]
pub(crate) fn mapped_words(address: u32) -> (u64, u64) {
    (0, u64::from(address) << 32 | 0xffff_0000)
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
pub(crate) struct Headers {
    pub(crate) flow: FlowKey,
    /// The flow of the packet that an ICMP error quotes; family 0 where it quotes none.
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
        headers.clear(ether_type);
        if may_be_ip(ether_type) {
            let mut first = First::read(ip);
            match first.version() {
                4 => headers.ipv4(ip, &mut first),
                6 => headers.ipv6(ip, &mut first),
                _ => {}
            }
        }
        Some(headers)
    }

    #[inline(always)]
    fn clear(&mut self, ether_type: u16) {
        self.flow = FlowKey { ether_type, ..FlowKey::EMPTY };
        self.inner.family = 0;
        (self.seq, self.ack, self.ip_len, self.payload_len) = (0, 0, 0, 0);
        (self.window, self.frag) = (0, 0);
        (self.flags, self.ttl, self.icmp_type, self.icmp_code) = (0, 0, 0, 0);
    }

    #[inline(always)]
    fn ipv4(&mut self, address: u64, first: &mut First) {
        let ip = &first.four().ip;
        let ihl = usize::from(ip.vihl & 15) * 4;
        self.flow.family = 4;
        self.flow.proto = ip.proto;
        self.flow.src = mapped(ip.src_addr);
        self.flow.dst = mapped(ip.dst_addr);
        self.ttl = ip.ttl;
        self.frag = u16::from_be_bytes(ip.frags);
        self.ip_len = u32::from(u16::from_be_bytes(ip.tot_len));
        // Only the first fragment has ports.
        if self.frag & 0x1fff != 0 {
            return;
        }
        if ihl != Ipv4Hdr::LEN {
            probe_into(&raw mut first.four().l4, address, ihl);
        }
        let l4 = first.four().l4;
        self.transport(&l4, first, address + ihl as u64, self.ip_len.wrapping_sub(ihl as u32));
    }

    #[inline(always)]
    fn ipv6(&mut self, address: u64, first: &mut First) {
        let ip = &first.six().ip;
        self.flow.family = 6;
        self.flow.src = ip.src_addr;
        self.flow.dst = ip.dst_addr;
        self.ttl = ip.hop_limit;
        let payload = u32::from(u16::from_be_bytes(ip.payload_len));
        self.ip_len = payload + Ipv6Hdr::LEN as u32;
        let mut next = ip.next_hdr;
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
        if skipped != 0 {
            probe_into(&raw mut first.six().l4, at, 0);
        }
        let l4 = first.six().l4;
        self.transport(&l4, first, at, payload.wrapping_sub(skipped));
    }

    /// `first` is room for a packet that this one quotes.
    #[inline(always)]
    fn transport(&mut self, l4: &L4, first: &mut First, address: u64, length: u32) {
        let b = &l4.0;
        match self.flow.proto {
            TCP => {
                self.ports(b);
                self.seq = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
                self.ack = u32::from_be_bytes([b[8], b[9], b[10], b[11]]);
                self.flags = b[13];
                self.window = u16::from_be_bytes([b[14], b[15]]);
                self.payload_len = length.wrapping_sub(u32::from(b[12] >> 4) * 4);
            }
            UDP => {
                self.ports(b);
                self.payload_len = length.wrapping_sub(8);
            }
            ICMP => {
                (self.icmp_type, self.icmp_code) = (b[0], b[1]);
                match b[0] {
                    0 | 8 => self.identifier(b),
                    3 | 4 | 5 | 11 | 12 => quoted(address + 8, first, &mut self.inner),
                    _ => {}
                }
            }
            ICMPV6 => {
                (self.icmp_type, self.icmp_code) = (b[0], b[1]);
                match b[0] {
                    128 | 129 => self.identifier(b),
                    1..=4 => quoted(address + 8, first, &mut self.inner),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    #[inline(always)]
    fn ports(&mut self, b: &[u8; TcpHdr::LEN]) {
        self.flow.sport = u16::from_be_bytes([b[0], b[1]]);
        self.flow.dport = u16::from_be_bytes([b[2], b[3]]);
    }

    /// The echo identifier stands for both ports, so that request and answer are one flow.
    #[inline(always)]
    fn identifier(&mut self, b: &[u8; TcpHdr::LEN]) {
        self.flow.sport = u16::from_be_bytes([b[4], b[5]]);
        self.flow.dport = self.flow.sport;
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
        head.flow = self.flow;
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

/// The quoted packet's five-tuple, to `flow`. `first` is the caller's, to save stack.
#[inline(never)]
fn quoted(ip: u64, first: &mut First, flow: &mut FlowKey) {
    flow.family = 0;
    probe_into(&raw mut *first, ip, 0);
    let l4 = match first.version() {
        4 => {
            let four = &first.four().ip;
            flow.family = 4;
            flow.proto = four.proto;
            flow.src = mapped(four.src_addr);
            flow.dst = mapped(four.dst_addr);
            usize::from(four.vihl & 15) * 4
        }
        6 => {
            let six = &first.six().ip;
            flow.family = 6;
            flow.proto = six.next_hdr;
            flow.src = six.src_addr;
            flow.dst = six.dst_addr;
            Ipv6Hdr::LEN
        }
        _ => return,
    };
    (flow.sport, flow.dport, flow.ether_type) = (0, 0, 0);
    let b: [u8; 8] = probe(ip, l4);
    match flow.proto {
        TCP | UDP => {
            flow.sport = u16::from_be_bytes([b[0], b[1]]);
            flow.dport = u16::from_be_bytes([b[2], b[3]]);
        }
        ICMP | ICMPV6 => {
            flow.sport = u16::from_be_bytes([b[4], b[5]]);
            flow.dport = flow.sport;
        }
        _ => {}
    }
}
