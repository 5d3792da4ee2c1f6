//! [`FactsEvent`]s folded into the facts. Pure, and indifferent to being told the same twice: a dump and the
//! notifications that were queued before it overlap.

use super::{event::FactsEvent, sysctls};
use crate::model::{
    facts::{Link, NamespaceFacts, Neigh, NodeFacts, Route, What},
    traced::TRACED,
};

/// Kinds of links that come in pairs, each the other's peer.
const PAIRS: [&str; 2] = ["veth", "netkit"];

impl NodeFacts {
    /// Takes one step without noting it.
    pub(super) fn fold(&mut self, event: &FactsEvent) {
        match event {
            FactsEvent::Change(change) => {
                if let What::LinkAdded(link) | What::LinkChanged(_, link) = &change.what {
                    self.join(change.netns, [link]);
                }
                if let Some(namespace) = self.namespaces.get_mut(&change.netns) {
                    namespace.change(&change.what);
                }
                // The pod may have told of its end before the node's link told of its peer.
                if change.netns == self.node
                    && let What::LinkAdded(near) | What::LinkChanged(_, near) = &change.what
                {
                    self.join_near(near);
                }
            }
            FactsEvent::Neighbour { netns, entry, gone } => {
                if let Some(namespace) = self.namespaces.get_mut(netns) {
                    namespace.neighbour(entry, *gone);
                }
            }
            FactsEvent::Namespace(facts) => {
                self.join(facts.inum, facts.links.values());
                self.namespaces.insert(facts.inum, (**facts).clone());
            }
            FactsEvent::NamespaceGone { netns, .. } => {
                self.namespaces.remove(netns);
                self.readings.forget(*netns);
            }
            FactsEvent::Sysctls { netns, settings } => {
                if let Some(namespace) = self.namespaces.get_mut(netns) {
                    namespace.sysctls.extend(settings.clone());
                }
            }
            FactsEvent::Answer(answer) => self.readings.keep(answer),
            FactsEvent::Traced(traced) => {
                let surplus = (self.traced.len() + 1).saturating_sub(TRACED);
                self.traced.drain(..surplus);
                self.traced.push((**traced).clone());
            }
            FactsEvent::Shared(shared) => self.shared = (**shared).clone(),
            FactsEvent::Lost { .. } => {}
        }
    }

    /// Tells one of the node's links in which namespace its other end is, where that end has told.
    fn join_near(&mut self, near: &Link) {
        let ours = |far: &&Link| far.index == near.peer && far.peer == near.index && far.peer_netns == Some(self.node);
        let pods = self.namespaces.values().filter(|pod| pod.inum != self.node);
        let far = pods.filter_map(|pod| Some((pod.inum, pod.links.values().find(ours)?.clone()))).next();
        if let Some((netns, far)) = far {
            self.join(netns, [&far]);
        }
    }

    /// Tells the node's ends of veths whose namespace the other ends, `links`, are in.
    pub(super) fn join<'a>(&mut self, netns: u32, links: impl IntoIterator<Item = &'a Link>) {
        let Some(node) = self.namespaces.get_mut(&self.node) else { return };
        for far in links.into_iter().filter(|link| link.peer_netns == Some(node.inum)) {
            let Some(near) = node.links.get_mut(&far.peer) else { continue };
            // A macvlan's parent does not point back, though an index may happen to be the same.
            let is_pair = PAIRS.contains(&near.kind.as_str()) && near.kind == far.kind;
            if is_pair && near.peer == far.index {
                near.peer_netns = Some(netns);
            }
        }
    }
}

impl NamespaceFacts {
    /// Keeps what reading the tables again does not tell.
    pub(super) fn inherit(&mut self, old: &Self) {
        self.name.clone_from(&old.name);
        self.pids.clone_from(&old.pids);
        self.cgroup.clone_from(&old.cgroup);
        self.since_ns = old.since_ns;
        for (index, link) in &mut self.links {
            let before = old.links.get(index).filter(|before| before.peer == link.peer);
            link.peer_netns = link.peer_netns.or_else(|| before.and_then(|before| before.peer_netns));
        }
    }

