//! The user said with which source address the packets should leave, and they left with another.

use super::{masquerade, translation};
use crate::{
    explain::{Case, Draft, Rule, expect::Source},
    model::{facts::NamespaceFacts, sighting::Side},
};
use std::net::IpAddr;

/// SNAT that should not be.
pub(super) const UNEXPECTED_SNAT: Rule = Rule {
    id: "unexpected-snat",
    means: "the packet left as the node although the peer should see the pod",
    check: |case| check(case, true).or_else(|| masquerade::unexpected(case)),
};

/// SNAT that should be and is not, or is another.
pub(super) const MASQUERADE_MISSING: Rule = Rule {
    id: "masquerade-missing",
    means: "the packet left the node with the pod's own address where the way back needs the node's",
    check: |case| check(case, false).or_else(|| masquerade::missing(case)),
};

fn check(case: &Case<'_>, translated: bool) -> Option<Draft> {
    let pod = case.journey.pod.as_deref();
    let (expected, origin) = case.expect.source(pod, case.journey.flow.dst.ip())?;
    // Behind a tunnel the outer address is the node's by design: what counts is the first device out.
    let (exit, _) = case.exits()?;
    let crate::model::packet::What::Hop { head, .. } = &exit.sighting.packet.what else { return None };
    let source = head.flow?.src.ip();
    let own = case.journey.flow.src.ip();
    if is_met(expected, source, own, case.facts.node()?) || (source != own) != translated {
        return None;
    }
    let device = exit.sighting.device.to_string();
    let who = case.who();
    let claim = format!("{who} leaves this node by {device} with source {source}, not {expected} as asked ({origin})");
    let at_ns = exit.sighting.packet.mono_ns;
    let draft = |claim: String| {
        Draft::new(case, Side::Node, Some(device.clone()), claim)
            .detail(format!("asserted {expected}"))
            .proof(at_ns, format!("net_dev_start_xmit on {device} with source {source}, expected {expected}"))
    };
    Some(if source != own {
        let chosen = translation::chosen(case, exit, source);
        chosen
            .prove(draft(chosen.behind(&claim)), at_ns)
            .fix("exclude this destination from masquerading (ip-masq-agent nonMasqueradeCIDRs, the CNI's ipMasq)")
    } else {
        draft(claim)
            .fix("see why no masquerade rule matches: iptables -t nat -vnL POSTROUTING; nft list ruleset")
            .fix("restore the masquerade rule for the pods' addresses (ip-masq-agent, the CNI's ipMasq)")
    })
}

fn is_met(expected: Source, source: IpAddr, own: IpAddr, node: &NamespaceFacts) -> bool {
    match expected {
        Source::Pod => source == own,
        Source::Node => node.owns(source),
        Source::Net(net) => net.contains(&source),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, hop, syn},
        *,
    };
    use crate::model::packet::Place;

    fn scene(expected: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.expect.all.source = Some(expected.parse().expect("a source"));
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene
    }

    #[test]
    fn tells_the_source_that_was_not_asked_for() {
        let draft = check(&scene("node").case(), false).expect("it left as the pod");
        assert_eq!(
            draft.claim,
            "shop/web-0 leaves this node by eth1 with source 10.9.0.29, not node as asked (--expect-src node)"
        );
        assert_eq!(check(&scene("node").case(), true), None, "it is no unexpected SNAT");
    }

    #[test]
    fn stays_silent_on_the_source_that_was_asked_for() {
        assert_eq!(check(&scene("pod").case(), false), None);
        assert_eq!(check(&scene("10.9.0.0/24").case(), false), None);
        assert_eq!(check(&Scene::pod_to_db().case(), false), None, "nothing left, nothing was asked");
    }
}
