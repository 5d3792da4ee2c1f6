//! A packet to a service went on with the service's address: no rule translated it.

use crate::{
    explain::{
        Case, Draft, Rule,
        service::{Addressed, addressed, by_rules},
    },
    model::{
        finding::Confidence,
        journey::Step,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "service-not-translated",
    means: "a packet to a service left or was refused untranslated: no rule of kube-proxy took it",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    let flow = &case.journey.flow;
    let gone = untranslated(case)?;
    if spoken_with(case) {
        return None;
    }
    let (packet, node) = (&gone.sighting.packet, case.facts.node()?);
    let service = addressed(case, flow);
    let ruleset = case.netfilter(node.inum, packet.mono_ns).map(|window| window.after);
    let service = service.or_else(|| by_rules(ruleset?, flow, false));
    let (what, why, confidence) = match &service {
        Some(service) if !service.other_ports.is_empty() => (
            service.words(flow.dst),
            format!("has no such port (it has {})", service.other_ports.join(", ")),
            Confidence::Stated,
        ),
        Some(service) => (service.words(flow.dst), "was not translated".to_owned(), Confidence::Stated),
        None if in_service_range(case) => (
            format!("{} lies among the services' addresses", flow.dst),
            "is no service's".to_owned(),
            Confidence::Likely,
        ),
        None => return None,
    };
    if service.as_ref().is_some_and(|service| service.by_node) {
        return None;
    }
    let device = gone.sighting.device.to_string();
    let claim = format!(
        "{what} {why}: the packet of {} left the node by {device} still addressed to {}, no rule of kube-proxy took it",
        case.who(),
        flow.destination()
    );
    let mut draft = Draft::new(case, Side::Node, Some(device.clone()), claim)
        .confidence(confidence)
        .detail(flow.destination())
        .proof(packet.mono_ns, format!("net_dev_start_xmit on {device}: {}", head_of(gone)));
    if let What::Hop { ct: Some(ct), .. } = &packet.what {
        draft = draft.proof(
            packet.mono_ns,
            format!("its conntrack entry translates nothing: the answer is to come from {}", ct.reply.src),
        );
    }
    let name = service.as_ref().map_or_else(|| flow.dst.ip().to_string(), |service| service.name.clone());
    Some(
        draft
            .fix(format!(
                "see what kube-proxy made of {name}: iptables-save -t nat | grep {}; nft list table ip kube-proxy",
                flow.dst.ip()
            ))
            .fix(remedy(service.as_ref())),
    )
}

fn remedy(service: Option<&Addressed>) -> &'static str {
    match service {
        Some(service) if !service.other_ports.is_empty() => "call a port that the service has, or add this one to it",
        Some(_) => "restart kube-proxy on this node and read its log: its rules are incomplete",
        None => "correct the address that is called: there is no such service",
    }
}

fn head_of(step: &Step) -> String {
    match &step.sighting.packet.what {
        What::Hop { head, .. } => head.flow.map_or_else(String::new, |flow| flow.to_string()),
        _ => String::new(),
    }
}

/// The packet left the node as it was sent.
fn untranslated<'a>(case: &Case<'a>) -> Option<&'a Step> {
    let flow = case.journey.flow;
    let (exit, _) = case.exits()?;
    match &exit.sighting.packet.what {
        What::Hop { head, .. } if head.flow.is_some_and(|f| f.dst == flow.dst && f.proto == flow.proto) => Some(exit),
        _ => None,
    }
}

/// Somebody answers under that address: it is served elsewhere.
fn spoken_with(case: &Case<'_>) -> bool {
    case.steps().any(|step| {
        !step.forward
            && matches!(&step.sighting.packet.what,
                What::Hop { place: Place::Receive, head, inner: None, .. } if !head.flags.rst() && head.icmp.is_none())
    })
}

/// It stands in the same block as the services that are known: /24 of IPv4, /112 of IPv6 are one range's part.
fn in_service_range(case: &Case<'_>) -> bool {
    let ip = case.journey.flow.dst.ip();
    let bits = if ip.is_ipv4() { 24 } else { 112 };
    let block = ipnet::IpNet::new(ip, bits).map(|net| net.trunc());
    let services = case.inventory.services.iter().flat_map(|service| &service.cluster_ips);
    block.is_ok_and(|block| services.into_iter().any(|other| block.contains(other)))
        && !case.facts.namespaces.values().any(|facts| facts.owns(ip))
        && !case.inventory.pods.iter().any(|pod| pod.ips.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, hop, syn, syn_ack};
    use super::*;
    use crate::model::inventory::{Service, ServicePort};

    fn scene(port: u16) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.inventory.services.push(Service {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            cluster_ips: vec!["10.20.0.4".parse().expect("an address")],
            ports: vec![ServicePort { port, protocol: "TCP".to_owned(), ..ServicePort::default() }],
            ..Service::default()
        });
        scene.step(1, hop(Place::Transmit, syn()), "eth1");
        scene
    }

    #[test]
    fn names_the_service_and_the_device() {
        let draft = check(&scene(3306).case()).expect("it left as it was");
        assert_eq!(
            draft.claim,
            "service shop/db (10.20.0.4:3306) was not translated: the packet of shop/web-0 left the node by eth1 still \
             addressed to 10.20.0.4:3306, no rule of kube-proxy took it"
        );
    }

    #[test]
    fn names_a_port_that_the_service_does_not_have() {
        let draft = check(&scene(5432).case()).expect("it left as it was");
        assert!(draft.claim.contains("has no such port (it has 5432/TCP)"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_an_address_that_answers_and_on_one_that_is_no_service() {
        let mut scene = scene(3306);
        scene.back(2, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&scene.case()), None);
        let mut outside = Scene::pod_to_db();
        outside.step(1, hop(Place::Transmit, syn()), "eth1");
        assert_eq!(check(&outside.case()), None);
    }
}
