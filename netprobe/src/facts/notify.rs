//! What a notification means, given the facts so far.

use std::collections::BTreeMap;

use netlink_packet_route::{RouteNetlinkMessage as Message, link::LinkMessage};

use super::{
    apply::{is_part, is_same},
    links, neighbours, routes, rules,
    sysctls::{self, Sysctls},
};
use crate::model::facts::{NamespaceFacts, Neigh, Route, Rule, What};

/// One thing a notification says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// For the journal.
    What(What),
    /// A neighbour entry; whether it was removed.
    Neighbour(Neigh, bool),
    /// Settings of a device we did not know.
    Settings(Sysctls),
}

/// What is new in `message`; nothing if the facts say so already.
pub(super) fn told(facts: &NamespaceFacts, nsids: &BTreeMap<i32, u32>, message: &Message, replaces: bool) -> Vec<Told> {
    let what = |what: Option<What>| what.map(Told::What).into_iter().collect();
    match message {
        Message::NewLink(message) => link(facts, nsids, message),
        Message::DelLink(message) => {
            let gone = links::link(message).and_then(|seen| facts.links.get(&seen.link.index));
            what(gone.cloned().map(What::LinkDeleted))
        }
        Message::NewAddress(message) => {
            what(links::address(message).filter(|a| !facts.addresses.contains(a)).map(What::AddressAdded))
        }
        Message::DelAddress(message) => {
            what(links::address(message).filter(|a| facts.addresses.contains(a)).map(What::AddressDeleted))
        }
        Message::NewRoute(message) => routes::route(message).map_or_else(Vec::new, |r| route(facts, r, replaces)),
        Message::DelRoute(message) => {
            let ours = |route: &Route| {
                facts.routes.iter().any(|old| old == route || is_same(old, route) && is_part(route, old))
            };
            what(routes::route(message).filter(ours).map(What::RouteDeleted))
        }
        Message::NewRule(message) => {
            what(rules::rule(message).filter(|r| ours(facts, r).is_none()).map(What::RuleAdded))
        }
        Message::DelRule(message) => {
            what(rules::rule(message).and_then(|r| ours(facts, &r).cloned()).map(What::RuleDeleted))
        }
        Message::NewNeighbour(message) => {
            let entry = neighbours::neighbour(message).filter(|entry| !facts.neighbours.contains(entry));
            entry.map(|entry| Told::Neighbour(entry, false)).into_iter().collect()
        }
        Message::DelNeighbour(message) => {
            neighbours::neighbour(message).map(|entry| Told::Neighbour(entry, true)).into_iter().collect()
        }
        _ => vec![],
    }
}

fn link(facts: &NamespaceFacts, nsids: &BTreeMap<i32, u32>, message: &LinkMessage) -> Vec<Told> {
    // Wireless drivers send link messages that hold an event and nothing about the link.
    let Some(seen) = links::link(message).filter(|seen| !seen.link.name.is_empty()) else { return vec![] };
    let mut link = seen.link;
    link.peer_netns = seen.peer_nsid.and_then(|id| nsids.get(&id)).copied();
    let mut settings = Sysctls::new();
    sysctls::of_device(&link.name, message, &mut settings);
    let Some(old) = facts.links.get(&link.index) else {
        return vec![Told::What(What::LinkAdded(link)), Told::Settings(settings)];
    };
    if link.peer_netns.is_none() && seen.peer_nsid.is_some() && old.peer == link.peer {
        link.peer_netns = old.peer_netns;
    }
    let mut told = vec![];
    if old.name == link.name {
        told = changed(facts, settings);
    }
    if *old != link {
        told.insert(0, Told::What(What::LinkChanged(old.clone(), link)));
    }
    told
}

/// Settings that differ from those we knew.
pub(super) fn changed(facts: &NamespaceFacts, settings: Sysctls) -> Vec<Told> {
    let mut news = Sysctls::new();
    let mut told = vec![];
    for (name, after) in settings {
        match facts.sysctls.get(&name) {
            Some(before) if *before == after => {}
            Some(before) if !sysctls::is_counter(&name) => {
                told.push(Told::What(What::Sysctl(name, before.clone(), after)));
            }
            _ => {
                news.insert(name, after);
            }
        }
    }
    if !news.is_empty() {
        told.push(Told::Settings(news));
    }
    told
}

/// A replaced route is said to be deleted and then added, by the same author: the journal can then be read from either.
fn route(facts: &NamespaceFacts, route: Route, replaces: bool) -> Vec<Told> {
    if facts.routes.contains(&route) {
        return vec![];
    }
    let old = facts.routes.iter().find(|old| replaces && is_same_place(old, &route)).cloned();
    let deleted = old.map(What::RouteDeleted);
    deleted.into_iter().chain([What::RouteAdded(route)]).map(Told::What).collect()
}

