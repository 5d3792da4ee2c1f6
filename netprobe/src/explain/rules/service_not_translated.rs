//! A packet to a service went on with the service's address: no rule translated it.

use std::net::IpAddr;

use crate::{
    explain::{
        Case, Draft, Drop, Rule,
        service::{Addressed, addressed, by_rules},
    },
    model::{
        finding::Confidence,
        journey::Step,
        packet::{Place, What},
        ruleset::Ruleset,
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule {
    id: "service-not-translated",
    means: "a packet to a service left or was refused untranslated: no rule of kube-proxy took it",
    check,
};

fn check(case: &Case<'_>) -> Option<Draft> {
    left(case).or_else(|| refused(case))
}

/// A NodePort that no rule takes is the node's own, where nobody listens.
fn refused(case: &Case<'_>) -> Option<Draft> {
    let flow = &case.journey.flow;
    let node = case.facts.node()?;
    let is_refused = |d: &Drop<'_>| {
        &**d.reason == "NO_SOCKET"
            && d.step.forward
            && d.sighting().packet.netns == node.inum
            && d.head.flow.is_some_and(|f| f.dst == flow.dst && f.proto == flow.proto)
    };
    let drop = case.drops().find(is_refused)?;
    let ruleset = case.netfilter(node.inum, drop.mono_ns()).map(|window| window.after);
    let service = addressed(case, flow).or_else(|| by_rules(ruleset?, flow, true)).filter(|service| service.by_node)?;
    let claim = format!(
        "{} was not translated: the node took the packet of {} for its own, and no socket listens there; no rule of \
         kube-proxy took it",
        service.words(flow.dst),
        case.client()
    );
    Some(
        case.about_drop(&drop, claim)
            .detail(flow.destination())
            .fix(format!(
                "see what kube-proxy made of {}: iptables-save -t nat | grep {}; nft list table ip kube-proxy",
                service.name,
                flow.dst.port()
            ))
            .fix(remedy(Some(&service))),
    )
}

/// It left the node as it was sent.
fn left(case: &Case<'_>) -> Option<Draft> {
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
        None if in_service_range(case) => {
            (format!("{}, among the services' addresses,", flow.dst), "is of no service".to_owned(), Confidence::Likely)
        }
        None => return None,
    };
    if service.as_ref().is_some_and(|service| service.by_node) {
        return None;
    }
    let device = gone.sighting.device.to_string();
    let untracked = ruleset.filter(|_| !is_tracked(gone)).and_then(|ruleset| untracking(ruleset, flow.dst.ip()));
    let because = untracked.map_or_else(
        || "no rule of kube-proxy took it".to_owned(),
        |rule| format!("because it is untracked: a rule keeps it from conntrack ({rule}), and so from kube-proxy's"),
    );
    let claim = format!(
        "{what} {why}: the packet of {} left the node by {device} still addressed to {}, {because}",
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
    if let Some(rule) = untracked {
        return Some(draft.fix(format!("take the service's addresses out of that rule: {rule}")));
    }
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

fn is_tracked(step: &Step) -> bool {
    matches!(&step.sighting.packet.what, What::Hop { ct: Some(_), .. })
}

/// A rule that keeps packets to that address from conntrack, or may.
fn untracking(ruleset: &Ruleset, to: IpAddr) -> Option<&str> {
    let lines = ruleset.tables.iter().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules);
    let keeps_off = |text: &str| ["notrack", "NOTRACK"].iter().any(|word| text.contains(word));
    let mut rules = lines.map(|rule| rule.text.as_str()).filter(|text| keeps_off(text));
    // One that names the address stands before one that names none.
    let all: Vec<&str> = rules.by_ref().collect();
    let named = all.iter().find(|text| text.contains(&to.to_string()));
    let open = || all.iter().find(|text| !text.contains("-d ") && !text.contains("daddr"));
    named.or_else(open).copied()
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
    use super::super::testing::{Scene, drop_of, hop, syn, syn_ack};
    use super::*;
    use crate::model::{
        flow::Flow,
        inventory::{Service, ServicePort},
        packet::Head,
    };

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
    fn names_the_rule_that_keeps_it_from_conntrack() {
        let mut scene = scene(3306);
        scene.iptables(2, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.20.0.4/32 -j CT --notrack\nCOMMIT\n");
        let draft = check(&scene.case()).expect("it left as it was");
        assert!(draft.claim.contains("because it is untracked: a rule keeps it from conntrack"), "{}", draft.claim);
    }

    #[test]
    fn a_node_port_that_the_node_takes_for_its_own_is_its_services() {
        let mut scene = Scene::pod_to_db();
        let flow = Flow { dst: "10.32.0.10:30080".parse().expect("an address"), ..scene.journey.flow };
        scene.journey.flow = flow;
        let ports =
            vec![ServicePort { port: 80, protocol: "TCP".to_owned(), node_port: 30080, ..ServicePort::default() }];
        scene.inventory.services.push(Service {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ports,
            ..Service::default()
        });
        scene.step(1, drop_of(Head { flow: Some(flow), ..syn() }, "NO_SOCKET", "tcp_v4_rcv", &[]), "eth0");
        let draft = check(&scene.case()).expect("no rule took it");
        assert!(
            draft.claim.starts_with("service shop/web (NodePort 10.32.0.10:30080) was not translated"),
            "{}",
            draft.claim
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
