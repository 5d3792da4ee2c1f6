//! A tc filter (most often a BPF program) dropped the packet at a device.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule =
    Rule { id: "tc-drop", means: "a tc filter, most often a BPF program, dropped the packet at a device", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    let (drop, direction) = case.drops().find_map(|drop| direction(&drop).map(|way| (drop, way)))?;
    let device = drop.device()?;
    let because = format!("a tc filter at the {direction} of {device}, most likely a BPF program");
    Some(
        case.dropped_because(&drop, &because)
            .detail(direction)
            .fix(format!("see whose it is: bpftool net show dev {device}; tc -s filter show dev {device} {direction}"))
            .fix("ask its owner why: a network policy (cilium monitor --type drop), a rate limit (police), a broken program"),
    )
}

fn direction(drop: &Drop<'_>) -> Option<&'static str> {
    match &**drop.reason {
        "TC_INGRESS" => Some("ingress"),
        "TC_EGRESS" => Some("egress"),
        "TC_COOKIE_ERROR" | "TC_CHAIN_NOTFOUND" | "TC_RECLASSIFY_LOOP" => {
            let leaving = drop.site == "__dev_queue_xmit" || drop.stack.iter().any(|f| &**f == "__dev_queue_xmit");
            Some(if leaving { "egress" } else { "ingress" })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    #[test]
    fn names_device_and_direction() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "TC_INGRESS", "__netif_receive_skb_core.constprop.0", &[]), "vpod1");
        let draft = check(&scene.case()).expect("a filter dropped it");
        assert!(draft.claim.contains("on vpod1: a tc filter at the ingress of vpod1"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_full_queue() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "QDISC_DROP", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
