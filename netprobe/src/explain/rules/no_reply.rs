//! The packet left this node as it should, and nothing came back.

use super::remembered;
use crate::{
    explain::{Case, Draft, Rule, intent},
    model::{
        finding::{Confidence, RouteTaken},
        flow::Proto,
        journey::Step,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "no-reply",
    means: "the packet left this node as it should and nothing came back: the loss is outside",
    check,
};

/// How long an ICMP echo waits for its answer, nanoseconds; TCP waits for its own first
/// retransmission (1 s, RFC 6298).
const ECHO_WAIT_NS: u64 = 1_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    outside(case).or_else(|| remembered::check(case))
}

fn outside(case: &Case<'_>) -> Option<Draft> {
    let (_, exit) = case.exits()?;
    if case.answered() || case.drops().next().is_some() {
        return None;
    }
    let flow = case.journey.flow;
    let leaves = |s: &&Step, place| s.forward && place == Place::Transmit && s.sighting.device == exit.sighting.device;
    let sent: Vec<u64> =
        case.hops().filter(|(s, place, _)| leaves(s, *place)).map(|(s, ..)| s.sighting.packet.mono_ns).collect();
    let (first_ns, tries) = (*sent.first()?, sent.len());
    let (what, ready_ns) = match flow.proto {
        Proto::Tcp => ("SYN", unanswered_syn(case)?),
        Proto::Icmp | Proto::Icmpv6 if is_echo(case) => ("echo request", first_ns + ECHO_WAIT_NS),
        _ => return None,
    };
    let device = exit.sighting.device.to_string();
    let left_as = exit.sighting.packet.what.flow().unwrap_or(flow);
    let source = left_as.src.ip();
    // A tunnel's outer packet is what the network between the nodes has to let through.
    let tunnel = (!case.is_form(&left_as)).then(|| format!("{} {}", left_as.proto, left_as.destination()));
    let route = route(case);
    let by =
        route.as_ref().map_or_else(String::new, |r| format!(" (table {})", crate::model::facts::table_name(r.table)));
    let dress = tunnel
        .as_ref()
        .map_or_else(|| format!("with source {source}"), |outer| format!("in a tunnel, as {source} -> {outer}"));
    let claim = format!(
        "the {what} of {} to {} left this node by {device}{by} {dress}, and nothing came back: it is lost outside this node",
        case.who(),
        case.whither()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(Confidence::Likely)
        .detail(format!("{} {}", flow.proto, flow.destination()))
        .proof(first_ns, format!("net_dev_start_xmit on {device}: {what} to {}", flow.destination()))
        .proof(ready_ns, format!("sent {tries} times, no answer, no ICMP error, no drop on this node"))
        .fix(tunnel.map_or_else(
            || format!("look outside: security group, firewall, or routing between {device} and {}", flow.dst.ip()),
            |outer| format!("let {outer} pass between the nodes (security group, firewall), both ways"),
        ))
        .fix(format!("check that the peer answers {source}, and by a way that leads back to {device}"));
    draft.route = route;
    draft.ready_ns = ready_ns;
    Some(draft)
}

/// When TCP itself gave the first SYN up for lost.
fn unanswered_syn(case: &Case<'_>) -> Option<u64> {
    let again = case.steps().find(|s| matches!(s.sighting.packet.what, What::Retransmit { state: "SYN_SENT", .. }));
    again.map(|s| s.sighting.packet.mono_ns)
}

/// An echo request to one host: nothing else of ICMP asks for an answer.
fn is_echo(case: &Case<'_>) -> bool {
    let asks = |icmp| matches!(icmp, Some((8 | 128, _)));
    !case.journey.flow.dst.ip().is_multicast() && case.hops().any(|(s, _, head)| s.forward && asks(head.icmp))
}

fn route(case: &Case<'_>) -> Option<RouteTaken> {
    let decision = case.decision(case.facts.node, true, u64::MAX).filter(|l| l.err == 0)?;
    let rule = case.facts.node().and_then(|n| intent::rule_for(n, &case.routed_flow(), decision.table, decision.mark));
    Some(RouteTaken { table: decision.table, rule, gateway: decision.gateway })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, retransmit, syn, syn_ack};
    use super::*;

    #[test]
    fn says_what_was_proven() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = check(&scene.case()).expect("nothing came back");
        assert_eq!(
            draft.claim,
            "the SYN of shop/web-0 to 10.20.0.4:3306 left this node by eth1 with source 10.9.0.29, and nothing came back: \
             it is lost outside this node"
        );
    }

    #[test]
    fn stays_silent_before_tcp_gave_it_up_and_after_an_answer() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        assert_eq!(check(&scene.case()), None, "no retransmission yet");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene.back(1_001, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&scene.case()), None, "an answer came");
    }

    #[test]
    fn stays_silent_on_a_packet_that_was_dropped_here() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene.step(1_001, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_output"]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
