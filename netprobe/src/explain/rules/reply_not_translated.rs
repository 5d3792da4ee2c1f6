//! The answer to a service call came with the backend's own address: nothing translated it back.

use std::net::IpAddr;

use crate::{
    explain::{Case, Draft, Rule},
    model::{
        finding::Confidence,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "reply-not-translated",
    means: "the answer came back without passing conntrack, and the client does not know its sender",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let called = case.journey.flow;
    let own = called.reversed();
    let (step, from) = case.steps().filter(|s| !s.forward && s.sighting.side == Side::Pod).find_map(|step| {
        let (What::Hop { place: Place::Receive, head, inner: None, .. } | What::Dropped { head, .. }) =
            &step.sighting.packet.what
        else {
            return None;
        };
        let flow = head.flow?;
        let to_client = flow.dst == own.dst && flow.proto == own.proto;
        (to_client && flow.src != own.src && !head.flags.rst()).then_some((step, flow.src))
    })?;
    let asked = case.journey.translated.iter().any(|form| form.dst == from);
    let refused = case.steps().find(|s| match &s.sighting.packet.what {
        What::Dropped { head, reason, .. } => {
            &**reason == "NO_SOCKET" && head.flow.is_some_and(|f| f.src == from && f.dst == own.dst)
        }
        _ => false,
    });
    let refused = refused.filter(|_| asked)?;
    let who = case.who();
    let (bridge, setting) = bridged(case, from.ip(), called.src.ip());
    let how = match (&bridge, setting) {
        (Some(bridge), Some((name, 0))) => format!("the answer crossed bridge {bridge} without conntrack ({name}=0)"),
        (Some(bridge), _) => format!("the answer crossed bridge {bridge} without conntrack"),
        (None, _) => "the answer came by a way without this node's conntrack".to_owned(),
    };
    let claim = format!(
        "{who} called {} and got the answer from {from} instead, which it does not know: {how}",
        called.destination()
    );
    let confidence = if matches!(setting, Some((_, 0))) { Confidence::Stated } else { Confidence::Likely };
    let device = Some(step.sighting.device.to_string()).filter(|d| !d.is_empty());
    let mut draft = Draft::new(case, Side::Pod, device, claim)
        .confidence(confidence)
        .detail(called.destination())
        .proof(step.sighting.packet.mono_ns, format!("received in {who}: {from} -> {}", called.source()))
        .proof(
            refused.sighting.packet.mono_ns,
            format!("kfree_skb NO_SOCKET: its socket waits for {}", called.destination()),
        );
    if let Some((name, value)) = setting {
        draft = draft.proof(step.sighting.packet.mono_ns, format!("{name} is {value}"));
        draft = draft.fix(format!("sysctl -w {name}=1  # module br_netfilter"));
    } else {
        draft = draft
            .fix("see whether the answer passes this node: it must go back through the node that translated the call");
    }
    Some(draft.fix("keep it in /etc/sysctl.d and load br_netfilter at boot"))
}

/// The bridge that both ends hang on, and whether conntrack sees what it switches.
fn bridged(case: &Case<'_>, server: IpAddr, client: IpAddr) -> (Option<String>, Option<(&'static str, i64)>) {
    let Some(node) = case.facts.node() else { return (None, None) };
    let port_of = |ip: IpAddr| {
        let holds = |inum: &u32| case.facts.namespaces.get(inum).is_some_and(|facts| facts.owns(ip));
        node.links.values().find(|link| link.master != 0 && link.peer_netns.as_ref().is_some_and(holds))
    };
    let bridge = port_of(server).zip(port_of(client)).filter(|(a, b)| a.master == b.master).map(|(a, _)| a.master);
    let Some(bridge) = bridge else { return (None, None) };
    let name =
        if client.is_ipv6() { "net.bridge.bridge-nf-call-ip6tables" } else { "net.bridge.bridge-nf-call-iptables" };
    (Some(node.device(bridge)), node.sysctl(name).map(|value| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, in_pod, syn_ack};
    use super::*;
    use crate::model::{flow::Flow, packet::Head};

    fn scene(from: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        let backend = Flow { dst: "10.9.0.30:8080".parse().expect("an address"), ..flow() };
        scene.journey.translated.push(backend);
        let answer = Flow { src: from.parse().expect("an address"), ..flow().reversed() };
        let head = Head { flow: Some(answer), ..syn_ack() };
        scene.back(2, in_pod(drop_of(head, "NO_SOCKET", "tcp_v4_rcv", &[])), "eth0");
        scene
    }

    #[test]
    fn names_who_answered_instead() {
        let draft = check(&scene("10.9.0.30:8080").case()).expect("the backend answered itself");
        assert_eq!(
            draft.claim,
            "shop/web-0 called 10.20.0.4:3306 and got the answer from 10.9.0.30:8080 instead, which it does not know: the \
             answer came by a way without this node's conntrack"
        );
    }

    #[test]
    fn stays_silent_on_an_answer_of_whom_was_called() {
        assert_eq!(check(&scene("10.20.0.4:3306").case()), None);
        assert_eq!(check(&scene("10.9.0.31:8080").case()), None, "nobody was asked there");
    }
}
