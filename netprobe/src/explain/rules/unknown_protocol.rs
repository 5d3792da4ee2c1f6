//! Nobody handles the frame's EtherType, or the packet's IP protocol.

use crate::explain::{Case, Draft, Drop, Rule};

pub(super) const RULE: Rule =
    Rule { id: "unknown-protocol", means: "nobody here handles the frame's EtherType or the packet's protocol", check };

fn check(case: &Case<'_>) -> Option<Draft> {
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
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;
    use crate::model::packet::Head;

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

    #[test]
    fn stays_silent_on_lldp_and_on_a_closed_port() {
        assert_eq!(of_type(0x88cc), None);
        let mut scene = Scene::pod_to_db();
        scene.step(1, drop_of(syn(), "NO_SOCKET", "tcp_v4_rcv", &[]), "eth0");
        assert_eq!(check(&scene.case()), None);
    }
}
