//! Who talks to whom by which device: the classifiers' counts, with names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::answers::Answers;
use crate::{
    correlate::conversations::{Conversation, join},
    enrich::names::Names,
    model::{
        counted::{Counted, CountedRows},
        facts::NodeFacts,
        flow::Proto,
        flows::{Amount, Amounts, DeviceRow, FlowLine, FlowTable, NameSource, PeerName, State, Translation},
        identity::Pod,
        inventory::Inventory,
        sighting::Side,
    },
};

/// Peers kept by name: a port scan must not fill the memory.
const LINES_MAX: usize = 10_000;
/// Handshake times kept of a line, for their median.
const HANDSHAKES_MAX: usize = 64;
/// Translations remembered as told.
const TOLD_MAX: usize = 65_536;

/// Whose traffic: a pod's namespace, or none for the node's own.
type Party = Option<u32>;
/// A device of a party: namespace and index.
type DeviceKey = (Party, u32, u32);
/// Party, protocol, peer's address, port addressed, and whether the party opened it.
type LineKey = (Party, Proto, IpAddr, u16, bool);

/// The rows, and the sums of those that are over.
#[derive(Default)]
pub(super) struct Flows {
    since_ns: u64,
    rows: Vec<Counted>,
    sums: Sums,
    told: BTreeSet<(crate::model::flow::Flow, crate::model::flow::Flow)>,
}

/// What names need.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) names: &'a Names,
    pub(super) facts: &'a NodeFacts,
    pub(super) inventory: &'a Inventory,
    /// What pods were told by DNS.
    pub(super) answers: &'a Answers,
}

/// Sums by device and by peer.
#[derive(Clone, Default)]
struct Sums {
    devices: HashMap<DeviceKey, (Amounts, String, bool)>,
    lines: HashMap<LineKey, Line>,
    pods: HashMap<u32, Arc<Pod>>,
    more: u64,
}

#[derive(Clone, Default)]
struct Line {
    devices: BTreeSet<String>,
    connections: u64,
    amounts: Amounts,
    handshakes: Vec<u64>,
    retransmits: u64,
    states: BTreeMap<State, u64>,
    nat: Option<Arc<Translation>>,
    /// The name that the pod got the peer's address for, kept when the pod is gone.
    asked_for: Option<Arc<str>>,
    first_ns: u64,
    last_ns: u64,
}

impl Flows {
    pub(super) fn since(now_ns: u64) -> Self {
        Self { since_ns: now_ns, ..Self::default() }
    }

    /// The kernel's rows, anew; those that are over are summed up.
    pub(super) fn set(&mut self, counted: CountedRows, known: Known<'_>) {
        self.sums.add(&counted.over, known);
        self.rows = counted.rows;
    }

    /// The table of this moment; of `wanted` namespaces only, where they are given.
    pub(super) fn table(&self, now_ns: u64, known: Known<'_>, wanted: Option<&BTreeSet<u32>>) -> FlowTable {
        let mut sums = self.sums.clone();
        sums.add(&self.rows, known);
        let is_wanted = |party: Party| wanted.is_none_or(|wanted| party.is_some_and(|inum| wanted.contains(&inum)));
        let pods = &sums.pods;
        let pod = |party: Party| party.and_then(|inum| pods.get(&inum).cloned());
        let mut devices: Vec<DeviceRow> = sums
            .devices
            .iter()
            .filter(|((party, ..), _)| is_wanted(*party))
            .map(|((party, netns, _), (amounts, device, is_uplink))| DeviceRow {
                pod: pod(*party),
                side: if *netns == known.facts.node { Side::Node } else { Side::Pod },
                device: device.clone(),
                is_uplink: *is_uplink,
                amounts: *amounts,
            })
            .collect();
        devices.sort_by(|a, b| {
            (a.pod.is_none(), &a.pod, a.is_uplink, &a.device).cmp(&(b.pod.is_none(), &b.pod, b.is_uplink, &b.device))
        });
        let mut lines: Vec<FlowLine> = sums
            .lines
            .iter()
            .filter(|((party, ..), _)| is_wanted(*party))
            .map(|(key, line)| line.shown(*key, pod(key.0), known))
            .collect();
        let volume = |line: &FlowLine| line.amounts.out.bytes + line.amounts.into.bytes;
        lines.sort_by(|a, b| {
            (a.pod.is_none(), &a.pod)
                .cmp(&(b.pod.is_none(), &b.pod))
                .then(volume(b).cmp(&volume(a)))
                .then_with(|| (a.peer, a.served_port).cmp(&(b.peer, b.served_port)))
        });
        FlowTable { mono_ns: now_ns, since_ns: self.since_ns, devices, lines, more: sums.more }
    }

