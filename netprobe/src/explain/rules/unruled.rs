//! The packet left by another device than the rules meant for it: the policy rule is missing that other pods have, or was
//! deleted.

use std::net::IpAddr;

use super::{
    no_reply,
    wrong_egress::{Exit, draft, is_global},
};
use crate::{
    explain::{Case, Draft, expected::Expected},
    facts::policy,
    model::{
        facts::{Change, NamespaceKind, Rule as IpRule, RuleAction, What as Changed, table_name},
        finding::Confidence,
        packet::{Place, What},
        sighting::Side,
    },
};

/// Every other pod of this node has a rule of its own, this one has none: and its packets get no
/// answer, or the answers come in by the device of the others.
pub(super) fn check(case: &Case<'_>, exit: &Exit<'_>) -> Option<Draft> {
    // A route of its own for the destination (a tunnel's, say) is meant; and the node's own
    // packets, also those of pods that share its namespace, need no pod's rule.
    let taken = policy::lookup(exit.node, exit.route.table, exit.flow.dst.ip())?;
    if case.journey.pod.is_none() || taken.dst.prefix_len() != 0 {
        return None;
    }
    let src = exit.flow.src.ip();
    // What comes from elsewhere to a pod is led by its destination.
    if exit.node.owns(src) || !case.facts.namespaces.values().any(|ns| ns.owns(src)) {
        return None;
    }
    let own = |r: &&IpRule| r.src.is_some_and(|n| n.prefix_len() > 0 && n.contains(&src)) && r.v6 == src.is_ipv6();
    if exit.node.rules.iter().any(|r| own(&r)) {
        return None;
    }
    let deleted = case
        .last_change(exit.node.inum, |c| matches!(&c.what, Changed::RuleDeleted(r) | Changed::RuleAdded(r) if own(&r)));
    let gone = deleted.and_then(|c| match &c.what {
        Changed::RuleDeleted(rule) => Some((c, rule)),
        _ => None,
    });
    let (model, whose) = match gone {
        Some((_, rule)) => (rule, None),
        None => neighbours_rule(case, exit, src).map(|(rule, pod)| (rule, Some(pod)))?,
    };
    let route = policy::lookup(exit.node, model.table, exit.flow.dst.ip())?;
    let hop = route.next_hops.first()?;
    let device = exit.node.device(hop.ifindex);
    if device == exit.device {
        return None;
    }
    let proven_ns = if gone.is_some() { 0 } else { suffers(case, &device)? };
    // The node's NAT rules say that such a pod leaves as the node: then it lacks that, and no rule of its own.
    if gone.is_none() && super::masquerade::missing(case).is_some() {
        return None;
    }
    let table = table_name(model.table);
    let why = whose.as_ref().map_or_else(
        || format!("rule {} ({}) was there", model.preference, model.text()),
        |pod| format!("rule {} ({}) does that for {pod}; every other pod has one", model.preference, model.text()),
    );
    let confidence = if gone.is_some() { Confidence::Stated } else { Confidence::Likely };
    let expected = Expected { device: device.clone(), gateway: hop.gateway, why, confidence };
    let claim = format!(
        "{} leaves this node by {}: its policy rule is missing (from {src} lookup {table}), and table {table} ({device}) is never asked",
        case.who(),
        exit.device
    );
    let mut draft = draft(case, exit, &expected, claim).detail("rule");
    draft.proven_ns = proven_ns;
    draft.since = gone.map(|(change, rule)| was_deleted(case, change, rule));
    let ip = if exit.flow.is_v6() { "ip -6" } else { "ip" };
    Some(
        draft
            .fix(format!("{ip} rule add from {src} lookup {table} pref {}", model.preference))
            .fix("restart the CNI's agent, so that it stays"),
    )
}

fn was_deleted(case: &Case<'_>, change: &Change, rule: &IpRule) -> String {
    let by = crate::explain::case::author(&change.by);
    format!("{} rule {} ({}) was deleted {by}", case.clock(change.mono_ns), rule.preference, rule.text())
}

/// A rule that another pod of this node has for itself; only if every other pod has one.
fn neighbours_rule<'a>(case: &Case<'_>, exit: &Exit<'a>, src: IpAddr) -> Option<(&'a IpRule, String)> {
    let mut found = None;
    for ns in case.facts.namespaces.values().filter(|n| n.kind == NamespaceKind::Pod) {
        let mut ips = ns
            .addresses
            .iter()
            .map(|a| a.net.addr())
            .filter(|ip| ip.is_ipv6() == src.is_ipv6() && is_global(*ip))
            .peekable();
        if ips.peek().is_none() || ns.owns(src) {
            continue;
        }
        let rule = ips.find_map(|ip| exit.node.rules.iter().find(|r| is_own_rule(r, ip)).map(|r| (r, ip)))?;
        let pod = case.inventory.holder(rule.1);
        let name = pod.map_or_else(|| rule.1.to_string(), |p| format!("{}/{}", p.namespace, p.name));
        found.get_or_insert((rule.0, name));
    }
    found
}

fn is_own_rule(rule: &IpRule, ip: IpAddr) -> bool {
    let single = rule.src.is_some_and(|n| n.prefix_len() == n.max_prefix_len() && n.addr() == ip);
    single && rule.action == RuleAction::Lookup && !matches!(rule.table, 253..=255)
}

/// Its packets get no answer, or answers come in by the other device: when that is proven, `CLOCK_MONOTONIC` nanoseconds.
fn suffers(case: &Case<'_>, device: &str) -> Option<u64> {
    let again = case.steps().any(|s| matches!(s.sighting.packet.what, What::Retransmit { .. }));
    let elsewhere = case.hops().any(|(s, place, _)| {
        !s.forward && place == Place::Receive && s.sighting.side == Side::Node && &*s.sighting.device == device
    });
    if (again && !case.answered()) || elsewhere { Some(0) } else { no_reply::proven_ns(case) }
}

#[cfg(test)]
mod tests {
    use super::super::{
        testing::{Scene, hop, lookup, lookup_via, retransmit, syn, syn_ack},
        wrong_egress::RULE,
    };
    use crate::model::packet::{LookupRole, Place};

    #[test]
    fn names_a_rule_that_only_this_pod_lacks_once_its_packets_are_lost() {
        let mut scene = Scene::pod_to_db();
        scene.step(2, lookup(2, -11, 0, LookupRole::Input), "");
        scene.step(3, lookup_via(254, Scene::ETH0, "10.32.0.1", LookupRole::Input), "");
        scene.step(4, hop(Place::Transmit, syn()), "eth0");
        scene.node().rules.retain(|r| r.src.is_none_or(|n| n.addr().to_string() != "10.9.0.29"));
        let draft = (RULE.check)(&scene.case()).expect("the rule is missing");
        assert_eq!(draft.proven_ns, 1_004_000_000, "it may still be answered");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        let draft = (RULE.check)(&scene.case()).expect("the rule is missing");
        assert_eq!(draft.proven_ns, 0, "it was not");
        assert!(draft.claim.contains("its policy rule is missing (from 10.9.0.29 lookup 2)"), "{}", draft.claim);
        assert_eq!(draft.fix[0], "ip rule add from 10.9.0.29 lookup 2 pref 1536");
        scene.back(1_001, hop(Place::Receive, syn_ack()), "eth0");
        assert_eq!((RULE.check)(&scene.case()), None, "it works as it is");
    }
}
