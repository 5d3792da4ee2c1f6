//! What should have happened: the node's own rules and tables, its neighbours' way, its journal.

use std::net::IpAddr;

use super::{Case, case::author};
use crate::{
    facts::policy::{self, Decision, Outcome, Question},
    model::{
        facts::{Change, NamespaceFacts, Route, RouteKind, Rule, RuleAction, What, table_name},
        flow::Flow,
    },
};

/// The decision of a namespace's tables about a flow.
#[must_use]
pub fn decide<'a>(facts: &'a NamespaceFacts, flow: &Flow, iif: Option<&str>, mark: u32) -> Decision<'a> {
    policy::evaluate(facts, &question(flow, iif, mark))
}

/// What they would have decided if `decided`, one of their rules, had not.
#[must_use]
pub fn decide_after<'a>(
    facts: &'a NamespaceFacts,
    flow: &Flow,
    iif: Option<&str>,
    mark: u32,
    decided: &Rule,
) -> Decision<'a> {
    policy::evaluate_after(facts, &question(flow, iif, mark), decided)
}

fn question<'a>(flow: &Flow, iif: Option<&'a str>, mark: u32) -> Question<'a> {
    let src = Some(flow.src.ip()).filter(|ip| !ip.is_unspecified());
    let ports = flow.has_ports().then(|| (flow.src.port(), flow.dst.port()));
    Question { src, dst: flow.dst.ip(), iif, mark, proto: Some(flow.proto.number()), ports }
}

/// The device that the tables give for a flow.
#[must_use]
pub fn device_of(facts: &NamespaceFacts, flow: &Flow, iif: Option<&str>, mark: u32) -> Option<String> {
    let decision = decide(facts, flow, iif, mark);
    let (_, route) = decision.route()?;
    Some(facts.device(route.next_hops.first()?.ifindex))
}

/// The next hop that the tables give for a flow: the gateway, or the destination itself.
#[must_use]
pub fn next_hop(facts: &NamespaceFacts, flow: &Flow, mark: u32) -> Option<IpAddr> {
    let decision = decide(facts, flow, None, mark);
    let (_, route) = decision.route()?;
    Some(route.next_hops.first().and_then(|h| h.gateway).unwrap_or(flow.dst.ip()))
}

/// The namespace's own packets of that flow have a way, or may have one.
#[must_use]
pub fn has_route(facts: &NamespaceFacts, flow: &Flow) -> bool {
    has_route_in(facts, flow, None)
}

/// The same for packets that came in by `iif`.
#[must_use]
pub fn has_route_in(facts: &NamespaceFacts, flow: &Flow, iif: Option<&str>) -> bool {
    decide(facts, flow, iif, 0).may_have_route()
}

/// The route of a table that refuses a flow.
#[must_use]
pub fn refusing_route<'a>(facts: &'a NamespaceFacts, flow: &Flow, table: u32) -> Option<&'a Route> {
    // Without rules the kernel keeps local and main as one table, and calls it main.
    let refuses = |r: &&Route| matches!(r.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit);
    policy::lookup(facts, table, flow.dst.ip()).filter(refuses)
}

/// The policy rule that refuses a flow by itself, before a table gives it a way.
#[must_use]
pub fn refusing_rule<'a>(facts: &'a NamespaceFacts, flow: &Flow, iif: Option<&str>, mark: u32) -> Option<&'a Rule> {
    let last = decide(facts, flow, iif, mark).steps.pop()?;
    (matches!(last.outcome, Outcome::Refused(_)) && last.rule.action != RuleAction::Lookup).then_some(last.rule)
}

/// The rule that leads a flow to a table.
#[must_use]
pub fn rule_for<'a>(
    facts: &'a NamespaceFacts,
    flow: &Flow,
    iif: Option<&str>,
    table: u32,
    mark: u32,
) -> Option<&'a Rule> {
    decide(facts, flow, iif, mark).steps.iter().find(|s| s.table == table).map(|s| s.rule)
}

/// The route to `flow`'s destination that went away last (in `table`, or in any), if it did not
/// come back: since when and by whom, and the command that restores it.
#[must_use]
pub fn lost_route(case: &Case<'_>, netns: u32, flow: &Flow, table: Option<u32>) -> Option<(String, String)> {
    let (change, route) = deleted_route(case, netns, flow, table)?;
    let (text, command) = (route_text(case, netns, route), restore(case, netns, route));
    Some((format!("{} {text} was deleted {}", case.clock(change.mono_ns), author(&change.by)), command))
}

/// The journal's line about it, and the route.
#[must_use]
pub fn deleted_route<'a>(
    case: &Case<'a>,
    netns: u32,
    flow: &Flow,
    table: Option<u32>,
) -> Option<(&'a Change, &'a Route)> {
    let dst = flow.dst.ip();
    let covers =
        |r: &Route| r.dst.contains(&dst) && table.is_none_or(|t| r.table == t) && matches!(r.kind, RouteKind::Unicast);
    let change = case.last_change(netns, |c| match &c.what {
        What::RouteDeleted(r) | What::RouteAdded(r) => covers(r),
        _ => false,
    })?;
    match &change.what {
        What::RouteDeleted(route) => Some((change, route)),
        _ => None,
    }
}

/// A route as `ip route` prints it.
#[must_use]
pub fn route_text(case: &Case<'_>, netns: u32, route: &Route) -> String {
    let dst = if route.dst.prefix_len() == 0 { "default".to_owned() } else { route.dst.to_string() };
    let hops: Vec<String> = route
        .next_hops
        .iter()
        .map(|hop| {
            let via = hop.gateway.map_or_else(String::new, |g| format!(" via {g}"));
            let dev = device_name(case, netns, hop.ifindex).map_or_else(String::new, |d| format!(" dev {d}"));
            format!("{via}{dev}")
        })
        .collect();
    format!("{dst}{} table {}", hops.join(" nexthop"), table_name(route.table))
}

fn restore(case: &Case<'_>, netns: u32, route: &Route) -> String {
    let ip = if route.dst.addr().is_ipv6() { "ip -6" } else { "ip" };
    format!("{ip} route add {}", route_text(case, netns, route))
}

/// A device's name, also if it is gone: then the journal still has it.
#[must_use]
pub fn device_name(case: &Case<'_>, netns: u32, ifindex: u32) -> Option<String> {
    if ifindex == 0 {
        return None;
    }
    let facts = case.namespace(netns)?;
    if let Some(link) = facts.links.get(&ifindex) {
        return Some(link.name.clone());
    }
    let gone = case.last_change(netns, |c| matches!(&c.what, What::LinkDeleted(l) if l.index == ifindex))?;
    match &gone.what {
        What::LinkDeleted(link) => Some(link.name.clone()),
        _ => None,
    }
}
