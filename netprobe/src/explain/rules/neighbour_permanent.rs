//! Frames go to a link-layer address that a static neighbour entry names, and nobody has it.

use crate::{
    explain::{Case, Draft, Rule, intent},
    model::{
        facts::Neigh,
        finding::Confidence,
        flow::Flow,
        journey::Step,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "neighbour-permanent",
    means: "frames go to the link-layer address of a static (PERMANENT) neighbour entry, and nothing comes back",
    check,
};

/// How long an ICMP echo waits for its answer, nanoseconds.
const ECHO_WAIT_NS: u64 = 1_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    ignored(case).or_else(|| unanswered(case))
}

/// The next hop got the frame and ignored it: it is for another link-layer address.
fn ignored(case: &Case<'_>) -> Option<Draft> {
    let (step, flow) = case.steps().find_map(|s| match &s.sighting.packet.what {
        What::Dropped { reason, head, .. } if &**reason == "OTHERHOST" => Some((s, head.flow?)),
        _ => None,
    })?;
    let at_ns = step.sighting.packet.mono_ns;
    let (sent, entry) = entry_used(case, step.forward, at_ns, &flow)?;
    let receiver = &step.sighting.packet;
    let own = case.namespace(receiver.netns)?.links.get(&receiver.ifindex)?;
    if own.mac == entry.mac {
        return None;
    }
    let here = case.place(&step.sighting);
    let because = format!("{} of {here} has {} and ignores the frames", own.name, own.mac);
    let proof = format!("{here} ignored a frame for another host on {} (OTHERHOST)", own.name);
    Some(told(case, sent, entry, &because, Confidence::Stated).proof(at_ns, proof))
}

/// The frames left the node, and no answer came to this or any other flow of that next hop.
fn unanswered(case: &Case<'_>) -> Option<Draft> {
    let (_, exit) = case.exits()?;
    if case.answered() || case.drops().next().is_some() {
        return None;
    }
    let packet = &exit.sighting.packet;
    let link = case.facts.node()?.links.get(&packet.ifindex)?;
    // An overlay's entries are written by its agent, and static by design.
    if matches!(link.kind.as_str(), "vxlan" | "geneve" | "ipip" | "gre" | "wireguard") {
        return None;
    }
    let flow = packet.what.flow()?;
    let silent_ns = silent_since(case, packet.mono_ns)?;
    let (sent, entry) = entry_used(case, true, u64::MAX, &flow)?;
    if sent.sighting.packet.netns != packet.netns || answers_others(case, exit) {
        return None;
    }
    let mut draft = told(case, sent, entry, "nothing comes back", Confidence::Likely);
    draft = draft.proof(packet.mono_ns, format!("left by {}, no answer, no ICMP error", link.name));
    draft.ready_ns = silent_ns;
    Some(draft)
}

fn told(case: &Case<'_>, sent: &Step, entry: &Neigh, because: &str, confidence: Confidence) -> Draft {
    let (sighting, device) = (&sent.sighting, sent.sighting.device.to_string());
    let (ip, mac) = (entry.ip, &entry.mac);
    let place = case.place(sighting);
    let claim = format!(
        "{place} sends the packets of {} to {} in frames for {mac}, which a static neighbour entry of {device} names for \
         {ip}: {because}",
        case.sender(),
        case.whither()
    );
    let command = if ip.is_ipv6() { "ip -6" } else { "ip" };
    let inside = if sighting.side == Side::Pod { "in the pod: " } else { "" };
    Draft::new(case, sighting.side, Some(device.clone()), claim)
        .confidence(confidence)
        .detail(ip.to_string())
        .proof(sighting.packet.mono_ns, format!("neighbour {ip} on {device} is {mac}, PERMANENT"))
        .fix(format!("{inside}{command} neigh del {ip} dev {device}  # the kernel then asks for the address itself"))
        .fix(format!("{inside}or correct it: {command} neigh replace {ip} lladdr MAC dev {device} nud permanent"))
}

