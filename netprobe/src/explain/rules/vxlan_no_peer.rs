//! The overlay does not know on which node the inner destination lives.

use crate::explain::{Case, Draft, Drop, Rule, intent};

pub(super) const RULE: Rule = Rule {
    id: "vxlan-no-peer",
    means: "no forwarding entry of the VXLAN device says on which node the inner destination lives",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_without_peer)?;
    let device = drop.device()?;
    let mac = inner_mac(case, &drop);
    let whom = mac.as_ref().map_or_else(|| "the inner destination lives".to_owned(), |mac| format!("MAC {mac} lives"));
    let mut draft = case.dropped_because(&drop, &format!("no FDB entry of {device} says on which node {whom}"));
    if let Some(mac) = mac {
        draft = draft
            .proof(drop.mono_ns(), format!("the next hop's link-layer address on {device} is {mac}"))
            .fix(format!("bridge fdb append {mac} dev {device} dst ADDRESS-OF-THAT-NODE"))
            .detail(mac);
    }
    let packet = &drop.sighting().packet;
    if let Some(devices) = case.devices(packet.netns, packet.mono_ns) {
        let entries = devices.fdb.iter().filter(|e| e.ifindex == packet.ifindex && e.remote.is_some());
        let known: Vec<String> = entries.filter_map(|e| Some(format!("{} on {}", e.mac, e.remote?))).take(4).collect();
        let known = if known.is_empty() { "no entry at all".to_owned() } else { known.join(", ") };
        draft = draft.proof(drop.mono_ns(), format!("forwarding entries of {device}: {known}"));
    }
    Some(
        draft
            .fix("restart the CNI's agent (flanneld, calico-node), which writes these entries".to_owned())
            .fix(format!("bridge fdb show dev {device}; ip neigh show dev {device}")),
    )
}

fn is_without_peer(drop: &Drop<'_>) -> bool {
    // A bridge that finds no port for a frame uses the reason too.
    (&**drop.reason == "NO_TX_TARGET" && !drop.site.starts_with("br_"))
        || (&**drop.reason == "NOT_SPECIFIED" && drop.site == "vxlan_xmit")
}

/// The link-layer address the inner frame is for: that of its next hop.
fn inner_mac(case: &Case<'_>, drop: &Drop<'_>) -> Option<String> {
    let packet = &drop.sighting().packet;
    let facts = case.namespace(packet.netns)?;
    let flow = drop.head.flow?;
    let looked_up = case
        .decision(packet.netns, drop.step.forward, packet.mono_ns)
        .filter(|l| l.err == 0 && l.out_ifindex == packet.ifindex)
        .map(|l| l.gateway.unwrap_or(flow.dst.ip()));
    let next_hop = looked_up.or_else(|| intent::next_hop(facts, &flow, drop.head.mark))?;
    let entry = facts.neighbours.iter().find(|n| n.ifindex == packet.ifindex && n.ip == next_hop)?;
    (!entry.mac.is_empty()).then(|| entry.mac.clone())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, lookup_via, syn};
    use super::*;
    use crate::model::{
        facts::{Link, Neigh},
        packet::LookupRole,
    };

    #[test]
    fn names_the_inner_mac() {
        let mut scene = Scene::pod_to_db();
        let vxlan = Link { index: 9, name: "flannel.1".to_owned(), kind: "vxlan".to_owned(), ..Link::default() };
        scene.node().links.insert(9, vxlan);
        let ip = "10.42.2.0".parse().expect("an address");
        let entry = Neigh { ifindex: 9, ip, mac: "02:42:02:00:00:00".to_owned(), state: "PERMANENT".to_owned() };
        scene.node().neighbours.push(entry);
        scene.step(1, lookup_via(254, 9, "10.42.2.0", LookupRole::Input), "flannel.1");
        scene.step(2, drop_of(syn(), "NO_TX_TARGET", "vxlan_xmit", &[]), "flannel.1");
        let draft = check(&scene.case()).expect("there is no entry");
        assert_eq!(
            draft.claim,
            "the node dropped the packet of shop/web-0 to 10.20.0.4:3306 on flannel.1: no FDB entry of flannel.1 says on \
             which node MAC 02:42:02:00:00:00 lives"
        );
    }

    #[test]
    fn stays_silent_on_an_unknown_vni() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, drop_of(syn(), "VXLAN_VNI_NOT_FOUND", "vxlan_rcv", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
