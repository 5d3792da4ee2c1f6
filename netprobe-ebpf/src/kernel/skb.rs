//! `struct sk_buff`.

use netprobe_common::event::{Conntrack, PacketHead};

use super::{
    conntrack,
    device::{At, Device, inum_at},
    has,
    header::{Headers, Slot},
    offset, probe,
    sock::Sock,
    typed,
};

/// A checked pointer to a `struct sk_buff`.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*const u8);

impl Skb {
    /// Wraps a tracepoint's argument.
    #[inline(always)]
    pub(crate) const fn new(pointer: *const u8) -> Self {
        Self(pointer)
    }

    /// Its address, as a number.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// The device it is on.
    #[inline(always)]
    pub(crate) fn device(self) -> Option<Device> {
        Device::new(typed(self.0, offset!(skb_dev)))
    }

    /// Where it is: the namespace of its device, else of its socket, else 0. To be asked for once: each time a program may read
    /// a pointer of what a tracepoint hands over, the verifier goes through all types of the kernel.
    #[inline(always)]
    pub(crate) fn at(self) -> At {
        match self.device() {
            Some(device) => device.at(),
            None => At { netns: self.socket_netns(), ifindex: 0 },
        }
    }

    #[inline(always)]
    fn socket_netns(self) -> u32 {
        let sock: u64 = probe(self.address(), offset!(skb_sk));
        if sock == 0 { 0 } else { inum_at(probe(sock, offset!(sk_net))) }
    }

    /// Its socket, where it has one.
    #[inline(always)]
    pub(crate) fn socket(self) -> Option<Sock> {
        Sock::new(typed(self.0, offset!(skb_sk)))
    }

    /// `skb->len`.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        typed(self.0, offset!(skb_len))
    }

    #[inline(always)]
    fn ether_type(self) -> u16 {
        u16::from_be(typed(self.0, offset!(skb_protocol)))
    }

    /// Address of the network header: valid from the IP layer on, and at egress.
    #[inline(always)]
    pub(crate) fn network(self) -> u64 {
        let head: u64 = typed(self.0, offset!(skb_head));
        let network: u16 = typed(self.0, offset!(skb_network_header));
        head + u64::from(network)
    }

    /// Address of `skb->data`: at receive the network header is not set yet.
    #[inline(always)]
    pub(crate) fn data(self) -> u64 {
        typed(self.0, offset!(skb_data))
    }

    /// Address behind the last byte that lies in one piece with the headers.
    #[inline(always)]
    pub(crate) fn linear_end(self) -> u64 {
        let paged: u32 = typed(self.0, offset!(skb_data_len));
        self.data() + u64::from(self.len().wrapping_sub(paged))
    }

    /// The headers of the packet whose network header is at `ip`.
    #[inline(always)]
    pub(crate) fn headers(self, slot: Slot, ip: u64) -> Option<&'static Headers> {
        Headers::read(slot, ip, self.ether_type())
    }

    /// Writes what every packet event has into a record.
    #[inline(always)]
    pub(crate) fn store(self, headers: &Headers, at: At, head: &mut PacketHead) {
        headers.store(head);
        head.skb = self.address();
        head.netns = at.netns;
        head.ifindex = at.ifindex;
        head.in_ifindex = typed(self.0, offset!(skb_iif));
        head.mark = typed(self.0, offset!(skb_mark));
        head.hash = typed(self.0, offset!(skb_hash));
        head.len = self.len();
    }

    /// Writes its conntrack entry into a record, and says whether the entry translates.
    #[inline(always)]
    pub(crate) fn store_conntrack(self, to: &mut Conntrack) {
        let nfct: u64 = if has!(skb_nfct) { typed(self.0, offset!(skb_nfct)) } else { 0 };
        conntrack::store(nfct, to);
    }
}
