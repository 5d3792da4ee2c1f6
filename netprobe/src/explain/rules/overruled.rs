//! Nothing came back to what a policy rule sent out by one NIC, where the node's own rules, tables or traffic speak for
//! another. Part of `wrong-egress`; it stands where `no-reply` would speak, since the silence is half of the proof.

use std::net::SocketAddr;

use super::{
    no_reply::{self, Silence},
    wrong_egress::{self, Exit, is_global},
};
use crate::{
    explain::{
        Case, Draft, Rule,
        expected::{self, Expected},
        intent,
    },
    facts::policy::Outcome,
    model::{
        facts::{NamespaceFacts, NamespaceKind, Route, RouteKind, Rule as IpRule, What as Changed, table_name},
        finding::Confidence,
        flow::Flow,
        journey::Journey,
        packet::{Place, What},
        sighting::Side,
    },
};

pub(super) const RULE: Rule = Rule { check, ..wrong_egress::RULE };

/// What decided the packet's way.
struct Chosen<'a> {
    rule: &'a IpRule,
    route: &'a Route,
}

/// What speaks against it.
struct Objection {
    expected: Expected,
    /// What is wrong with the way taken, in words that follow a colon.
    words: String,
    fix: String,
}

fn check(case: &Case<'_>) -> Option<Draft> {
    let silence = no_reply::silence(case).filter(|silence| !silence.stale)?;
    let exit = wrong_egress::exit(case).filter(|exit| is_own(case, exit, &silence))?;
    let (chosen, question) = (chosen(&exit)?, &silence.question);
    let Objection { expected, words, fix } = shadowed(case, &exit, &chosen)
        .or_else(|| rest_of_table(case, &exit, &chosen))
        .or_else(|| unlike_its_peers(case, &exit, &chosen))?;
    let claim = format!("{} leaves this node by {}, and nothing comes back: {words}", case.who(), exit.device);
    let text = format!("policy rule {} ({}) decided", chosen.rule.preference, chosen.rule.text());
    let mut draft = wrong_egress::draft(case, &exit, &expected, claim)
        .detail(format!("overruled {}", chosen.rule.preference))
        .proof(question.first_ns, text)
        .proof(
            question.proven_ns,
            format!("sent {} times, no answer, no ICMP error, no drop on this node", question.tries),
        );
    draft.evidence.sort_by_key(|e| e.mono_ns);
    draft.proven_ns = question.proven_ns;
    if let Some(route) = &mut draft.route {
        route.rule = Some(chosen.rule.preference);
    }
    draft.since = added(case, exit.node, chosen.rule);
    if draft.since.is_some() {
        draft.confidence = draft.confidence.max(Confidence::Likely);
    }
    Some(draft.fix(fix).fix(format!(
        "if {} is meant, the loss is outside: see whether the network takes {} there, and answers it",
        exit.device,
        exit.flow.src.ip()
    )))
}

/// A pod of this node sent it, and it left with the pod's address: one that was masqueraded is answered wherever it leaves.
fn is_own(case: &Case<'_>, exit: &Exit<'_>, silence: &Silence<'_>) -> bool {
    let source = exit.flow.src.ip();
    let kept = silence.exit.sighting.packet.what.flow().is_some_and(|left| left.src.ip() == source);
    let is_pods = !exit.node.owns(source) && case.facts.namespaces.values().any(|ns| ns.owns(source));
    case.journey.pod.is_some() && is_pods && kept
}

/// The rule and the route that decided, where the node's tables say what the kernel said.
fn chosen<'a>(exit: &Exit<'a>) -> Option<Chosen<'a>> {
    let decision = intent::decide(exit.node, &exit.flow, exit.iif.as_deref(), exit.mark);
    let last = decision.steps.last()?;
    let Outcome::Route(route) = last.outcome else { return None };
    let is_told = exit.told.is_none_or(|preference| preference == last.rule.preference);
    // Several next hops are meant to be.
    let [hop] = &route.next_hops[..] else { return None };
    let same = last.table == exit.route.table && is_told && exit.node.device(hop.ifindex) == exit.device;
    same.then_some(Chosen { rule: last.rule, route })
}

