//! What a call stack says: what a look-up was for, and where a packet was in the stack.

use std::sync::Arc;

use crate::model::{packet::LookupRole, stack::base};

/// Frames of the tracing machinery and of the free functions themselves.
pub(super) fn is_tracing(name: &str) -> bool {
    let name = base(name);
    name.starts_with("bpf_")
        || name.starts_with("__bpf_")
        || name.starts_with("__traceiter_")
        || name.starts_with("__probestub_")
        || matches!(
            name,
            "kfree_skb" | "kfree_skb_reason" | "__kfree_skb_reason" | "sk_skb_reason_drop" | "kfree_skb_list_reason"
        )
}

/// The stack passes the receive path: it is a softirq at work, not the current task.
pub(super) fn is_receiving(stack: &[Arc<str>]) -> bool {
    stack.iter().any(|name| base(name).starts_with("__netif_receive_skb"))
}

/// Callers that decide what a look-up was for, most telling first.
const ROLES: &[(&str, LookupRole)] = &[
    ("__fib_validate_source", LookupRole::ReversePath),
    ("fib_validate_source", LookupRole::ReversePath),
    // ARP asks whether it should answer for somebody; no packet is routed.
    ("arp_process", LookupRole::Other),
    ("inet_rtm_getroute", LookupRole::Other),
    ("inet6_rtm_getroute", LookupRole::Other),
    ("nft_fib4_eval", LookupRole::Other),
    ("nft_fib6_eval", LookupRole::Other),
    ("rpfilter_mt", LookupRole::Other),
    ("ip_route_input_slow", LookupRole::Input),
    ("ip_route_input_noref", LookupRole::Input),
    ("ip_route_input_rcu", LookupRole::Input),
    ("ip6_route_input", LookupRole::Input),
    ("ip6_route_input_lookup", LookupRole::Input),
    ("ip6_pol_route_input", LookupRole::Input),
    ("ip_route_output_key_hash_rcu", LookupRole::Output),
    ("ip_route_output_key_hash", LookupRole::Output),
    ("ip_route_output_flow", LookupRole::Output),
    ("ip6_route_output_flags", LookupRole::Output),
    ("ip6_route_output_flags_noref", LookupRole::Output),
    ("ip6_pol_route_output", LookupRole::Output),
];

/// What a look-up was for. Without names (`kptr_restrict`) only the input device is left: look-ups
/// with none could be output or reverse path, and are not interpreted.
pub(super) fn role(stack: &[Arc<str>], in_ifindex: u32) -> LookupRole {
    if stack.is_empty() || stack.iter().all(|name| &**name == "?") {
        return if in_ifindex > 1 { LookupRole::Input } else { LookupRole::Other };
    }
    let named = |wanted: &str| stack.iter().any(|name| base(name) == wanted);
    ROLES.iter().find(|(name, _)| named(name)).map_or(LookupRole::Other, |(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    #[test]
    fn a_reverse_path_lookup_is_kept_apart_from_the_forward_one_above_it() {
        let frames =
            stack(&["__fib_validate_source", "fib_validate_source", "ip_route_input_slow", "ip_rcv_finish_core"]);
        assert_eq!(role(&frames, 1), LookupRole::ReversePath);
        assert_eq!(role(&frames[2..], 7), LookupRole::Input);
    }

    #[test]
    fn what_the_compiler_appends_does_not_hide_a_function() {
        assert_eq!(role(&stack(&["ip_route_output_key_hash_rcu.part.0"]), 1), LookupRole::Output);
        assert!(is_receiving(&stack(&["ip_rcv", "__netif_receive_skb_core.constprop.0"])));
    }

    #[test]
    fn without_names_nothing_is_made_of_a_lookup_that_could_be_either() {
        assert_eq!(role(&[], 1), LookupRole::Other);
        assert_eq!(role(&[], 3), LookupRole::Input);
    }
}
