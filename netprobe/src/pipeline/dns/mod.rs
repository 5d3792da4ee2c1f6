//! DNS queries and their answers: pairs them, counts tries, gives up in time. Fed by sightings, whatever hook they
//! come from.
//!
//! A query is told where its client is: in the pod that asks. Of a client elsewhere (another node's pod, where one of
//! our pods is the server) only the server sees it, and it is told from there, if [`Dns`] is asked to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use netprobe_common::limits::BURST;
use serde::{Deserialize, Serialize};

use crate::{
    enrich::names::Names,
    model::{
        dns::{Answer, Message},
        exchange::{DnsTable, Exchange, Outcome, Server, Translated},
        finding::Finding,
        flow::{Flow, Proto},
        identity::Pod,
        inventory::Inventory,
        known::{Known, Why},
        packet::{Conntrack, Packet, Place, What},
        sighting::{Side, Sighting},
    },
};

mod rows;
mod show;
#[cfg(test)]
mod tests;

use rows::Rows;

/// The port of DNS.
const PORT: u16 = 53;
/// How long the last try waits for its answer, nanoseconds: resolvers ask again after 5 s (`resolv.conf(5)`, timeout),
/// and such a try belongs to the same line.
const GIVE_UP_NS: u64 = 5_500_000_000;
/// How long a query must have waited at the end of a run to be told as a timeout, nanoseconds: the patience of the rule
/// `dns-timeout` with a single try.
const PATIENT_NS: u64 = 3_000_000_000;
/// How long it is remembered how a flow was translated, and that messages of it were left out, nanoseconds. Longer than
/// a query waits.
const REMEMBER_NS: u64 = 10_000_000_000;
/// Queries that wait at most, and flows remembered at most: a node that asks 1,000 times a second has 5,500 waiting
/// when nobody answers. The oldest goes.
const OPEN_MAX: usize = 16_384;
/// A client and its server see one query this close together at most, nanoseconds.
const SAME_NS: u64 = 100_000_000;

/// How often the table is shown, and what is remembered is tidied, nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;

/// How exchanges are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsView {
    /// One by one as they end, and a table at the end of the run.
    Lines,
    /// A table every second; `true` redraws it in place.
    Table(bool),
}

/// What is asked of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOptions {
    /// How exchanges are shown.
    pub view: DnsView,
    /// Queries that come to a pod from elsewhere are told too.
    pub outside: bool,
}

/// What makes two messages the same query. Number, name and type stand first, so that those of one message are
/// neighbours whoever sees them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    id: u16,
    name: Arc<str>,
    kind: Arc<str>,
    transport: u8,
    /// Namespace that sees it.
    netns: u32,
    client: IpAddr,
    server: SocketAddr,
}

/// A query that waits.
struct Open {
    asked_ns: u64,
    last_ns: u64,
    tries: u32,
    /// Where the first try was seen: the same packet at another device, or at the other end, is no other try.
    place: (u32, Place),
    flow: Flow,
    pod: Option<Arc<Pod>>,
    /// Records were lost while it waited.
    unsure: bool,
}

/// The stage.
pub(super) struct Dns {
    options: DnsOptions,
    open: BTreeMap<Key, Open>,
    /// How a flow's server is addressed before and after NAT, and when that was seen last.
    nat: BTreeMap<Flow, (Addressed, u64)>,
    /// Flows of which messages were left out, and when the last one came.
    sampled: BTreeMap<Flow, u64>,
    ended: Vec<Exchange>,
    rows: Rows,
    services: BTreeMap<IpAddr, Arc<str>>,
    table_ns: u64,
    swept_ns: u64,
}

/// A server's address before and after NAT.
#[derive(Clone, Copy)]
struct Addressed {
    before: SocketAddr,
    after: SocketAddr,
}

impl Dns {
    fn new(options: DnsOptions, inventory: &Inventory) -> Self {
        let mut dns = Self {
            options,
            open: BTreeMap::new(),
            nat: BTreeMap::new(),
            sampled: BTreeMap::new(),
            ended: Vec::new(),
            rows: Rows::default(),
            services: BTreeMap::new(),
            table_ns: 0,
            swept_ns: 0,
        };
        dns.rename(inventory);
        dns
    }

