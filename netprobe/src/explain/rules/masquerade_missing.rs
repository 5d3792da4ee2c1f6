//! The pod's packets leave with its own address and nothing comes back, while the node's own do get answers there.

use std::net::IpAddr;

use crate::{
    explain::{Case, Draft, Rule},
    model::{
        finding::Confidence,
        flow::Proto,
        journey::Journey,
        packet::{Conntrack, Head, Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "masquerade-missing",
    means: "the packet left the node with the pod's own address where the way back needs the node's",
    check,
};

/// How long an answer is waited for, nanoseconds: TCP's own first time-out (RFC 6298).
const WAIT_NS: u64 = 1_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let (exit, _) = case.exits()?;
    let What::Hop { head, ct, .. } = &exit.sighting.packet.what else { return None };
    let source = head.flow?.src.ip();
    let own = case.journey.flow.src.ip();
    if source != own || ct.as_ref().is_some_and(Conntrack::snat) || case.answered() || !opens(head) {
        return None;
    }
    let node = case.facts.node()?;
    // A pod's address that the network behind the device can know needs no masquerade.
    let neighbours = node.addresses.iter().filter(|a| a.ifindex == exit.sighting.packet.ifindex);
    if node.owns(own) || neighbours.clone().any(|a| a.net.contains(&own)) {
        return None;
    }
    let device = &exit.sighting.device;
    let dst = head.flow?.dst.ip();
    let compared = case.journeys.iter().find(|j| j.id != case.journey.id && is_answered_nodes(case, j, device, dst))?;
    if case.journeys.iter().any(|j| is_answered_pods(case, j)) {
        return None;
    }
    let sent_ns = exit.sighting.packet.mono_ns;
    let claim = format!(
        "{} left this node by {device} with its own address {own}, not masqueraded, and nothing came back, while the node's own \
         packets to {dst} are answered there: the network has no way back to {own}",
        case.who()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.to_string()), claim)
        .confidence(Confidence::Likely)
        .detail("observed")
        .proof(sent_ns, format!("net_dev_start_xmit on {device} with source {own}; conntrack translates no source"))
        .proof(compared.first_ns, format!("{} by {device} was answered", compared.flow))
        .fix("restore the masquerade rule for the pods' addresses (ip-masq-agent, the CNI's ipMasq): iptables -t nat -vnL POSTROUTING")
        .fix(format!("or give the network a route to {own} by this node"));
    draft.proven_ns = sent_ns + WAIT_NS;
    Some(draft)
}

fn opens(head: &Head) -> bool {
    head.flow.is_some_and(|f| f.proto != Proto::Tcp) || head.flags.opens()
}

/// Another connection, of the node's own address or masqueraded to it, by that device, was answered.
fn is_answered_nodes(case: &Case<'_>, journey: &Journey, device: &str, dst: IpAddr) -> bool {
    let Some(node) = case.facts.node() else { return false };
    let left = journey.steps.iter().any(|s| match &s.sighting.packet.what {
        What::Hop { place: Place::Transmit, head, .. } => {
            s.forward
                && &*s.sighting.device == device
                && s.sighting.side == Side::Node
                && head.flow.is_some_and(|f| node.owns(f.src.ip()) && f.dst.ip() == dst)
        }
        _ => false,
    });
    left && is_answered(case, journey)
}

/// A pod's own address is known outside: an answer to it came in.
fn is_answered_pods(case: &Case<'_>, journey: &Journey) -> bool {
    let Some(node) = case.facts.node() else { return false };
    journey.steps.iter().any(|s| match &s.sighting.packet.what {
        What::Hop { place: Place::Receive, head, .. } => {
            !s.forward
                && s.sighting.side == Side::Node
                && case.is_uplink(s.sighting.packet.ifindex)
                && head.flow.is_some_and(|f| !node.owns(f.dst.ip()) && !node.owns(f.src.ip()))
        }
        _ => false,
    })
}

fn is_answered(case: &Case<'_>, journey: &Journey) -> bool {
    journey.steps.iter().any(|s| {
        let received = matches!(s.sighting.packet.what, What::Hop { place: Place::Receive, .. });
        !s.forward && received && s.sighting.side == Side::Node && case.is_uplink(s.sighting.packet.ifindex)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Scene, hop, in_pod, syn, syn_ack};
    use super::*;
    use crate::model::flow::Flow;

    /// The same connection of another sender, answered or not.
    fn beside(scene: &mut Scene, src: &str, answered: bool) {
        let flow = Flow { src: src.parse().expect("an address"), ..scene.journey.flow };
        let head = Head { flow: Some(flow), ..syn() };
        let mut other = Scene::pod_to_db();
        other.step(1, hop(Place::Transmit, head), "eth0");
        if answered {
            let back = Head { flow: Some(flow.reversed()), ..syn_ack() };
            other.back(2, hop(Place::Receive, back), "eth0");
        }
        for step in other.journey.steps {
            scene.journeys.take(Arc::clone(&step.sighting));
        }
    }

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.journey.id = 99;
        scene.step(1, in_pod(hop(Place::Transmit, syn())), "eth0");
        scene.step(2, hop(Place::Transmit, syn()), "eth0");
        scene
    }

    #[test]
    fn tells_the_pods_address_where_only_the_nodes_is_answered() {
        let mut scene = scene();
        beside(&mut scene, "10.32.0.10:5555", true);
        let draft = check(&scene.case()).expect("the node's own is answered");
        assert!(
            draft.claim.starts_with("shop/web-0 left this node by eth0 with its own address 10.9.0.29"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_where_nobody_is_answered_or_other_pods_are() {
        let mut alone = scene();
        beside(&mut alone, "10.32.0.10:5555", false);
        assert_eq!(check(&alone.case()), None);
        let mut known = scene();
        beside(&mut known, "10.32.0.10:5555", true);
        beside(&mut known, "10.9.0.30:5555", true);
        assert_eq!(check(&known.case()), None);
    }
}
