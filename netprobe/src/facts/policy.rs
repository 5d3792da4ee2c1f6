//! What the kernel's routing would decide: rules in order of preference, tables by longest prefix.
//!
//! Pure: a question and a namespace's facts in, the steps and the verdict out.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::facts::{NamespaceFacts, NextHop, Route, RouteKind, Rule, RuleAction};

/// What is asked: where does this packet go?
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Source, where it is chosen already.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: IpAddr,
    /// Device it came in by; `None` for a packet of the namespace's own.
    pub iif: Option<&'a str>,
    /// Firewall mark.
    pub mark: u32,
    /// IP protocol, where known.
    pub proto: Option<u8>,
    /// Ports, where known.
    pub ports: Option<(u16, u16)>,
}

/// What a matching rule led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Its table has no route for the destination.
    NoRoute {
        /// The table has no routes of this family at all.
        empty: bool,
    },
    /// A `throw` route, or one that `suppress_prefixlength` hides: on to the next rule.
    Passed,
    /// A route.
    Route(&'a Route),
    /// The rule or a route of that kind refuses.
    Refused(RouteKind),
    /// The rule has a selector that is not evaluated (uid, tos, tunnel): it may or may not match.
    NotEvaluated,
}

/// A rule that matches, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The table it led to: its own, or that of the packet's VRF.
    pub table: u32,
    /// What came of it.
    pub outcome: Outcome<'a>,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Rules that match, in order, up to the one that decided.
    pub steps: Vec<Taken<'a>>,
}

impl<'a> Decision<'a> {
    /// The route that was found.
    #[must_use]
    pub fn route(&self) -> Option<(&'a Rule, &'a Route)> {
        let last = self.steps.last()?;
        match last.outcome {
            Outcome::Route(route) => Some((last.rule, route)),
            _ => None,
        }
    }

    /// The namespace has a way, or may have one by a rule that is not evaluated.
    #[must_use]
    pub fn may_have_route(&self) -> bool {
        self.route().is_some() || self.steps.iter().any(|s| s.outcome == Outcome::NotEvaluated)
    }
}

/// Evaluates rules and tables as `fib_rules_lookup` does.
#[must_use]
pub fn evaluate<'a>(facts: &'a NamespaceFacts, question: &Question<'_>) -> Decision<'a> {
    walk(facts, question, in_order(facts, question))
}

/// What the rules after `decided` would have decided, had it not.
#[must_use]
pub fn evaluate_after<'a>(facts: &'a NamespaceFacts, question: &Question<'_>, decided: &Rule) -> Decision<'a> {
    let all = in_order(facts, question);
    walk(facts, question, all.into_iter().skip_while(|rule| !std::ptr::eq(*rule, decided)).skip(1).collect())
}

/// The rules of the question's family, first asked first.
fn in_order<'a>(facts: &'a NamespaceFacts, question: &Question<'_>) -> Vec<&'a Rule> {
    let v6 = question.dst.is_ipv6();
    let mut rules: Vec<&Rule> = facts.rules.iter().filter(|r| r.v6 == v6).collect();
    rules.sort_by_key(|r| r.preference);
    rules
}

fn walk<'a>(facts: &'a NamespaceFacts, question: &Question<'_>, rules: Vec<&'a Rule>) -> Decision<'a> {
    let mut steps = Vec::new();
    for rule in rules {
        if !selects(rule, question) {
            continue;
        }
        let Some(table) = table(facts, rule, question) else { continue };
        let outcome = outcome(facts, rule, table, question);
        steps.push(Taken { rule, table, outcome });
        if matches!(outcome, Outcome::Route(_) | Outcome::Refused(_)) {
            break;
        }
    }
    Decision { steps }
}

/// The table a rule leads to; `None` where it is a VRF's and the packet is of no VRF.
fn table(facts: &NamespaceFacts, rule: &Rule, question: &Question<'_>) -> Option<u32> {
    if !rule.by_vrf {
        return Some(rule.table);
    }
    match question.iif {
        Some(name) => facts.vrf_table(facts.link(name)?),
        // A socket may be bound to a VRF, if there is one: that is not evaluated.
        None => facts.links.values().any(|link| link.vrf_table != 0).then_some(0),
    }
}

