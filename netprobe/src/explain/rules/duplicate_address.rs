//! Two hosts answer ARP or NDP for one address.

use std::net::IpAddr;

use crate::{
    correlate::NeighbourState,
    explain::{Case, Draft, Rule, tcp::FIRST_TIMEOUT_NS},
    model::{
        finding::Confidence,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "duplicate-address",
    means: "two hosts answer for one address: its link-layer address alternates",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    if !is_in_trouble(case) {
        return None;
    }
    let (ip, state, netns, ifindex) = case.hops().find_map(|(step, place, head)| {
        let packet = &step.sighting.packet;
        let sent = matches!(place, Place::Transmit | Place::Queue);
        let target = head.flow?.dst.ip();
        let hop = case.decision(packet.netns, step.forward, packet.mono_ns).and_then(|l| l.gateway);
        let next_hops = [hop, Some(target)].into_iter().flatten().filter(|_| sent);
        let alternates = |ip: IpAddr| {
            let state = case.journeys.neighbours.get(packet.netns, packet.ifindex, ip)?;
            let taken = || was_taken_over(case, state, packet.mono_ns);
            (alternates(state) || taken()).then_some((ip, state, packet.netns, packet.ifindex))
        };
        next_hops.into_iter().find_map(alternates)
    })?;
    let facts = case.namespace(netns)?;
    let device = facts.device(ifindex);
    let mut macs: Vec<&str> = state.macs.iter().map(String::as_str).collect();
    macs.sort_unstable();
    macs.dedup();
    let whose = if case.journey.flow.dst.ip() == ip { "" } else { ", the next hop of these packets" };
    let (flow, confidence) = (format!("packets of {} to {}", case.sender(), case.whither()), confidence(state));
    let claim = if confidence == Confidence::Likely {
        format!(
            "two hosts answer for {ip} on {device}{whose}: its link-layer address alternates between {}; {flow} go to one \
             or the other",
            macs.join(" and ")
        )
    } else {
        format!(
            "another host may have taken {ip} on {device}{whose}: its link-layer address changed from {}, and since then \
             {flow} are not answered",
            state.macs.join(" to ")
        )
    };
    let side = if netns == case.facts.node { Side::Node } else { Side::Pod };
    let question =
        if ip.is_ipv6() { format!("ndisc6 -m {ip} {device}") } else { format!("arping -D -I {device} {ip}") };
    Some(
        Draft::new(case, side, Some(device.clone()), claim)
            .confidence(confidence)
            .detail(ip.to_string())
            .proof(case.journey.last_ns, format!("neigh_update {ip} on {device}: {}", state.macs.join(", then ")))
            .fix(format!("find the host whose link-layer address is the wrong one, and take {ip} off it"))
            .fix(format!("see both answer: {question}")),
    )
}

/// An address that came back after another one had taken its place: a takeover goes one way.
fn alternates(state: &NeighbourState) -> bool {
    state.macs.iter().enumerate().any(|(at, mac)| state.macs.iter().skip(at + 2).any(|later| later == mac))
}

fn confidence(state: &NeighbourState) -> Confidence {
    if alternates(state) { Confidence::Likely } else { Confidence::Possible }
}

/// How long after a change what goes wrong is laid to it, nanoseconds.
const AFTER_CHANGE_NS: u64 = 60_000_000_000;

/// The address changed a moment before the packet was sent, to one that is none of our pods' (theirs may be used
/// again), and nobody answers there.
fn was_taken_over(case: &Case<'_>, state: &NeighbourState, sent_ns: u64) -> bool {
    let recent = state.changed_ns != 0 && sent_ns.saturating_sub(state.changed_ns) < AFTER_CHANGE_NS;
    let ours = |mac: &String| case.facts.namespaces.values().flat_map(|n| n.links.values()).any(|l| l.mac == *mac);
    let accepted = case.hops().any(|(step, _, head)| !step.forward && !head.flags.rst());
    recent && sent_ns >= state.changed_ns && state.macs.last().is_some_and(|mac| !ours(mac)) && !accepted
}

/// It began long ago, and nothing came back.
fn is_unanswered(case: &Case<'_>) -> bool {
    case.exits().is_some() && !case.answered() && case.now_ns.saturating_sub(case.journey.first_ns) > FIRST_TIMEOUT_NS
}

/// The connection suffers: two addresses that a bond uses in turn hurt nobody.
fn is_in_trouble(case: &Case<'_>) -> bool {
    case.drops().next().is_some()
        || is_unanswered(case)
        || case.steps().any(|s| match &s.sighting.packet.what {
            What::Retransmit { .. } | What::Reset { .. } => true,
            What::Hop { head, inner, .. } => head.flags.rst() || inner.is_some(),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Scene, hop, lookup_via, retransmit, syn, syn_ack};
    use super::*;
    use crate::model::{
        known::{Known, Why},
        packet::{LookupRole, Packet},
        sighting::Sighting,
    };

    fn scene(macs: &[&str]) -> Scene {
        let mut scene = Scene::pod_to_db();
        for mac in macs {
            let what = What::Neighbour {
                ip: "10.96.0.1".parse().expect("an address"),
                mac: String::new(),
                new_mac: Some((*mac).to_owned()),
                failed: false,
                waiting: false,
            };
            let packet = Packet { mono_ns: 1, cpu: 0, pid: 0, netns: scene.facts.node, ifindex: Scene::ETH1, what };
            let nobody = || Known::No(Why::Outside);
            scene.journeys.take(Arc::new(Sighting {
                packet,
                side: Side::Node,
                device: Arc::from("eth1"),
                namespace_of: Known::No(Why::Node),
                source: nobody(),
                destination: nobody(),
                asker: None,
            }));
        }
        scene.step(1, lookup_via(2, Scene::ETH1, "10.96.0.1", LookupRole::Input), "");
        scene.step(2, hop(Place::Transmit, syn()), "eth1");
        scene
    }

    #[test]
    fn names_both_link_layer_addresses() {
        let mut scene = scene(&["02::04", "02::66", "02::04"]);
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = check(&scene.case()).expect("the address alternates");
        assert_eq!(
            draft.claim,
            "two hosts answer for 10.96.0.1 on eth1, the next hop of these packets: its link-layer address alternates \
             between 02::04 and 02::66; packets of shop/web-0 to 10.20.0.4:3306 go to one or the other"
        );
    }

    #[test]
    fn a_connection_that_nobody_answers_suffers_too() {
        let draft = check(&scene(&["02::04", "02::66", "02::04"]).case()).expect("it was not answered");
        assert_eq!(draft.confidence, Confidence::Likely);
    }

    #[test]
    fn suspects_a_host_that_took_the_address_and_does_not_answer() {
        let mut scene = scene(&["02::04", "02::66"]);
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = check(&scene.case()).expect("nobody answers since");
        assert_eq!(draft.confidence, Confidence::Possible);
        assert!(draft.claim.contains("changed from 02::04 to 02::66, and since then"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_takeover_and_on_a_healthy_connection() {
        let mut taken_over = scene(&["02::04", "02::66"]);
        taken_over.back(3, hop(Place::Receive, syn_ack()), "eth1");
        taken_over.step(1_000, retransmit("ESTABLISHED"), "");
        assert_eq!(check(&taken_over.case()), None);
        let mut healthy = scene(&["02::04", "02::66", "02::04"]);
        healthy.back(3, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&healthy.case()), None);
    }
}