/// The last transmission in that direction before `until_ns`, and the static entry it used.
fn entry_used<'a>(case: &Case<'a>, forward: bool, until_ns: u64, flow: &Flow) -> Option<(&'a Step, &'a Neigh)> {
    let sent = case.hops().rev().find(|(s, place, _)| {
        s.forward == forward && *place == Place::Transmit && s.sighting.packet.mono_ns <= until_ns
    });
    let (step, _, head) = sent?;
    let packet = &step.sighting.packet;
    let facts = case.namespace(packet.netns)?;
    let looked_up = case
        .decision(packet.netns, forward, packet.mono_ns)
        .filter(|l| l.err == 0 && l.out_ifindex == packet.ifindex)
        .map(|l| l.gateway.unwrap_or(flow.dst.ip()));
    let next_hop = looked_up.or_else(|| intent::next_hop(facts, flow, head.mark))?;
    let entry = facts.neighbours.iter().find(|n| n.ifindex == packet.ifindex && n.ip == next_hop)?;
    (entry.state == "PERMANENT" && !entry.mac.is_empty()).then_some((step, entry))
}

/// When the silence is proven: TCP has given its first segment up, or an echo has waited long enough.
fn silent_since(case: &Case<'_>, sent_ns: u64) -> Option<u64> {
    let again = case.steps().find(|s| matches!(s.sighting.packet.what, What::Retransmit { .. }));
    let echo = || case.journey.flow.proto.is_icmp().then_some(sent_ns + ECHO_WAIT_NS);
    again.map(|s| s.sighting.packet.mono_ns).or_else(echo)
}

/// Another flow that left by that device was answered.
fn answers_others(case: &Case<'_>, exit: &Step) -> bool {
    let by = |s: &Step, place| {
        matches!(s.sighting.packet.what, What::Hop { place: p, .. } if p == place)
            && s.sighting.packet.ifindex == exit.sighting.packet.ifindex
            && s.sighting.packet.netns == exit.sighting.packet.netns
    };
    case.journeys.iter().any(|j| {
        j.steps.iter().any(|s| s.forward && by(s, Place::Transmit))
            && j.steps.iter().any(|s| !s.forward && by(s, Place::Receive))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, in_pod, lookup_via, retransmit, syn, syn_ack};
    use super::*;
    use crate::model::packet::LookupRole;

    fn entry(ifindex: u32, ip: &str, state: &str) -> Neigh {
        let ip = ip.parse().expect("an address");
        Neigh { ifindex, ip, mac: "02:00:00:00:00:99".to_owned(), state: state.to_owned() }
    }

    fn silent(state: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().neighbours.push(entry(Scene::ETH1, "10.96.0.1", state));
        scene.step(1, lookup_via(2, Scene::ETH1, "10.96.0.1", LookupRole::Input), "");
        scene.step(2, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene
    }

    #[test]
    fn names_the_static_entry() {
        let draft = check(&silent("PERMANENT").case()).expect("nothing comes back");
        assert_eq!(
            draft.claim,
            "the node sends the packets of shop/web-0 to 10.20.0.4:3306 in frames for 02:00:00:00:00:99, which a static \
             neighbour entry of eth1 names for 10.96.0.1: nothing comes back"
        );
        assert_eq!(draft.confidence, Confidence::Likely);
    }

    #[test]
    fn states_it_where_the_next_hop_ignored_the_frame() {
        let mut scene = Scene::pod_to_db();
        scene.pod().neighbours.push(entry(2, "169.254.1.1", "PERMANENT"));
        scene.step(1, in_pod(hop(Place::Transmit, syn())), "eth0");
        scene.step(2, drop_of(syn(), "OTHERHOST", "ip_rcv_core", &[]), "vpod1");
        let draft = check(&scene.case()).expect("the node ignored it");
        assert_eq!((draft.confidence, draft.side), (Confidence::Stated, Side::Pod));
    }

    #[test]
    fn stays_silent_on_a_learned_entry_and_after_an_answer() {
        assert_eq!(check(&silent("REACHABLE").case()), None);
        let mut scene = silent("PERMANENT");
        scene.back(1_001, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
