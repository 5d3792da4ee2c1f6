//! What the functions of a call stack mean.

use std::sync::Arc;

/// The function without what the compiler appended (`.constprop.0`, `.isra.0`, `.part.0`).
#[must_use]
pub fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// The caller of `nf_hook_slow` names the hook.
const HOOKS: &[(&str, &str)] = &[
    ("ip_rcv", "prerouting"),
    ("ip_list_rcv", "prerouting"),
    ("ip_sublist_rcv", "prerouting"),
    ("ipv6_rcv", "prerouting"),
    ("ipv6_list_rcv", "prerouting"),
    ("ip6_sublist_rcv", "prerouting"),
    ("ip_sabotage_in", "prerouting"),
    ("br_nf_pre_routing", "prerouting"),
    ("ip_local_deliver", "input"),
    ("ip6_input", "input"),
    ("ip_forward", "forward"),
    ("ip6_forward", "forward"),
    ("br_nf_forward_ip", "forward"),
    ("br_nf_forward", "forward"),
    ("__ip_local_out", "output"),
    ("__ip6_local_out", "output"),
    ("ip6_xmit", "output"),
    ("raw_sendmsg", "output"),
    ("rawv6_sendmsg", "output"),
    ("ip_output", "postrouting"),
    ("ip_mc_output", "postrouting"),
    ("ip6_output", "postrouting"),
    ("ip6_finish_output", "postrouting"),
    ("br_nf_post_routing", "postrouting"),
    ("__netif_receive_skb_core", "ingress"),
    ("__dev_queue_xmit", "egress"),
];

/// The netfilter hook a packet was in: `None` where no netfilter function is on the stack. `site`
/// is the function that freed it, `stack` its callers, innermost first. The innermost match
/// counts: a packet that is dropped at output may have been received further up the same stack.
#[must_use]
pub fn netfilter_hook(site: &str, stack: &[Arc<str>]) -> Option<&'static str> {
    let frames = || std::iter::once(base(site)).chain(stack.iter().map(|frame| base(frame)));
    let of_netfilter = |frame: &str| ["nf_", "nft_", "ipt_", "ip6t_"].iter().any(|prefix| frame.starts_with(prefix));
    if !frames().any(of_netfilter) {
        return None;
    }
    frames().find_map(|frame| HOOKS.iter().find(|(name, _)| *name == frame)).map(|(_, hook)| *hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    #[test]
    fn the_innermost_caller_names_the_hook() {
        let frames = stack(&["nf_hook_slow", "ip_forward", "ip_rcv_finish", "ip_rcv", "__netif_receive_skb_one_core"]);
        assert_eq!(netfilter_hook("nft_do_chain", &frames), Some("forward"));
    }

    #[test]
    fn the_netdev_hooks_are_told_apart() {
        let frames = stack(&["nf_hook_slow", "__dev_queue_xmit", "ip_finish_output2", "ip_forward"]);
        assert_eq!(netfilter_hook("nft_do_chain", &frames), Some("egress"));
        let frames = stack(&["nf_hook_slow", "__netif_receive_skb_core.constprop.0"]);
        assert_eq!(netfilter_hook("nft_do_chain", &frames), Some("ingress"));
    }

    #[test]
    fn there_is_no_hook_without_netfilter_on_the_stack() {
        assert_eq!(netfilter_hook("tcp_v4_rcv", &stack(&["ip_local_deliver_finish", "ip_local_deliver"])), None);
    }
}
