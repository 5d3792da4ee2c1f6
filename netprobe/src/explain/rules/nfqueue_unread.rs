//! A netfilter rule handed the packet to a queue that no program reads.

use super::netfilter::{verdict, words};
use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule = Rule {
    id: "nfqueue-unread",
    means: "a netfilter rule handed the packet to a queue that no program reads, or not fast enough",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_queueing)?;
    let v6 = drop.head.flow?.is_v6();
    let netfilter = verdict(drop.site, drop.stack, v6)?;
    let because = format!(
        "an NFQUEUE rule in the {} hook handed it to a queue that no program reads (or whose reader is too slow)",
        netfilter.hook
    );
    let mut draft = case
        .dropped_because(&drop, &because)
        .detail(netfilter.hook.clone())
        .proof(drop.mono_ns(), format!("call stack: {}", words(&netfilter)))
        .fix("start the program that reads the queue (an IDS, a policy agent): /proc/net/netfilter/nfnetlink_queue lists readers")
        .fix("or let packets pass without it: --queue-bypass (iptables), queue flags bypass (nft)");
    draft.netfilter = Some(netfilter);
    Some(draft)
}

/// The kernel has no reason for it: the place tells.
fn is_queueing(drop: &Drop<'_>) -> bool {
    matches!(drop.site, "nf_queue" | "__nf_queue" | "nf_reinject" | "nfqnl_enqueue_packet" | "nfqnl_nf_hook_drop")
        || drop.site.starts_with("nfqnl_")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn names_the_hook() {
        let mut scene = Scene::pod_to_db();
        let stack = ["nf_hook_slow", "ip_forward", "ip_rcv_finish"];
        scene.step(1, drop_of(syn(), "NOT_SPECIFIED", "nf_queue", &stack), "vpod1");
        let draft = check(&scene.case()).expect("nobody reads the queue");
        assert!(draft.claim.contains("on vpod1: an NFQUEUE rule in the forward hook"), "{}", draft.claim);
        assert_eq!(draft.netfilter.expect("it is netfilter").hook, "forward");
    }

    #[test]
    fn stays_silent_on_a_rule_that_drops() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_forward"]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
