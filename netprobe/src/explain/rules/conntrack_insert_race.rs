//! Two packets of one new flow raced to be the first: the loser is dropped when its entry is to be confirmed.

use super::netfilter::verdict;
use crate::{
    explain::{Case, Draft, Rule},
    model::finding::Confidence,
};

pub(super) const RULE: Rule = Rule {
    id: "conntrack-insert-race",
    means: "the packet lost the race to confirm its conntrack entry (the classic DNS delay of 5 s)",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| &**d.reason == "NETFILTER_DROP" && d.site == "nf_hook_slow")?;
    // Entries are confirmed in the last hook.
    let hook = verdict(drop.site, drop.stack, drop.head.flow?.is_v6())?.hook;
    if !matches!(hook.as_str(), "postrouting" | "input") {
        return None;
    }
    let window = case.counters(drop.sighting().packet.netns, drop.mono_ns())?;
    let failed = window.rise("conntrack.insert_failed");
    if failed == 0 {
        return None;
    }
    let because = format!(
        "another packet of the same addresses and ports was confirmed first (conntrack counter insert_failed rose by {failed})"
    );
    Some(
        case.dropped_because(&drop, &because)
            .detail("insert")
            .confidence(Confidence::Likely)
            .proof(window.to_ns, format!("conntrack counter insert_failed rose by {failed} since {}", case.clock(window.from_ns)))
            .fix("DNS: run NodeLocal DNSCache, or `options single-request-reopen` (or `use-vc`) in the pod's resolv.conf")
            .fix("SNAT: MASQUERADE --random-fully, so that two flows do not choose one port"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    fn scene(hook: &str, failed: u64) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.counted(0, &[]);
        scene.step(10, drop_of(syn(), "NETFILTER_DROP", "nf_hook_slow", &[hook]), "eth1");
        scene.counted(20, &[("conntrack.insert_failed", failed)]);
        scene
    }

    #[test]
    fn tells_the_packet_that_lost_the_race() {
        let draft = check(&scene("ip_output", 1).case()).expect("it was not inserted");
        assert!(draft.claim.contains("insert_failed rose by 1"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_rule_of_the_last_hook_and_on_a_full_table() {
        assert_eq!(check(&scene("ip_output", 0).case()), None);
        assert_eq!(check(&scene("ip_rcv", 1).case()), None);
    }
}