    /// Translations that were not told yet, oldest first.
    pub(super) fn fresh_translations(&mut self, known: Known<'_>, wanted: Option<&BTreeSet<u32>>) -> Vec<Translation> {
        let mut fresh: Vec<Translation> = Vec::new();
        for conversation in join(&self.rows) {
            let view = View::of(&conversation, known);
            let parties: BTreeSet<Party> = view.places.iter().map(|place| place.party).collect();
            if !parties.iter().any(|p| wanted.is_none_or(|wanted| p.is_some_and(|inum| wanted.contains(&inum)))) {
                continue;
            }
            let Some(translation) = view.translation else { continue };
            if self.told.len() >= TOLD_MAX {
                self.told.clear();
            }
            if self.told.insert((translation.before, translation.after)) {
                fresh.push(translation);
            }
        }
        fresh.sort_by_key(|t| t.first_ns);
        fresh
    }
}

/// Positions of the rows that belong to connections that are over.
#[must_use]
pub fn rows_over(rows: &[Counted], now_ns: u64) -> BTreeSet<usize> {
    let at: HashMap<*const Counted, usize> = rows.iter().enumerate().map(|(at, row)| (&raw const *row, at)).collect();
    let over = join(rows).into_iter().filter(|conversation| conversation.is_over(now_ns));
    over.flat_map(|conversation| conversation.rows).filter_map(|(row, _)| at.get(&(&raw const *row)).copied()).collect()
}

impl Sums {
    fn add(&mut self, rows: &[Counted], known: Known<'_>) {
        for conversation in join(rows) {
            let view = View::of(&conversation, known);
            for place in &view.places {
                let key = (place.party, place.netns, place.ifindex);
                let sum = self
                    .devices
                    .entry(key)
                    .or_insert_with(|| (Amounts::default(), place.device.clone(), place.is_uplink));
                sum.0 += place.amounts;
                if let Some(pod) = place.party.and_then(|inum| known.names.namespace(inum).yes().cloned()) {
                    self.pods.insert(place.party.unwrap_or(0), pod);
                }
            }
            self.add_lines(&conversation, &view, known.answers);
        }
    }

    fn add_lines(&mut self, conversation: &Conversation<'_>, view: &View, answers: &Answers) {
        let (Some(original), Some(reply)) = (conversation.original, conversation.reply()) else { return };
        let parties: BTreeSet<Party> = view.places.iter().map(|place| place.party).collect();
        for party in parties {
            let initiated = view.opener == Some(party);
            let (peer, port) = if initiated {
                (original.dst.ip(), original.dst.port())
            } else {
                (original.src.ip(), reply.src.port())
            };
            let port = if original.has_ports() { port } else { 0 };
            let key = (party, original.proto, peer, port, initiated);
            if self.lines.len() >= LINES_MAX && !self.lines.contains_key(&key) {
                self.more += 1;
                continue;
            }
            let line = self.lines.entry(key).or_default();
            line.add(conversation, view, party);
            let asked_for = party.and_then(|inum| answers.name_of(inum, peer)).cloned();
            line.asked_for = asked_for.or_else(|| line.asked_for.take());
        }
    }
}

impl Line {
    fn add(&mut self, conversation: &Conversation<'_>, view: &View, party: Party) {
        self.connections += 1;
        self.amounts += view.amounts(party);
        self.devices.extend(view.exits(party));
        if self.handshakes.len() < HANDSHAKES_MAX {
            self.handshakes.extend(conversation.handshake_ns());
        }
        // Each direction where it was seen first: the same segment passes several devices.
        self.retransmits += u64::from(
            [false, true]
                .map(|reply| {
                    conversation
                        .rows
                        .iter()
                        .filter(|(_, r)| *r == reply)
                        .map(|(row, _)| row.retransmits)
                        .max()
                        .unwrap_or(0)
                })
                .iter()
                .sum::<u32>(),
        );
        *self.states.entry(state(conversation)).or_default() += 1;
        self.nat = view.translation.clone().map(Arc::new).or_else(|| self.nat.take());
        let first_ns = conversation.first_ns();
        self.first_ns = if self.first_ns == 0 { first_ns } else { self.first_ns.min(first_ns) };
        self.last_ns = self.last_ns.max(conversation.last_ns());
    }

    fn shown(&self, (_, proto, peer, port, initiated): LineKey, pod: Option<Arc<Pod>>, known: Known<'_>) -> FlowLine {
        let mut handshakes = self.handshakes.clone();
        handshakes.sort_unstable();
        FlowLine {
            pod,
            proto,
            peer: SocketAddr::new(peer, if initiated { port } else { 0 }),
            served_port: if initiated { 0 } else { port },
            initiated,
            name: name_of(peer, known).or_else(|| self.asked_for.as_deref().map(|name| named(name, NameSource::Dns))),
            devices: self.devices.iter().cloned().collect(),
            connections: self.connections,
            amounts: self.amounts,
            handshake_ns: handshakes.get(handshakes.len() / 2).copied(),
            retransmits: self.retransmits,
            states: self.states.iter().map(|(state, count)| (*state, *count)).collect(),
            nat: self.nat.clone(),
            first_ns: self.first_ns,
            last_ns: self.last_ns,
        }
    }
}

