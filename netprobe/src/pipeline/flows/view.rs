//! One conversation: whose its packets are at each device, and what NAT makes of it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::party::{Ends, Known, Party, Whose};
use crate::{
    correlate::conversations::Conversation,
    model::{
        counted::Counted,
        facts::NodeFacts,
        flows::{Amount, Amounts, NameSource, PeerName, Translation},
    },
};

/// A conversation's traffic at one device, and whose it is there.
pub(super) struct Place {
    pub(super) party: Party,
    pub(super) netns: u32,
    pub(super) ifindex: u32,
    pub(super) device: String,
    pub(super) is_uplink: bool,
    pub(super) amounts: Amounts,
}

/// A conversation with names.
pub(super) struct View {
    pub(super) ends: Ends,
    /// Who opened it; none for somebody outside.
    pub(super) opener: Option<Party>,
    pub(super) places: Vec<Place>,
    pub(super) translation: Option<Translation>,
    /// What comes after its rows were taken away: it was counted as a connection before.
    pub(super) is_late: bool,
}

impl View {
    pub(super) fn of(conversation: &Conversation<'_>, whose: &Whose<'_>) -> Self {
        let known = whose.known;
        let ends = whose.ends(conversation);
        let mut places: Vec<Place> = Vec::new();
        for (row, _) in &conversation.rows {
            let link = whose.link(row);
            let at_uplink = || (ends.client.or(ends.server).unwrap_or(Party::Node), row.egress);
            let ((party, out), is_uplink) = (link.unwrap_or_else(at_uplink), link.is_none());
            let amount = Amount { packets: row.packets, bytes: row.bytes };
            let amounts = if out {
                Amounts { out: amount, ..Amounts::default() }
            } else {
                Amounts { into: amount, ..Amounts::default() }
            };
            let same = |p: &&mut Place| (p.party, p.netns, p.ifindex) == (party, row.netns, row.ifindex);
            match places.iter_mut().find(same) {
                Some(place) => place.amounts += amounts,
                None => {
                    let device = device(row, known.facts);
                    places.push(Place { party, netns: row.netns, ifindex: row.ifindex, device, is_uplink, amounts });
                }
            }
        }
        let opener = ends.client.or_else(|| is_nodes(conversation, known).then_some(Party::Node));
        let is_known = conversation.original.is_some_and(|original| whose.past.ends(original).is_some());
        let is_late = is_known && !conversation.begins();
        let mut view = Self { ends, opener, places, translation: None, is_late };
        view.translation = view.translated(conversation, whose);
        view
    }

    /// Whose packets it has.
    pub(super) fn parties(&self) -> BTreeSet<Party> {
        self.places.iter().map(|place| place.party).collect()
    }

    /// The party has part in it.
    pub(super) fn is_of(&self, party: Party) -> bool {
        self.ends.client == Some(party)
            || self.ends.server == Some(party)
            || self.places.iter().any(|place| place.party == party)
    }

    /// How much a party sent and received: at its own link, or at the uplinks where it has none.
    pub(super) fn amounts(&self, party: Party) -> Amounts {
        let sum = |uplink: bool| {
            let mut sum = Amounts::default();
            self.places.iter().filter(|p| p.party == party && p.is_uplink == uplink).for_each(|p| sum += p.amounts);
            sum
        };
        let own = sum(false);
        // What comes late was counted at the link before.
        if own == Amounts::default() && (party == Party::Node || !self.is_late) { sum(true) } else { own }
    }

    /// Devices by which its packets left the node.
    pub(super) fn exits(&self, party: Party) -> impl Iterator<Item = String> {
        let exits = self.places.iter().filter(move |p| p.party == party && p.is_uplink && p.amounts.out.packets > 0);
        exits.map(|p| p.device.clone())
    }

