//! Nothing is behind the service that the packet is addressed to: kube-proxy refuses or drops it.

use super::netfilter::{Met, met};
use crate::{
    explain::{
        Case, Draft, Rule,
        service::{Addressed, addressed, named},
    },
    model::{finding::Confidence, packet::Judge, sighting::Side},
};

/// No endpoint at all.
pub(super) const NONE: Rule =
    Rule { id: "service-no-endpoints", means: "the service has no ready endpoint", check: |case| check(case, false) };

/// None on this node, and only those count.
pub(super) const NONE_HERE: Rule = Rule {
    id: "service-no-local-endpoint",
    means: "the service has no ready endpoint on this node, and its traffic policy allows no other",
    check: |case| check(case, true),
};

fn check(case: &Case<'_>, local: bool) -> Option<Draft> {
    let flow = &case.journey.flow;
    let known = addressed(case, flow).filter(|service| service.other_ports.is_empty());
    let dropped = case.drops().any(|d| &**d.reason == "NETFILTER_DROP");
    if !dropped {
        return None;
    }
    let met = met(case)?;
    // The rule's own word first: kube-proxy writes the reason into the comment.
    let comment = met.guilty().map(|guilty| guilty.comment().to_owned()).unwrap_or_default();
    let by_comment = named(&comment).filter(|_| {
        if local { comment.ends_with("has no local endpoints") } else { comment.ends_with("has no endpoints") }
    });
    let by_map = met.guilty().is_some_and(|guilty| guilty.is_of_kube_proxy());
    let service = match (by_comment, known) {
        (Some(name), known) => known.unwrap_or_else(|| bare(case, name)),
        (None, Some(known)) if is_so(&known, local) && (by_map || met.guilty().is_none()) => known,
        (None, None) if !local && by_ipvs(case, &met) => {
            Addressed { by_node: false, ..bare(case, "of IPVS".to_owned()) }
        }
        _ => return None,
    };
    Some(draft(case, &met, &service, local))
}

/// IPVS itself refused it, where it meets what is for the node: kube-proxy gives the addresses of services to a device.
fn by_ipvs(case: &Case<'_>, met: &Met<'_>) -> bool {
    let by_rule = met.told.is_some_and(|told| matches!(told.judge, Judge::Nftables { .. } | Judge::Xtables { .. }));
    met.netfilter.hook == "input"
        && met.drop.site == "nf_hook_slow"
        && met.answer.is_some()
        && met.guilty().is_none()
        && !by_rule
        && ipvs_device(case).is_some()
}

/// The device to which kube-proxy gives the addresses of services for IPVS, if the flow's destination is one of them.
fn ipvs_device<'a>(case: &Case<'a>) -> Option<&'a str> {
    let (node, dst) = (case.facts.node()?, case.journey.flow.dst.ip());
    let held = node.addresses.iter().filter(|address| address.net.addr() == dst);
    let links = held.filter_map(|address| node.links.get(&address.ifindex));
    links.map(|link| link.name.as_str()).find(|name| *name == "kube-ipvs0")
}

/// The cluster says so.
fn is_so(service: &Addressed, local: bool) -> bool {
    if local {
        !service.is_empty() && service.local_only == Some(true) && service.ready_here == Some(0)
    } else {
        service.is_empty() && service.local_only != Some(true)
    }
}

fn bare(case: &Case<'_>, name: String) -> Addressed {
    let by_node = case.facts.node().is_some_and(|node| node.owns(case.journey.flow.dst.ip()));
    Addressed { name, by_node, ready: None, ready_here: None, local_only: None, other_ports: Vec::new() }
}

fn draft(case: &Case<'_>, met: &Met<'_>, service: &Addressed, local: bool) -> Draft {
    let what = service.words(case.journey.flow.dst);
    let lack = if local {
        let policy = if service.by_node { "externalTrafficPolicy" } else { "internalTrafficPolicy" };
        format!("has no endpoint on this node and {policy} Local")
    } else {
        "has no endpoints".to_owned()
    };
    let did = met.answer.as_ref().map_or("dropped it", |_| "refused it");
    let how = met.answer.as_ref().map_or_else(String::new, |(_, answer)| format!(" with {answer}"));
    let claim = format!(
        "{what} {lack}: {} called it and {} {did}{how} in the {} hook",
        case.who(),
        case.place(met.drop.sighting()),
        met.netfilter.hook,
    );
    let mut draft =
        met.draft(case, claim).detail(format!("{} {} {}", service.name, service.by_node, case.journey.flow.dst));
    if let Some(guilty) = met.guilty() {
        draft = draft.proof(met.drop.mono_ns(), guilty.words());
    }
    if let Some(device) = ipvs_device(case).filter(|_| met.guilty().is_none()) {
        let dst = case.journey.flow.dst.ip();
        draft = draft
            .confidence(Confidence::Likely)
            .proof(
                met.drop.mono_ns(),
                format!("{dst} is an address of {device}: IPVS has the service, and no rule refused it"),
            )
            .fix("see its endpoints: ipvsadm -L -n");
    }
    if service.is_empty() {
        draft = draft.proof(met.drop.mono_ns(), format!("the cluster lists no ready endpoint of {}", service.name));
    }
    draft.side = Side::Node;
    draft = draft.fix(service.name.split_once('/').map_or_else(
        || format!("kubectl get services -A | grep {}", case.journey.flow.dst.ip()),
        |(namespace, name)| format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"),
    ));
    if local {
        draft.fix("send the traffic to a node that runs a backend (the load balancer's health check), or use the policy Cluster")
    } else {
        draft.fix("make a backend ready: check the service's selector and the pods' readiness probes")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, icmp_sent, syn};
    use super::*;

    const STACK: [&str; 4] = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];
    const RULES: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:FORWARD ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
[2:120] -A FORWARD -j KUBE-SERVICES
[2:120] -A KUBE-SERVICES -d 10.20.0.4/32 -p tcp -m comment --comment \"shop/db has no endpoints\" -m tcp --dport 3306 -j REJECT
COMMIT
";

    fn scene(rules: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.step(1, icmp_sent(syn(), 3, 3), "vpod1");
        scene.step(1, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &STACK), "vpod1");
        scene.iptables(2, rules);
        scene
    }

    #[test]
    fn names_the_service_that_is_empty() {
        let draft = check(&scene(RULES).case(), false).expect("the comment says so");
        assert_eq!(
            draft.claim,
            "service shop/db (10.20.0.4:3306) has no endpoints: shop/web-0 called it and the node refused it with ICMP \
             port-unreachable in the forward hook"
        );
        assert_eq!(check(&scene(RULES).case(), true), None);
    }

    #[test]
    fn names_the_service_that_has_none_here() {
        let rules = RULES.replace("has no endpoints", "has no local endpoints");
        let draft = check(&scene(&rules).case(), true).expect("the comment says so");
        assert!(draft.claim.contains("shop/db (10.20.0.4:3306) has no endpoint on this node"), "{}", draft.claim);
    }

    #[test]
    fn stays_silent_on_a_firewall() {
        let rules = RULES.replace("shop/db has no endpoints", "no databases");
        assert_eq!(check(&scene(&rules).case(), false), None);
        assert_eq!(check(&Scene::pod_to_db().case(), false), None);
    }
}
