//! Nobody answered ARP or NDP for the next hop.

use std::net::IpAddr;

use super::{qdisc_drop, silent_neighbour};
use crate::{
    explain::{Case, Draft, Drop, Rule, intent},
    model::{journey::Step, packet::What},
};

pub(super) const RULE: Rule =
    Rule { id: "neighbour-unresolved", means: "nobody answered ARP or NDP for the next hop", check };

/// How long before the drop the neighbour may have been given up, nanoseconds: the queue is
/// emptied in the same call.
const SAME_CALL_NS: u64 = 100_000_000;

/// How long a neighbour is asked for before it is given up, nanoseconds: three solicitations, a second apart
/// (`net.ipv6.neigh.*.mcast_solicit`, `retrans_time_ms`), and as much again.
const ASKED_NS: u64 = 6_000_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    // Who never got the question cannot answer it.
    let drop = case.drops().find(is_given_up).filter(|drop| !qdisc_drop::lost_the_question(case, drop))?;
    let device = drop.device()?;
    let next_hop = next_hop(case, &drop)?;
    let v6 = next_hop.is_ipv6();
    let question = if v6 { "neighbour solicitations (NDP)" } else { "ARP" };
    if v6 && question_was_refused(case, &drop) {
        return None;
    }
    let reason = silent_neighbour::reason(case, &drop, next_hop);
    let why = reason.as_ref().map_or_else(String::new, |reason| format!(": {}", reason.proof));
    let because = format!("nobody answered {question} for {next_hop}{}{why}", role_of(&drop, next_hop));
    let ip = if v6 { "ip -6" } else { "ip" };
    let mut draft = case.dropped_because(&drop, &because).detail(next_hop.to_string());
    draft = draft.proof(drop.mono_ns(), format!("neighbour {next_hop} on {device} is FAILED"));
    if let Some(reason) = reason {
        draft = draft.proof(drop.mono_ns(), reason.proof).fix(reason.fix);
    }
    Some(
        draft
            .fix(format!(
                "repair {next_hop}, or what lies between it and {device} (VLAN, security group, cable, elastic NIC)"
            ))
            .fix(format!("watch it: {ip} neigh show dev {device}; tcpdump -ni {device} arp or icmp6")),
    )
}

/// A solicitation of that pod, or the answer, met a netfilter rule: that is told for itself.
fn question_was_refused(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let pod = case.journey.pod.as_ref();
    let since_ns = drop.mono_ns().saturating_sub(ASKED_NS);
    let is_refused = |step: &Step| {
        let packet = &step.sighting.packet;
        let What::Dropped { head, reason, .. } = &packet.what else { return false };
        packet.mono_ns >= since_ns && &**reason == "NETFILTER_DROP" && matches!(head.icmp, Some((135 | 136, _)))
    };
    case.journeys.iter().filter(|j| j.pod.as_ref() == pod).any(|j| j.steps.iter().any(is_refused))
}

/// IPv4 says NEIGH_FAILED; IPv6 says nothing, at the same place.
pub(super) fn is_given_up(drop: &Drop<'_>) -> bool {
    matches!(&**drop.reason, "NEIGH_FAILED" | "NEIGH_DEAD" | "NEIGH_QUEUEFULL")
        || matches!(drop.site, "neigh_invalidate" | "arp_error_report" | "ndisc_error_report")
}

/// The next hop: the neighbour that was given up just now on that device, else the gateway of the
/// packet's route, else its destination.
pub(super) fn next_hop(case: &Case<'_>, drop: &Drop<'_>) -> Option<IpAddr> {
    let packet = &drop.sighting().packet;
    let from = packet.mono_ns.saturating_sub(SAME_CALL_NS);
    let failed = case.journeys.neighbours.failed(packet.netns, packet.ifindex, from, packet.mono_ns + SAME_CALL_NS);
    let flow = drop.head.flow?;
    let looked_up = || {
        let decision = case.decision(packet.netns, drop.step.forward, packet.mono_ns)?;
        (decision.err == 0).then(|| decision.gateway.unwrap_or(flow.dst.ip()))
    };
    let from_facts = || intent::next_hop(case.namespace(packet.netns)?, &flow, drop.head.mark);
    failed.or_else(looked_up).or_else(from_facts).or(Some(flow.dst.ip()))
}

fn role_of(drop: &Drop<'_>, next_hop: IpAddr) -> &'static str {
    match drop.head.flow {
        Some(flow) if flow.dst.ip() == next_hop => ", the destination itself",
        _ => ", its gateway",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, lookup_via, syn};
    use super::*;
    use crate::model::packet::LookupRole;

    #[test]
    fn names_the_gateway_that_is_silent() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, lookup_via(2, Scene::ETH1, "10.96.0.1", LookupRole::Input), "");
        scene.step(3_000, drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[]), "eth1");
        let draft = check(&scene.case()).expect("the neighbour failed");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on eth1: nobody answered ARP for 10.96.0.1, its gateway"
        );
    }

    #[test]
    fn stays_silent_on_a_full_neighbour_table() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NEIGH_CREATEFAIL", "ip_finish_output2", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
