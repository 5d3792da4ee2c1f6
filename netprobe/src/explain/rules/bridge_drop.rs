//! A bridge would not forward the frame.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::facts::Link,
};

pub(super) const RULE: Rule = Rule {
    id: "bridge-drop",
    means: "a bridge would not forward the frame: isolated ports, hairpin off, a blocked port, VLAN filtering",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let drop = case.drops().find(is_bridge)?;
    let device = drop.device()?;
    let packet = &drop.sighting().packet;
    let facts = case.namespace(packet.netns)?;
    let port = facts.links.get(&packet.ifindex);
    let bridge = port.and_then(|p| facts.links.get(&p.master)).map_or("the bridge", |b| b.name.as_str());
    let ahead = port.and_then(|port| port_of_addressee(case, &drop, port));
    let to = ahead.map_or_else(String::new, |far| format!(" to port {}", far.name));
    let why = why(&drop, port, ahead);
    Some(
        case.dropped_because(&drop, &format!("{bridge} would not forward it from port {device}{to} ({why})"))
            .detail(bridge.to_owned())
            .fix(format!(
                "bridge -d link show dev {device}  # isolated, hairpin, state, and the same of the other port"
            ))
            .fix(fix(&drop, port, ahead, &device)),
    )
}

fn is_bridge(drop: &Drop<'_>) -> bool {
    let inside = (drop.site.starts_with("br_") || drop.site.starts_with("__br_")) && !drop.site.starts_with("br_nf_");
    let by_place = inside || matches!(drop.site, "__allowed_ingress" | "nbp_switchdev_allowed_egress");
    &**drop.reason == "BRIDGE_INGRESS_STP_STATE" || (by_place && &**drop.reason == "NOT_SPECIFIED")
}

/// The bridge's port behind which the addressee is.
fn port_of_addressee<'a>(case: &Case<'a>, drop: &Drop<'_>, port: &Link) -> Option<&'a Link> {
    let target = drop.head.flow?.dst.ip();
    let owner = case.facts.namespaces.values().find(|n| n.owns(target))?;
    let facts = case.namespace(drop.sighting().packet.netns)?;
    facts.links.values().find(|l| l.master == port.master && l.peer_netns == Some(owner.inum))
}

fn why(drop: &Drop<'_>, port: Option<&Link>, ahead: Option<&Link>) -> &'static str {
    match (&**drop.reason, drop.site) {
        ("BRIDGE_INGRESS_STP_STATE", _) => "spanning tree has blocked the port",
        (_, "__allowed_ingress" | "br_allowed_ingress" | "br_handle_vlan" | "br_allowed_egress") => {
            "VLAN filtering: the port is no member of the frame's VLAN"
        }
        _ if ahead.is_some() && ahead.map(|l| l.index) == port.map(|l| l.index) => {
            "it would go back where it came from: hairpin is off"
        }
        _ => "both ports are isolated, hairpin is off, or the port is not forwarding",
    }
}

fn fix(drop: &Drop<'_>, port: Option<&Link>, ahead: Option<&Link>, device: &str) -> String {
    match why(drop, port, ahead) {
        w if w.starts_with("spanning") => {
            "wait for spanning tree, or: ip link set BRIDGE type bridge stp_state 0".to_owned()
        }
        w if w.starts_with("VLAN") => format!("bridge vlan show; bridge vlan add vid VID dev {device}"),
        w if w.starts_with("it would") => format!("bridge link set dev {device} hairpin on"),
        _ => format!("bridge link set dev {device} isolated off"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;

    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        let bridge = Link { index: 20, name: "cni0".to_owned(), kind: "bridge".to_owned(), ..Link::default() };
        scene.node().links.insert(20, bridge);
        for link in scene.node().links.values_mut().filter(|l| l.name == "vpod1") {
            link.master = 20;
        }
        scene
    }

    #[test]
    fn names_the_bridge_and_the_port() {
        let mut scene = scene();
        scene.step(1, drop_of(syn(), "NOT_SPECIFIED", "br_handle_frame_finish", &[]), "vpod1");
        let draft = check(&scene.case()).expect("the bridge refused it");
        assert!(draft.claim.contains("on vpod1: cni0 would not forward it from port vpod1"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_netfilter_rule_on_the_bridge() {
        let mut scene = scene();
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "br_nf_forward_ip"]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