fn state(conversation: &Conversation<'_>) -> State {
    match (conversation.is_reset(), conversation.ended_by(), conversation.is_answered()) {
        (true, ..) => State::Reset,
        (_, _, false) => State::Unanswered,
        (_, 2, _) => State::Closed,
        (_, 1, _) => State::Closing,
        _ => State::Open,
    }
}

/// A conversation's traffic at one device, and whose it is there.
struct Place {
    party: Party,
    netns: u32,
    ifindex: u32,
    device: String,
    is_uplink: bool,
    amounts: Amounts,
}

/// A conversation with names.
struct View {
    /// Who opened it; none for somebody outside.
    opener: Option<Party>,
    places: Vec<Place>,
    translation: Option<Translation>,
}

impl View {
    fn of(conversation: &Conversation<'_>, known: Known<'_>) -> Self {
        let owner = |ip: Option<IpAddr>| ip.and_then(|ip| local(ip, known.facts));
        let client = owner(conversation.original.map(|o| o.src.ip()));
        let server = owner(conversation.reply().map(|r| r.src.ip()));
        let mut places: Vec<Place> = Vec::new();
        for (row, _) in &conversation.rows {
            let (party, out, is_uplink) = whose(row, client, server, known.facts);
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
        let opener = if client.is_some() || is_nodes(conversation, known) { Some(client) } else { None };
        let mut view = Self { opener, places, translation: None };
        view.translation = view.translated(conversation, client.or(server), known);
        view
    }

    /// How much a party sent and received: at its own link, or at the uplinks where it has none.
    fn amounts(&self, party: Party) -> Amounts {
        let sum = |uplink: bool| {
            let mut sum = Amounts::default();
            self.places.iter().filter(|p| p.party == party && p.is_uplink == uplink).for_each(|p| sum += p.amounts);
            sum
        };
        let own = sum(false);
        if own == Amounts::default() { sum(true) } else { own }
    }

    /// Devices by which its packets left the node.
    fn exits(&self, party: Party) -> impl Iterator<Item = String> {
        let exits = self.places.iter().filter(move |p| p.party == party && p.is_uplink && p.amounts.out.packets > 0);
        exits.map(|p| p.device.clone())
    }

    fn translated(&self, conversation: &Conversation<'_>, owner: Party, known: Known<'_>) -> Option<Translation> {
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
        Some(Translation {
            first_ns: conversation.first_ns(),
            pod: owner.and_then(|inum| known.names.namespace(inum).yes().cloned()),
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
}

impl View {
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

/// Whose packets a row counts, whether they go out from there, and whether the device is an uplink.
fn whose(row: &Counted, client: Party, server: Party, facts: &NodeFacts) -> (Party, bool, bool) {
    if row.netns != facts.node {
        return (Some(row.netns), row.egress, false);
    }
    match facts.behind(row.ifindex) {
        Some((inum, _)) => (Some(inum), !row.egress, false),
        None => (client.or(server), row.egress, true),
    }
}

/// The pod's namespace on this node that holds an address.
fn local(ip: IpAddr, facts: &NodeFacts) -> Party {
    let holds = |inum: &u32| *inum != facts.node && facts.namespaces[inum].owns(ip);
    facts.namespaces.keys().copied().find(|inum| holds(inum)).filter(|_| !ip.is_loopback())
}

/// The node itself opened it.
fn is_nodes(conversation: &Conversation<'_>, known: Known<'_>) -> bool {
    let src = conversation.original.map(|o| o.src.ip());
    src.is_some_and(|ip| known.facts.node().is_some_and(|node| node.owns(ip)))
}

fn named(text: impl ToString, source: NameSource) -> PeerName {
    PeerName { text: text.to_string(), source }
}

/// Name of a peer in the cluster: a pod, a service, a node.
fn name_of(ip: IpAddr, known: Known<'_>) -> Option<PeerName> {
    let Known { names, inventory, .. } = known;
    let pod = names.address(ip).yes().map(|pod| named(pod, NameSource::Pod));
    let service = || {
        let service = inventory.services.iter().find(|s| s.cluster_ips.contains(&ip))?;
        Some(named(format!("{}/{} (service)", service.namespace, service.name), NameSource::Service))
    };
    let node = || {
        let (name, _) = inventory.nodes.iter().find(|(_, ips)| ips.contains(&ip))?;
        Some(named(format!("{name} (node)"), NameSource::Node))
    };
    pod.or_else(service).or_else(node)
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
