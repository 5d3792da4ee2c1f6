//! What a call stack says of a netfilter verdict.

use std::sync::Arc;

use crate::model::{
    finding::Netfilter,
    stack::{base, netfilter_hook},
};

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
    let hook = netfilter_hook(site, stack)?;
    let mut frames = std::iter::once(site).chain(stack.iter().map(|frame| base(frame)));
    let by_nft = frames.find_map(|frame| FAMILIES.iter().find(|(name, _)| *name == frame)).map(|(_, family)| *family);
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
    fn tells_hook_and_family() {
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
}