    fn translated(&self, conversation: &Conversation<'_>, whose: &Whose<'_>) -> Option<Translation> {
        let known = whose.known;
        let (original, reply) = (conversation.original?, conversation.reply()?);
        let (snat, dnat) = (conversation.is_snat(), conversation.is_dnat());
        if !snat && !dnat {
            return None;
        }
        // The node's own packets come in nowhere.
        let own = conversation
            .rows
            .iter()
            .min_by_key(|(row, _)| row.first_ns)
            .is_some_and(|(row, _)| row.egress && row.netns == known.facts.node);
        let after = reply.reversed();
        let address = |ip: IpAddr| known.facts.node()?.addresses.iter().find(|a| a.net.addr() == ip).map(|a| a.ifindex);
        let owner = self.ends.client.or(self.ends.server).unwrap_or(Party::Node);
        Some(Translation {
            first_ns: conversation.first_ns(),
            pod: whose.pod(owner),
            is_ended: matches!(owner, Party::Ended(_)),
            before: original,
            after,
            dnat: dnat.then_some(if own { "OUTPUT" } else { "PREROUTING" }),
            snat: snat.then_some("POSTROUTING"),
            snat_device: snat
                .then(|| address(after.src.ip()))
                .flatten()
                .and_then(|at| known.facts.node().map(|n| n.device(at))),
            service: dnat.then(|| service(original.dst, known)).flatten(),
            devices: self.opener_exits(conversation, known),
        })
    }

    /// Devices by which its opener's packets left the node.
    fn opener_exits(&self, conversation: &Conversation<'_>, known: Known<'_>) -> Vec<String> {
        let is_uplink =
            |row: &Counted| self.places.iter().any(|p| p.is_uplink && (p.netns, p.ifindex) == (row.netns, row.ifindex));
        let exits = conversation.rows.iter().filter(|(row, reply)| !reply && row.egress && is_uplink(row));
        let names: BTreeSet<String> = exits.map(|(row, _)| device(row, known.facts)).collect();
        names.into_iter().collect()
    }
}

/// The name of a row's device.
fn device(row: &Counted, facts: &NodeFacts) -> String {
    facts.namespaces.get(&row.netns).map_or_else(|| format!("if{}", row.ifindex), |n| n.device(row.ifindex))
}

/// The node itself opened it.
fn is_nodes(conversation: &Conversation<'_>, known: Known<'_>) -> bool {
    let src = conversation.original.map(|o| o.src.ip());
    src.is_some_and(|ip| known.facts.node().is_some_and(|node| node.owns(ip)))
}

/// A name of that source.
pub(super) fn named(text: impl ToString, source: NameSource) -> PeerName {
    PeerName { text: text.to_string(), source }
}

/// Name of a party's peer: a pod, a service, a node; outside the cluster as DNS named it to the party.
pub(super) fn name_of(ip: IpAddr, party: Party, known: Known<'_>) -> Option<PeerName> {
    let Known { names, inventory, answers, .. } = known;
    let pod = names.address(ip).yes().map(|pod| named(pod, NameSource::Pod));
    let service = || {
        let service = inventory.services.iter().find(|s| s.cluster_ips.contains(&ip))?;
        Some(named(format!("{}/{} (service)", service.namespace, service.name), NameSource::Service))
    };
    let node = || {
        let (name, _) = inventory.nodes.iter().find(|(_, ips)| ips.contains(&ip))?;
        Some(named(format!("{name} (node)"), NameSource::Node))
    };
    let asked_for = || match party {
        Party::Pod(inum) => answers.name_of(inum, ip).map(|name| named(name, NameSource::Dns)),
        Party::Node | Party::Sharing(_) | Party::Ended(_) => None,
    };
    pod.or_else(service).or_else(node).or_else(asked_for)
}

/// The service that is addressed so.
fn service(at: SocketAddr, known: Known<'_>) -> Option<String> {
    let is = |s: &&crate::model::inventory::Service| {
        s.cluster_ips.contains(&at.ip()) && s.ports.iter().any(|p| p.port == at.port())
            || s.ports.iter().any(|p| {
                p.node_port != 0 && p.node_port == at.port() && known.facts.node().is_some_and(|n| n.owns(at.ip()))
            })
    };
    known.inventory.services.iter().find(is).map(|s| format!("{}/{}", s.namespace, s.name))
}
