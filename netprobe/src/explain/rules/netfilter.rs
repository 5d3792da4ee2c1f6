//! What a call stack says of a netfilter verdict.

use std::sync::Arc;

use crate::{explain::case::base, model::finding::Netfilter};

/// The caller of `nf_hook_slow` names the hook. The innermost match counts: a packet that is
/// dropped at output may have been received further up the same stack.
const HOOKS: &[(&str, &str)] = &[
    ("ip_rcv", "prerouting"),
    ("ipv6_rcv", "prerouting"),
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
    ("ip_output", "postrouting"),
    ("ip_mc_output", "postrouting"),
    ("ip6_output", "postrouting"),
    ("br_nf_post_routing", "postrouting"),
    ("__netif_receive_skb_core", "ingress"),
    ("__dev_queue_xmit", "egress"),
];

/// The function that evaluates a base chain names its family.
const FAMILIES: &[(&str, &str)] = &[
    ("nft_do_chain_ipv4", "ip"),
    ("nft_do_chain_ipv6", "ip6"),
    ("nft_do_chain_inet", "inet"),
    ("nft_do_chain_netdev", "netdev"),
    ("nft_do_chain_bridge", "bridge"),
];

/// The verdict's hook and family, `None` where no netfilter frame is on the stack.
pub(super) fn verdict(site: &str, stack: &[Arc<str>], v6: bool) -> Option<Netfilter> {
    let frames = || std::iter::once(site).chain(stack.iter().map(|f| base(f)));
    let entered = frames()
        .any(|f| f.starts_with("nf_") || f.starts_with("nft_") || f.starts_with("ipt_") || f.starts_with("ip6t_"));
    if !entered {
        return None;
    }
    let hook = frames().find_map(|frame| HOOKS.iter().find(|(name, _)| *name == frame))?.1;
    let by_nft = frames().find_map(|frame| FAMILIES.iter().find(|(name, _)| *name == frame)).map(|(_, family)| *family);
    // Without an nft frame it is x_tables or conntrack itself: they are of the packet's family.
    let family = by_nft.unwrap_or(if v6 { "ip6" } else { "ip" });
    Some(Netfilter { hook: hook.to_owned(), family: Some(family.to_owned()), ..Netfilter::default() })
}

/// A verdict in words: `hook forward, family ip`.
pub(super) fn words(netfilter: &Netfilter) -> String {
    netfilter.family.as_ref().map_or_else(
        || format!("hook {}", netfilter.hook),
        |family| format!("hook {}, family {family}", netfilter.hook),
    )
}

/// Commands that find the rule.
pub(super) fn search(netfilter: &Netfilter, v6: bool) -> Vec<String> {
    let hook = &netfilter.hook;
    let listing = format!("nft -a list ruleset | grep -B8 -E 'drop|reject'  # base chains of hook {hook}");
    let tool = if v6 { "ip6tables" } else { "iptables" };
    let counters = match hook.as_str() {
        "ingress" | "egress" => return vec![listing, "remove or correct the rule whose counter rises".to_owned()],
        "prerouting" | "postrouting" => format!("{tool} -t raw -vnxL; {tool} -t mangle -vnxL {}", hook.to_uppercase()),
        _ => format!("{tool} -vnxL {}", hook.to_uppercase()),
    };
    vec![listing, format!("{counters}  # the guilty rule's counter rises with every try; remove or correct it")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    #[test]
    fn tells_forward_from_prerouting_below_it() {
        let frames = stack(&[
            "nft_do_chain_ipv4",
            "nf_hook_slow",
            "ip_forward",
            "ip_rcv_finish",
            "ip_rcv",
            "__netif_receive_skb_one_core",
        ]);
        let found = verdict("nft_do_chain", &frames, false).expect("netfilter is on the stack");
        assert_eq!((found.hook.as_str(), found.family.as_deref()), ("forward", Some("ip")));
    }

    #[test]
    fn tells_the_netdev_hooks() {
        let frames =
            stack(&["nft_do_chain_netdev", "nf_hook_slow", "__dev_queue_xmit", "ip_finish_output2", "ip_forward"]);
        assert_eq!(verdict("nft_do_chain", &frames, false).expect("netfilter").hook, "egress");
        let frames = stack(&["nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core.constprop.0"]);
        assert_eq!(verdict("nft_do_chain", &frames, false).expect("netfilter").hook, "ingress");
    }

    #[test]
    fn is_silent_without_netfilter_on_the_stack() {
        assert_eq!(verdict("tcp_v4_rcv", &stack(&["ip_local_deliver_finish", "ip_local_deliver"]), false), None);
    }
}
