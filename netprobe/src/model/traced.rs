//! What nftables' own trace told: which rule ended a packet.

use serde::{Deserialize, Serialize};

use super::flow::Flow;

/// Rules kept; the oldest go first.
pub const TRACED: usize = 1024;

/// A rule, or a chain's policy, that dropped a packet.
///
/// Source: `NFT_MSG_TRACE` (`include/uapi/linux/netfilter/nf_tables.h`), which `nft monitor trace` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// When it was read, `CLOCK_MONOTONIC` nanoseconds; the packet was dropped shortly before.
    pub mono_ns: u64,
    /// Inode number of the namespace.
    pub netns: u32,
    /// The packet as it came to the chain.
    pub flow: Flow,
    /// `ip`, `ip6`, `inet`, `netdev`, `bridge`, `arp`.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Handle of the rule; `None` is the chain's policy.
    pub handle: Option<u64>,
    /// The rule's place in its chain, from 1, where it still stands there.
    pub position: Option<u32>,
}
