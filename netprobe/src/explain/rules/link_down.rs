//! The device that routing chose is down or has no carrier: packets die in its queue, or wait for
//! an answer to an ARP request that cannot leave.

use super::{bridge_drop, neighbour_unresolved, qdisc_drop};
use crate::{
    explain::{Case, Draft, Drop, Rule, case::MISS},
    model::{
        facts::{Link, What as Changed},
        packet::{LookupRole, Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule =
    Rule { id: "link-down", means: "a device on the path is down or has no carrier, and packets die in it", check };

fn check(case: &Case<'_>) -> Option<Draft> {
    dropped(case)
        .or_else(|| never_left(case))
        .or_else(|| routes_gone(case))
        .or_else(|| way_to_pod_gone(case))
        .or_else(|| far_end(case))
        .or_else(|| own_loopback(case))
}

/// The packet was thrown away by the device's queue, or when its neighbour was given up.
fn dropped(case: &Case<'_>) -> Option<Draft> {
    // The other end of a veth that is down takes nothing.
    let refused = |drop: &Drop<'_>| matches!(drop.site, "__dev_forward_skb" | "__dev_forward_skb2");
    let suspect =
        |drop: &Drop<'_>| qdisc_drop::is_queue(drop) || neighbour_unresolved::is_given_up(drop) || refused(drop);
    let (drop, link, state) = case.drops().filter(suspect).find_map(|drop| {
        let packet = &drop.sighting().packet;
        // The kernel tells of a carrier that is lost up to a second later (linkwatch).
        let at_ns = if refused(&drop) { u64::MAX } else { packet.mono_ns };
        let (link, state) = dead(case, packet.netns, packet.ifindex, at_ns)?;
        Some((drop, link, state))
    })?;
    let draft = case.dropped_because(&drop, &format!("{} {state}", link.name));
    Some(told(case, draft, drop.sighting().packet.netns, drop.sighting().side, link, drop.mono_ns()))
}

/// Routing chose the device, and the packet is sent again without having left.
fn never_left(case: &Case<'_>) -> Option<Draft> {
    let again = case.steps().find(|s| matches!(s.sighting.packet.what, What::Retransmit { .. }))?;
    let until_ns = again.sighting.packet.mono_ns;
    let (chosen, link, state) = case.lookups().filter(|l| l.step.forward && l.err == 0).find_map(|l| {
        let packet = &l.step.sighting.packet;
        let (link, state) = dead(case, packet.netns, l.out_ifindex, until_ns)?;
        Some((l, link, state))
    })?;
    let netns = chosen.step.sighting.packet.netns;
    let left = case.hops().any(|(s, place, _)| {
        let packet = &s.sighting.packet;
        s.forward && place == Place::Transmit && packet.netns == netns && packet.ifindex == link.index
    });
    if left {
        return None;
    }
    let side = chosen.step.sighting.side;
    let claim = format!(
        "the packets of {} to {} never leave {}: routing sends them to {}, and {} {state}",
        case.sender(),
        case.whither(),
        case.place(&chosen.step.sighting),
        link.name,
        link.name
    );
    let chosen_ns = chosen.step.sighting.packet.mono_ns;
    let draft = Draft::new(case, side, Some(link.name.clone()), claim)
        .proof(chosen_ns, format!("route look-up in table {}: dev {}", chosen.table, link.name))
        .proof(until_ns, format!("sent again, and nothing has left by {}", link.name));
    Some(told(case, draft, netns, side, link, until_ns))
}

/// The pod's only device is down, and its routes went away with it: no packet is sent.
fn routes_gone(case: &Case<'_>) -> Option<Draft> {
    if case.hops().next().is_some() {
        return None;
    }
    let miss = case.lookups().next_back().filter(|l| MISS.contains(&l.err) && l.role == LookupRole::Output)?;
    let sighting = &miss.step.sighting;
    let facts = case.namespace(sighting.packet.netns)?;
    let mut devices = facts.links.values().filter(|l| l.name != "lo" && !l.is_placeholder());
    let (link, another) = (devices.next()?, devices.next());
    if link.up || another.is_some() || case.journey.flow.dst.ip().is_loopback() {
        return None;
    }
    let place = case.place(sighting);
    let claim = format!(
        "{place} cannot send to {}: its {} is down, and its routes went away with it",
        case.whither(),
        link.name
    );
    let at_ns = sighting.packet.mono_ns;
    let draft = Draft::new(case, sighting.side, Some(link.name.clone()), claim)
        .proof(at_ns, format!("route look-up in table {}: no route", miss.table));
    Some(told(case, draft, sighting.packet.netns, sighting.side, link, at_ns))
}

/// The node's device to the destination's pod is down, so that its packets go astray.
fn way_to_pod_gone(case: &Case<'_>) -> Option<Draft> {
    let node = case.facts.node()?;
    let target = case.routed_flow().dst.ip();
    let pod = case.facts.namespaces.values().find(|n| n.inum != node.inum && n.owns(target))?;
    let link = node.links.values().find(|l| l.kind == "veth" && l.peer_netns == Some(pod.inum))?;
    let astray = case.drops().find(|d| d.step.forward && d.sighting().side == Side::Node)?;
    let (link, state) = dead(case, node.inum, link.index, astray.mono_ns())?;
    if astray.head.flow?.dst.ip() != target {
        return None;
    }
    let claim = format!(
        "the packets of {} to {} do not get there: {} on the node, behind which the pod is, {state}",
        case.sender(),
        case.whither(),
        link.name
    );
    let mut draft = case.about_drop(&astray, claim);
    draft.device = Some(link.name.clone());
    Some(told(case, draft, node.inum, Side::Node, link, astray.mono_ns()))
}

/// The bridge the pod's device belongs to, or the device that has its gateway's address, is down.
fn far_end(case: &Case<'_>) -> Option<Draft> {
    let node = case.facts.node()?;
    let (drop, (link, state)) = case.drops().find_map(|drop| {
        let packet = &drop.sighting().packet;
        let suspect = if neighbour_unresolved::is_given_up(&drop) {
            let next_hop = neighbour_unresolved::next_hop(case, &drop)?;
            node.addresses.iter().find(|a| a.net.addr() == next_hop)?.ifindex
        } else if bridge_drop::is_bridge(&drop) {
            case.namespace(packet.netns)?.links.get(&packet.ifindex)?.master
        } else {
            return None;
        };
        Some((drop, dead(case, node.inum, suspect, packet.mono_ns)?))
    })?;
    let name = &link.name;
    // A bridge whose ports are all down has no carrier; only one that is down itself is the cause.
    if link.up && link.kind == "bridge" {
        return None;
    }
    let mut draft = case.dropped_because(&drop, &format!("{name}, which it has to cross, {state}"));
    (draft.device, draft.side) = (Some(name.clone()), Side::Node);
    Some(told(case, draft, node.inum, Side::Node, link, drop.mono_ns()))
}

/// A pod whose `lo` is down has no route to `::1` and sends it to its gateway.
fn own_loopback(case: &Case<'_>) -> Option<Draft> {
    if !case.journey.flow.dst.ip().is_loopback() {
        return None;
    }
    let drop = case.drops().next()?;
    let step = case.steps().find(|s| s.sighting.side == Side::Pod && s.sighting.packet.netns != 0)?;
    let netns = step.sighting.packet.netns;
    let lo = case.namespace(netns)?.link("lo")?.index;
    let (link, state) = dead(case, netns, lo, drop.mono_ns())?;
    let place = case.place(&step.sighting);
    let claim = format!("{place} cannot reach itself at {}: its lo {state}", case.journey.flow.destination());
    let mut draft = case.about_drop(&drop, claim);
    (draft.device, draft.side) = (Some(link.name.clone()), Side::Pod);
    Some(told(case, draft, netns, Side::Pod, link, drop.mono_ns()))
}

fn told(case: &Case<'_>, draft: Draft, netns: u32, side: Side, link: &Link, at_ns: u64) -> Draft {
    let name = &link.name;
    let inside = if side == Side::Pod { "in the pod: " } else { "" };
    let mut draft = draft.detail(name.clone()).proof(at_ns, format!("link {name}: {}", words(link)));
    let changed = case.last_change(netns, |c| match &c.what {
        Changed::LinkChanged(before, after) => {
            after.index == link.index && ((before.up && !after.up) || (before.carrier && !after.carrier))
        }
        _ => false,
    });
    draft.since = changed.map(|c| format!("{} {name} went down", case.clock(c.mono_ns)));
    if link.name == "lo" {
        return draft.fix(format!("{inside}ip link set lo up  # the CNI's loopback plugin did not run"));
    }
    if !link.up {
        draft = draft.fix(format!("{inside}ip link set {name} up"));
    }
    match peer(case, netns, link) {
        Some((where_to, far)) if !far.up => {
            let text = format!("its other end {} is down on {where_to}", far.name);
            draft.proof(at_ns, text).fix(format!("on {where_to}: ip link set {} up", far.name))
        }
        _ => draft
            .fix(format!("restore the link behind {name}: cable, switch port, the other end of the veth, elastic NIC"))
            .fix(format!(
                "sysctl -w net.ipv4.conf.{name}.ignore_routes_with_linkdown=1  # lets routing fall over to another path"
            )),
    }
}

/// The other end of a veth, and where it is.
fn peer<'a>(case: &Case<'a>, netns: u32, link: &Link) -> Option<(&'static str, &'a Link)> {
    let far = link.peer_netns.unwrap_or(netns);
    let found = case.namespace(far)?.links.get(&link.peer)?;
    (link.kind == "veth").then_some((if far == case.facts.node { "the node" } else { "the pod's side" }, found))
}

/// The device, if it could not carry a packet at that time, and why.
pub(super) fn dead<'a>(case: &Case<'a>, netns: u32, ifindex: u32, at_ns: u64) -> Option<(&'a Link, &'static str)> {
    let later = case.facts.journal.iter().find_map(|c| match &c.what {
        Changed::LinkChanged(before, _) | Changed::LinkDeleted(before)
            if c.netns == netns && c.mono_ns > at_ns && before.index == ifindex =>
        {
            Some(before)
        }
        _ => None,
    });
    let link = later.or_else(|| case.namespace(netns)?.links.get(&ifindex))?;
    let state = match (link.up, link.carrier) {
        (false, _) => "is down",
        (true, false) => "has no carrier",
        (true, true) => return None,
    };
    Some((link, state))
}

fn words(link: &Link) -> String {
    let carrier = if link.carrier { "carrier" } else { "no carrier" };
    format!("{}, {carrier}", if link.up { "up" } else { "down" })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, lookup, retransmit, syn};
    use super::*;

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.node().links.get_mut(&Scene::ETH1).expect("eth1").carrier = false;
        scene
    }

    #[test]
    fn names_the_device_without_carrier() {
        let mut scene = scene();
        scene.step(3_000, drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[]), "eth1");
        let draft = check(&scene.case()).expect("eth1 has no carrier");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on eth1: eth1 has no carrier"
        );
    }

    #[test]
    fn names_the_veth_whose_other_end_went_down() {
        let mut scene = scene();
        scene.step(5, drop_of(syn(), "NOT_SPECIFIED", "__dev_forward_skb2", &[]), "eth1");
        let draft = check(&scene.case()).expect("eth1 has no carrier");
        assert!(draft.claim.ends_with("on eth1: eth1 has no carrier"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_packet_that_never_left() {
        let mut scene = scene();
        scene.step(1, lookup(2, 0, Scene::ETH1, LookupRole::Input), "");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = check(&scene.case()).expect("eth1 has no carrier");
        assert!(draft.claim.ends_with("routing sends them to eth1, and eth1 has no carrier"), "{}", draft.claim);
    }

    #[test]
    fn tells_a_pods_own_loopback() {
        let mut scene = Scene::pod_to_db();
        scene.pod().links.get_mut(&1).expect("lo").up = false;
        scene.step(1, in_pod(drop_of(syn(), "QDISC_DROP", "__dev_queue_xmit", &[])), "lo");
        let draft = check(&scene.case()).expect("lo is down");
        assert!(draft.claim.ends_with("on lo: lo is down"), "{}", draft.claim);
        assert_eq!(draft.side, Side::Pod);
    }

    #[test]
    fn tells_a_pod_whose_only_device_is_down() {
        let mut scene = Scene::pod_to_db();
        scene.pod().routes.clear();
        scene.pod().links.get_mut(&2).expect("eth0").up = false;
        scene.step(1, in_pod(lookup(254, -11, 0, LookupRole::Output)), "");
        let draft = check(&scene.case()).expect("eth0 is down");
        assert_eq!(
            draft.claim,
            "shop/web-0 cannot send to 10.20.0.4:3306: its eth0 is down, and its routes went away with it"
        );
    }

    #[test]
    fn stays_silent_on_a_dead_gateway_and_a_full_queue() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[]), "eth1");
        scene.step(2, drop_of(syn(), "QDISC_DROP", "__dev_queue_xmit", &[]), "eth1");
        assert_eq!(check(&scene.case()), None);
    }
}
