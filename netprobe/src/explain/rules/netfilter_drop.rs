//! The packet met a netfilter rule that drops it.

use super::netfilter::{search, verdict, words};
use crate::explain::{Case, Draft, Rule};

pub(super) const RULE: Rule = Rule { id: "netfilter-drop", means: "a netfilter rule dropped the packet", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "NETFILTER_DROP")?;
    let v6 = drop.head.flow?.is_v6();
    let netfilter = verdict(drop.site, drop.stack, v6)?;
    let what = if drop.step.forward { "the packet" } else { "the answer" };
    let at = drop.device().map_or_else(String::new, |d| format!(" on {d}"));
    let claim = format!(
        "{} dropped {what} of {} to {}{at}: a netfilter rule in the {} hook ({})",
        case.place(drop.sighting()),
        case.who(),
        case.whither(),
        netfilter.hook,
        engine(drop.site, netfilter.family.as_deref()),
    );
    let mut draft = case.about_drop(&drop, claim).detail(netfilter.hook.clone());
    draft = draft.proof(drop.mono_ns(), format!("call stack: {}", words(&netfilter)));
    for step in search(&netfilter, v6) {
        draft = draft.fix(step);
    }
    draft.netfilter = Some(netfilter);
    Some(draft)
}

/// Whose rule it can be: nft's own chains and iptables-nft's free the packet in `nft_do_chain`,
/// iptables-legacy's in `nf_hook_slow`.
fn engine(site: &str, family: Option<&str>) -> &'static str {
    match (site, family) {
        ("nft_do_chain", Some("ip" | "ip6")) => "iptables-nft, or an nft table of that family",
        ("nft_do_chain", _) => "nftables",
        _ => "iptables-legacy, or conntrack itself",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn names_the_pod_and_the_hook() {
        let mut scene = Scene::pod_to_db();
        let stack = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &stack), "vpod1");
        let draft = check(&scene.case()).expect("the drop is in the journey");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on vpod1: a netfilter rule in the forward hook \
             (iptables-nft, or an nft table of that family)"
        );
        assert_eq!(draft.netfilter.expect("it is netfilter").hook, "forward");
    }

    #[test]
    fn stays_silent_on_a_full_socket_buffer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
