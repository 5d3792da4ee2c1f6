//! Sizes of maps and arrays, each with its reason.

/// Slots of the namespace table, indexed by inode number. Inode numbers are handed out in
/// sequence (`fs/proc/generic.c`, `proc_alloc_inum`), so 16,384 slots hold the 250 pods of a full
/// node without two in one slot, but for a node with very long-lived and very young pods: a slot
/// that two would share is marked, and then a hash map decides.
pub const NETNS_SLOTS: u32 = 16_384;
/// Namespaces in the hash map behind shared slots.
pub const NETNS_MAX: u32 = 4_096;
/// Addresses followed at once: 250 pods with an IPv4 and an IPv6 address each, times four.
pub const ADDRESSES_MAX: u32 = 2_048;
/// 64-bit words of the bit table in front of the address map: 8,192 bits, so that 500 addresses
/// let 6 % of foreign packets through to the exact look-up.
pub const ADDRESS_BITS_WORDS: u32 = 128;
/// cgroups followed at once: 100 pods without a network namespace of their own, of forty cgroups each.
pub const CGROUPS_MAX: u32 = 4_096;
/// Addresses and ports at which such pods wait for packets: 200 sockets on every one of twenty addresses.
pub const LISTENING_MAX: u32 = 4_096;
/// Flows of which it was told whose they are.
pub const OWNED_MAX: u32 = 16_384;
/// Translated five-tuples remembered so that an answer is known before conntrack saw it.
pub const FLOWS_MAX: u32 = 65_536;
/// 64-bit words of the bit table in front of the flow map (1 Mi bits).
pub const FLOW_BITS_WORDS: u32 = 16_384;
/// Rows of the table "this flow at this place": the counts of what was not sent one by one.
pub const PLACES_MAX: u32 = 16_384;
/// Rows of the drop table.
pub const DROPS_MAX: u32 = 8_192;
/// Rows of the table of counted flows: 50,000 connections at two devices and in two directions. Not allocated before
/// they are needed.
pub const COUNTED_MAX: u32 = 200_000;
/// Bytes of a `struct sk_buff` that a classifier copies at once: device and conntrack entry lie within on the kernels seen.
pub const SKB_BYTES: usize = 112;
/// Ring bytes. 4 MiB hold about 13,000 records, which is 100 ms at 130,000 records a second; its
/// pages count in the process's resident memory.
pub const RING_BYTES: u32 = 4 << 20;
/// Pending ring bytes at which a program wakes user space; below, its timer collects them. A
/// wake-up per record costs 1 to 3 us, one per 128 KiB about 0.25 us (measured).
pub const WAKE_BYTES: u64 = 128 << 10;
/// Ring bytes of a capture: 100 ms of 100,000 packets a second with 100 bytes of payload; of packets of 1,500 bytes,
/// 100,000 a second for as long as user space needs to be woken.
pub const CAPTURE_RING_BYTES: u32 = 32 << 20;
/// Pending ring bytes at which a capture wakes user space. Its records are larger.
pub const CAPTURE_WAKE_BYTES: u64 = 1 << 20;
/// Devices at which packets are captured: 250 pods with two ends each, and the node's.
pub const CAPTURE_PLACES_MAX: u32 = 1_024;
/// Forms of translated flows that a capture remembers: four of each connection.
pub const CAPTURE_FORMS_MAX: u32 = 32_768;
/// Bytes of a packet that each kind of record has room for: the length of a reservation must be known to the verifier. Short
/// packets and headers; the first of them with options; a message; an Ethernet frame; a jumbo frame and small segmentation
/// offload; the largest `sk_buff` but those of BIG TCP.
pub const CAPTURE_ROOMS: [usize; 6] = [128, 256, 640, 1_600, 16_384, 66_048];
/// Return addresses kept of a drop: `nf_hook_slow` to `__netif_receive_skb_core` takes 12.
pub const DROP_STACK: usize = 20;
/// Return addresses kept of a route look-up: enough to reach `ip_route_input_slow` or
/// `ip_route_output_key_hash_rcu`, and the receive path above a nested one.
pub const LOOKUP_STACK: usize = 16;
/// Calls of kernel functions under way at once, where kprobes see them: some on each processor, of tasks that sleep in
/// between a few more.
pub const CALLS: u32 = 4_096;
/// Records let through at once for one flow at one place, before only counts go on.
pub const BURST: u32 = 24;
/// Nanoseconds after which one flow at one place earns one more record (100 a second).
pub const REFILL_NS: u64 = 10_000_000;
/// The same for one row of the drop table.
pub const DROP_BURST: u32 = 16;
/// Nanoseconds for one more record of a drop row (20 a second).
pub const DROP_REFILL_NS: u64 = 50_000_000;
/// Bytes kept of a DNS message: what fits in one UDP answer of the original protocol (RFC 1035, 4.2.1).
pub const DNS_HEAD: usize = 512;
/// Bytes kept of the name of a netfilter table or chain. The kernel takes 255, people and their tools use some 30.
pub const VERDICT_NAME_BYTES: usize = 64;
/// Tests in one filter.
pub const FILTER_TESTS: usize = 16;
/// Clauses (alternatives) in one filter.
pub const FILTER_CLAUSES: usize = 16;
