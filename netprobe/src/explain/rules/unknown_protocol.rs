//! Nobody handles the frame's EtherType, the packet's IP protocol, or the network of a tunnel's packet.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::facts::Link,
};

pub(super) const RULE: Rule = Rule {
    id: "unknown-protocol",
    means: "nobody here handles the frame's EtherType, the packet's protocol, or the number (VNI) of its overlay network",
    check,
};

/// Functions that look for the device of an overlay's packet.
const RECEIVERS: [&str; 2] = ["vxlan_rcv", "geneve_udp_encap_recv"];

fn check(case: &Case<'_>) -> Option<Draft> {
    known_to_none(case).or_else(|| unhandled(case))
}

/// An overlay's packet with a network's number that no device here has.
fn known_to_none(case: &Case<'_>) -> Option<Draft> {
    let (drop, vni) = case.drops().find_map(|d| Some((d, d.carried?.vni)).filter(|_| RECEIVERS.contains(&d.site)))?;
    let place = case.namespace(drop.sighting().packet.netns)?;
    let overlays: Vec<&Link> = place.links.values().filter(|l| matches!(l.kind.as_str(), "vxlan" | "geneve")).collect();
    let is_told = &**drop.reason == "VXLAN_VNI_NOT_FOUND";
    // A device without a number of its own takes what the routes name.
    if !is_told && overlays.iter().any(|link| link.vni == vni || link.vni == 0) {
        return None;
    }
    let have: Vec<String> = overlays.iter().map(|link| format!("{} has {}", link.name, link.vni)).take(4).collect();
    let have = if have.is_empty() { "there is none".to_owned() } else { have.join(", ") };
    let because = format!("its network's number (VNI) is {vni}, which no overlay device here has ({have})");
    let from = drop.head.flow.map_or_else(String::new, |flow| flow.src.ip().to_string());
    Some(
        case.dropped_because(&drop, &because)
            .detail(format!("VNI {vni}"))
            .proof(drop.mono_ns(), format!("{} found no device for VNI {vni}", drop.site))
            .fix(format!("compare the overlay's configuration of this node and of {from}: ip -d link show type vxlan"))
            .fix("restart the CNI's agent on the node whose number is wrong"),
    )
}

fn unhandled(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(|d| is_unknown(case, d))?;
    let place = case.place(drop.sighting());
    let Some(flow) = drop.head.flow else { return Some(frame(case, &drop, &place)) };
    let number = flow.proto.number();
    let because = format!("no protocol handler for IP protocol {number} on {place}");
    Some(
        case.dropped_because(&drop, &because)
            .detail(format!("protocol {number}"))
            .fix(format!(
                "if it is meant to work, load the module for protocol {number} (gre 47, esp 50, ipip 4, sctp 132)"
            ))
            .fix("else stop the program that sends it"),
    )
}

fn frame(case: &Case<'_>, drop: &Drop<'_>, place: &str) -> Draft {
    let kind = drop.head.ether_type;
    case.dropped_because(drop, &format!("nobody on {place} handles EtherType {kind:#06x}"))
        .detail(format!("EtherType {kind:#06x}"))
        .proof(drop.mono_ns(), format!("EtherType {kind:#06x}, {} bytes", drop.head.len))
        .fix(format!(
            "usually harmless (LLDP, vendor protocols); see what it is: tcpdump -exni {} ether proto {kind:#06x}",
            drop.device().unwrap_or_else(|| "any".to_owned())
        ))
}

/// A frame counts only where it is a pod's: switches and neighbours talk to each other in
/// protocols of their own all day.
fn is_unknown(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    match (&**drop.reason, drop.head.flow) {
        ("UNHANDLED_PROTO", None) => case.journey.pod.is_some() && !is_control(drop.head.ether_type),
        ("UNHANDLED_PROTO" | "IP_NOPROTO", Some(flow)) => !flow.dst.ip().is_multicast(),
        _ => false,
    }
}

/// 802.3 frames with a length in place of a type (STP), LACP, LLDP.
const fn is_control(ether_type: u16) -> bool {
    ether_type < 0x600 || matches!(ether_type, 0x8809 | 0x88cc)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, flow, in_pod, syn};
    use super::*;
    use crate::model::{
        flow::{Flow, Proto},
        packet::{Carried, Head, What},
    };

    fn of_type(ether_type: u16) -> Option<Draft> {
        let mut scene = Scene::pod_to_db();
        let head = Head { flow: None, ether_type, ..syn() };
        scene.step(1, drop_of(head, "UNHANDLED_PROTO", "__netif_receive_skb_core", &[]), "vpod1");
        check(&scene.case())
    }

    #[test]
    fn names_the_ether_type() {
        let draft = of_type(0x88b5).expect("nobody handles it");
        assert_eq!(
            draft.claim,
            "the node dropped a frame of shop/web-0 on vpod1: nobody on the node handles EtherType 0x88b5"
        );
    }

    #[test]
    fn names_the_ip_protocol() {
        let mut scene = Scene::pod_to_db();
        scene.step(1, in_pod(drop_of(syn(), "IP_NOPROTO", "ip_local_deliver_finish", &[])), "eth0");
        let draft = check(&scene.case()).expect("nobody handles it");
        assert!(draft.claim.contains("no protocol handler for IP protocol 6"), "{}", draft.claim);
    }

    fn of_network(vni: u32) -> Option<Draft> {
        let mut scene = Scene::pod_to_db();
        let vxlan =
            Link { index: 9, name: "flannel.1".to_owned(), kind: "vxlan".to_owned(), vni: 1, ..Link::default() };
        scene.node().links.insert(9, vxlan);
        let mut dropped = drop_of(around(), "NOT_SPECIFIED", "vxlan_rcv", &["udp_queue_rcv_one_skb"]);
        if let What::Dropped { carried, .. } = &mut dropped {
            *carried = Some(Carried { flow: flow().reversed(), vni });
        }
        scene.back(1, dropped, "eth0");
        check(&scene.case())
    }

    /// The head of a datagram of the overlay from another node.
    fn around() -> Head {
        let end = |text: &str| text.parse().expect("an address with a port");
        let outer = Flow { proto: Proto::Udp, src: end("10.33.0.10:40000"), dst: end("10.32.0.10:8472") };
        Head { flow: Some(outer), ..syn() }
    }

    #[test]
    fn names_a_network_that_no_device_has() {
        let draft = of_network(7).expect("nobody handles it");
        let inside = "10.32.0.10:8472 udp, which carries an answer of 10.20.0.4:3306";
        let number = "on eth0: its network's number (VNI) is 7, which no overlay device here has (flannel.1 has 1)";
        assert!(draft.claim.contains(inside) && draft.claim.ends_with(number), "{}", draft.claim);
        assert_eq!(of_network(1), None, "it was dropped for another reason");
    }

    #[test]
    fn stays_silent_on_lldp_and_on_a_closed_port() {
        assert_eq!(of_type(0x88cc), None);
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NO_SOCKET", "tcp_v4_rcv", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