    /// Learns the services' names.
    pub(super) fn rename(&mut self, inventory: &Inventory) {
        let named = |s: &crate::model::inventory::Service| -> Arc<str> { format!("{}/{}", s.namespace, s.name).into() };
        let services = inventory.services.iter().flat_map(|s| s.cluster_ips.iter().map(move |ip| (*ip, named(s))));
        self.services = services.collect();
    }

    /// Records were lost: an answer may be among them.
    pub(super) fn lost(&mut self) {
        self.open.values_mut().for_each(|open| open.unsure = true);
    }

    pub(super) fn take(&mut self, sighting: &Sighting) {
        let packet = &sighting.packet;
        match &packet.what {
            What::Dns { flow, place, message: Some(message), seen } => {
                if *seen > u64::from(BURST) && self.sampled.len() < OPEN_MAX {
                    self.sampled.insert(flow.canonical(), packet.mono_ns);
                }
                match &message.answer {
                    None => self.question(sighting, *flow, *place, message),
                    Some(answer) => self.answer(sighting, *flow, *place, (message, answer)),
                }
            }
            // In the pod, or where the node's device gives it to the pod.
            What::Hop { place, head, inner: Some(about), ct, .. }
                if (sighting.side, *place) == (Side::Pod, Place::Receive)
                    || (sighting.side, *place) == (Side::Node, Place::Transmit) =>
            {
                // An error carries the entry of the packet that it is about.
                if let Some(ct) = ct {
                    self.translation(ct, packet.mono_ns);
                }
                if let Some(error) = head.flow.filter(|_| head.icmp.is_some_and(is_unreachable)) {
                    self.unreachable(sighting, about, error.src.ip());
                }
            }
            _ if sighting.side != Side::Node => {}
            What::Hop { ct: Some(ct), .. }
            | What::Dropped { ct: Some(ct), .. }
            | What::IcmpSent { ct: Some(ct), .. } => {
                self.translation(ct, packet.mono_ns);
            }
            // It leaves the node, and conntrack does not know it: nothing has translated it.
            What::Hop { place: Place::Queue | Place::Transmit, head, ct: None, inner: None, .. } => {
                if let Some(flow) = head.flow.filter(|flow| flow.dst.port() == PORT) {
                    self.remember(flow, Addressed { before: flow.dst, after: flow.dst }, packet.mono_ns);
                }
            }
            _ => {}
        }
    }

    fn translation(&mut self, ct: &Conntrack, now_ns: u64) {
        let addressed = Addressed { before: ct.original.dst, after: ct.reply.src };
        if addressed.before.port() == PORT || addressed.after.port() == PORT {
            self.remember(ct.original, addressed, now_ns);
            self.remember(ct.reply.reversed(), addressed, now_ns);
        }
    }

    fn remember(&mut self, flow: Flow, addressed: Addressed, now_ns: u64) {
        if self.nat.len() < 2 * OPEN_MAX || self.nat.contains_key(&flow) {
            self.nat.insert(flow, (addressed, now_ns));
        }
    }

    fn question(&mut self, sighting: &Sighting, flow: Flow, place: Place, message: &Message) {
        let packet = &sighting.packet;
        let key = key(packet, flow, message);
        let asked = place == Place::Transmit;
        if let Some(open) = self.open.get_mut(&key) {
            if open.place == (packet.ifindex, place) {
                open.tries += 1;
                open.last_ns = packet.mono_ns;
                open.flow = flow;
            }
            return;
        }
        if !asked && (!self.options.outside || self.client_told(&key, packet.mono_ns)) {
            return;
        }
        let pod = if asked { &sighting.namespace_of } else { &sighting.source };
        let open = Open {
            asked_ns: packet.mono_ns,
            last_ns: packet.mono_ns,
            tries: 1,
            place: (packet.ifindex, place),
            flow,
            pod: pod.yes().cloned(),
            unsure: false,
        };
        self.open.insert(key, open);
    }

