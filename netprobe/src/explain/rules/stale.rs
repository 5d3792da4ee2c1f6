//! A call to a service was translated to an address that is no endpoint of it any more: kube-proxy still names it, or only
//! an old conntrack entry does.

use std::net::SocketAddr;

use crate::{
    explain::{
        Case, Draft, Rule,
        service::{Addressed, addressed},
    },
    model::{
        finding::Confidence,
        packet::{Conntrack, Place, What},
        ruleset::Ruleset,
        sighting::Side,
    },
};

/// kube-proxy's rules name it.
pub(super) const ENDPOINT: Rule = Rule {
    id: "stale-endpoint",
    means: "a service call was translated to an address that is no endpoint any more",
    check: |case| check(case, false),
};

/// Only the entry does.
pub(super) const CONNTRACK: Rule = Rule {
    id: "stale-conntrack",
    means: "an old conntrack entry still sends the flow to a former backend",
    check: |case| check(case, true),
};

/// How long an answer may take before its lack is a proof, nanoseconds: DNS resolvers and TCP ask again after longer.
const ANSWER_NS: u64 = 1_000_000_000;

fn check(case: &Case<'_>, by_entry: bool) -> Option<Draft> {
    let called = case.journey.flow;
    let (at_ns, netns, ct) = translated(case)?;
    if spoken_with(case) {
        return None;
    }
    let to = ct.reply.src;
    let service = addressed(case, &called)?;
    let endpoints = service.ready.as_ref()?;
    if endpoints.is_empty() || endpoints.contains(&to.ip()) {
        return None;
    }
    // The entry outlives the rule that made it; without the rules it cannot be told who names the address.
    let ruleset = case.netfilter(netns, at_ns).map(|window| window.after);
    let named = ruleset.map(|ruleset| names(ruleset, to));
    if named.unwrap_or(true) == by_entry {
        return None;
    }
    Some(draft(case, &service, (at_ns, to), named, by_entry))
}

fn draft(
    case: &Case<'_>,
    service: &Addressed,
    (at_ns, to): (u64, SocketAddr),
    named: Option<bool>,
    by_entry: bool,
) -> Draft {
    let called = case.journey.flow;
    let what = service.words(called.dst);
    let whose = case.inventory.holder(to.ip());
    let whose =
        whose.map_or_else(|| "no pod's address".to_owned(), |pod| format!("pod {}/{}", pod.namespace, pod.name));
    let ready: Vec<String> = service.ready.iter().flatten().take(4).map(ToString::to_string).collect();
    let why = if by_entry {
        "an old conntrack entry sends it there, no rule of kube-proxy does"
    } else {
        "kube-proxy's rules on this node still name it"
    };
    let claim = format!(
        "{} called {what} and was sent to {to}, {whose} and no endpoint of the service any more: {why}",
        case.who()
    );
    let confidence = if named.is_some() { Confidence::Likely } else { Confidence::Possible };
    let mut draft = Draft::new(case, Side::Node, None, claim)
        .confidence(confidence)
        .detail(format!("{} {to}", service.name))
        .proof(at_ns, format!("conntrack entry: {} is translated to {to}", called.destination()))
        .proof(at_ns, format!("the cluster lists {} as endpoints of {}", ready.join(", "), service.name));
    draft.proven_ns = case.journey.first_ns.saturating_add(ANSWER_NS);
    if by_entry {
        draft
            .fix(format!("conntrack -D -p {} --orig-dst {} --reply-src {}", called.proto, called.dst.ip(), to.ip()))
            .fix("kube-proxy deletes such UDP entries itself: read its log; clients that reuse one source port keep them alive")
    } else {
        draft
            .fix(format!("restart kube-proxy on this node: iptables-save -t nat | grep {}", to.ip()))
            .fix("see whether kube-proxy reaches the API server (its log): it did not learn of the change")
    }
}

/// The last entry of the flow that leads elsewhere than it was called.
fn translated<'a>(case: &Case<'a>) -> Option<(u64, u32, &'a Conntrack)> {
    case.steps().rev().filter(|step| step.forward).find_map(|step| match &step.sighting.packet.what {
        What::Hop { ct: Some(ct), inner: None, .. } | What::Dropped { ct: Some(ct), .. }
            if ct.dnat() && step.sighting.side == Side::Node && ct.original.dst == case.journey.flow.dst =>
        {
            Some((step.sighting.packet.mono_ns, step.sighting.packet.netns, ct))
        }
        _ => None,
    })
}

/// It answers: a former endpoint that serves what it has begun is no fault.
fn spoken_with(case: &Case<'_>) -> bool {
    case.steps().any(|step| {
        let spoken = matches!(&step.sighting.packet.what,
            What::Hop { place: Place::Receive | Place::Transmit, head, inner: None, .. }
                if !head.flags.rst() && head.icmp.is_none());
        !step.forward && spoken
    })
}

/// A rule of kube-proxy translates to that address.
fn names(ruleset: &Ruleset, to: SocketAddr) -> bool {
    let wanted = [format!("--to-destination {to}"), format!("dnat to {to}")];
    ruleset
        .tables
        .iter()
        .flat_map(|table| table.chains.values())
        .flat_map(|chain| &chain.rules)
        .any(|rule| wanted.iter().any(|text| rule.text.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, flow, hop, new_entry, syn, tracked};
    use super::*;
    use crate::model::inventory::{Endpoint, Service, ServicePort};

    const RULES: &str =
        "*nat\n:KUBE-SEP-1 - [0:0]\n-A KUBE-SEP-1 -p tcp -j DNAT --to-destination 10.9.0.30:3306\nCOMMIT\n";

    fn scene(endpoint: &str) -> Scene {
        let mut scene = Scene::pod_to_db();
        scene.inventory.services.push(Service {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            cluster_ips: vec![flow().dst.ip()],
            ports: vec![ServicePort { port: 3306, protocol: "TCP".to_owned(), ..ServicePort::default() }],
            endpoints: vec![Endpoint {
                ip: endpoint.parse().expect("an address"),
                ports: vec![3306],
                ready: true,
                node: None,
            }],
            ..Service::default()
        });
        let mut entry = new_entry(flow());
        entry.reply.src = "10.9.0.30:3306".parse().expect("an address");
        scene.step(1, tracked(hop(Place::Transmit, syn()), entry), "vpod2");
        scene
    }

    #[test]
    fn tells_a_rule_from_an_entry() {
        let mut by_rule = scene("10.9.0.31");
        by_rule.iptables(2, RULES);
        let draft = check(&by_rule.case(), false).expect("the rule names it");
        assert_eq!(
            draft.claim,
            "shop/web-0 called service shop/db (10.20.0.4:3306) and was sent to 10.9.0.30:3306, no pod's address and no \
             endpoint of the service any more: kube-proxy's rules on this node still name it"
        );
        assert_eq!(check(&by_rule.case(), true), None);
        let mut by_entry = scene("10.9.0.31");
        by_entry.iptables(2, &RULES.replace("10.9.0.30", "10.9.0.31"));
        assert!(check(&by_entry.case(), true).expect("no rule does").claim.contains("an old conntrack entry"));
        assert_eq!(check(&by_entry.case(), false), None);
    }

    #[test]
    fn stays_silent_on_an_endpoint() {
        let mut scene = scene("10.9.0.30");
        scene.iptables(2, RULES);
        assert_eq!(check(&scene.case(), false), None);
        assert_eq!(check(&scene.case(), true), None);
    }
}