/// A rule of lower preference means this packet too, and leads it by another NIC.
fn shadowed(case: &Case<'_>, exit: &Exit<'_>, chosen: &Chosen<'_>) -> Option<Objection> {
    let other = intent::decide_after(exit.node, &exit.flow, exit.iif.as_deref(), exit.mark, chosen.rule);
    let (rule, route) = other.route().filter(|(rule, _)| rule.is_selective())?;
    let hop = route.next_hops.first()?;
    let link = exit.node.links.get(&hop.ifindex).filter(|link| case.leads_out(link) && link.name != exit.device)?;
    let device = link.name.clone();
    let witness = witness(case, exit, &device);
    // What has a way of its own by its destination is meant to have it, unless others show that it is not.
    let by_destination = chosen.rule.dst.is_some_and(|net| net.prefix_len() > 0) || chosen.route.dst.prefix_len() > 0;
    if by_destination && witness.is_none() {
        return None;
    }
    let length = |rule: &IpRule| rule.src.map_or(0, |net| net.prefix_len());
    let never_asked = chosen.rule.mark.is_none() && chosen.rule.iif.is_empty() && length(rule) > length(chosen.rule);
    let confidence = if witness.is_some() || never_asked { Confidence::Likely } else { Confidence::Possible };
    let words = format!(
        "policy rule {} ({}) comes before rule {} ({}), which leads by {device}{}",
        chosen.rule.preference,
        chosen.rule.text(),
        rule.preference,
        rule.text(),
        witness.as_ref().map_or_else(String::new, |seen| format!("; {seen}")),
    );
    let why = witness.unwrap_or_else(|| format!("rule {} ({}) leads by {device}", rule.preference, rule.text()));
    let mark =
        chosen.rule.mark.map_or("", |_| "; who sets the mark: nft list ruleset | grep mark; iptables-save -t mangle");
    let fix = format!(
        "{} rule del pref {} {}  # or give it a preference above {}{mark}",
        command(exit),
        chosen.rule.preference,
        chosen.rule.text(),
        rule.preference
    );
    Some(Objection { expected: Expected { device, gateway: hop.gateway, why, confidence }, words, fix })
}

/// Only the table's default route is on that NIC, all that is beside it is on another.
fn rest_of_table<'a>(case: &Case<'a>, exit: &Exit<'a>, chosen: &Chosen<'_>) -> Option<Objection> {
    let (number, v6) = (exit.route.table, exit.flow.is_v6());
    if matches!(number, 253..=255) || !chosen.rule.is_selective() || chosen.route.dst.prefix_len() > 0 {
        return None;
    }
    let of_table = |r: &&Route| r.table == number && r.kind == RouteKind::Unicast && r.dst.addr().is_ipv6() == v6;
    let others = exit.node.routes.iter().filter(of_table).filter(|route| !std::ptr::eq(*route, chosen.route));
    let out = |ifindex: &u32| exit.node.links.get(ifindex).is_some_and(|link| case.leads_out(link));
    let devices: std::collections::BTreeSet<u32> =
        others.flat_map(|route| &route.next_hops).map(|hop| hop.ifindex).filter(out).collect();
    let [only] = devices.into_iter().collect::<Vec<_>>()[..] else { return None };
    let mut expected = expected::by_other_routes(case, exit.node, number, v6, Some(chosen.route))?;
    if exit.node.device(only) == exit.device || expected.device == exit.device {
        return None;
    }
    expected.confidence = Confidence::Likely;
    let table = table_name(number);
    let words = format!(
        "policy rule {} ({}) sends it to table {table}, whose default route is on {}, while {}",
        chosen.rule.preference,
        chosen.rule.text(),
        exit.device,
        expected.why
    );
    let gateway = expected.gateway.map_or_else(|| "GATEWAY".to_owned(), |g| g.to_string());
    let fix = format!(
        "{} route replace default via {gateway} dev {} table {table}  # and restart the daemon that owns the table",
        command(exit),
        expected.device
    );
    Some(Objection { expected, words, fix })
}

/// Its rule leads to a table by which its peers do not go.
fn unlike_its_peers(case: &Case<'_>, exit: &Exit<'_>, chosen: &Chosen<'_>) -> Option<Objection> {
    if !chosen.rule.is_selective() || chosen.route.dst.prefix_len() > 0 {
        return None;
    }
    let uplinks = exit.node.links.values().filter(|link| case.leads_out(link) && link.name != exit.device);
    let seen = uplinks.filter_map(|link| Some((link.name.clone(), witness(case, exit, &link.name)?))).next();
    let expected = match seen {
        Some((device, why)) => Expected { device, gateway: None, why, confidence: Confidence::Likely },
        None => by_neighbourhood(case, exit)?,
    };
    let words = format!(
        "policy rule {} ({}) sends it to table {}, which leads by {}, but {}",
        chosen.rule.preference,
        chosen.rule.text(),
        table_name(exit.route.table),
        exit.device,
        expected.why
    );
    let fix = format!(
        "let rule {} lead to the table of {} (ip rule; ip route show table all | grep {})",
        chosen.rule.preference, expected.device, expected.device
    );
    Some(Objection { expected, words, fix })
}