    fn change(&mut self, what: &What) {
        match what {
            What::RouteAdded(route) => self.add_route(route),
            What::RouteDeleted(route) => self.delete_route(route),
            What::RuleAdded(rule) => {
                if !self.rules.contains(rule) {
                    // Behind its equals: the kernel asks the older of two rules of one preference first.
                    let key = (rule.v6, rule.preference);
                    let at = self.rules.partition_point(|r| (r.v6, r.preference) <= key);
                    self.rules.insert(at, rule.clone());
                }
            }
            What::RuleDeleted(rule) => remove_first(&mut self.rules, rule),
            What::LinkAdded(link) => {
                self.attach_rules(&link.name, true);
                self.links.insert(link.index, link.clone());
            }
            What::LinkChanged(before, after) => self.change_link(before, after),
            What::LinkDeleted(link) => self.delete_link(link),
            What::AddressAdded(address) => {
                if !self.addresses.contains(address) {
                    self.addresses.push(address.clone());
                }
            }
            What::AddressDeleted(address) => remove_first(&mut self.addresses, address),
            What::Sysctl(name, _, after) => {
                self.sysctls.insert(name.clone(), after.clone());
            }
            What::NamespaceAdded | What::NamespaceDeleted => {}
        }
    }

    fn change_link(&mut self, before: &Link, after: &Link) {
        if before.name != after.name {
            self.attach_rules(&before.name, false);
            self.attach_rules(&after.name, true);
            let (old, new) = (&before.name, &after.name);
            let renamed = self
                .sysctls
                .iter()
                .filter_map(|(name, value)| sysctls::renamed(name, old, new).map(|name| (name, value.clone())));
            let renamed: Vec<_> = renamed.collect();
            self.sysctls.retain(|name, _| !sysctls::is_of_device(name, old));
            self.sysctls.extend(renamed);
        }
        self.links.insert(after.index, after.clone());
    }

    /// The kernel also takes a link's addresses, routes and neighbours away; it announces those itself
    /// (but for IPv4 routes, which the reader looks up).
    fn delete_link(&mut self, link: &Link) {
        self.links.remove(&link.index);
        self.attach_rules(&link.name, false);
        self.sysctls.retain(|name, _| !sysctls::is_of_device(name, &link.name));
        self.neighbours.retain(|entry| entry.ifindex != link.index);
    }

    /// A rule that names a device is detached while there is none; the kernel does not say when that changes.
    fn attach_rules(&mut self, device: &str, there: bool) {
        for rule in &mut self.rules {
            if rule.iif == device {
                rule.iif_detached = !there;
            }
            if rule.oif == device {
                rule.oif_detached = !there;
            }
        }
    }

    fn neighbour(&mut self, entry: &Neigh, gone: bool) {
        let at = self.neighbours.iter().position(|n| n.ifindex == entry.ifindex && n.ip == entry.ip);
        match (at, gone) {
            (Some(at), true) => {
                self.neighbours.remove(at);
            }
            (Some(at), false) => self.neighbours[at].clone_from(entry),
            (None, true) => {}
            (None, false) => self.neighbours.push(entry.clone()),
        }
    }

    fn add_route(&mut self, route: &Route) {
        if self.routes.contains(route) {
            return;
        }
        // IPv6: a next hop that joins a route is announced as the whole route.
        self.routes.retain(|old| !(is_same(old, route) && is_part(old, route)));
        self.routes.push(route.clone());
    }

    fn delete_route(&mut self, route: &Route) {
        if let Some(at) = self.routes.iter().position(|r| r == route) {
            self.routes.remove(at);
            return;
        }
        // IPv6: a next hop that leaves a route is announced alone.
        let whole = self.routes.iter().position(|old| is_same(old, route) && is_part(route, old));
        if let Some(at) = whole {
            self.routes[at].next_hops.retain(|hop| !route.next_hops.contains(hop));
            if self.routes[at].next_hops.is_empty() {
                self.routes.remove(at);
            }
        }
    }
}

/// Same place in the same table.
pub(super) fn is_same(a: &Route, b: &Route) -> bool {
    (a.table, a.dst, a.priority, a.kind) == (b.table, b.dst, b.priority, b.kind)
}

/// All next hops of `part`, and it has some, are among those of `whole`.
pub(super) fn is_part(part: &Route, whole: &Route) -> bool {
    !part.next_hops.is_empty() && part.next_hops.iter().all(|hop| whole.next_hops.contains(hop))
}

fn remove_first<T: PartialEq>(list: &mut Vec<T>, item: &T) {
    if let Some(at) = list.iter().position(|other| other == item) {
        list.remove(at);
    }
}
