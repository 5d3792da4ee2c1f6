//! `struct sk_buff` in a TC classifier.
//!
//! There the context is the `sk_buff`, but the verifier lets a program see only what `struct __sk_buff` shows. From Linux 6.2
//! on a kernel function turns the one into the other, and the rest is read as in a tracepoint. Before, the first of it (device,
//! conntrack entry) is copied in one piece; what lies further behind is read where it is needed.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_cgroup_id, bpf_skb_load_bytes_relative},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use netprobe_common::{
    config::KERNEL_CTX,
    event::{Conntrack, PacketHead},
    limits::SKB_BYTES,
};

use super::{
    config, conntrack, has,
    header::{ETH_P_IP, First, Headers, Slot},
    offset, probe, typed,
};

/// A copy of an `sk_buff`'s fields.
type Copied = [u64; SKB_BYTES / 8];

/// One copy per CPU and direction: a classifier runs with softirqs off, so it never runs twice at once on a CPU.
#[map]
static COPIED: PerCpuArray<Copied> = PerCpuArray::with_max_entries(2, 0);

/// `enum ip_conntrack_info` above which a packet goes in the direction of the reply (`IP_CT_IS_REPLY`).
const CT_IS_REPLY: u64 = 3;
/// `IP_CT_UNTRACKED`.
const CT_UNTRACKED: u64 = 7;
/// `SKB_GSO_TCPV4 | SKB_GSO_TCPV6`.
const GSO_TCP: u32 = 1 | 1 << 4;
const TCP: u8 = 6;
/// The longest link-layer header that is believed, bytes.
const LINK_HEADER_MAX: u64 = 63;

/// A packet at a classifier.
#[derive(Clone, Copy)]
pub(crate) struct Classified<'a> {
    ctx: &'a TcContext,
    /// The `sk_buff` itself, as the verifier knows it, or a copy of its beginning.
    fields: *const u8,
    /// `true` at egress.
    pub(crate) egress: bool,
}

/// Calls `bpf_cast_to_kern_ctx`: what it returns is the context, as a pointer that the verifier knows to be of a
/// `struct sk_buff`. On most machines it is one instruction then.
#[inline(always)]
fn kernel_ctx(ctx: &TcContext) -> *const u8 {
    // SAFETY: user space makes a call of that function of it (see `KERNEL_CTX`); it takes and returns a pointer. An integer is
    // how the compiler is told a helper's number.
    unsafe {
        let call: unsafe extern "C" fn(*mut __sk_buff) -> *const u8 = core::mem::transmute(KERNEL_CTX as usize);
        call(ctx.skb.skb)
    }
}