fn outcome<'a>(facts: &'a NamespaceFacts, rule: &Rule, table: u32, question: &Question<'_>) -> Outcome<'a> {
    if rule.opaque || (rule.by_vrf && table == 0) {
        return Outcome::NotEvaluated;
    }
    match rule.action {
        RuleAction::Lookup => {}
        RuleAction::Blackhole => return Outcome::Refused(RouteKind::Blackhole),
        RuleAction::Unreachable => return Outcome::Refused(RouteKind::Unreachable),
        RuleAction::Prohibit => return Outcome::Refused(RouteKind::Prohibit),
        // Jumps are rare and never needed to say what a table lacks.
        RuleAction::Goto | RuleAction::Nop => return Outcome::Passed,
    }
    let Some(route) = lookup(facts, table, question.dst) else {
        return Outcome::NoRoute { empty: is_empty(facts, table, question.dst.is_ipv6()) };
    };
    let suppressed = rule.suppress_prefix.is_some_and(|len| u32::from(route.dst.prefix_len()) <= len);
    match route.kind {
        RouteKind::Throw => Outcome::Passed,
        _ if suppressed => Outcome::Passed,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => Outcome::Refused(route.kind),
        RouteKind::Unicast | RouteKind::Local | RouteKind::Special => Outcome::Route(route),
    }
}

/// The route of one table for `dst`: longest prefix, then lowest metric, next hops alive.
#[must_use]
pub fn lookup(facts: &NamespaceFacts, table: u32, dst: IpAddr) -> Option<&Route> {
    let fits = |r: &&Route| r.table == table && r.dst.contains(&dst) && alive(facts, r);
    facts.routes.iter().filter(fits).min_by_key(|r| (u8::MAX - r.dst.prefix_len(), r.priority))
}

/// Whether a table has no routes of that family; IPv6 keeps its own multicast routes out of it.
#[must_use]
pub fn is_empty(facts: &NamespaceFacts, table: u32, v6: bool) -> bool {
    !facts.routes.iter().any(|r| r.table == table && r.dst.addr().is_ipv6() == v6 && r.kind != RouteKind::Special)
}

/// At least one next hop leads over a device that is up. A route over a dead device is skipped,
/// one over a device without carrier only where the setting says so.
fn alive(facts: &NamespaceFacts, route: &Route) -> bool {
    route.next_hops.is_empty() || route.next_hops.iter().any(|hop| hop_alive(facts, route, hop))
}

fn hop_alive(facts: &NamespaceFacts, route: &Route, hop: &NextHop) -> bool {
    let Some(link) = facts.links.get(&hop.ifindex) else { return true };
    if !link.up {
        return route.kind != RouteKind::Unicast;
    }
    let family = if route.dst.addr().is_ipv6() { "ipv6" } else { "ipv4" };
    let ignores =
        |name: &str| facts.sysctl(&format!("net.{family}.conf.{name}.ignore_routes_with_linkdown")) == Some(1);
    link.carrier || !(ignores("all") || ignores(&link.name))
}