/// The NIC whose subnet holds the pod's address; one whose subnet is only next to it, if all other pods go that way.
fn by_neighbourhood(case: &Case<'_>, exit: &Exit<'_>) -> Option<Expected> {
    let near = expected::by_subnet(case, exit.node, exit.flow.src.ip(), exit.device)?;
    if holds(exit, &near.device) {
        return Some(near);
    }
    let why = format!("every other pod of this node goes by {}, and {}", near.device, near.why);
    all_others_go(case, exit, &near.device).then_some(Expected { why, confidence: Confidence::Possible, ..near })
}

/// The rules lead every other pod of this node by that device, and there are others.
fn all_others_go(case: &Case<'_>, exit: &Exit<'_>, device: &str) -> bool {
    let target = exit.flow.dst.ip();
    let pods =
        case.facts.namespaces.values().filter(|ns| ns.kind == NamespaceKind::Pod && !ns.owns(exit.flow.src.ip()));
    let mut ways = pods
        .flat_map(|pod| &pod.addresses)
        .map(|address| address.net.addr())
        .filter(|ip| ip.is_ipv6() == target.is_ipv6() && is_global(*ip) && *ip != target)
        .map(|ip| {
            intent::device_of(exit.node, &Flow { src: SocketAddr::new(ip, exit.flow.src.port()), ..exit.flow }, None, 0)
        })
        .peekable();
    ways.peek().is_some() && ways.all(|way| way.as_deref() == Some(device))
}

/// The subnet of the device holds the pod's address.
fn holds(exit: &Exit<'_>, device: &str) -> bool {
    let index = exit.node.link(device).map(|link| link.index);
    exit.node.addresses.iter().any(|a| Some(a.ifindex) == index && a.net.contains(&exit.flow.src.ip()))
}

/// Traffic that shows `device` to be the way: a connection to the same address that left by it and was answered, or
/// answers to this very pod that came in by it.
fn witness(case: &Case<'_>, exit: &Exit<'_>, device: &str) -> Option<String> {
    let hop = |j: &Journey, place: Place, forward: bool, on: &str| {
        j.steps.iter().any(|s| {
            let here = s.forward == forward && s.sighting.side == Side::Node && &*s.sighting.device == on;
            here && matches!(s.sighting.packet.what, What::Hop { place: at, inner: None, .. } if at == place)
        })
    };
    let target = exit.flow.dst.ip();
    let same_target = |j: &Journey| j.flow.dst.ip() == target || j.translated.iter().any(|f| f.dst.ip() == target);
    case.journeys.iter().filter(|j| j.id != case.journey.id && j.pod.is_some()).find_map(|j| {
        let pod = j.pod.as_ref()?;
        let answered = hop(j, Place::Receive, false, device);
        if answered && same_target(j) && hop(j, Place::Transmit, true, device) {
            return Some(format!("{pod} reaches {target} by {device}"));
        }
        let is_same = case.journey.pod.as_ref() == Some(pod) && hop(j, Place::Transmit, true, exit.device);
        (answered && is_same).then(|| format!("answers to {pod} come in by {device}"))
    })
}

/// The rule was added while we watched: when and by whom.
fn added(case: &Case<'_>, node: &NamespaceFacts, rule: &IpRule) -> Option<String> {
    let change = case.last_change(node.inum, |c| matches!(&c.what, Changed::RuleAdded(added) if added == rule))?;
    let by = crate::explain::case::author(&change.by);
    Some(format!("{} rule {} ({}) was added {by}", case.clock(change.mono_ns), rule.preference, rule.text()))
}

