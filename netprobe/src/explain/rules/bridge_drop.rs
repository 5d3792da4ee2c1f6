//! A bridge would not forward the frame.

use crate::{
    explain::{Case, Draft, Drop, Rule},
    model::{devices::Port, facts::Link},
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
    let to = ahead.filter(|far| far.name != device).map_or_else(String::new, |far| format!(" to port {}", far.name));
    let devices = case.devices(packet.netns, packet.mono_ns);
    let settings = |link: Option<&Link>| devices.and_then(|d| d.port(link?.index));
    let (from, onto) = (settings(port), settings(ahead));
    let back = ahead.is_some_and(|far| far.name == device);
    let why = why(&drop, from, onto, back);
    let mut draft = case
        .dropped_because(&drop, &format!("{bridge} would not forward it from port {device}{to}: {}", why.words()))
        .detail(bridge.to_owned());
    for (link, settings) in [(port, from), (ahead.filter(|_| !back), onto)] {
        if let (Some(link), Some(settings)) = (link, settings) {
            draft = draft.proof(drop.mono_ns(), format!("port {}: {}", link.name, words(settings)));
        }
    }
    Some(
        draft.fix(why.fix(bridge, &device)).fix(format!(
            "bridge -d link show dev {device}  # isolated, hairpin, state, and the same of the other port"
        )),
    )
}

/// What made the bridge refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Isolated,
    Hairpin,
    State,
    Vlan,
    NoPort,
    Unknown,
}

fn why(drop: &Drop<'_>, from: Option<&Port>, onto: Option<&Port>, back: bool) -> Why {
    let not_forwarding = |port: Option<&Port>| port.is_some_and(|p| p.state != "forwarding");
    match (&**drop.reason, drop.site) {
        ("BRIDGE_INGRESS_STP_STATE", _) => Why::State,
        (_, "__allowed_ingress" | "br_allowed_ingress" | "br_handle_vlan" | "br_allowed_egress") => Why::Vlan,
        _ if not_forwarding(from) || not_forwarding(onto) => Why::State,
        _ if back => Why::Hairpin,
        ("NO_TX_TARGET", _) if onto.is_none() => Why::NoPort,
        _ if from.is_some_and(|p| p.isolated) && onto.is_none_or(|p| p.isolated) => Why::Isolated,
        _ => Why::Unknown,
    }
}

impl Why {
    const fn words(self) -> &'static str {
        match self {
            Self::Isolated => "both ports are isolated",
            Self::Hairpin => "it would go back where it came from, and hairpin is off",
            Self::State => "spanning tree does not let the port forward",
            Self::Vlan => "VLAN filtering, the port is no member of the frame's VLAN",
            Self::NoPort => "no port of it leads to the addressee",
            Self::Unknown => "both ports are isolated, hairpin is off, or a port is not forwarding",
        }
    }

    fn fix(self, bridge: &str, device: &str) -> String {
        match self {
            Self::Isolated | Self::Unknown => format!("bridge link set dev {device} isolated off"),
            Self::Hairpin => format!("bridge link set dev {device} hairpin on"),
            Self::State => format!("wait for spanning tree, or: ip link set {bridge} type bridge stp_state 0"),
            Self::NoPort => {
                format!("bridge fdb show br {bridge}; bridge link show  # is the addressee's device a port?")
            }
            Self::Vlan => format!("bridge vlan show; bridge vlan add vid VID dev {device}"),
        }
    }
}

fn words(port: &Port) -> String {
    let on = |on| if on { "on" } else { "off" };
    format!("{}, isolated {}, hairpin {}", port.state, on(port.isolated), on(port.hairpin))
}

pub(super) fn is_bridge(drop: &Drop<'_>) -> bool {
    let inside = (drop.site.starts_with("br_") || drop.site.starts_with("__br_")) && !drop.site.starts_with("br_nf_");
    let by_place = inside || matches!(drop.site, "__allowed_ingress" | "nbp_switchdev_allowed_egress");
    &**drop.reason == "BRIDGE_INGRESS_STP_STATE"
        || (by_place && matches!(&**drop.reason, "NOT_SPECIFIED" | "NO_TX_TARGET"))
}

/// The bridge's port behind which the addressee is.
fn port_of_addressee<'a>(case: &Case<'a>, drop: &Drop<'_>, port: &Link) -> Option<&'a Link> {
    let target = drop.head.flow?.dst.ip();
    let owner = case.facts.namespaces.values().find(|n| n.owns(target))?;
    let facts = case.namespace(drop.sighting().packet.netns)?;
    facts.links.values().find(|l| l.master == port.master && l.peer_netns == Some(owner.inum))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, syn};
    use super::*;
    use crate::model::{asked::Reading, devices::Devices};

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
    fn names_the_setting_that_forbids_it() {
        let mut scene = scene();
        scene.step(1, drop_of(syn(), "NOT_SPECIFIED", "br_handle_frame_finish", &[]), "vpod1");
        let port = Port { ifindex: Scene::VPOD1, state: "forwarding".to_owned(), hairpin: false, isolated: true };
        scene.answer(Reading::Devices(Devices { ports: vec![port], ..Devices::default() }));
        let draft = check(&scene.case()).expect("the bridge refused it");
        assert!(draft.claim.ends_with("from port vpod1: both ports are isolated"), "{}", draft.claim);
        assert_eq!(draft.fix[0], "bridge link set dev vpod1 isolated off");
    }

    #[test]
    fn stays_silent_on_a_netfilter_rule_on_the_bridge() {
        let mut scene = scene();
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "br_nf_forward_ip"]), "vpod1");
        assert_eq!(check(&scene.case()), None);
    }
}
