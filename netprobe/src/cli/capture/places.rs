//! The places where packets are captured, as a file names them.

use hashbrown::{HashMap, hash_map::Entry};

use super::{files::Files, words::Where};
use crate::{
    enrich::names::Names,
    model::facts::NodeFacts,
    probe::captured::PlaceId,
    render::{escape, pcapng::Interface},
};

/// A place, and its number in the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub interface: u32,
    pub at: Where,
}

/// The places that the file has so far.
#[derive(Default)]
pub(super) struct Places {
    known: HashMap<PlaceId, Place>,
}

/// What names places.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub facts: &'a NodeFacts,
    pub names: &'a Names,
}

/// What all interfaces of a capture have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub snap: u32,
    pub filter: String,
}

impl Places {
    /// The place, which is put into the file where it is new.
    pub(super) fn of(
        &mut self,
        id: PlaceId,
        node: Node<'_>,
        settings: &Settings,
        files: &mut Files,
    ) -> std::io::Result<&Place> {
        Ok(match self.known.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (at, interface) = describe(id, node, settings);
                new.insert(Place { interface: files.interface(interface)?, at })
            }
        })
    }

    /// Its number, where the file has it.
    pub(super) fn interface(&self, id: PlaceId) -> Option<u32> {
        self.known.get(&id).map(|place| place.interface)
    }

    /// Looks again whose each place is: the node has changed.
    pub(super) fn rename(&mut self, node: Node<'_>) {
        for (id, place) in &mut self.known {
            place.at = whose(*id, node);
        }
    }
}

fn whose((netns, ifindex): PlaceId, Node { facts, names }: Node<'_>) -> Where {
    if netns != facts.node {
        return Where { pod: names.namespace(netns).yes().cloned(), inside: true };
    }
    let link = facts.node().and_then(|node| node.links.get(&ifindex));
    let pod = link.and_then(|link| names.namespace(link.peer_netns?).yes().cloned());
    Where { pod, inside: false }
}

fn describe(id: PlaceId, node: Node<'_>, settings: &Settings) -> (Where, Interface) {
    let (netns, ifindex) = id;
    let at = whose(id, node);
    let namespace = node.facts.namespaces.get(&netns);
    let device = namespace.map_or_else(|| format!("if{ifindex}"), |ns| ns.device(ifindex));
    let (name, description) = match &at.pod {
        Some(pod) if at.inside => {
            (format!("{pod}:{device}"), format!("in the network namespace of {pod} (netns:[{netns}])"))
        }
        Some(pod) => (format!("node:{device}"), format!("the node's end of the link of {pod} (netns:[{netns}])")),
        None if at.inside => (format!("netns-{netns}:{device}"), format!("in netns:[{netns}]")),
        None => (format!("node:{device}"), format!("a way out of the node (netns:[{netns}])")),
    };
    // A device without a link-layer address (tun, wireguard, ipip) has no Ethernet header.
    let ethernet = namespace.and_then(|ns| ns.links.get(&ifindex)).is_none_or(|link| !link.mac.is_empty());
    let interface = Interface {
        name: escape(&name).into_owned(),
        description: escape(&description).into_owned(),
        ethernet,
        snap: settings.snap,
        filter: settings.filter.clone(),
    };
    (at, interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        facts::{Link, NamespaceFacts},
        inventory::Inventory,
    };

    fn link(index: u32, name: &str, mac: &str, peer_netns: Option<u32>) -> (u32, Link) {
        (index, Link { index, name: name.into(), mac: mac.into(), peer_netns, ..Link::default() })
    }

    fn facts() -> NodeFacts {
        let mut facts = NodeFacts { node: 1, ..NodeFacts::default() };
        let links = [link(2, "eth1", "02:00", None), link(3, "tun0", "", None), link(5, "veth1", "02:01", Some(9))];
        facts.namespaces.insert(1, NamespaceFacts { inum: 1, links: links.into(), ..NamespaceFacts::default() });
        let links = [link(2, "eth0", "02:02", Some(1))];
        let pod =
            NamespaceFacts { inum: 9, links: links.into(), name: Some("web-0".into()), ..NamespaceFacts::default() };
        facts.namespaces.insert(9, pod);
        facts
    }

    #[test]
    fn a_place_is_named_by_where_it_is() {
        let facts = facts();
        let names = Names::build(&Inventory::default(), &facts);
        let of = |id| describe(id, Node { facts: &facts, names: &names }, &Settings::default());
        let named = |id| (of(id).1.name, of(id).1.description, of(id).1.ethernet);
        let text = str::to_owned;
        assert_eq!(named((9, 2)), (text("web-0:eth0"), text("in the network namespace of web-0 (netns:[9])"), true));
        assert_eq!(named((1, 5)), (text("node:veth1"), text("the node's end of the link of web-0 (netns:[1])"), true));
        assert_eq!(named((1, 2)), (text("node:eth1"), text("a way out of the node (netns:[1])"), true));
        assert!(!named((1, 3)).2, "a tun device has no Ethernet header");
        assert_eq!(named((1, 77)).0, "node:if77");
        assert!(of((9, 2)).0.inside && of((9, 2)).0.pod.is_some() && !of((1, 5)).0.inside);
    }
}