impl<'a> Classified<'a> {
    /// Gets at the packet's `sk_buff`.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext, egress: bool) -> Option<Self> {
        if config!(kernel_ctx) != 0 {
            return Some(Self { ctx, fields: kernel_ctx(ctx), egress });
        }
        let copied = COPIED.get_ptr_mut(u32::from(egress))?;
        // SAFETY: the entry is a whole `Copied` that only this program uses now; the context is the address of an
        // `sk_buff`, and the helper checks what it reads.
        unsafe { bpf_probe_read_kernel(copied.cast(), SKB_BYTES as u32, ctx.skb.skb.cast()) };
        Some(Self { ctx, fields: copied.cast_const().cast(), egress })
    }

    /// A field of the `sk_buff`, of exactly its size.
    #[inline(always)]
    fn field<T: Copy>(&self, offset: usize) -> T {
        if config!(kernel_ctx) != 0 {
            return typed(self.fields, offset);
        }
        if offset > SKB_BYTES - size_of::<T>() {
            return probe(self.address(), offset);
        }
        // SAFETY: the offset lies within the copy (tested above), and every `T` read here is plain bytes.
        unsafe { self.fields.add(offset).cast::<T>().read_unaligned() }
    }

    /// Address of the `sk_buff`.
    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        self.ctx.skb.skb as u64
    }

    /// Address of its `struct net_device`.
    #[inline(always)]
    pub(crate) fn device(&self) -> u64 {
        self.field(offset!(skb_dev))
    }

    /// Inode number of the device's namespace.
    #[inline(always)]
    pub(crate) fn netns(&self) -> u32 {
        let net: u64 = probe(self.device(), offset!(dev_net));
        probe(net, offset!(net_inum))
    }

    /// Interface index of the device.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's run; the verifier rewrites the load.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// `skb->len`, with the link-layer header.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.ctx.len()
    }

    /// Its conntrack entry and whether it goes in the direction of the reply; none where it is not tracked (yet).
    #[inline(always)]
    pub(crate) fn conntrack(&self) -> Option<(u64, bool)> {
        if !has!(skb_nfct) || !has!(ct_orig) {
            return None;
        }
        let nfct: u64 = self.field(offset!(skb_nfct));
        let (entry, info) = (nfct & !7, nfct & 7);
        if entry == 0 || info == CT_UNTRACKED { None } else { Some((entry, info >= CT_IS_REPLY)) }
    }

    /// Number of its socket's cgroup (version 2), at egress; 0 where it has none.
    #[inline(always)]
    pub(crate) fn cgroup(&self) -> u64 {
        if !self.egress || config!(has_cgroups) == 0 {
            return 0;
        }
        // SAFETY: the context is valid for the program's run.
        unsafe { bpf_skb_cgroup_id(self.ctx.skb.skb) }
    }

    /// Writes what every packet event has into a record. As elsewhere the packet begins with its network header.
    #[inline(always)]
    pub(crate) fn store(&self, headers: &Headers, netns: u32, head: &mut PacketHead) {
        headers.store(head);
        head.skb = self.address();
        head.netns = netns;
        head.ifindex = self.ifindex();
        head.in_ifindex = self.field(offset!(skb_iif));
        head.mark = self.field(offset!(skb_mark));
        head.hash = self.field(offset!(skb_hash));
        head.len = self.len().wrapping_sub(self.link_header());
    }

    /// Writes its conntrack entry into a record.
    #[inline(always)]
    pub(crate) fn store_conntrack(&self, to: &mut Conntrack) {
        let nfct: u64 = if has!(skb_nfct) { self.field(offset!(skb_nfct)) } else { 0 };
        conntrack::store(nfct, to);
    }

    /// Address of the network header.
    #[inline(always)]
    fn network(&self) -> u64 {
        let head: u64 = self.field(offset!(skb_head));
        head + u64::from(self.field::<u16>(offset!(skb_network_header)))
    }

    /// Bytes of the link-layer header; 0 for devices that have none.
    #[inline(always)]
    pub(crate) fn link_header(&self) -> u32 {
        let data: u64 = self.field(offset!(skb_data));
        let length = self.network().wrapping_sub(data);
        if length > LINK_HEADER_MAX { 0 } else { length as u32 }
    }

    /// The VLAN tag that the kernel keeps beside the packet, as `Captured::vlan` has it.
    #[inline(always)]
    pub(crate) fn vlan(&self) -> u32 {
        // SAFETY: the context is valid for the program's run; the verifier rewrites the loads.
        unsafe {
            let skb = self.ctx.skb.skb;
            if (*skb).vlan_present == 0 {
                return 0;
            }
            u32::from(u16::from_be((*skb).vlan_proto as u16)) << 16 | ((*skb).vlan_tci & 0xffff)
        }
    }

    /// The program's context.
    #[inline(always)]
    pub(crate) const fn context(&self) -> &'a TcContext {
        self.ctx
    }

    /// Its headers.
    #[inline(always)]
    pub(crate) fn headers(&self) -> Option<&'static Headers> {
        // SAFETY: the context is valid for the program's run; the verifier rewrites the load.
        let protocol = u16::from_be(unsafe { (*self.ctx.skb.skb).protocol } as u16);
        let slot = if self.egress { Slot::Egress } else { Slot::Ingress };
        let plain =
            if protocol == ETH_P_IP { self.first().and_then(|first| Headers::plain(slot, &first)) } else { None };
        match plain {
            Some(headers) => Some(headers),
            None => Headers::read(slot, self.network(), protocol),
        }
    }

    /// The first bytes from the network header on; none where the packet is shorter.
    #[inline(always)]
    fn first(&self) -> Option<First> {
        if let Some(first) = self.first_in_place() {
            return Some(first);
        }
        let mut first = MaybeUninit::<First>::uninit();
        let (ctx, to) = (self.ctx.skb.skb.cast(), first.as_mut_ptr().cast());
        // SAFETY: the helper writes all of `first` or fails, and every bit pattern of it is valid.
        unsafe {
            let failed = bpf_skb_load_bytes_relative(ctx, 0, to, size_of::<First>() as u32, BPF_HDR_START_NET);
            if failed == 0 { Some(first.assume_init()) } else { None }
        }
    }

    /// The same without a call; none also where they do not lie in one piece with the packet's beginning.
    #[inline(always)]
    fn first_in_place(&self) -> Option<First> {
        if config!(kernel_ctx) == 0 {
            return None;
        }
        let data: u64 = self.field(offset!(skb_data));
        let link = self.network().wrapping_sub(data);
        if link > LINK_HEADER_MAX {
            return None;
        }
        let (mut at, end) = (self.ctx.data(), self.ctx.data_end());
        // SAFETY: arithmetic alone. The compiler must not see it, or it would compare another sum than it reads from; the
        // first instruction changes nothing but what the verifier knows of the length.
        unsafe { asm!("{link} &= 63", "{at} += {link}", at = inout(reg) at, link = inout(reg) link => _) };
        if at + size_of::<First>() > end {
            return None;
        }
        let mut first = [0; size_of::<First>() / 4];
        macro_rules! load {
            ($($word:literal)*) => {
                $(
                    let word: u64;
                    // SAFETY: four bytes before the end, as was just tested; packets are not aligned, and this machine's
                    // loads need not be where a kernel has classifiers read packets in place.
                    unsafe { asm!("{word} = *(u32 *)({at} + {off})", word = out(reg) word, at = in(reg) at, off = const $word * 4) };
                    first[$word] = word as u32;
                )*
            };
        }
        load!(0 1 2 3 4 5 6 7 8 9);
        Some(first)
    }

    /// Packets and bytes that it is on the wire: an `sk_buff` of segmentation offload is cut into segments that each
    /// repeat its headers, and one of receive offload was put together of such.
    #[inline(always)]
    pub(crate) fn on_the_wire(&self, headers: &Headers) -> (u64, u64) {
        let len = u64::from(self.len());
        // SAFETY: the context is valid for the program's run; the verifier rewrites the loads.
        let (size, segments) = unsafe { ((*self.ctx.skb.skb).gso_size, (*self.ctx.skb.skb).gso_segs) };
        if size == 0 {
            return (1, len);
        }
        let header = u64::from(self.repeated(headers));
        let payload = len.saturating_sub(header);
        // Who gave the packet to the kernel (a virtual machine) need not have said how many.
        let segments = if segments != 0 { u64::from(segments) } else { payload.div_ceil(u64::from(size)).max(1) };
        (segments, len + (segments - 1) * header)
    }

    /// Bytes of headers that every segment has.
    #[inline(always)]
    fn repeated(&self, headers: &Headers) -> u32 {
        let plain = self.link_header() + headers.ip_len.wrapping_sub(headers.payload_len);
        if headers.flow.proto == TCP || !has!(skb_inner_transport) || !has!(shinfo_gso_type) {
            return plain;
        }
        let head: u64 = self.field(offset!(skb_head));
        let end = head + u64::from(self.field::<u32>(offset!(skb_end)));
        if probe::<u32>(end, offset!(shinfo_gso_type)) & GSO_TCP == 0 {
            return plain;
        }
        // A tunnel's packet around TCP: all up to the end of the inner TCP header is repeated.
        let inner = head + u64::from(self.field::<u16>(offset!(skb_inner_transport)));
        let data: u64 = self.field(offset!(skb_data));
        let words: u8 = probe(inner, 12);
        inner.wrapping_sub(data) as u32 + u32::from(words >> 4) * 4
    }
}
