//! Netfilter's `struct nf_hook_state`, `nft_chain` and `xt_table`.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use netprobe_common::event::Verdict;

use super::{has, offset, probe};

/// The address of a `struct nf_hook_state`.
#[derive(Clone, Copy)]
pub(crate) struct HookState(u64);

impl HookState {
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// Number of the hook in its family.
    #[inline(always)]
    pub(crate) fn hook(self) -> u8 {
        probe(self.0, offset!(hook_number))
    }

    /// `NFPROTO_*`.
    #[inline(always)]
    pub(crate) fn family(self) -> u8 {
        probe(self.0, offset!(hook_family))
    }

    /// Input device, or 0.
    #[inline(always)]
    pub(crate) fn input(self) -> u32 {
        ifindex(probe(self.0, offset!(hook_in)))
    }

    /// Output device, or 0.
    #[inline(always)]
    pub(crate) fn output(self) -> u32 {
        ifindex(probe(self.0, offset!(hook_out)))
    }

    /// Inode number of the namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net: u64 = probe(self.0, offset!(hook_net));
        if net == 0 { 0 } else { probe(net, offset!(net_inum)) }
    }
}

#[inline(always)]
fn ifindex(device: u64) -> u32 {
    if device == 0 { 0 } else { probe(device, offset!(dev_ifindex)) }
}

/// `pkt->skb` of a `struct nft_pktinfo`.
#[inline(always)]
pub(crate) fn nft_skb(pkt: u64) -> u64 {
    if has!(nft_pkt_skb) { probe(pkt, offset!(nft_pkt_skb)) } else { 0 }
}

/// Table and name of a `struct nft_chain`.
#[inline(always)]
pub(crate) fn store_chain(chain: u64, to: &mut Verdict) {
    if !has!(nft_chain_name) || !has!(nft_chain_table) || !has!(nft_table_name) || !has!(nft_table_family) {
        return;
    }
    let table: u64 = probe(chain, offset!(nft_chain_table));
    // The family is a bit field of six bits, in the first byte of its word on a little-endian machine.
    to.table_family = probe::<u8>(table, offset!(nft_table_family)) & 0x3f;
    text(&mut to.chain, probe(chain, offset!(nft_chain_name)));
    text(&mut to.table, probe(table, offset!(nft_table_name)));
}

/// Name of a `struct xt_table`: it lies in the struct itself.
#[inline(always)]
pub(crate) fn store_table(table: u64, to: &mut Verdict) {
    if has!(xt_table_name) {
        to.table_family = to.family;
        text(&mut to.table, table + offset!(xt_table_name) as u64);
    }
}

#[inline(always)]
fn text<const N: usize>(to: &mut [u8; N], address: u64) {
    // SAFETY: the buffer is as long as said; the helper checks the source and ends what it writes with a zero byte.
    let length = unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), N as u32, address as *const _) };
    if length < 0 {
        to[0] = 0;
    }
}