    /// Whether the client's end of that query, as a server sees it, is known: with its own address or, after SNAT, just
    /// now.
    fn client_told(&self, key: &Key, now_ns: u64) -> bool {
        let lowest = Key { netns: 0, client: Ipv4Addr::UNSPECIFIED.into(), server: NOWHERE, ..key.clone() };
        let same = |other: &Key| (other.id, &other.name, &other.kind) == (key.id, &key.name, &key.kind);
        self.open
            .range(lowest..)
            .take_while(|(other, _)| same(other) && other.transport == key.transport)
            .any(|(other, open)| other.client == key.client || now_ns.saturating_sub(open.last_ns) < SAME_NS)
    }

    fn answer(&mut self, sighting: &Sighting, flow: Flow, place: Place, (message, answer): (&Message, &Answer)) {
        let packet = &sighting.packet;
        let asked = flow.reversed();
        let outcome = Outcome::Answered { at_ns: packet.mono_ns, answer: answer.clone() };
        match self.open.remove(&key(packet, asked, message)) {
            // Seen from its server the answer goes; from the client's end it comes.
            Some(open) => self.end(message, open, outcome),
            None if place == Place::Receive && self.sampled.contains_key(&flow.canonical()) => {
                let open = Open {
                    asked_ns: packet.mono_ns,
                    last_ns: packet.mono_ns,
                    tries: 0,
                    place: (packet.ifindex, place),
                    flow: asked,
                    pod: sighting.namespace_of.yes().cloned(),
                    unsure: true,
                };
                self.end(message, open, outcome);
            }
            None => {}
        }
    }

    /// An ICMP error about a query came: nobody will answer.
    fn unreachable(&mut self, sighting: &Sighting, about: &Flow, from: IpAddr) {
        let packet = &sighting.packet;
        let here = |key: &Key| sighting.side == Side::Node || key.netns == packet.netns;
        let mine = |(key, open): &(&Key, &Open)| here(key) && open.flow == *about;
        // Of several on one socket the oldest one is meant: they went out in this order.
        let waiting = self.open.iter().filter(mine).min_by_key(|(_, open)| open.asked_ns);
        let Some(key) = waiting.map(|(key, _)| key.clone()) else { return };
        if let Some(open) = self.open.remove(&key) {
            let message = Message { id: key.id, name: key.name, kind: key.kind, answer: None };
            self.end(&message, open, Outcome::Unreachable { at_ns: packet.mono_ns, from });
        }
    }

    fn end(&mut self, message: &Message, open: Open, outcome: Outcome) {
        let addressed = self.nat.get(&open.flow).map(|(addressed, _)| *addressed);
        let server = |addr| Server { addr, name: None };
        self.ended.push(Exchange {
            asked_ns: open.asked_ns,
            pod: open.pod,
            client: open.flow.src,
            transport: open.flow.proto,
            name: Arc::clone(&message.name),
            kind: Arc::clone(&message.kind),
            server: server(addressed.map_or(open.flow.dst, |a| a.before)),
            translated: match addressed {
                None => Translated::Unknown,
                Some(a) if a.before == a.after => Translated::No,
                Some(a) => Translated::To(server(a.after)),
            },
            tries: open.tries,
            outcome,
        });
    }

    /// Exchanges that ended since the last call, with names; they are in the table from now on. Those that waited too
    /// long end now; all do `at_end`.
    fn turn(&mut self, now_ns: u64, at_end: bool, names: &Names) -> Vec<Exchange> {
        self.give_up(now_ns, at_end);
        if now_ns.saturating_sub(self.swept_ns) >= EVERY_NS {
            self.swept_ns = now_ns;
            self.nat.retain(|_, (_, seen_ns)| now_ns.saturating_sub(*seen_ns) < REMEMBER_NS);
            self.sampled.retain(|_, seen_ns| now_ns.saturating_sub(*seen_ns) < REMEMBER_NS);
        }
        let mut ended = std::mem::take(&mut self.ended);
        for exchange in &mut ended {
            exchange.server.name = self.name(exchange.server.addr.ip(), names);
            if let Translated::To(server) = &mut exchange.translated {
                server.name = self.name(server.addr.ip(), names);
            }
            self.rows.add(exchange);
        }
        self.rows.sampled |= !self.sampled.is_empty();
        ended
    }

