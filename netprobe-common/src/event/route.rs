//! Route look-ups.

use crate::{flow::FlowKey, limits::LOOKUP_STACK};

crate::wire! {
    /// The kernel asked one routing table about one flow.
    ///
    /// Sources: `fib:fib_table_lookup` (tb_id, flowi4, nexthop, err) and `fib6:fib6_table_lookup`
    /// (net, result, table, flowi6). Without ip rules, IPv4 local and main are one table, 254.
    pub struct RouteLookup {
        /// What was asked: addresses, and ports and protocol where the caller gave them.
        pub flow: FlowKey,
        /// The packet being received on this CPU if the look-up is about it, else 0.
        pub skb: u64,
        /// Gateway, v4-mapped; zero for an on-link route or a miss.
        pub gateway: [u8; 16],
        /// Namespace, exact (of the next hop's device, of the policy rule or, for IPv6, the argument); 0 where unknown.
        pub netns: u32,
        /// Namespace of the packet last received on this CPU.
        pub netns_receive: u32,
        /// Namespace of the current task.
        pub netns_task: u32,
        /// Table id.
        pub table: u32,
        /// 0, or the errno: -11 (IPv4) and -101 (IPv6) no match here, -113 unreachable,
        /// -22 blackhole, -13 prohibit.
        pub err: i32,
        /// Device asked to be the input; 1 (`lo`) for output and reverse-path look-ups.
        pub in_ifindex: u32,
        /// Device the caller demanded, or 0.
        pub oif: u32,
        /// Device of the route found, or 0.
        pub out_ifindex: u32,
        /// Firewall mark of the flow.
        pub mark: u32,
        /// 1 if a policy rule led to this table, and the kernel told which.
        pub has_rule: u32,
        /// Preference of that rule.
        pub rule: u32,
        /// Return addresses in `stack` that are in use.
        pub stack_len: u32,
        /// Kernel return addresses, innermost first.
        pub stack: [u64; LOOKUP_STACK],
    }
}
