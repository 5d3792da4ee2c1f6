//! Nobody answered ARP or NDP for the next hop.

use std::net::IpAddr;

use crate::{
    explain::{Case, Draft, Drop, Rule, intent},
    model::sighting::Side,
};

pub(super) const RULE: Rule =
    Rule { id: "neighbour-unresolved", means: "nobody answered ARP or NDP for the next hop", check };

/// How long before the drop the neighbour may have been given up, nanoseconds: the queue is
/// emptied in the same call.
const SAME_CALL_NS: u64 = 100_000_000;

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_given_up)?;
    let sighting = drop.sighting();
    let device = drop.device()?;
    let next_hop = next_hop(case, &drop)?;
    let v6 = next_hop.is_ipv6();
    let question = if v6 { "neighbour solicitations (NDP)" } else { "ARP" };
    let place = case.place(sighting);
    let claim = format!(
        "{place} dropped the packet of {} to {} on {device}: nobody answered {question} for {next_hop}{}",
        case.who(),
        case.whither(),
        role_of(&drop, next_hop),
    );
    let ip = if v6 { "ip -6" } else { "ip" };
    let mut draft = case.about_drop(&drop, claim).detail(next_hop.to_string());
    draft = draft.proof(drop.mono_ns(), format!("neighbour {next_hop} on {device} is FAILED"));
    let overlay =
        case.namespace(sighting.packet.netns).and_then(|n| n.link(&device)).is_some_and(|l| l.kind == "vxlan");
    if overlay {
        draft = draft
            .proof(drop.mono_ns(), format!("{device} is an overlay: its entries come from the CNI's agent, nobody there answers"))
            .fix(format!(
                "restart the CNI's agent (flanneld, calico-node), or: {ip} neigh add {next_hop} lladdr MAC-OF-ITS-{device} dev \
                 {device} nud permanent"
            ));
    }
    if sighting.side == Side::Pod
        && let Some(why) = proxy_is_silent(case, next_hop)
    {
        draft = draft.proof(drop.mono_ns(), why.0).fix(why.1);
    }
    Some(
        draft
            .fix(format!(
                "repair {next_hop}, or what lies between it and {device} (VLAN, security group, cable, elastic NIC)"
            ))
            .fix(format!("watch it: {ip} neigh show dev {device}; tcpdump -ni {device} arp or icmp6")),
    )
}

/// IPv4 says NEIGH_FAILED; IPv6 says nothing, at the same place.
pub(super) fn is_given_up(drop: &Drop<'_>) -> bool {
    matches!(&**drop.reason, "NEIGH_FAILED" | "NEIGH_DEAD" | "NEIGH_QUEUEFULL")
        || matches!(drop.site, "neigh_invalidate" | "arp_error_report" | "ndisc_error_report")
}

/// The next hop: the neighbour that was given up just now on that device, else the gateway of the
/// packet's route, else its destination.
fn next_hop(case: &Case<'_>, drop: &Drop<'_>) -> Option<IpAddr> {
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

/// Why a node that answers ARP for the pod's gateway in its place does not: it has no route of
/// its own to that address, or proxy_arp is off on the pod's device.
fn proxy_is_silent(case: &Case<'_>, gateway: IpAddr) -> Option<(String, String)> {
    let node = case.facts.node()?;
    if node.owns(gateway) || gateway.is_ipv6() {
        return None;
    }
    let link = node.links.values().find(|l| l.peer_netns.is_some() && l.peer_netns == pod_netns(case))?;
    let name = format!("net.ipv4.conf.{}.proxy_arp", link.name);
    if node.sysctl(&name) == Some(0) {
        let why = format!("no address of the node is {gateway}, and {name} is 0: the node does not answer for it");
        return Some((why, format!("sysctl -w {name}=1")));
    }
    let asked = crate::model::flow::Flow { src: case.journey.flow.src, dst: (gateway, 0).into(), ..case.journey.flow };
    (!intent::has_route_in(node, &asked, Some(&link.name))).then(|| {
        (
            format!("the node answers ARP for {gateway} only while it has a route to it, and it has none"),
            "restore the node's default route (main, or the pods' table): then proxy ARP answers again".to_owned(),
        )
    })
}

fn pod_netns(case: &Case<'_>) -> Option<u32> {
    case.steps().find(|s| s.sighting.side == Side::Pod).map(|s| s.sighting.packet.netns)
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