const fn command(exit: &Exit<'_>) -> &'static str {
    if exit.flow.is_v6() { "ip -6" } else { "ip" }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, hop, lookup_via, retransmit, syn, syn_ack};
    use super::*;
    use crate::model::packet::LookupRole;

    fn rule(scene: &Scene, preference: u32, src: Option<&str>, table: u32) -> IpRule {
        let like = scene.facts.node().and_then(|node| node.rules.first()).expect("a rule");
        IpRule { preference, src: src.map(|net| net.parse().expect("a prefix")), table, ..like.clone() }
    }

    /// The pod's SYN leaves by eth0, by that rule and table, and nothing comes back.
    fn scene(preference: u32, src: &str, table: u32) -> Scene {
        let mut scene = Scene::pod_to_db();
        let chosen = rule(&scene, preference, Some(src), table);
        scene.node().rules.push(chosen);
        scene.node().rules.sort_by_key(|r| r.preference);
        scene.step(1, hop(Place::Receive, syn()), "vpod1");
        scene.step(2, lookup_via(table, Scene::ETH0, "10.32.0.1", LookupRole::Input), "");
        scene.step(3, hop(Place::Transmit, syn()), "eth0");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene
    }

    #[test]
    fn names_the_rule_that_comes_before_the_pods_own() {
        let draft = check(&scene(1000, "10.9.0.0/24", 254).case()).expect("rule 1536 is never asked");
        assert_eq!(
            draft.claim,
            "shop/web-0 leaves this node by eth0, and nothing comes back: policy rule 1000 (from 10.9.0.0/24 lookup main) \
             comes before rule 1536 (from 10.9.0.29 lookup 2), which leads by eth1"
        );
        assert_eq!((draft.device.as_deref(), draft.expected_device.as_deref()), (Some("eth0"), Some("eth1")));
        assert_eq!((draft.confidence, draft.proven_ns), (Confidence::Likely, 1_000_000_000));
        assert!(draft.fix[0].starts_with("ip rule del pref 1000 from 10.9.0.0/24 lookup main"), "{}", draft.fix[0]);
    }

    #[test]
    fn a_rule_for_this_pod_alone_may_be_meant() {
        let mut scene = scene(1000, "10.9.0.29/32", 254);
        scene.node().rules.retain(|r| r.preference != 1536);
        let net = rule(&scene, 1536, Some("10.9.0.0/24"), 2);
        scene.node().rules.push(net);
        let draft = check(&scene.case()).expect("rule 1536 means it too");
        assert_eq!(draft.confidence, Confidence::Possible);
        assert!(draft.fix[1].starts_with("if eth0 is meant, the loss is outside"), "{}", draft.fix[1]);
    }

    #[test]
    fn a_rule_by_destination_is_meant() {
        let mut scene = scene(1000, "10.9.0.0/24", 254);
        let net = Some("10.20.0.0/16".parse().expect("a prefix"));
        for rule in scene.node().rules.iter_mut().filter(|r| r.preference == 1000) {
            (rule.src, rule.dst) = (None, net);
        }
        assert_eq!(check(&scene.case()), None);
    }

    #[test]
    fn a_default_route_beside_the_rest_of_its_table_is_told() {
        let mut scene = scene(1000, "10.9.0.29/32", 3);
        scene.node().rules.retain(|r| r.preference != 1536);
        let like = scene.node().routes.iter().find(|r| r.table == 2).expect("a default route").clone();
        let mut default = Route { table: 3, ..like.clone() };
        default.next_hops[0].ifindex = Scene::ETH0;
        let mut gateway = Route { table: 3, dst: "10.96.0.1/32".parse().expect("a prefix"), ..like };
        gateway.next_hops[0].gateway = None;
        scene.node().routes.extend([default, gateway]);
        let draft = check(&scene.case()).expect("table 3 is eth1's");
        assert!(
            draft.claim.ends_with(
                "policy rule 1000 (from 10.9.0.29 lookup 3) sends it to table 3, whose default route is on eth0, while the \
                 other routes of table 3 are on eth1 (10.96.0.1/32)"
            ),
            "{}",
            draft.claim
        );
        assert!(
            draft.fix[0].starts_with("ip route replace default via 10.96.0.1 dev eth1 table 3"),
            "{}",
            draft.fix[0]
        );
    }

    #[test]
    fn a_pod_whose_rule_leads_elsewhere_than_all_others_is_told() {
        let mut scene = scene(1000, "10.9.0.29/32", 254);
        scene
            .node()
            .rules
            .retain(|r| r.src.is_none_or(|net| net.to_string() != "10.9.0.29/32") || r.preference == 1000);
        for address in scene.node().addresses.iter_mut().filter(|a| a.ifindex == Scene::ETH1) {
            address.net = "10.9.128.10/24".parse().expect("a prefix");
        }
        let draft = check(&scene.case()).expect("the other pod goes by eth1");
        assert!(draft.claim.contains("but every other pod of this node goes by eth1"), "{}", draft.claim);
        assert_eq!(draft.confidence, Confidence::Possible);
    }

    #[test]
    fn stays_silent_where_nothing_speaks_for_another_nic() {
        let mut alone = scene(1000, "10.9.0.29/32", 254);
        alone.node().rules.retain(|r| r.preference != 1536);
        // eth1's network is nearest to the pod's, but holds it not.
        assert_eq!(check(&alone.case()), None);
    }

    #[test]
    fn stays_silent_on_an_answer_and_on_a_drop() {
        let mut answered = scene(1000, "10.9.0.0/24", 254);
        answered.back(1_001, hop(Place::Receive, syn_ack()), "eth1");
        assert_eq!(check(&answered.case()), None);
        let mut dropped = scene(1000, "10.9.0.0/24", 254);
        dropped.step(1_001, drop_of(syn(), "NETFILTER_DROP", "nft_do_chain", &["nf_hook_slow", "ip_output"]), "eth0");
        assert_eq!(check(&dropped.case()), None);
    }
}