    /// Ends what waited too long, oldest first.
    fn give_up(&mut self, now_ns: u64, at_end: bool) {
        let mut excess: Vec<u64> = Vec::new();
        if self.open.len() > OPEN_MAX {
            excess.extend(self.open.values().map(|open| open.asked_ns));
            excess.sort_unstable();
            excess.truncate(self.open.len() - OPEN_MAX);
        }
        let too_many = |open: &Open| excess.last().is_some_and(|at_ns| open.asked_ns <= *at_ns);
        let over = |open: &Open| now_ns.saturating_sub(open.last_ns) >= GIVE_UP_NS;
        let ends: Vec<Key> = self
            .open
            .iter()
            .filter(|(_, open)| at_end || over(open) || too_many(open))
            .map(|(key, _)| key.clone())
            .collect();
        let mut ended: Vec<(Key, Open)> = ends.into_iter().filter_map(|key| self.open.remove_entry(&key)).collect();
        ended.sort_by_key(|(_, open)| open.asked_ns);
        for (key, open) in ended {
            let waited_ns = now_ns.saturating_sub(open.asked_ns);
            let outcome = match () {
                () if open.unsure || self.sampled.contains_key(&open.flow.canonical()) => Outcome::Unknown,
                () if waited_ns >= PATIENT_NS => Outcome::Timeout { waited_ns },
                () if at_end => Outcome::Open { waited_ns },
                () => Outcome::Unknown,
            };
            let message = Message { id: key.id, name: key.name, kind: key.kind, answer: None };
            self.end(&message, open, outcome);
        }
    }

    fn name(&self, ip: IpAddr, names: &Names) -> Option<Arc<str>> {
        if let Some(service) = self.services.get(&ip) {
            return Some(Arc::clone(service));
        }
        match names.address(ip) {
            Known::Yes(pod) => Some(pod.to_string().into()),
            Known::No(Why::Node) => Some("node".into()),
            Known::No(_) => None,
        }
    }

    /// Whether the table was not shown for long enough.
    const fn is_table_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.table_ns) >= EVERY_NS
    }

    /// The table of this moment.
    fn table(&mut self, now_ns: u64, findings: Vec<Arc<Finding>>) -> DnsTable {
        self.table_ns = now_ns;
        DnsTable { mono_ns: now_ns, open: self.open.len() as u64, findings, ..self.rows.table() }
    }
}

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// ICMP or ICMPv6 "destination unreachable", but for "too big", after which the sender may try again smaller.
const fn is_unreachable(icmp: (u8, u8)) -> bool {
    matches!(icmp, (3, 0..=3 | 5..) | (1, _))
}

fn key(packet: &Packet, asked: Flow, message: &Message) -> Key {
    Key {
        id: message.id,
        name: Arc::clone(&message.name),
        kind: Arc::clone(&message.kind),
        transport: asked.proto.number(),
        netns: packet.netns,
        client: asked.src.ip(),
        server: asked.dst,
    }
}

/// Whether a packet is about DNS, or about what every packet needs: sockets of other ports send their news too.
pub(super) fn concerns(what: &What) -> bool {
    let of = |flow: &Flow| flow.src.port() == PORT || flow.dst.port() == PORT;
    let tracked = |ct: &Option<Conntrack>| ct.as_ref().is_some_and(|ct| of(&ct.original) || of(&ct.reply));
    match what {
        What::Neighbour { .. } => true,
        What::Hop { head, ct, inner, .. } => {
            head.flow.as_ref().is_some_and(of) || inner.as_ref().is_some_and(of) || tracked(ct)
        }
        What::Dropped { head, ct, .. } | What::IcmpSent { head, ct, .. } => {
            head.flow.as_ref().is_some_and(of) || tracked(ct)
        }
        // Where no rule asks for ports they are not filled in.
        What::Lookup { flow, skb, .. } => {
            of(flow) || (*skb != 0 && (flow.dst.port() == 0 || flow.proto == Proto::Other(0)))
        }
        other => other.flow().as_ref().is_some_and(of),
    }
}
