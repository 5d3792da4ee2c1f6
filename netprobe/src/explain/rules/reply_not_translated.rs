//! The answer came back without passing conntrack: from the backend's own address instead of the service's.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{flow::Proto, packet::Place, sighting::Side},
};

pub(super) const RULE: Rule = Rule {
    id: "reply-not-translated",
    means: "the answer came back without passing conntrack, from the backend's address instead of the service's",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.all_drops().find(|drop| is_untranslated(case, drop))?;
    let flow = drop.head.flow?;
    let asked = case.journey.flow.destination();
    let pod = case.place(drop.sighting());
    let v6 = flow.is_v6();
    let setting = format!("net.bridge.bridge-nf-call-{}", if v6 { "ip6tables" } else { "iptables" });
    let node = case.facts.node();
    let off = node.and_then(|n| n.sysctl(&setting)) == Some(0);
    let bridge = bridge(case);
    let why = match (&bridge, off) {
        (Some(bridge), true) => {
            format!("it crossed bridge {bridge} without conntrack ({}=0)", setting.trim_start_matches("net.bridge."))
        }
        (Some(bridge), false) => format!("it crossed bridge {bridge} without conntrack"),
        (None, _) => "its way back does not pass the conntrack that translated the question".to_owned(),
    };
    let claim = format!(
        "{pod} asked {asked} and the answer came from {} instead: {why}, and {pod} knows no such connection",
        flow.source()
    );
    let mut draft = case
        .about_drop(&drop, claim)
        .detail(asked.clone())
        .proof(drop.mono_ns(), format!("the answer {flow} is not from {asked}"));
    if off {
        draft = draft.proof(drop.mono_ns(), format!("{setting} is 0"));
    }
    Some(if bridge.is_some() {
        draft
            .fix(format!("modprobe br_netfilter; sysctl -w {setting}=1  # on the node, and make it permanent"))
            .fix("or let the service masquerade its clients (kube-proxy --masquerade-all)")
    } else {
        draft.fix(
            "lead the backend's answers through this node: routes of the backend, or masquerade the service's clients",
        )
    })
}

/// An answer for nobody: of a backend that the question was translated to.
fn is_untranslated(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let Some(flow) = drop.head.flow else { return false };
    let asked = case.journey.flow;
    let answer = match flow.proto {
        Proto::Tcp => drop.head.flags.syn() && drop.head.flags.ack(),
        Proto::Udp => true,
        _ => false,
    };
    let translated = case.journey.translated.iter().any(|form| form.dst == flow.src && form.src == flow.dst);
    answer
        && &**drop.reason == "NO_SOCKET"
        && !drop.step.forward
        && flow.dst == asked.src
        && flow.src != asked.dst
        && flow.src.ip() != flow.dst.ip()
        && translated
        // It never came back to the node's own stack translated.
        && !case.hops().any(|(s, place, head)| {
            place == Place::Receive && s.sighting.side == Side::Pod && head.flow == Some(asked.reversed())
        })
}

/// The bridge that the client's or the backend's device belongs to.
fn bridge(case: &Case<'_>) -> Option<String> {
    let node = case.facts.node()?;
    let on_node = case.hops().filter(|(s, ..)| s.sighting.side == Side::Node);
    on_node.filter_map(|(s, ..)| node.links.get(&s.sighting.packet.ifindex)).find_map(|link| {
        if link.kind == "bridge" {
            return Some(link.name.clone());
        }
        node.links.get(&link.master).filter(|master| master.kind == "bridge").map(|master| master.name.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn_ack};
    use super::*;
    use crate::model::{flow::Flow, packet::Head};

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        let asked = scene.journey.flow;
        let form = Flow { dst: "10.9.0.30:8080".parse().expect("an address"), ..asked };
        scene.journey.translated.push(form);
        scene.back(
            1,
            in_pod(drop_of(Head { flow: Some(form.reversed()), ..syn_ack() }, "NO_SOCKET", "tcp_v4_rcv", &[])),
            "eth0",
        );
        scene
    }

    #[test]
    fn tells_the_answer_that_came_from_the_backend_itself() {
        let draft = check(&scene().case()).expect("it came from 10.9.0.30");
        assert!(
            draft.claim.starts_with("shop/web-0 asked 10.20.0.4:3306 and the answer came from 10.9.0.30:8080"),
            "{}",
            draft.claim
        );
    }

    #[test]
    fn stays_silent_on_an_answer_that_comes_too_late() {
        let mut scene = Scene::pod_to_db();
        scene.back(1, in_pod(drop_of(syn_ack(), "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