/// Whether a rule's selectors fit; `opaque` ones are left to the caller.
fn selects(rule: &Rule, question: &Question<'_>) -> bool {
    let within = |net: &Option<IpNet>, ip: Option<IpAddr>| match (net, ip) {
        (None, _) => true,
        (Some(net), Some(ip)) => net.contains(&ip),
        // The kernel compares an address that is not chosen yet as zero.
        (Some(net), None) => net.prefix_len() == 0,
    };
    let port = |range: Option<(u16, u16)>, port: Option<u16>| {
        range.is_none_or(|(low, high)| port.is_some_and(|p| (low..=high).contains(&p)))
    };
    let iif = rule.iif.is_empty() || (!rule.iif_detached && rule.iif == question.iif.unwrap_or("lo"));
    let mark = rule.mark.is_none_or(|(value, mask)| question.mark & mask == value & mask);
    let proto = rule.proto.is_none_or(|p| question.proto == Some(p));
    let fits = within(&rule.src, question.src)
        && within(&rule.dst, Some(question.dst))
        && iif
        // Only sockets bound to a device have an output device; a packet in transit has none.
        && rule.oif.is_empty()
        && mark
        && proto
        && port(rule.sport, question.ports.map(|p| p.0))
        && port(rule.dport, question.ports.map(|p| p.1));
    fits != rule.invert
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::Link;

    fn rule(preference: u32, src: &str, table: u32) -> Rule {
        Rule {
            v6: src.contains(':'),
            preference,
            src: (src != "all").then(|| src.parse().expect("a prefix")),
            dst: None,
            iif: String::new(),
            iif_detached: false,
            oif: String::new(),
            oif_detached: false,
            mark: None,
            proto: None,
            sport: None,
            dport: None,
            invert: false,
            action: RuleAction::Lookup,
            table,
            suppress_prefix: None,
            by_vrf: false,
            opaque: false,
        }
    }

    fn route(table: u32, dst: &str, ifindex: u32, kind: RouteKind) -> Route {
        Route {
            table,
            dst: dst.parse().expect("a prefix"),
            kind,
            next_hops: vec![NextHop { gateway: None, ifindex }],
            priority: 0,
            prefsrc: None,
            protocol: "static".to_owned(),
        }
    }

    fn node() -> NamespaceFacts {
        NamespaceFacts {
            rules: vec![rule(0, "all", 255), rule(1536, "10.9.0.29/32", 2), rule(32766, "all", 254)],
            routes: vec![route(254, "0.0.0.0/0", 1, RouteKind::Unicast), route(2, "0.0.0.0/0", 2, RouteKind::Unicast)],
            ..NamespaceFacts::default()
        }
    }

    fn ask(src: &str) -> Question<'static> {
        Question {
            src: Some(src.parse().expect("an address")),
            dst: "10.20.0.4".parse().expect("an address"),
            iif: Some("vpod1"),
            mark: 0,
            proto: Some(6),
            ports: None,
        }
    }

    #[test]
    fn a_rule_sends_its_source_to_its_table() {
        let node = node();
        let decision = evaluate(&node, &ask("10.9.0.29"));
        assert_eq!(
            decision.route().map(|(rule, route)| (rule.preference, route.next_hops[0].ifindex)),
            Some((1536, 2))
        );
        let other = evaluate(&node, &ask("10.9.0.30"));
        assert_eq!(other.route().map(|(rule, _)| rule.preference), Some(32766));
    }

    #[test]
    fn a_device_of_a_vrf_is_led_to_its_table_and_no_other_device_is() {
        let mut node = node();
        let link = |index, name: &str| Link { index, name: name.to_owned(), up: true, ..Link::default() };
        node.links.insert(7, Link { vrf_table: 2, ..link(7, "blue") });
        node.links.insert(8, Link { master: 7, ..link(8, "vpod1") });
        node.links.insert(9, link(9, "vpod2"));
        node.rules = vec![Rule { by_vrf: true, ..rule(1000, "all", 0) }, rule(32766, "all", 254)];
        let question = ask("10.9.0.29");
        let inside = evaluate(&node, &question);
        assert_eq!((inside.steps[0].rule.preference, inside.steps[0].table), (1000, 2));
        let outside = evaluate(&node, &Question { iif: Some("vpod2"), ..question.clone() });
        assert_eq!(outside.route().map(|(rule, _)| rule.preference), Some(32766));
        let own = evaluate(&node, &Question { iif: None, ..question });
        assert_eq!(own.steps[0].outcome, Outcome::NotEvaluated, "a socket may be bound to it");
    }

    #[test]
    fn an_empty_table_falls_through_and_the_step_says_so() {
        let mut node = node();
        node.routes.retain(|r| r.table != 2);
        let decision = evaluate(&node, &ask("10.9.0.29"));
        let miss = decision.steps.iter().find(|s| s.rule.table == 2).expect("the rule matches");
        assert_eq!(miss.outcome, Outcome::NoRoute { empty: true });
        assert_eq!(decision.route().map(|(rule, _)| rule.table), Some(254));
    }

    #[test]
    fn the_longest_prefix_wins_and_a_blackhole_refuses() {
        let mut node = node();
        node.routes.push(route(2, "10.20.0.4/32", 0, RouteKind::Blackhole));
        let decision = evaluate(&node, &ask("10.9.0.29"));
        assert_eq!(decision.steps.last().expect("a step").outcome, Outcome::Refused(RouteKind::Blackhole));
    }

    #[test]
    fn a_throw_route_goes_on_with_the_next_rule() {
        let mut node = node();
        node.routes.push(route(2, "10.20.0.0/16", 0, RouteKind::Throw));
        assert_eq!(evaluate(&node, &ask("10.9.0.29")).route().map(|(rule, _)| rule.table), Some(254));
    }

    #[test]
    fn a_device_that_is_down_has_no_routes() {
        let mut node = node();
        let down = crate::model::facts::Link { index: 2, name: "eth1".to_owned(), ..Default::default() };
        node.links.insert(2, down);
        assert_eq!(evaluate(&node, &ask("10.9.0.29")).route().map(|(rule, _)| rule.table), Some(254));
    }

    #[test]
    fn marks_are_compared_under_their_mask() {
        let mut node = node();
        let marked = Rule { mark: Some((0x200, 0xf00)), ..rule(100, "all", 2) };
        node.rules.push(marked);
        let question = Question { mark: 0x1_0200, ..ask("10.9.0.30") };
        assert_eq!(evaluate(&node, &question).route().map(|(rule, _)| rule.preference), Some(100));
    }

    #[test]
    fn a_rule_of_the_other_family_is_not_asked() {
        let mut node = node();
        node.rules.push(rule(10, "fd00::29/128", 2));
        assert_eq!(evaluate(&node, &ask("10.9.0.30")).route().map(|(rule, _)| rule.table), Some(254));
    }
}
