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

/// The same for frames that a bridge passes on, in its own hooks.
const BRIDGE_HOOKS: &[(&str, &str)] = &[
    ("br_nf_pre_routing_finish", "prerouting"),
    ("br_nf_pre_routing_finish_ipv6", "prerouting"),
    ("br_nf_forward_finish", "forward"),
    ("br_forward_finish", "postrouting"),
    ("__br_forward", "forward"),
    ("br_pass_frame_up", "input"),
    // Where the compiler has put the former into it.
    ("br_handle_frame_finish", "input"),
    ("br_handle_frame", "prerouting"),
];

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name, as nft has it.
    pub name: &'static str,
    /// It is the bridge's (family `bridge`), not one of IP or of a device.
    pub of_bridge: bool,
}

/// The netfilter hook a packet was in: `None` where no netfilter function is on the stack. `site`
/// is the function that freed it, `stack` its callers, innermost first. The innermost match
/// counts: a packet that is dropped at output may have been received further up the same stack.
#[must_use]
pub fn netfilter_hook(site: &str, stack: &[Arc<str>]) -> Option<Hook> {
    let frames = || std::iter::once(base(site)).chain(stack.iter().map(|frame| base(frame)));
    let of_netfilter =
        |frame: &str| ["nf_", "nft_", "ipt_", "ip6t_", "ebt_"].iter().any(|prefix| frame.starts_with(prefix));
    if !frames().any(of_netfilter) {
        return None;
    }
    let named = |list: &[(&'static str, &'static str)], frame: &str| {
        list.iter().find(|(name, _)| *name == frame).map(|(frame, hook)| (*frame, *hook))
    };
    let (at, (frame, name), of_bridge) = frames().enumerate().find_map(|(at, frame)| {
        let of_bridge = || Some((at, named(BRIDGE_HOOKS, frame)?, true));
        named(HOOKS, frame).map(|found| (at, found, false)).or_else(of_bridge)
    })?;
    // What the node itself sends into the bridge goes the same way, by another hook.
    let sent = || frames().skip(at).find(|frame| ["br_dev_xmit", "br_handle_frame_finish"].contains(frame));
    let name = if frame == "__br_forward" && sent() == Some("br_dev_xmit") { "output" } else { name };
    Some(Hook { name, of_bridge })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    fn name(site: &str, frames: &[Arc<str>]) -> Option<&'static str> {
        netfilter_hook(site, frames).map(|hook| hook.name)
    }

    /// The hook of a stack that begins in the bridge's chain.
    fn on_bridge(names: &[&str]) -> Option<&'static str> {
        let hook = netfilter_hook("nft_do_chain", &stack(names)).expect("netfilter is on the stack");
        hook.of_bridge.then_some(hook.name)
    }

    #[test]
    fn the_bridges_own_hooks_are_no_others() {
        let received = ["br_handle_frame_finish", "br_handle_frame", "__netif_receive_skb_core.constprop.0"];
        let behind =
            |frames: &[&str]| on_bridge(&[&["nft_do_chain_bridge", "nf_hook_slow"], frames, &received].concat());
        assert_eq!(
            on_bridge(&["nft_do_chain_bridge", "br_handle_frame", "__netif_receive_skb_core"]),
            Some("prerouting")
        );
        assert_eq!(behind(&["__br_forward"]), Some("forward"));
        assert_eq!(behind(&["br_pass_frame_up"]), Some("input"));
        let passed = ["br_forward_finish", "br_nf_hook_thresh", "br_nf_forward_finish", "__br_forward"];
        assert_eq!(behind(&passed), Some("postrouting"));
        let sent = ["nft_do_chain_bridge", "nf_hook_slow", "__br_forward", "br_dev_xmit", "__dev_queue_xmit"];
        assert_eq!(on_bridge(&[&sent[..], &received].concat()), Some("output"));
    }

    #[test]
    fn rules_of_ip_that_a_bridge_asks_are_not_its_own() {
        let frames = stack(&["nft_do_chain_ipv4", "nf_hook_slow", "br_nf_forward_ip", "nf_hook_slow", "__br_forward"]);
        let hook = Hook { name: "forward", of_bridge: false };
        assert_eq!(netfilter_hook("nft_do_chain", &frames), Some(hook));
    }

    #[test]
    fn the_innermost_caller_names_the_hook() {
        let frames = stack(&["nf_hook_slow", "ip_forward", "ip_rcv_finish", "ip_rcv", "__netif_receive_skb_one_core"]);
        assert_eq!(name("nft_do_chain", &frames), Some("forward"));
    }

    #[test]
    fn the_netdev_hooks_are_told_apart() {
        let frames = stack(&["nf_hook_slow", "__dev_queue_xmit", "ip_finish_output2", "ip_forward"]);
        assert_eq!(name("nft_do_chain", &frames), Some("egress"));
        let frames = stack(&["nf_hook_slow", "__netif_receive_skb_core.constprop.0"]);
        assert_eq!(name("nft_do_chain", &frames), Some("ingress"));
    }

    #[test]
    fn there_is_no_hook_without_netfilter_on_the_stack() {
        assert_eq!(netfilter_hook("tcp_v4_rcv", &stack(&["ip_local_deliver_finish", "ip_local_deliver"])), None);
    }
}