/// What a replacement looks for: it may be of another kind.
fn is_same_place(a: &Route, b: &Route) -> bool {
    (a.table, a.dst, a.priority) == (b.table, b.dst, b.priority)
}

/// Our copy of a rule. Whether its devices are there has changed since without a word.
fn ours<'a>(facts: &'a NamespaceFacts, rule: &Rule) -> Option<&'a Rule> {
    let attached = |rule: &Rule| Rule { iif_detached: false, oif_detached: false, ..rule.clone() };
    let wanted = attached(rule);
    facts.rules.iter().find(|old| old.preference == rule.preference && attached(old) == wanted)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        AddressFamily,
        link::{LinkAttribute, LinkFlags},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
        rule::{RuleAttribute, RuleFlags, RuleMessage},
    };

    use super::*;
    use crate::model::facts::{Change, NodeFacts};

    fn default_via(gateway: &str) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.header.table = 254;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway.parse().unwrap())));
        message.attributes.push(RouteAttribute::Oif(2));
        message
    }

    fn facts_with(route: &RouteMessage) -> NamespaceFacts {
        NamespaceFacts { routes: vec![routes::route(route).unwrap()], ..NamespaceFacts::default() }
    }

    #[test]
    fn a_route_we_have_is_no_news() {
        let message = default_via("10.0.0.1");
        assert_eq!(told(&facts_with(&message), &BTreeMap::new(), &Message::NewRoute(message), true), []);
    }

    #[test]
    fn a_replaced_route_is_a_deleted_and_an_added_one() {
        let (old, new) = (default_via("10.0.0.1"), default_via("10.0.0.2"));
        let deleted = Told::What(What::RouteDeleted(routes::route(&old).unwrap()));
        let added = Told::What(What::RouteAdded(routes::route(&new).unwrap()));
        let facts = facts_with(&old);
        assert_eq!(told(&facts, &BTreeMap::new(), &Message::NewRoute(new.clone()), true), [deleted, added]);
        assert_eq!(told(&facts, &BTreeMap::new(), &Message::NewRoute(new), false).len(), 1);
    }

    #[test]
    fn a_deleted_route_we_never_had_is_no_news() {
        let facts = facts_with(&default_via("10.0.0.1"));
        assert_eq!(told(&facts, &BTreeMap::new(), &Message::DelRoute(default_via("10.0.0.2")), false), []);
    }

    #[test]
    fn a_rule_is_found_though_its_device_came_back_meanwhile() {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.attributes.push(RuleAttribute::Iifname("eth1".to_owned()));
        let attached = rules::rule(&message).unwrap();
        message.header.flags = RuleFlags::IifDetached;
        let facts = NamespaceFacts { rules: vec![attached.clone()], ..NamespaceFacts::default() };
        let told = told(&facts, &BTreeMap::new(), &Message::DelRule(message), false);
        assert_eq!(told, [Told::What(What::RuleDeleted(attached))]);
    }

    fn eth1(flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName("eth1".to_owned()), LinkAttribute::LinkNetNsId(3)];
        message
    }

    #[test]
    fn a_link_that_goes_down_is_told_before_and_after_and_knows_its_peer() {
        let mut node = NodeFacts { node: 1, ..NodeFacts::default() };
        node.namespaces.insert(1, NamespaceFacts { inum: 1, ..NamespaceFacts::default() });
        let nsids = BTreeMap::from([(3, 99)]);
        for flags in [LinkFlags::Up, LinkFlags::empty()] {
            for told in told(&node.namespaces[&1], &nsids, &Message::NewLink(eth1(flags)), false) {
                let Told::What(what) = told else { continue };
                let change = Change { mono_ns: 0, netns: 1, what, by: Default::default() };
                node.apply(&super::super::event::FactsEvent::Change(change));
            }
        }
        let [What::LinkAdded(_), What::LinkChanged(before, after)] =
            &node.journal.iter().map(|c| c.what.clone()).collect::<Vec<_>>()[..]
        else {
            panic!("{:?}", node.journal)
        };
        assert_eq!((before.up, after.up, after.peer_netns), (true, false, Some(99)));
    }

    #[test]
    fn a_counter_that_moves_is_kept_and_no_news() {
        let name = "net.netfilter.nf_conntrack_count".to_owned();
        let facts =
            NamespaceFacts { sysctls: Sysctls::from([(name.clone(), "1".to_owned())]), ..NamespaceFacts::default() };
        let after = Sysctls::from([(name, "2".to_owned())]);
        assert_eq!(changed(&facts, after.clone()), [Told::Settings(after)]);
    }
}
